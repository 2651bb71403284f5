"""Scale tables in files: JSON tables, TensorRT calibration caches and Q/DQ models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from topfive.errors import CalibrateError, FetchError
from topfive.graph import save_model
from topfive.quantize.ranges import RangeTable, ranges_from_text, ranges_text
from topfive.quantize.scales.qdq import qdq_table, with_table
from topfive.quantize.scales.tensorrt_cache import parse_cache, write_cache
from topfive.sources.atomic import replacing

__all__ = ["KINDS", "file_kind", "read_table", "write_table"]

KINDS = {".json": "table", ".onnx": "Q/DQ model", ".cache": "cache", ".calib": "cache", ".txt": "cache"}
"""Suffix -> what a file of that name is written as."""


def file_kind(path: Path) -> str:
    """What a path's suffix says that it is; CalibrateError for a suffix that says nothing."""
    try:
        return KINDS[path.suffix.lower()]
    except KeyError:
        raise CalibrateError(
            f"{path}: its suffix does not say what to write: use {', '.join(KINDS)}"
        ) from None


def read_table(path: Path) -> RangeTable:
    """The table in a file of any kind. Which it is, its content decides; CalibrateError naming the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CalibrateError(f"{path} cannot be read: {error.strerror or error}") from None
    if path.suffix.lower() == ".onnx":
        try:
            return qdq_table(onnx.load(path), path)
        except (DecodeError, ValueError) as error:
            raise CalibrateError(f"{path}: is not an ONNX model: {error}") from None
    if data.lstrip()[:1] == b"{":
        try:
            return ranges_from_text(data.decode("utf-8"), path)
        except UnicodeDecodeError as error:
            raise CalibrateError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    return parse_cache(data, path)


def write_table(
    table: RangeTable,
    path: Path,
    *,
    model: onnx.ModelProto | None = None,
    weights: str = "per_axis",
    header: str | None = None,
    order: Sequence[str] | None = None,
) -> None:
    """Write a table as what the path's suffix says; the file appears whole or not at all.

    model: the optimised float model that a Q/DQ model is made of. weights: see `with_table`. header and
    order: see `write_cache`. Raises CalibrateError for a suffix that says nothing, a Q/DQ model without
    `model`, or a file that cannot be written.
    """
    kind = file_kind(path)
    if kind == "Q/DQ model" and model is None:
        raise CalibrateError(f"{path}: a Q/DQ model is made of a float model: name one with --model")
    try:
        with replacing(path) as temporary:
            if kind == "table":
                temporary.write_text(ranges_text(table), encoding="utf-8")
            elif kind == "cache":
                temporary.write_bytes(write_cache(table, header=header, order=order))
            elif model is not None:
                save_model(with_table(model, table, weights=weights), temporary)
    except FetchError as error:
        raise CalibrateError(error.message) from error
