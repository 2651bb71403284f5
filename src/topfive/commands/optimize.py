"""`topfive optimize`: the optimize stage of a build, on a file."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import onnx

from topfive.errors import FetchError, OptimizeError
from topfive.graph import save_model
from topfive.quantize.optimize import optimize
from topfive.quantize.replace_gemm import replace_gemm as with_matmul
from topfive.sources.atomic import replacing
from topfive.sources.onnx_file import load_weights, read_graph, readable

__all__ = ["changes", "optimize_file"]


def optimize_file(source: Path, output: Path, *, replace_gemm: bool) -> None:
    """Optimize an ONNX file, write it in one piece (weights inside), and print node counts by type.

    Raises FetchError if the file is no ONNX model with its weights or `output` cannot be written,
    OptimizeError if it cannot be optimized; both name the file.
    """
    model = read_graph(source)
    with readable(source):
        load_weights(model, source)
        before = _types(model)
        try:
            done = optimize(model)
        except OptimizeError as error:
            raise OptimizeError(f"{source}: {error.message}", details=error.details) from error
    if replace_gemm:
        done = with_matmul(done)
    try:
        with replacing(output) as temporary:
            save_model(done, temporary)
    except FetchError as error:
        raise OptimizeError(error.message) from error
    sys.stdout.write(changes(before, _types(done)) + f"{output}\n")


def _types(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def changes(before: Counter[str], after: Counter[str]) -> str:
    """A line for each type whose count changed, sorted by type, and one for all nodes."""
    rows = [
        f"{kind}: {before[kind]} -> {after[kind]}\n"
        for kind in sorted(before | after)
        if before[kind] != after[kind]
    ]
    return "".join([*rows, f"nodes: {before.total()} -> {after.total()}\n"])
