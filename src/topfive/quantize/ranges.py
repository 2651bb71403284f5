"""Activation ranges: the form every calibration method writes and every quantiser reads.

Floats are stored as hexadecimal text, so that a table read back gives the same bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topfive.errors import CalibrateError

__all__ = ["CacheForm", "RangeTable", "ranges_from_text", "ranges_text", "read_ranges", "write_ranges"]

FORMAT = "topfive-ranges/1"


@dataclass(frozen=True)
class CacheForm:
    """How a TensorRT calibration cache was written, beyond its scales: enough to write the same bytes again.

    header: the first line. order: the names, in order of their lines. texts: what follows the colon, of the
    lines where it is not a blank and the shortest digits. ending: what follows the last line's digits.
    """

    header: str
    order: Sequence[str]
    texts: Mapping[str, str] = field(default_factory=dict)
    ending: str = "\n"


@dataclass(frozen=True)
class RangeTable:
    """Minimum and maximum of each named float tensor over a calibration set, and where they come from.

    cache: the form of the TensorRT calibration cache that the table was read from, if it was.
    """

    ranges: Mapping[str, tuple[float, float]]
    method: str = "minmax"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    cache: CacheForm | None = None


def write_ranges(table: RangeTable, path: Path) -> None:
    """Write a table as JSON, sorted by tensor name."""
    path.write_text(ranges_text(table), encoding="utf-8")


def ranges_text(table: RangeTable) -> str:
    """A table as JSON text."""
    rows = {name: [low.hex(), high.hex()] for name, (low, high) in sorted(table.ranges.items())}
    document: dict[str, Any] = {
        "format": FORMAT,
        "method": table.method,
        "provenance": dict(table.provenance),
        "ranges": rows,
    }
    if table.cache is not None:
        form = table.cache
        document["tensorrt_cache"] = {
            "header": form.header,
            "order": list(form.order),
            "texts": dict(form.texts),
            "ending": form.ending,
        }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _range(place: object, name: str, row: Any) -> tuple[float, float]:
    try:
        low, high = (float.fromhex(x) for x in row)
    except (TypeError, ValueError, OverflowError):
        raise CalibrateError(f"{place}: range of {name!r} is not two hexadecimal floats: {row!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise CalibrateError(f"{place}: range of {name!r} is not finite and ordered: [{low}, {high}]")
    return low, high


def _cache_form(place: object, stored: Any) -> CacheForm | None:
    if stored is None:
        return None
    wrong = CalibrateError(f"{place}: 'tensorrt_cache' must hold header, order, texts and ending")
    try:
        form = CacheForm(stored["header"], tuple(stored["order"]), stored["texts"], stored["ending"])
        words = [form.header, form.ending, *form.order, *form.texts, *form.texts.values()]
    except (TypeError, KeyError, AttributeError):
        raise wrong from None
    if not all(isinstance(word, str) for word in words):
        raise wrong
    return form


def read_ranges(path: Path) -> RangeTable:
    """Read a table that `write_ranges` wrote; CalibrateError if it is anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CalibrateError(f"calibration table {path} cannot be read: {error}") from None
    return ranges_from_text(text, path)


def ranges_from_text(text: str, place: object) -> RangeTable:
    """The table in a JSON text; CalibrateError naming `place`, where the text is from, if it is no table."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CalibrateError(f"calibration table {place} cannot be read: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CalibrateError(f"{place} is not a calibration table (no format {FORMAT!r})")
    rows, provenance = document.get("ranges"), document.get("provenance", {})
    if not isinstance(rows, dict) or not rows:
        raise CalibrateError(f"calibration table {place} holds no ranges")
    if not isinstance(provenance, dict):
        raise CalibrateError(f"calibration table {place}: 'provenance' must be an object")
    ranges = {name: _range(place, name, row) for name, row in rows.items()}
    form = _cache_form(place, document.get("tensorrt_cache"))
    return RangeTable(ranges, str(document.get("method", "")), provenance, form)
