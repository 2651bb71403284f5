"""int8 with what passes found: rescaled channels, other ranges and scales, rounding, corrected biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.errors import QuantizeError
from topfive.graph import Graph, node_label
from topfive.quantize.adjustments import Adjustments
from topfive.quantize.passes.absorb import absorb
from topfive.quantize.passes.channels import rescale
from topfive.quantize.rewriter import Quantised, Weights
from topfive.quantize.symmetric import LARGEST_BIAS, DepthwiseScales, Symmetric, round_weights

__all__ = ["LARGEST_CODE", "AdjustedSymmetric", "quantize_adjusted", "rewritten"]

LARGEST_CODE = 127


def rewritten(
    model: onnx.ModelProto,
    factors: Mapping[str, NDArray[np.float64]],
    absorbed: Mapping[str, NDArray[np.float64]],
) -> Graph:
    """The float model with scaled channels and moved biases; each float32 weight is rounded once."""
    graph = Graph(model)
    rescale(graph, factors)
    absorb(graph, absorbed)
    return graph


def quantize_adjusted(
    model: onnx.ModelProto, adjustments: Adjustments, *, depthwise: DepthwiseScales = "tensor"
) -> onnx.ModelProto:
    """Rewrite an optimised float model to int8 with adjustments that were found for it.

    depthwise: as of `quantize_symmetric`. Raises QuantizeError as that does, and when a name or a shape does
    not fit the model.
    """
    graph = rewritten(model, adjustments.factors, adjustments.absorbed)
    rewriter = AdjustedSymmetric(graph, adjustments.table.ranges, depthwise)
    rewriter.weight_scales.update(adjustments.weight_scales)
    rewriter.rounding.update(adjustments.rounding)
    rewriter.biases.update(adjustments.biases)
    rewriter.check_names()
    return rewriter.run()


class AdjustedSymmetric(Symmetric):
    """`Symmetric` with weight scales, roundings and bias corrections by the name of the convolution."""

    def __init__(
        self, graph: Graph, ranges: Mapping[str, tuple[float, float]], depthwise: DepthwiseScales
    ) -> None:
        super().__init__(graph, ranges, depthwise)
        self.weight_scales: dict[str, NDArray[np.float32]] = {}
        self.rounding: dict[str, NDArray[np.int8]] = {}
        self.biases: dict[str, NDArray[np.int32]] = {}

    def check_names(self) -> None:
        """QuantizeError for the first adjustment of something that is no convolution of this model."""
        known = {node.name for node in self.graph.nodes if node.op_type == "Conv"}
        for name in (*self.weight_scales, *self.rounding, *self.biases):
            if name not in known:
                raise QuantizeError(f"no convolution {name!r} in this model: calibrate again")

    def conv_weights(self, node: onnx.NodeProto, x: Quantised) -> Weights:
        """The plain mode's codes at the adjusted scale, each moved by its rounding."""
        plain = super().conv_weights(node, x)
        values, scale, moved = self.graph.constants[node.input[1]], plain.scale, self.rounding.get(node.name)
        if node.name in self.weight_scales:
            scale = self.weight_scales[node.name]
            self._check(node, np.size(scale) in (1, len(values)), "weight scales")
        codes = round_weights(values, scale)
        if moved is not None:
            self._check(node, moved.shape == codes.shape, "rounding")
            sums = codes.astype(np.int16) + moved
            codes = np.clip(sums, -LARGEST_CODE, LARGEST_CODE).astype(np.int8)
        return Weights(codes, scale, plain.zero)

    def _conv(self, node: onnx.NodeProto) -> bool:
        weights = self.graph.constants.get(node.input[1])
        if weights is not None and (len(node.input) < 3 or not node.input[2]):
            # A correction needs a bias to correct.
            del node.input[2:]
            zeros = np.zeros(len(weights), np.float32)
            node.input.append(self.graph.constant(f"{node.name}.no_bias", zeros))
        return super()._conv(node)

    def _bias(self, node: onnx.NodeProto, x: Quantised, weights: Weights, bias: NDArray[Any]) -> str:
        name = super()._bias(node, x, weights, bias)
        correction = self.biases.get(node.name)
        if correction is None:
            return name
        codes = self.graph.constants[name].astype(np.int64)
        self._check(node, correction.shape == codes.shape, "bias corrections")
        corrected = np.clip(codes + correction, -2 * LARGEST_BIAS + 1, 2 * LARGEST_BIAS - 1)
        return self.graph.constant(f"{node.name}.bias_corrected", corrected, np.int32)

    @staticmethod
    def _check(node: onnx.NodeProto, fits: bool, what: str) -> None:
        if not fits:
            raise QuantizeError(f"{node_label(node)}: the {what} are of another model: calibrate again")
