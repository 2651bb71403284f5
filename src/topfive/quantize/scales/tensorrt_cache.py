"""TensorRT's INT8 calibration caches: text, one line a tensor, and a header.

    TRT-8601-EntropyCalibration2
    input: 3c010a14
    (Unnamed Layer* 118) [Fully Connected]_output: 3dba2717

A line is `name: digits`, split at the last colon. The digits are a float32 scale, big-endian, in hexadecimal,
without leading zeros (TensorRT writes a tensor that was zero throughout as `0`). The range is plus and minus
127 times the scale. The legacy calibrator's header is `0 CUTOFF QUANTILE`, both big-endian float64.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from topfive.errors import CalibrateError
from topfive.quantize.ranges import CacheForm, RangeTable

__all__ = ["CALIBRATORS", "cache_header", "header_fields", "parse_cache", "scale_of", "write_cache"]

LARGEST_CODE = 127
CALIBRATORS = {
    "EntropyCalibration2": "entropy",
    "EntropyCalibration": "entropy",
    "MinMaxCalibration": "minmax",
}
"""The header's algorithm -> calibration method."""
DEFAULT_VERSION = "8.6.1"
_HEADER = re.compile(r"TRT-([^-\s]+)-(\S+)")
_LEGACY = re.compile(r"(\d+) ([0-9a-fA-F]{1,16}) ([0-9a-fA-F]{1,16})")
_DIGITS = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,8})")


def scale_of(low: float, high: float) -> np.float32:
    """The symmetric int8 scale of a range: max(|low|, |high|) / 127 in float32; 0 for a range of zero.

    Exact for a range that is 127 times a float32; infinite for one beyond float32.
    """
    with np.errstate(over="ignore"):
        return np.float32(max(abs(low), abs(high)) / LARGEST_CODE)


def header_fields(header: str) -> dict[str, Any]:
    """What a header says: `version` and `calibrator`, or `calibrator`, `cutoff`, `quantile`; {} if none."""
    if found := _HEADER.fullmatch(header.strip()):
        return {"version": found[1], "calibrator": found[2]}
    if found := _LEGACY.fullmatch(header.strip()):
        cutoff, quantile = (
            struct.unpack("!d", bytes.fromhex(digits.zfill(16)))[0] for digits in found.groups()[1:]
        )
        return {"calibrator": f"legacy {found[1]}", "cutoff": cutoff, "quantile": quantile}
    return {}


def cache_header(method: str, version: str = DEFAULT_VERSION) -> str:
    """The header that TensorRT `version` ("8.6.1") writes for a method: min-max, or entropy for any other.

    Raises CalibrateError for a version that is not three numbers.
    """
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise CalibrateError(f"TensorRT version {version!r} is not three numbers, such as {DEFAULT_VERSION}")
    major, minor, patch = (int(part) for part in parts)
    # Two digits each since TensorRT 10: 10.3.0 writes 100300, 8.6.1 writes 8601.
    number = f"{major}{minor:02}{patch:02}" if major >= 10 else f"{major}{minor}{patch:02}"
    calibrator = "MinMaxCalibration" if method == "minmax" else "EntropyCalibration2"
    return f"TRT-{number}-{calibrator}"


def parse_cache(data: bytes, place: object) -> RangeTable:
    """The table in a calibration cache's bytes, with its form, so that `write_cache` gives the bytes back.

    place: where they are from, for messages. Raises CalibrateError naming the line: not text, no header, no
    scales, a line that is not `name: digits`, a name twice, a scale that is negative, infinite or NaN. Zeros
    are kept: TensorRT writes them for tensors that were zero throughout.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CalibrateError(f"{place}: is not a text file (byte {error.start})") from None
    body = text.rstrip()
    header, *lines = body.split("\n")
    about = header_fields(header)
    if not about:
        raise CalibrateError(
            f"{place}, line 1: {header[:60]!r} is not the header of a TensorRT calibration cache "
            "(TRT-8601-EntropyCalibration2, or the legacy form '0 3ff0000000000000 3fefffb8b26394fb')"
        )
    if not lines:
        raise CalibrateError(f"{place}: holds no scales, only a header")
    ranges: dict[str, tuple[float, float]] = {}
    texts: dict[str, str] = {}
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=2):
        name, bits, written = _entry(line, f"{place}, line {number}")
        if name in seen:
            raise CalibrateError(
                f"{place}, line {number}: {name!r} has a scale on line {seen[name]} already; remove one"
            )
        seen[name] = number
        bound = _float(bits) * LARGEST_CODE
        ranges[name] = (0.0 - bound, bound)
        if written != _canonical(bits):
            texts[name] = written
    form = CacheForm(header, tuple(ranges), texts, text[len(body) :])
    return RangeTable(ranges, CALIBRATORS.get(about["calibrator"], about["calibrator"]), about, form)


def _entry(line: str, place: str) -> tuple[str, int, str]:
    """(name, bits, everything after the colon) of one line."""
    name, colon, written = line.rpartition(":")
    digits = _DIGITS.fullmatch(written.strip())
    if not colon or not name.strip() or not digits:
        raise CalibrateError(f"{place}: {line[:80]!r} is not 'name: digits' with 1 to 8 hexadecimal digits")
    bits = int(digits[1], 16)
    value = _float(bits)
    if not math.isfinite(value):
        raise CalibrateError(f"{place}: the scale of {name!r} is {value} ({digits[1]}); calibrate again")
    if bits >> 31:
        raise CalibrateError(f"{place}: the scale of {name!r} is negative ({digits[1]}): {value:.6g}")
    return name, bits, written


def _float(bits: int) -> float:
    return float(struct.unpack("!f", bits.to_bytes(4, "big"))[0])


def _canonical(bits: int) -> str:
    return f" {bits:x}"


def write_cache(table: RangeTable, *, header: str | None = None, order: Sequence[str] | None = None) -> bytes:
    """A table as a calibration cache.

    A table that was read from a cache keeps its header, order and digits; else the header is that of
    `cache_header` for the table's method. header: replaces it. order: of tensors that have no place yet,
    those of a graph, say; others follow in the table's order. Raises CalibrateError for a header that is
    none, a name that a line cannot hold, a range too wide for a float32 scale.
    """
    form = table.cache or CacheForm("", ())
    first = header or form.header or cache_header(table.method)
    if not header_fields(first) or "\n" in first:
        raise CalibrateError(f"{first!r} is not the header of a TensorRT calibration cache")
    names = dict.fromkeys([*form.order, *(order or ()), *table.ranges])
    lines = [first]
    for name in names:
        if name in table.ranges:
            bits = _bits(name, table.ranges[name])
            lines.append(f"{name}:{_written(bits, form.texts.get(name))}")
    return ("\n".join(lines) + form.ending).encode("utf-8")


def _bits(name: str, ends: tuple[float, float]) -> int:
    if not name.strip() or "\n" in name:
        raise CalibrateError(f"tensor {name!r} cannot stand in a calibration cache: rename it in the model")
    scale = scale_of(*ends)
    if not np.isfinite(scale):
        raise CalibrateError(f"the range of {name!r}, {ends[0]:.6g} to {ends[1]:.6g}, has no float32 scale")
    return int(scale.view(np.uint32))


def _written(bits: int, before: str | None) -> str:
    """The text after the colon: as it was, if it still says the same."""
    if before is not None:
        digits = _DIGITS.fullmatch(before.strip())
        if digits and int(digits[1], 16) == bits:
            return before
    return _canonical(bits)
