"""What LoadGen and our system under test add to a call: LoadGen's own latency against a bare loop's.

    python bench/loadgen_overhead.py [--model light_resnet50] [--threads 1] [--blocks 20] [--queries N]

Goals: under 15 us a SingleStream query on a network that does next to nothing, under 2 % on a ResNet-50.

One process, one session of onnxruntime, one input buffer (the set has one sample). LoadGen asks the system
under test that `topfive scenario` uses. A figure is the median over blocks of a block's own ratio (or
difference) of medians, with a 95 % interval of the percentile bootstrap over blocks. LoadGen's median is the
one in its detail log; the number of queries is odd, so that it is the middle one. How the two stand side by
side depends on the call:

- **Long calls (2 ms and more): a bare call beside every query.** As soon as LoadGen has an answer, still
  inside its callback but outside the query's latency, the same session is called bare: a neighbour who slows
  the machine slows both. The control block is the same loop without LoadGen: bare, bare.
- **Short calls: block beside block.** A block of LoadGen alone, then two blocks of bare calls, some 50 ms
  each; the next time in the opposite order. Bare calls between the queries would mislead here: right after an
  answer a bare call pays for the caches that LoadGen has just cooled (6 us more were seen, of 12) and makes
  LoadGen look cheap; behind other bare calls it does not, but then LoadGen finds its own code cooled by all
  of them, and looks dearer than in a run, in which nothing stands between two queries.

| column | is |
|---|---|
| LoadGen/bare | LoadGen's 50th percentile over the median of the bare calls: the goal's figure |
| us a query | the same as a difference |
| A/A | bare over bare, in the same places: what the measurement shows where there is nothing |
| bare L/C | long calls: the bare call beside LoadGen over the one of the control block |
| us a turn | all that LoadGen adds from one query to the next: giving the answer back, preparing the next |
| CPU us, CPU ratio | processor time of all threads a query, LoadGen's own thread too, against the control's |

**What could still favour a side.** Query and bare call follow a call of the same session on the same buffer.
Before a query LoadGen's work between two queries cools caches and the query pays for it: that is LoadGen's
own cost, which a bare loop does not have, and is counted. With long calls the bare call pays, too, some
microseconds for the answer before it: less than 1 in 200, in LoadGen's favour. LoadGen's own thread wakes
every 10 ms and writes its log during either: what it takes from both is in no ratio of long calls, but in
bare L/C, which must be 1 within its own interval; if it is more, LoadGen/bare is too good by as much. A
query's latency begins before LoadGen enters Python and ends when LoadGen has the answer; the rest is in us a
turn. (CPU ratio of long calls: of a query and its bare call together, so LoadGen's share counts half.)

One thread by default: threads that share a loaded machine make every figure wider.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import topfive
from topfive.cards import load_cards
from topfive.loadgen import Plan, read_result, unavailable_reason
from topfive.loadgen.child import Samples, System, start_test
from topfive.loadgen.settings import test_settings

TINY, TINY_SIDE, TINY_CLASSES = "tiny", 32, 10
BLOCK_SECONDS, FEWEST, MOST = 2.0, 6, 2000
LONG_SECONDS = 0.002
"""A call of so many seconds has a bare call beside every query."""
RESAMPLES = 2000
Infer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Block:
    """Medians of one block in nanoseconds.

    first: LoadGen's latency or a bare call. beside: the bare call after it, 0 without one. turn: from the end
    of one to the answer of the next. cpu: mean processor time of a whole cycle.
    """

    first: float
    beside: float
    turn: float
    cpu: float


@dataclass(frozen=True)
class Shape:
    """queries: odd. beside: whether a bare call stands beside every query."""

    queries: int
    beside: bool


class Loop:
    """Answers queries, with or without a bare call after each, and keeps the times."""

    def __init__(self, answer: Callable[..., object], bare: Callable[[], object], shape: Shape) -> None:
        self._answer, self._bare, self._beside = answer, bare, shape.beside
        self._times: list[tuple[int, int]] = []
        self._marks, self._cpu = (1, shape.queries), list[int]()

    def issue(self, ids: list[int], indices: list[int]) -> None:
        """Nothing but the answer comes before LoadGen has it: clocks are read afterwards."""
        self._answer(ids, indices)
        answered = time.perf_counter_ns()
        if self._beside:
            self._bare()
        self._times.append((answered, time.perf_counter_ns()))
        if len(self._times) in self._marks:  # a system call, so not for every query
            self._cpu.append(time.process_time_ns())

    def flush(self) -> None:
        """Nothing is held back."""

    @property
    def queries(self) -> int:
        """How many were answered."""
        return len(self._times)

    def block(self, first: float | None) -> Block:
        """The block's medians. first: LoadGen's own, or None for that of the turns."""
        answered, ended = np.array(self._times).T
        turn = float(np.median(answered[1:] - ended[:-1]))
        beside = float(np.median(ended - answered)) if self._beside else 0.0
        cpu = (self._cpu[-1] - self._cpu[-2]) / (len(self._times) - 1)
        return Block(turn if first is None else first, beside, turn, cpu)


def tiny(folder: Path) -> Path:
    """A classifier that does next to nothing."""
    weights = np.random.default_rng(0).normal(size=(3, TINY_CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, TINY_SIDE, TINY_SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", TINY_CLASSES])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = folder / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def with_loadgen(infer: Infer, crops: np.ndarray, profile: str, shape: Shape, folder: Path) -> Block:
    """A block of SingleStream queries."""
    import mlperf_loadgen

    samples = Samples(crops, profile)
    samples.load([0])
    sample = samples[0]
    system = System(mlperf_loadgen, infer, samples, batch=1, background=False)
    loop = Loop(system.issue, lambda: infer(sample), shape)
    queries = shape.queries
    plan = Plan("SingleStream", seconds=0.001, count=queries, overrides={"max_query_count": queries})
    settings = test_settings(mlperf_loadgen, plan, latency=1.0, slowest=1.0, batch_rate=1.0, folder=folder)
    folder.mkdir()
    start_test(mlperf_loadgen, folder, loop, samples, settings)
    found = read_result(folder, "SingleStream")
    if system.failure or loop.queries != queries or found.queries != queries:
        raise SystemExit(f"LoadGen asked {loop.queries} of {queries} queries\n{system.failure}")
    return loop.block(found.percentiles["50.00"])


def without_loadgen(infer: Infer, sample: np.ndarray, shape: Shape) -> Block:
    """The same loop, bare calls only."""
    loop = Loop(lambda _ids, _indices: infer(sample), lambda: infer(sample), shape)
    for query in range(shape.queries):
        loop.issue([query], [0])
    return loop.block(None)


def measure(model: str, threads: int, blocks: int, queries: int | None, folder: Path) -> str:
    """One row of the table."""
    if model == TINY:
        size, profile = (TINY_SIDE, TINY_SIDE), "torchvision"
        artifact = topfive.build(tiny(folder), target="cpu", quant="force_float32", cache=folder / "cache")
    else:
        card = load_cards()[model]
        size, profile = card.input.size, card.input.profile
        artifact = topfive.build(card, target="cpu", quant="force_float32")
    crops = np.random.default_rng(1).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    samples = Samples(crops, profile)
    samples.load([0])
    found: list[tuple[Block, ...]] = []
    with topfive.open(artifact, threads=threads) as runner:
        infer = runner.callable()
        shape = fitting(infer, samples[0], queries)
        for number in range(-1, blocks):
            place = folder / f"{model}-{threads}-{number}"
            turns = [lambda place=place: with_loadgen(infer, crops, profile, shape, place)]
            turns += [lambda: without_loadgen(infer, samples[0], shape)] * (1 if shape.beside else 2)
            order = turns if number % 2 else turns[::-1]
            done = [turn() for turn in order]
            if number >= 0:  # the first ones warm up
                found.append(tuple(done if number % 2 else done[::-1]))
    return row(f"{model}, {threads}", shape, found)


def fitting(infer: Infer, sample: np.ndarray, queries: int | None) -> Shape:
    """A block that takes about BLOCK_SECONDS, or of so many queries."""
    times = []
    for _ in range(13):
        start = time.perf_counter()
        infer(sample)
        times.append(time.perf_counter() - start)
    call = float(np.median(times[3:]))
    fits = int(BLOCK_SECONDS / 2 / call)
    return Shape(queries or min(MOST, max(FEWEST, fits)) // 2 * 2 + 1, call >= LONG_SECONDS)


def row(name: str, shape: Shape, found: Sequence[tuple[Block, ...]]) -> str:
    """The medians over blocks and their intervals; a block of LoadGen comes first, then the control's."""
    if shape.beside:
        bare = [loadgen.beside for loadgen, _ in found]
        again = [control.first / control.beside for _, control in found]
        beside = shown([loadgen.beside / control.beside for loadgen, control in found], 4)
    else:
        bare = [control.first for _, control, _ in found]
        again = [control.first / other.first for _, control, other in found]
        beside = "-"
    first = [blocks[0].first for blocks in found]
    cells = [
        name,
        f"{len(found)} x {shape.queries}",
        f"{np.median(bare) / 1e3:.1f}",
        shown([a / b for a, b in zip(first, bare, strict=True)], 4),
        shown([(a - b) / 1e3 for a, b in zip(first, bare, strict=True)], 1),
        shown(again, 4),
        beside,
        shown([(blocks[0].turn - blocks[1].turn) / 1e3 for blocks in found], 1),
        shown([(blocks[0].cpu - blocks[1].cpu) / 1e3 for blocks in found], 1),
        shown([blocks[0].cpu / blocks[1].cpu for blocks in found], 4),
    ]
    return f"| {' | '.join(cells)} |"


