"""int8 as the Gemmini imagenet runner's quantiser makes it: symmetric, per tensor, zero point 0.

Which operators become integer is in `rewriter`. Unlike the original, Clip and ReLU6 keep their upper bound.
Quant mode int8_dw is the same with one weight scale per channel in depthwise convolutions: Gemmini computes
them channel by channel, and each channel's store can have a scale of its own.

The result is plain ONNX: int8 QLinearConv, QLinearMatMul, com.microsoft QLinearAdd, and Relu, Clip and
MaxPool on int8. What a target makes of it (which rounding an Add has, what a padded pool position counts)
is the target's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.errors import QuantizeError
from topfive.graph import Graph, attributes
from topfive.quantize.ranges import RangeTable
from topfive.quantize.rewriter import DATA_MOVEMENT, Quantised, Rewriter, Weights, quantize_bias

__all__ = [
    "DATA_MOVEMENT",
    "DepthwiseScales",
    "Symmetric",
    "activation_scale",
    "channel_scales",
    "is_depthwise",
    "quantize_bias",
    "quantize_symmetric",
    "quantize_weights",
    "round_weights",
]

ZERO_RANGE = 1e-8
LARGEST_BIAS = 2**30
"""A bias code no larger leaves the accumulator room for any sum of products."""
DepthwiseScales = Literal["tensor", "channel"]


def activation_scale(low: float, high: float) -> np.float32:
    """Scale of a symmetric int8 tensor: `max(|low|, |high|) / 127` in float32, with 0 inside the range.

    1.0 for a range of zero. Source: compute_scale_zp of the imagenet runner's quantiser. The quotient is
    taken in double: of a float32 bound that is the float32 quotient, of 127 times a scale the scale itself.
    """
    bound = max(abs(min(low, 0.0)), abs(max(high, 0.0)))
    return np.float32(1.0) if bound < ZERO_RANGE else np.float32(bound / 127)


def quantize_weights(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], np.float32]:
    """Per-tensor symmetric int8: scale = 2 * max|w| / 254, codes = rint(w / scale). Shape is kept."""
    bound = float(np.abs(weights).max(initial=0.0))
    scale = np.float32(bound * 2 / 254) if bound > 0 else np.float32(1.0)
    if scale == 0:
        scale = np.float32(1.0)
    return np.clip(np.rint(weights / scale), -127, 127).astype(np.int8), scale


def round_weights(weights: NDArray[np.float32], scale: np.float32 | NDArray[np.float32]) -> NDArray[np.int8]:
    """Codes rint(w / scale), -127 to 127. weights: [out channels, ...]; scale: one, or [out channels]."""
    scales = np.asarray(scale, np.float32).reshape(-1, *[1] * (weights.ndim - 1))
    codes: NDArray[np.int8] = np.clip(np.rint(weights / scales), -127, 127).astype(np.int8)
    return codes


def channel_scales(
    weights: NDArray[np.float32], bias: NDArray[np.float32] | None, x_scale: np.float32
) -> NDArray[np.float32]:
    """One scale per output channel, as `quantize_weights` would choose it for that channel alone.

    weights: [C, ...]; bias: [C] or None. Returns float32 [C]. A channel whose bias would exceed 2**30 at that
    scale gets the scale at which it does not; a channel of zeros gets 1.
    """
    bounds = np.abs(weights).reshape(len(weights), -1).max(axis=1).astype(np.float64)
    scales: NDArray[np.float32] = (bounds * 2 / 254).astype(np.float32)
    if bias is not None:
        least = np.abs(bias.astype(np.float64)) / (np.float64(x_scale) * LARGEST_BIAS)
        scales = np.maximum(scales, least.astype(np.float32))
    scales[scales == 0] = 1.0
    return scales


def is_depthwise(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether a Conv has constant weights [C, 1, kh, kw] and C groups of one channel, C > 1."""
    if node.op_type != "Conv" or node.input[1] not in graph.constants:
        return False
    shape = graph.constants[node.input[1]].shape
    return len(shape) == 4 and shape[1] == 1 and 1 < shape[0] == attributes(node).get("group", 1)


def quantize_symmetric(
    model: onnx.ModelProto, table: RangeTable, *, depthwise: DepthwiseScales = "tensor"
) -> onnx.ModelProto:
    """Rewrite an optimised float model to int8 with the ranges of a calibration.

    depthwise: "channel" gives the weights of depthwise convolutions one scale per channel. Raises
    QuantizeError when the table lacks a tensor that the rewriting needs, when a bias overflows int32, and for
    "channel" when the model has no depthwise convolution.
    """
    return Symmetric(Graph(model), table.ranges, depthwise).run()


class Symmetric(Rewriter):
    """int8 codes; one zero point, 0, serves every tensor."""

    dtype: ClassVar[type[np.int8 | np.uint8]] = np.int8

    def __init__(
        self,
        graph: Graph,
        ranges: Mapping[str, tuple[float, float]],
        depthwise: DepthwiseScales = "tensor",
    ) -> None:
        super().__init__(graph, ranges)
        self.depthwise = depthwise

    def run(self) -> onnx.ModelProto:
        """See Rewriter.run; QuantizeError if the mode changes nothing."""
        if self.depthwise == "channel" and not any(is_depthwise(n, self.graph) for n in self.graph.nodes):
            raise QuantizeError("no depthwise convolution: int8_dw would be int8, so use quant mode int8")
        return super().run()

    def parameters(self, low: float, high: float) -> tuple[np.float32, int]:
        """See `activation_scale`."""
        return activation_scale(low, high), 0

    def zero_name(self, tensor: str, zero: int) -> str:
        """The one constant."""
        return self.graph.constant("topfive.zero_int8", zero, np.int8)

    def weights(self, values: NDArray[np.float32]) -> Weights:
        """See `quantize_weights`."""
        return Weights(*quantize_weights(values), 0)

    def conv_weights(self, node: onnx.NodeProto, x: Quantised) -> Weights:
        """One scale; one per channel in depthwise convolutions if the mode has them."""
        if self.depthwise == "tensor" or not is_depthwise(node, self.graph):
            return super().conv_weights(node, x)
        values = self.graph.constants[node.input[1]]
        bias = self.graph.constants.get(node.input[2]) if len(node.input) > 2 else None
        scales = channel_scales(values, bias, x.scale)
        return Weights(round_weights(values, scales), scales, 0)
