"""Numpy arrays inside JSON: little-endian bytes, deflated, as base64."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["pack_array", "unpack_array"]

DTYPES = ("<i4", "<i8", "|u1", "<f8")
LARGEST = 1 << 32


def pack_array(array: npt.NDArray[Any]) -> dict[str, Any]:
    """An int32, int64, uint8 or float64 array as a JSON object: dtype, shape, zlib (base64)."""
    data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    if data.dtype.str not in DTYPES:
        raise ValueError(f"{array.dtype} is none of {', '.join(DTYPES)}")
    text = base64.b64encode(zlib.compress(data.tobytes(), 6)).decode("ascii")
    return {"dtype": data.dtype.str, "shape": list(data.shape), "zlib": text}


def unpack_array(stored: Mapping[str, Any]) -> npt.NDArray[Any]:
    """The array of `pack_array`. Raises ValueError for anything else, before memory is spent on it."""
    try:
        dtype, shape = stored["dtype"], tuple(int(side) for side in stored["shape"])
        compressed = base64.b64decode(stored["zlib"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"not a packed array: {error!r}") from error
    if dtype not in DTYPES or any(side < 0 for side in shape):
        raise ValueError(f"not a packed array: dtype {dtype!r}, shape {list(shape)}")
    length = math.prod(shape) * np.dtype(dtype).itemsize
    if length > LARGEST:
        raise ValueError(f"an array of {length} bytes is refused")
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(compressed, length + 1)
    except zlib.error as error:
        raise ValueError(f"not a packed array: {error}") from error
    if len(data) != length or not unpacker.eof:
        raise ValueError(f"not a packed array: {len(data)} bytes for shape {list(shape)} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape)