def shown(values: Sequence[float], digits: int) -> str:
    """The median of values and its 95 % interval, by the percentile bootstrap (Efron 1979)."""
    table = np.array(values)
    drawn = np.random.default_rng(0).choice(table, (RESAMPLES, len(table)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return f"{np.median(table):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


HEAD = (
    "network, threads",
    "blocks x queries",
    "bare us",
    "LoadGen/bare",
    "us a query",
    "A/A",
    "bare L/C",
    "us a turn",
    "CPU us",
    "CPU ratio",
)


def main() -> None:
    """Print a Markdown table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help=f"a float model's card, or {TINY}; may be repeated")
    parser.add_argument("--threads", type=int, action="append", help="of the session; may be repeated")
    parser.add_argument("--blocks", type=int, default=20, help="of LoadGen, and as many of the control")
    parser.add_argument("--queries", type=int, help=f"in a block, odd (default: {BLOCK_SECONDS:g} s of them)")
    arguments = parser.parse_args()
    if reason := unavailable_reason():
        raise SystemExit(reason)
    if arguments.queries is not None and arguments.queries % 2 == 0:
        raise SystemExit(f"--queries {arguments.queries} is even: a median of pairs needs an odd number")
    sys.stdout.write(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}\n")
    with tempfile.TemporaryDirectory() as name:
        for model in arguments.model or (TINY, "light_resnet50"):
            for threads in arguments.threads or (1,):
                line = measure(model, threads, arguments.blocks, arguments.queries, Path(name))
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
