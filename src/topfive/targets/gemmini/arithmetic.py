"""Gemmini's integer arithmetic in plain numpy: the oracle that the fast form is checked against.

Every formula is that of the accelerator's CPU reference path (gemmini-rocc-tests `include/gemmini.h`
and the systolic provider of onnxruntime-riscv), read as IEEE arithmetic:

* accumulate in int32, add the int32 bias;
* requantise `y = clip(rint(float32(acc) * float32(scale)), -128, 127)`, the product rounded to float32
  and `rint` rounding half to even (a float64 product gives other bits near ties);
* apply ReLU after saturation.

Sums are computed through float64 BLAS, which is exact: |acc| < 2**53 for every depth below 2**39.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "conv",
    "depthwise_conv",
    "global_average",
    "matmul",
    "max_pool",
    "mvin_scale",
    "resadd",
    "scale_and_saturate",
]

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Scale = float | np.float32 | NDArray[np.float32]


def _wrap_int32(exact: NDArray[np.float64]) -> Int32:
    """Exact float64 integers to int32, wrapping as the accumulator memory does."""
    return exact.astype(np.int64).astype(np.int32)


def scale_and_saturate(acc: NDArray[Any], scale: Scale, act: int = 0) -> Int8:
    """Requantise accumulators to int8.

    acc: int32, any shape. scale: float32 scalar, or an array that broadcasts against acc (one scale per
    channel). act: 0 none, 1 ReLU (after saturation). Returns int8 of acc's shape.
    Source: ACC_SCALE and scale_and_sat of gemmini.h, with `rint` for ROUND_NEAR_EVEN.
    """
    product = np.asarray(acc, np.int32).astype(np.float32) * np.asarray(scale, np.float32)
    saturated = np.clip(np.rint(product), -128, 127).astype(np.int8)
    return np.maximum(saturated, np.int8(0)) if act == 1 else saturated


def mvin_scale(x: NDArray[Any], scale: Scale) -> Int8:
    """Scale int8 values on their way into the scratchpad: `clip(rint(float32(x) * scale), -128, 127)`.

    x: int8, any shape; scale: float32. Returns int8. Source: MVIN_SCALE of gemmini.h.
    """
    product = np.asarray(x, np.int8).astype(np.float32) * np.asarray(scale, np.float32)
    return np.clip(np.rint(product), -128, 127).astype(np.int8)


def matmul(
    A: NDArray[Any],
    B: NDArray[Any],
    D: NDArray[Any] | None = None,
    *,
    scale: Scale = 1.0,
    act: int = 0,
    transA: int | bool = 0,
    transB: int | bool = 0,
    A_scale: Scale = 1.0,
    B_scale: Scale = 1.0,
    repeating_bias: int | bool = 0,
) -> Int8:
    """C = scale_and_saturate(mvin(A) @ mvin(B) + D).

    A: int8 [I, K] ([K, I] if transA); B: int8 [K, J] ([J, K] if transB); leading batch dimensions allowed.
    D: int32 [I, J], or [1, J] if repeating_bias, or None. Returns int8 [I, J].
    Source: matmul_cpu of gemmini.h.
    """
    left, right = mvin_scale(A, A_scale), mvin_scale(B, B_scale)
    left = np.swapaxes(left, -1, -2) if transA else left
    right = np.swapaxes(right, -1, -2) if transB else right
    exact = left.astype(np.float64) @ right.astype(np.float64)
    if D is not None:
        bias = np.asarray(D, np.int32)
        exact = exact + (bias[:1] if repeating_bias else bias)
    return scale_and_saturate(_wrap_int32(exact), scale, act)


def _windows(
    x: NDArray[Any], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Any:
    """Sliding windows of an already padded NHWC array: a view [N, OH, OW, C, kh, kw]."""
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))
    return view[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (int(value), int(value))


def _pads(padding: int | tuple[int, int, int, int]) -> tuple[tuple[int, int], ...]:
    """NHWC pad widths; a tuple is (top, left, bottom, right), ONNX's order."""
    if not isinstance(padding, tuple):
        padding = (int(padding),) * 4
    top, left, bottom, right = padding
    return (0, 0), (top, bottom), (left, right), (0, 0)


