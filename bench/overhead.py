"""What the harness costs: a runner's function against a bare onnxruntime loop of the same file.

    python bench/overhead.py [--rounds N] [--threads N] [MODEL ...]

Calls alternate (A, B, C, then C, B, A, ...) so that all meet the same machine; medians of wall time and
processor time per call are compared. C is a second bare loop: its difference from the first is the noise
between two sessions of one file (where their memory lies), below which no overhead can be seen.
One thread each by default: idle threads of a session spin, and slow the other.
Goals: under 1 % on light_resnet50, under 20 microseconds a call on a bundled net.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

import topfive
from topfive.cards import load_cards
from topfive.suite.pictures import Pictures
from topfive.targets.onnxruntime_runner import MODEL_FILE

MODELS = ("light_resnet50", "pocket_resnet", "pocket_mobilenet")
TARGET, QUANT = "cpu", "force_float32"
SECONDS = 6.0


def bare_loop(file: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """What a person writes without topfive."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def timed(call: Callable[[np.ndarray], np.ndarray], batch: np.ndarray) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    call(batch)
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(model: str, rounds: int | None, threads: int) -> str:
    """One line: medians of both, their difference and ratio."""
    card = load_cards()[model]
    artifact = topfive.build(card, target=TARGET, quant=QUANT)
    batch = Pictures(card, threads).batch(1)
    with topfive.open(artifact, threads=threads) as runner:
        file = str(artifact.path / MODEL_FILE)
        ours, bare, again = runner.callable(), bare_loop(file, threads), bare_loop(file, threads)
        if not np.array_equal(ours(batch), bare(batch)):
            raise SystemExit(f"{model}: the two loops give different results")
        seconds = [timed(bare, batch)[0] for _ in range(10)]
        pairs = rounds or max(50, int(SECONDS / 2 / statistics.median(seconds)))
        found: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": [], "again": []}
        for number in range(pairs):
            order = [("ours", ours), ("bare", bare), ("again", again)]
            for name, call in order if number % 2 else reversed(order):
                found[name].append(timed(call, batch))
    (wall, cpu), (bare_wall, bare_cpu) = (
        tuple(statistics.median(column) for column in zip(*found[name], strict=True))
        for name in ("ours", "bare")
    )
    paired, noise = (
        statistics.median(a[0] - b[0] for a, b in zip(found[name], found["bare"], strict=True))
        for name in ("ours", "again")
    )
    return (
        f"{model:<18} {1e3 * bare_wall:9.4f} {1e3 * wall:9.4f} {1e6 * paired:9.2f} "
        f"{100 * paired / bare_wall:8.3f} {100 * noise / bare_wall:8.3f} "
        f"{1e3 * bare_cpu:9.4f} {1e3 * cpu:9.4f} {pairs:7}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--rounds", type=int, help="pairs of calls (default: about six seconds a model)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each session (default: 1)")
    arguments = parser.parse_args()
    sys.stdout.write(
        f"{'model':<18} {'bare ms':>9} {'ours ms':>9} {'diff us':>9} {'diff %':>8} {'noise %':>8} "
        f"{'bare cpu':>9} {'ours cpu':>9} {'pairs':>7}\n"
    )
    for model in arguments.models:
        sys.stdout.write(compare(model, arguments.rounds, arguments.threads) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
