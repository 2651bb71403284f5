"""`topfive optimize`: the optimize stage of a build, or passes of one's choice, on a file."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from topfive.commands import print_json
from topfive.errors import FetchError, OptimizeError, UnknownNameError
from topfive.graph import save_model
from topfive.quantize.optimize import PASSES, STAGE, optimize
from topfive.quantize.other_optimizers import OTHER_PASSES, TOLERANCE, disagreement
from topfive.quantize.output_head import Head, change_head
from topfive.sources.atomic import replacing
from topfive.sources.onnx_file import load_weights, read_graph, readable

__all__ = ["changes", "operators", "optimize_file", "run_passes"]


KEPT = Head()


def optimize_file(
    source: Path, output: Path, *, passes: Sequence[str], head: Head = KEPT, check: bool, as_json: bool
) -> bool:
    """Optimize an ONNX file, write it in one piece (weights inside), and print node counts by type.

    passes: in the order in which they run (none: those of the optimize stage). head: what becomes of the
    output, after the passes and their check. check: compare the outputs on random input, and write nothing
    if they differ by more than TOLERANCE. True unless they do. Raises FetchError if the file is no ONNX model
    with its weights, UnknownNameError for a pass that does not exist, OptimizeError if it cannot be
    optimized, checked or written; they name the file.
    """
    chosen = tuple(passes) or STAGE
    for name in chosen:
        if name not in (*PASSES, *OTHER_PASSES):
            raise UnknownNameError("pass", name, (*PASSES, *OTHER_PASSES))
    model = read_graph(source)
    with readable(source):
        load_weights(model, source)
        before = operators(model)
        try:
            done = run_passes(model, chosen)
            worst = disagreement(model, done) if check else None
            done = change_head(done, head)
        except OptimizeError as error:
            raise OptimizeError(f"{source}: {error.message}", details=error.details) from error
    agrees = worst is None or worst <= TOLERANCE
    if agrees:
        try:
            with replacing(output) as temporary:
                save_model(done, temporary)
        except FetchError as error:
            raise OptimizeError(error.message) from error
    _print(before, operators(done), worst, output, chosen, as_json=as_json)
    return agrees


def run_passes(model: onnx.ModelProto, passes: Sequence[str]) -> onnx.ModelProto:
    """The model after passes of PASSES and OTHER_PASSES, in their order.

    Raises OptimizeError naming the pass of another tool that fails.
    """
    for own, group in itertools.groupby(passes, key=PASSES.__contains__):
        if own:
            model = optimize(model, tuple(group))
            continue
        for name in group:
            try:
                model = OTHER_PASSES[name](model)
            except (OptimizeError, MemoryError):
                raise
            except Exception as error:
                raise OptimizeError(f"pass {name!r} failed", details=str(error)) from error
    return model


def _print(
    before: Counter[str],
    after: Counter[str],
    worst: float | None,
    output: Path,
    passes: Sequence[str],
    *,
    as_json: bool,
) -> None:
    agrees = worst is None or worst <= TOLERANCE
    if as_json:
        said: dict[str, Any] = {"passes": list(passes), "before": dict(before), "after": dict(after)}
        said |= {"difference": None if worst is None else f"{worst:g}", "tolerance": TOLERANCE}
        print_json({**said, "output": str(output) if agrees else None})
        return
    lines = changes(before, after)
    if worst is not None:
        verdict = "within" if agrees else "beyond"
        lines += (
            f"largest difference on random input: {worst:.2g} of the largest output, {verdict} the tolerance "
            f"of {TOLERANCE:g}\n"
        )
    sys.stdout.write(lines + (f"{output}\n" if agrees else f"{output} was not written\n"))


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each type a model has."""
    return Counter(node.op_type for node in model.graph.node)


def changes(before: Counter[str], after: Counter[str]) -> str:
    """A line for each type whose count changed, sorted by type, and one for all nodes."""
    rows = [
        f"{kind}: {before[kind]} -> {after[kind]}\n"
        for kind in sorted(before | after)
        if before[kind] != after[kind]
    ]
    return "".join([*rows, f"nodes: {before.total()} -> {after.total()}\n"])
