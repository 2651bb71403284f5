"""Average pools of int8 codes: a sum that is exact in float32, then one multiplication."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from topfive.graph import attributes

__all__ = ["SPATIAL", "average_factor", "exact_sum"]

# Sums of so many codes (at most 128 each) are whole numbers below 2**24, exact in float32 in any order.
MOST_CODES = 2**24 // 128
SPATIAL = [2, 3]
Shape = Sequence[int | str]


def average_factor(
    node: onnx.NodeProto, shape: Shape, scale: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """What a sum of codes is multiplied by, `float32(scale / n)`: [] or, where n differs, [1, 1, H, W].

    node: AveragePool or GlobalAveragePool. shape: its input's, [N, C, H, W]. None where the sum is not known
    to be exact: sizes that are not numbers, windows of 2**17 codes, automatic padding, ceil mode.
    """
    if len(shape) != 4 or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        return None
    height, width = (int(size) for size in shape[2:])
    if node.op_type == "GlobalAveragePool":
        count = height * width
        return np.asarray(scale / np.float32(count), np.float32) if count <= MOST_CODES else None
    given = attributes(node)
    plain = given.get("auto_pad", "NOTSET") == "NOTSET" and not given.get("ceil_mode", 0)
    kernel = [int(size) for size in given["kernel_shape"]]
    if not plain or len(kernel) != 2 or set(given.get("dilations", [1])) != {1} or prod(kernel) > MOST_CODES:
        return None
    pads, strides = given.get("pads", [0] * 4), given.get("strides", [1, 1])
    if not any(pads) or given.get("count_include_pad", 0):
        return np.asarray(scale / np.float32(prod(kernel)), np.float32)
    counts = np.multiply.outer(
        _inside(height, kernel[0], strides[0], pads[0], pads[2]),
        _inside(width, kernel[1], strides[1], pads[1], pads[3]),
    )
    return np.asarray(scale / counts.astype(np.float32), np.float32)[None, None]


def _inside(size: int, kernel: int, stride: int, before: int, after: int) -> NDArray[np.int64]:
    """How many places of each window along one axis are inside the tensor."""
    starts = np.arange(0, size + before + after - kernel + 1, stride) - before
    found: NDArray[np.int64] = np.minimum(starts + kernel, size) - np.maximum(starts, 0)
    return found


def exact_sum(
    node: onnx.NodeProto, values: str, output: str, shape: Shape, constant: Callable[..., str]
) -> onnx.NodeProto:
    """The node that adds up whole-number floats over an average pool's windows; padding counts as 0.

    values: name of the codes as float32. constant: adds a constant by name and value, and returns its name.
    """
    if node.op_type == "GlobalAveragePool":
        axes = constant("topfive.spatial_axes", SPATIAL, np.int64)
        return helper.make_node("ReduceSum", [values, axes], [output], name=f"{output}.ReduceSum", keepdims=1)
    given = attributes(node)
    channels = int(shape[1])
    ones = constant(f"{output}.ones", np.ones((channels, 1, *given["kernel_shape"])), np.float32)
    conv: dict[str, Any] = {key: given[key] for key in ("kernel_shape", "strides", "pads") if key in given}
    return helper.make_node("Conv", [values, ones], [output], name=f"{output}.Conv", group=channels, **conv)