def conv(
    input: NDArray[Any],
    weights: NDArray[Any],
    bias: NDArray[Any] | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int, int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    scale: Scale = 1.0,
    act: int = 0,
    pool_size: int = 0,
    pool_stride: int = 0,
    pool_padding: int = 0,
    groups: int = 1,
) -> Int8:
    """Cross-correlation, requantised, with Gemmini's optional fused max pool.

    input: int8 [N, H, W, Cin]; weights: int8 [kh, kw, Cin / groups, Cout]; bias: int32 [Cout] or None.
    stride, dilation: one number or (rows, columns); padding: one number or (top, left, bottom, right).
    scale: float32 scalar or [Cout]. pool_size, pool_stride: 0 for no pool; padded pool positions count as 0.
    Returns int8 [N, OH, OW, Cout]. Source: conv_cpu of gemmini.h.
    """
    kh, kw, depth, out_channels = weights.shape
    padded = np.pad(np.asarray(input, np.int8), _pads(padding))
    view = _windows(padded, (kh, kw), _pair(stride), _pair(dilation))
    n, oh, ow = view.shape[:3]
    per_group = out_channels // groups
    exact = np.empty((n, oh, ow, out_channels), np.float64)
    for g in range(groups):
        columns = view[:, :, :, g * depth : (g + 1) * depth].reshape(n * oh * ow, depth * kh * kw)
        kernel = (
            weights[..., g * per_group : (g + 1) * per_group].transpose(2, 0, 1, 3).reshape(-1, per_group)
        )
        product = columns.astype(np.float64) @ kernel.astype(np.float64)
        exact[..., g * per_group : (g + 1) * per_group] = product.reshape(n, oh, ow, per_group)
    if bias is not None:
        exact += np.asarray(bias, np.int32)
    out = scale_and_saturate(_wrap_int32(exact), scale, act)
    return max_pool(out, pool_size, pool_stride, pool_padding) if pool_size and pool_stride else out


def depthwise_conv(
    input: NDArray[Any],
    weights: NDArray[Any],
    bias: NDArray[Any] | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int, int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    scale: Scale = 1.0,
    act: int = 0,
    pool_size: int = 0,
    pool_stride: int = 0,
    pool_padding: int = 0,
) -> Int8:
    """Depthwise cross-correlation: one kernel a channel.

    input: int8 [N, H, W, C]; weights: int8 [C, kh, kw]; bias: int32 [C] or None; scale: scalar or [C].
    The other arguments as in `conv`. Returns int8 [N, OH, OW, C]. Source: conv_dw_cpu of gemmini.h.
    """
    padded = np.pad(np.asarray(input, np.int8), _pads(padding))
    view = _windows(padded, weights.shape[1:], _pair(stride), _pair(dilation))
    acc = np.einsum("nhwcij,cij->nhwc", view, weights, dtype=np.int32, casting="unsafe")
    if bias is not None:
        acc = acc + np.asarray(bias, np.int32)
    out = scale_and_saturate(acc, scale, act)
    return max_pool(out, pool_size, pool_stride, pool_padding) if pool_size and pool_stride else out


def max_pool(
    x: NDArray[Any],
    size: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int, int, int] = 0,
    *,
    padding_code: int = 0,
) -> Int8:
    """Max pool in which padded positions count as `padding_code`: 0 as in Gemmini's store, -128 to ignore.

    x: int8 [N, H, W, C]. Returns int8 [N, OH, OW, C], sizes rounded down. Sources: the pooled store of
    conv_cpu in gemmini.h (0); RunMaxPool2D of onnxruntime-riscv, which looks at valid positions only (-128).
    """
    padded = np.pad(np.asarray(x, np.int8), _pads(padding), constant_values=padding_code)
    pooled: Int8 = _windows(padded, _pair(size), _pair(stride), (1, 1)).max(axis=(-2, -1))
    return pooled


def resadd(
    A: NDArray[Any],
    B: NDArray[Any],
    *,
    A_scale: Scale = 1.0,
    B_scale: Scale = 1.0,
    C_scale: Scale = 1.0,
    relu: int | bool = 0,
) -> Int8:
    """Residual add: each addend is scaled, rounded and saturated to int8 before the sum.

    A, B: int8 of one shape; scales float32. Returns int8. Source: resadd_cpu of gemmini.h.
    """
    total = mvin_scale(A, A_scale).astype(np.int32) + mvin_scale(B, B_scale).astype(np.int32)
    return scale_and_saturate(total, C_scale, 1 if relu else 0)


def global_average(input: NDArray[Any]) -> Int8:
    """Global average as the CPU path has it: `(sum + count // 2) / count`, C division (towards zero).

    input: int8 [N, H, W, C]. Returns int8 [N, C]. Source: global_average_cpu of gemmini.h. The accelerator
    path instead does scale_and_saturate(sum, float32(1 / count)).
    """
    count = input.shape[1] * input.shape[2]
    total = np.asarray(input, np.int32).sum(axis=(1, 2)) + count // 2
    quotient: Int8 = (np.sign(total) * (np.abs(total) // count)).astype(np.int8)
    return quotient
