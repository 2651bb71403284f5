"""Activation ranges: the form every calibration method writes and every quantiser reads.

Floats are stored as hexadecimal text, so that a table read back gives the same bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topfive.errors import CalibrateError

__all__ = ["RangeTable", "read_ranges", "write_ranges"]

FORMAT = "topfive-ranges/1"


@dataclass(frozen=True)
class RangeTable:
    """Minimum and maximum of each named float tensor over a calibration set, and where they come from."""

    ranges: Mapping[str, tuple[float, float]]
    method: str = "minmax"
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write_ranges(table: RangeTable, path: Path) -> None:
    """Write a table as JSON, sorted by tensor name."""
    rows = {name: [low.hex(), high.hex()] for name, (low, high) in sorted(table.ranges.items())}
    document = {
        "format": FORMAT,
        "method": table.method,
        "provenance": dict(table.provenance),
        "ranges": rows,
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _range(path: Path, name: str, row: Any) -> tuple[float, float]:
    try:
        low, high = (float.fromhex(x) for x in row)
    except (TypeError, ValueError):
        raise CalibrateError(f"{path}: range of {name!r} is not two hexadecimal floats: {row!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise CalibrateError(f"{path}: range of {name!r} is not finite and ordered: [{low}, {high}]")
    return low, high


def read_ranges(path: Path) -> RangeTable:
    """Read a table that `write_ranges` wrote; CalibrateError if it is anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrateError(f"calibration table {path} cannot be read: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CalibrateError(f"{path} is not a calibration table (no format {FORMAT!r})")
    rows = document.get("ranges")
    if not isinstance(rows, dict) or not rows:
        raise CalibrateError(f"calibration table {path} holds no ranges")
    ranges = {name: _range(path, name, row) for name, row in rows.items()}
    return RangeTable(ranges, str(document.get("method", "")), document.get("provenance", {}))
