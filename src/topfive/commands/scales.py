"""`topfive scales`: tables of activation ranges, of this tool and of others."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from topfive.cache import Cache, cache_root
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.graph import Graph
from topfive.pipeline import MODEL, Pipeline, resolve_card
from topfive.quantize.calibration import calibrated_tensors
from topfive.quantize.ranges import RangeTable
from topfive.quantize.scales import Difference, compare_tables, read_table, scale_of, write_table
from topfive.quantize.scales.files import file_kind
from topfive.quantize.scales.names import fitting, tensor_names
from topfive.quantize.scales.tensorrt_cache import cache_header

__all__ = ["convert_scales", "diff_scales", "show_scales"]


def show_scales(path: Path, *, as_json: bool) -> None:
    """Print a table: of each tensor the range, the symmetric int8 scale, its bits as a cache has them."""
    table = read_table(path)
    rows = [(name, *ends, scale_of(*ends)) for name, ends in table.ranges.items()]
    zero = [name for name, *_, scale in rows if scale == 0]
    about = {name: value for name, value in table.provenance.items() if name != "list"}
    if as_json:
        tensors = {
            name: {"low": low, "high": high, "scale": float(scale), "bits": _bits(scale)}
            for name, low, high, scale in rows
        }
        found = {"method": table.method, "provenance": about, "tensors": tensors, "zero": zero}
        if table.cache is not None:
            found["header"] = table.cache.header
        print_json(found)
        return
    lines = [f"{path}: {len(rows)} tensors by {table.method or 'an unnamed method'}"]
    lines += [f"header: {table.cache.header}"] if table.cache else []
    lines += [f"{name}: {value}" for name, value in about.items()]
    lines.append(f"{'low':>13} {'high':>13} {'scale':>13} {'bits':>8}  tensor")
    lines += [
        f"{low:13.6g} {high:13.6g} {scale:13.6g} {_bits(scale):>8}  {name}" for name, low, high, scale in rows
    ]
    if zero:
        lines.append(f"{len(zero)} scales are zero: the tensors were zero throughout, or a scale is missing")
    sys.stdout.write("\n".join([*lines, ""]))


def _bits(scale: Any) -> str:
    return f"{int(scale.view('uint32')):x}"


def diff_scales(left: Path, right: Path, *, tolerance: float, show: int, as_json: bool) -> bool:
    """Print where two tables differ, largest ratio first; True if they agree within the tolerance."""
    found = compare_tables(read_table(left), read_table(right))
    beyond = found.beyond(tolerance)
    equal = found.equal(tolerance)
    if as_json:
        print_json(
            {
                "equal": equal,
                "compared": len(found.rows),
                "beyond": [_row(row) for row in beyond],
                "only_left": list(found.only_left),
                "only_right": list(found.only_right),
            }
        )
        return equal
    lines = [f"{len(found.rows)} tensors in both, {len(beyond)} beyond a tolerance of {tolerance:g}"]
    if beyond:
        lines.append(f"{'ratio':>10} {'shift':>8} {'left scale':>13} {'right scale':>13}  tensor")
        lines += [
            f"{row.ratio:10.5g} {row.shift:8.3g} {scale_of(*row.left):13.6g} {scale_of(*row.right):13.6g}  "
            f"{row.tensor}"
            for row in beyond[:show]
        ]
    if len(beyond) > show:
        lines.append(f"and {len(beyond) - show} nearer ones (--show {len(beyond)})")
    for where, names in ((left, found.only_left), (right, found.only_right)):
        if names:
            lines.append(f"only in {where}: {len(names)} tensors")
            lines += [f"  {name}" for name in names[:show]]
    sys.stdout.write("\n".join([*lines, ""]))
    return equal


def _row(row: Difference) -> dict[str, Any]:
    return {
        "tensor": row.tensor,
        "left": list(row.left),
        "right": list(row.right),
        "ratio": row.ratio if math.isfinite(row.ratio) else None,
        "shift": row.shift,
    }


def convert_scales(
    source: Path,
    output: Path,
    *,
    model: str | None,
    header: str | None,
    version: str | None,
    weights: str,
    partial: bool,
    cards: Sequence[Path],
    cache: Path | None,
    as_json: bool,
) -> None:
    """Write a table in another form, which the suffix of `output` says.

    model: a card's name or an ONNX file; a Q/DQ model is made of it, and names are checked against it.
    header: of a cache; or version: of the TensorRT that is to read it. partial: leave out what the model
    lacks.
    """
    file_kind(output)
    table = read_table(source)
    float_model, order, left_out = None, None, list[str]()
    if model is not None:
        pipeline = Pipeline(
            resolve_card(model, cards), "cpu", "force_float32", Cache(cache_root(cache)), progress
        )
        float_model = onnx.load(pipeline.optimized().file(MODEL))
        names = tensor_names(onnx.load(pipeline.source()), float_model)
        table, left_out = fitting(table, names, place=source, model=pipeline.card.name, partial=partial)
        order = calibrated_tensors(Graph(float_model))
    chosen = header or (cache_header(table.method, version) if version else None)
    write_table(table, output, model=float_model, weights=weights, header=chosen, order=order)
    if as_json:
        print_json({"output": str(output), "tensors": len(table.ranges), "left_out": left_out})
        return
    said = f", {len(left_out)} left out" if left_out else ""
    sys.stdout.write(f"{output}: {_count(table)}{said}\n")


def _count(table: RangeTable) -> str:
    return f"{len(table.ranges)} tensors"
