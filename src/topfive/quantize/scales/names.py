"""Whether a scale table is of a model: its names against the model's tensors."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import replace

import onnx

from topfive.errors import CalibrateError
from topfive.quantize.ranges import RangeTable

__all__ = ["fitting", "tensor_names"]

SUGGESTED = 20
"""For so many unknown names the nearest ones are looked for."""


def tensor_names(*models: onnx.ModelProto) -> set[str]:
    """The names of all activations of some models (one before and after it was optimised, say)."""
    found: set[str] = set()
    for model in models:
        constants = {tensor.name for tensor in model.graph.initializer}
        found |= {value.name for value in model.graph.input} - constants
        found |= {name for node in model.graph.node for name in node.output if name}
    return found


def fitting(
    table: RangeTable, names: Collection[str], *, place: object, model: str, partial: bool = False
) -> tuple[RangeTable, list[str]]:
    """The part of a table that a model can use, and what was left out of it.

    names: the model's tensors. Left out are names that the model lacks and ranges of zero (a cache's scale of
    0, a tensor that was zero throughout: no scale can be had from it). Unless `partial`, either is a
    CalibrateError that lists them, with the nearest names. So is a table of which nothing fits.
    """
    unknown = [name for name in table.ranges if name not in names]
    zero = [name for name, ends in table.ranges.items() if name in names and ends == (0.0, 0.0)]
    left_out = {*unknown, *zero}
    kept = {name: ends for name, ends in table.ranges.items() if name not in left_out}
    if unknown and (not partial or not kept):
        raise CalibrateError(
            f"{place}: {len(unknown)} of its {len(table.ranges)} tensors are not in {model}"
            + (": it is of another model" if not kept else "; --partial uses the others"),
            details="\n".join(_suggested(unknown, names)),
        )
    if zero and not partial:
        raise CalibrateError(
            f"{place}: the scale of {len(zero)} tensors of {model} is zero ({', '.join(zero[:3])}"
            f"{', ...' if len(zero) > 3 else ''}): they were zero throughout; --partial leaves them out"
        )
    return replace(table, ranges=kept), [*unknown, *zero]


def _suggested(unknown: list[str], names: Collection[str]) -> list[str]:
    lines = []
    for name in unknown[:SUGGESTED]:
        near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
        lines.append(f"  {name}" + (f"   (nearest: {', '.join(near)})" if near else ""))
    return [*lines, *([f"  and {', '.join(unknown[SUGGESTED:])}"] if len(unknown) > SUGGESTED else [])]
