"""What passes found for one model and quant mode: all that its quantiser needs besides the model.

The files are text. Whoever has one builds the same bits, whatever the processor that found its numbers: the
numbers that a build computes from it are single IEEE operations.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.errors import CalibrateError
from topfive.quantize.ranges import RangeTable

__all__ = ["Adjustments", "read_adjustments", "write_adjustments"]

FORMAT = "topfive-adjustments/1"
# No layer has as many weights: a file that claims more is damaged.
MOST_BYTES = 2**28


@dataclass(frozen=True)
class Adjustments:
    """Ranges, and what differs from the plain mode, by the name of the convolution.

    recipe: its name; passes: those that were on, with their settings. factors: of the output channels,
    float64 [out]. absorbed: what each output channel is lowered by, float64 [out]. weight_scales: float32,
    one or [out]. rounding: added to the nearest codes, int8 in the weights' shape. biases: added to the bias
    codes, int32 [out].
    """

    mode: str
    recipe: str
    table: RangeTable
    passes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    factors: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    absorbed: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    weight_scales: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    rounding: Mapping[str, NDArray[np.int8]] = field(default_factory=dict)
    biases: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def _packed(codes: NDArray[np.int8]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(codes).tobytes(), 9)).decode("ascii")


def write_adjustments(adjustments: Adjustments, path: Path) -> None:
    """Write as JSON, a line for each layer, sorted by name; floats as exact decimals or hexadecimal."""
    a = adjustments
    ranges = {name: [low.hex(), high.hex()] for name, (low, high) in a.table.ranges.items()}
    sections: dict[str, Mapping[str, Any]] = {
        "passes": a.passes,
        "provenance": a.provenance,
        "ranges": ranges,
        "factors": {name: value.tolist() for name, value in a.factors.items()},
        "absorbed": {name: value.tolist() for name, value in a.absorbed.items()},
        "weight_scales": {
            name: [float(s).hex() for s in np.atleast_1d(value)] for name, value in a.weight_scales.items()
        },
        "rounding": {name: [list(v.shape), _packed(v)] for name, v in a.rounding.items()},
        "biases": {name: value.tolist() for name, value in a.biases.items()},
    }
    head = {"format": FORMAT, "mode": a.mode, "recipe": a.recipe, "method": a.table.method}
    lines = [f" {_json(key)}: {_json(value)}" for key, value in head.items()]
    for title, section in sections.items():
        keep = title in ("passes", "provenance")
        names = section if keep else sorted(section)
        rows = ",\n".join(f"  {_json(name)}: {_json(section[name])}" for name in names)
        lines.append(f" {_json(title)}: {{\n{rows}\n }}" if rows else f" {_json(title)}: {{}}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_adjustments(path: Path) -> Adjustments:
    """Read what `write_adjustments` wrote; CalibrateError naming file and entry for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrateError(f"{path}: cannot be read: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CalibrateError(f"{path}: is no file of quantisation parameters (no format {FORMAT!r})")
    read = _Reading(path, document)
    ranges = read.section("ranges", _range)
    if not ranges:
        raise CalibrateError(f"{path}: holds no ranges")
    return Adjustments(
        read.text("mode"),
        read.text("recipe"),
        RangeTable(ranges, read.text("method"), {}),
        read.section("passes", _mapping),
        read.section("factors", _numbers),
        read.section("absorbed", _numbers),
        read.section("weight_scales", _scales),
        read.section("rounding", _codes),
        read.section("biases", _integers),
        read.section("provenance", lambda value: value),
    )


class _Reading:
    """The sections of one file."""

    def __init__(self, path: Path, document: Mapping[str, Any]) -> None:
        self.path = path
        self.document = document

    def text(self, key: str) -> str:
        value = self.document.get(key)
        if not isinstance(value, str) or not value:
            raise CalibrateError(f"{self.path}: {key!r} must be text, not {str(value)[:60]!r}")
        return value

    def section(self, key: str, convert: Callable[[Any], Any]) -> dict[str, Any]:
        rows = self.document.get(key)
        if not isinstance(rows, dict):
            raise CalibrateError(f"{self.path}: section {key!r} is missing")
        found = {}
        for name, row in rows.items():
            try:
                found[name] = convert(row)
            except (TypeError, ValueError, OverflowError, zlib.error, ArithmeticError) as error:
                raise CalibrateError(f"{self.path}: {key} of {name!r} is malformed: {error}") from None
        return found


def _range(row: Any) -> tuple[float, float]:
    low, high = (float.fromhex(text) for text in row)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"[{low}, {high}] is not finite and ordered")
    return low, high


def _mapping(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TypeError("not a table")
    return row


def _listed(row: Any, kinds: tuple[type, ...]) -> list[Any]:
    if not isinstance(row, list) or not row or not all(type(item) in kinds for item in row):
        raise TypeError("not a list of numbers")
    return row


def _numbers(row: Any) -> NDArray[np.float64]:
    values = np.array(_listed(row, (int, float)), np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("numbers must be finite and at least 0")
    return values


def _scales(row: Any) -> NDArray[np.float32]:
    if not isinstance(row, list) or not row:
        raise TypeError("not a list of scales")
    values = np.array([float.fromhex(text) for text in row], np.float64)
    scales = values.astype(np.float32)
    if not np.isfinite(scales).all() or (scales <= 0).any() or (scales != values).any():
        raise ValueError("scales must be float32, finite and more than 0")
    return scales[0] if len(scales) == 1 else scales


def _codes(row: Any) -> NDArray[np.int8]:
    shape, text = row
    if not isinstance(text, str) or not all(type(side) is int and side > 0 for side in shape):
        raise TypeError("not a shape and packed codes")
    size = math.prod(shape)
    if size > MOST_BYTES:
        raise ValueError(f"{size} codes")
    data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    if len(data) != size:
        raise ValueError(f"{len(data)} codes for a shape of {size}")
    return np.frombuffer(data, np.int8).reshape(shape)


def _integers(row: Any) -> NDArray[np.int32]:
    values = np.array(_listed(row, (int,)), np.int64)
    if (np.abs(values) > np.iinfo(np.int32).max).any():
        raise ValueError("codes must fit int32")
    return values.astype(np.int32)
