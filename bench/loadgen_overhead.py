"""What LoadGen and our system under test add to a call: SingleStream's median against a bare loop's.

    python bench/loadgen_overhead.py [--pairs 5] [--model light_resnet50] [--queries 2000]

Without --model a tiny network (global average, one matrix) shows microseconds a query; goal: under 15 us, and
under 2 % on a ResNet-50. Pairs are interleaved: a bare loop of onnxruntime over the same input in a process
of its own, then a LoadGen run; the figures are medians over pairs of differences and ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import topfive
from topfive.cards import load_cards
from topfive.loadgen import Plan, run_scenario, unavailable_reason
from topfive.targets.base import Artifact

BARE = """
import json, sys, time
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
name = session.get_inputs()[0].name
data = np.load(sys.argv[3])
times = []
for call in range(int(sys.argv[4]) + 20):
    start = time.perf_counter_ns()
    session.run(None, {name: data})
    times.append(time.perf_counter_ns() - start)
print(json.dumps(sorted(times[20:])[len(times[20:]) // 2]))
"""
TINY_SIDE, TINY_CLASSES = 32, 10


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


def loadgen_p50(artifact: Artifact, size: tuple[int, int], folder: Path, queries: int, threads: int) -> float:
    """LoadGen's median latency of a SingleStream run, nanoseconds."""
    crops = np.random.default_rng(1).integers(0, 256, (8, *size, 3), dtype=np.uint8)
    plan = Plan("SingleStream", seconds=0.01, count=queries)
    run = run_scenario(
        plan,
        artifact,
        crops,
        [0] * 8,
        profile="torchvision",
        background=False,
        folder=folder,
        threads=threads,
    )
    if run.performance is None:
        raise SystemExit("LoadGen gave no result")
    return float(run.performance.percentiles["50.00"])


def main() -> None:
    """Print one line a pair, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--model", help="a float model's card; default: a tiny network")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if reason := unavailable_reason():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.model:
            size = load_cards()[arguments.model].input.size
            artifact = topfive.build(arguments.model, target="cpu", quant="force_float32")
        else:
            size = (TINY_SIDE, TINY_SIDE)
            artifact = topfive.build(
                tiny(folder), target="cpu", quant="force_float32", cache=folder / "cache"
            )
        data = folder / "data.npy"
        np.save(data, np.random.default_rng(2).normal(size=(1, 3, *size)).astype(np.float32))
        file = next(path for path in sorted(artifact.path.glob("*.onnx")))
        differences, ratios = [], []
        for pair in range(arguments.pairs):
            command = [sys.executable, "-c", BARE, str(file), str(arguments.threads), str(data)]
            done = subprocess.run(
                [*command, str(arguments.queries)], capture_output=True, text=True, check=True
            )
            bare = float(json.loads(done.stdout))
            ours = loadgen_p50(artifact, size, folder / f"run{pair}", arguments.queries, arguments.threads)
            differences.append((ours - bare) / 1e3)
            ratios.append(ours / bare)
            sys.stdout.write(f"bare {bare / 1e3:.1f} us, LoadGen {ours / 1e3:.1f} us\n")
        sys.stdout.write(
            f"median of {arguments.pairs} pairs: {statistics.median(differences):+.1f} us a query, "
            f"ratio {statistics.median(ratios):.4f}\n"
        )


if __name__ == "__main__":
    main()
