"""What exactness costs: gemmini_sim against ONNX Runtime's own uint8 x uint8 run of the same int8 graph.

    python bench/gemmini_speed.py [--model light_resnet50] [--rounds 25] [--threads N]

The forms take turns in one process, so that the ratios hold while the machine's speed drifts. A turn is a
call that does not count and one that does: otherwise a form would be fast for having run just before.

* gemmini_sim: the artifact as `topfive.open` runs it here;
* gemmini_sim, uint8 weights: what it runs on processors whose uint8 x int8 kernels saturate;
* onnxruntime uint8 x uint8: the same graph with ONNX Runtime's own residual add and pools (the baseline);
* onnxruntime float32: the model before quantisation.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import onnx

import topfive
from topfive.cards import load_cards
from topfive.sessions import default_threads, open_session, shift_weights
from topfive.suite.pictures import Pictures
from topfive.targets.onnxruntime_runner import MODEL_FILE

BASELINE = "onnxruntime uint8 x uint8"
Call = Callable[[np.ndarray], np.ndarray]


def session_call(model: onnx.ModelProto, threads: int) -> Call:
    """One run of a model."""
    session = open_session(model.SerializeToString(), threads=threads)
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def forms(model: str, threads: int) -> dict[str, Call]:
    """Every form by name."""
    gemmini = topfive.build(model, target="gemmini_sim", quant="int8")
    plain = onnx.load(topfive.build(model, target="cpu", quant="int8").path / MODEL_FILE)
    float32 = topfive.build(model, target="cpu", quant="force_float32")
    return {
        "gemmini_sim": topfive.open(gemmini, threads=threads).callable(),
        "gemmini_sim, uint8 weights": session_call(
            shift_weights(onnx.load(gemmini.path / MODEL_FILE)), threads
        ),
        BASELINE: session_call(shift_weights(plain), threads),
        "onnxruntime float32": topfive.open(float32, threads=threads).callable(),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="light_resnet50")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=default_threads())
    arguments = parser.parse_args()
    batch = Pictures(load_cards()[arguments.model], arguments.threads).batch(1)
    calls = forms(arguments.model, arguments.threads)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        call(batch)
    for number in range(arguments.rounds):
        order = list(calls.items())
        for name, call in order if number % 2 else reversed(order):
            call(batch)
            cpu, wall = time.process_time(), time.perf_counter()
            call(batch)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    out = [f"{arguments.model}, batch 1, {arguments.threads} threads, {arguments.rounds} interleaved rounds"]
    out.append(f"{'form':<28} {'median ms':>10} {'cpu ms':>8} {'wall ratio':>11} {'cpu ratio':>10}")
    for name, rows in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        ratios = [
            statistics.median(a[i] / b[i] for a, b in zip(rows, seconds[BASELINE], strict=True))
            for i in (0, 1)
        ]
        out.append(f"{name:<28} {1e3 * wall:10.2f} {1e3 * cpu:8.2f} {ratios[0]:11.3f} {ratios[1]:10.3f}")
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
