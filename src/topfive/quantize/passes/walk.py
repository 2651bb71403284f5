"""The passes that walk through the quantised model: weight scales, rounding, biases.

Layer by layer, the codes that a convolution reads are those that the layers before it really make, in the
target's exact integer arithmetic and with what was found for them so far; the target is what the float model
makes. Where a residual addition follows, the error of its other addend is made up for as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.graph import Graph, attributes
from topfive.quantize.adjusted import LARGEST_CODE, AdjustedSymmetric
from topfive.quantize.passes.channels import clip_bounds, convolutions
from topfive.quantize.passes.layer import Layer, fit_bias, sampled_layer
from topfive.quantize.passes.output_ranges import best_share
from topfive.quantize.passes.recipe import Recipe
from topfive.quantize.passes.rounding import Rounded, nearest, reconstruct
from topfive.quantize.passes.values import OpenInteger, Values
from topfive.quantize.passes.weight_scales import best_weight_scale
from topfive.quantize.rewriter import Quantised, Weights
from topfive.quantize.symmetric import LARGEST_BIAS, DepthwiseScales, quantize_bias, round_weights

__all__ = ["Walk"]

Progress = Callable[[int, int], None]


class Walk(AdjustedSymmetric):
    """One run finds `weight_scales`, `rounding`, `biases` and `found_ranges` for a prepared float graph.

    pictures: [N, C, H, W] float32. open_integer: opens an int8 graph in the target's exact arithmetic.
    progress: called with (convolutions done, in all).
    """

    def __init__(
        self,
        graph: Graph,
        ranges: Mapping[str, tuple[float, float]],
        depthwise: DepthwiseScales,
        recipe: Recipe,
        pictures: NDArray[np.float32],
        open_integer: OpenInteger,
        progress: Progress | None = None,
    ) -> None:
        self.found_ranges = dict(ranges)
        super().__init__(graph, self.found_ranges, depthwise)
        self.recipe = recipe
        self.progress = progress
        self.done = 0
        self.convs = {conv.name: conv for conv in convolutions(graph)}
        self.float_nodes = list(graph.nodes)
        self.positions = {name: i for i, node in enumerate(self.float_nodes) for name in node.output}
        self.float_values = Values(graph, lambda: self.float_nodes, pictures)
        self.codes = Values(graph, lambda: self.out, pictures, open_integer)

    def conv_weights(self, node: onnx.NodeProto, x: Quantised) -> Weights:
        """Work on a convolution before it is emitted."""
        plain = super().conv_weights(node, x)
        if node.name not in self.convs or not self._wanted(node):
            return plain
        if self.progress:
            self.progress(self.done, len(self.convs))
        self.done += 1
        layer = self._layer(node, x)
        scale = np.atleast_1d(np.asarray(plain.scale, np.float64))
        found = before = nearest(layer, scale)
        own = len(scale) > 1
        if self.recipe.weight_scales is not None:
            found = best_weight_scale(layer, found, self.recipe.weight_scales.smallest, own_scales=own)
        if self._rounds(node):
            found = reconstruct(layer, found, own_scales=own)
        if self.recipe.correct_bias is not None:
            sums = layer.sums(found.weights)
            found = Rounded(found.codes, found.scale, fit_bias(layer, sums, found.bias))
        if self.recipe.output_ranges is not None:
            measured = float(self.parameters(*self._folded_range(node.output[0]))[0])
            share = best_share(layer, found, measured, self.recipe.output_ranges.smallest)
            self._shrink(node.output[0], measured * share)
        self._note(node, x, before, found)
        self._forget(node)
        return super().conv_weights(node, x)

    def _rounds(self, node: onnx.NodeProto) -> bool:
        chosen = self.recipe.round
        return chosen is not None and (chosen.layers == "all" or self.convs[node.name].depthwise)

    def _wanted(self, node: onnx.NodeProto) -> bool:
        recipe = self.recipe
        everywhere = (recipe.weight_scales, recipe.correct_bias, recipe.output_ranges)
        return self._rounds(node) or any(settings is not None for settings in everywhere)

    @property
    def _samples(self) -> int:
        recipe = self.recipe
        return (
            max(
                recipe.round.samples if recipe.round else 0,
                recipe.correct_bias.samples if recipe.correct_bias else 0,
            )
            or 1024
        )

    # The problem

    def _layer(self, node: onnx.NodeProto, x: Quantised) -> Layer:
        constants = self.graph.constants
        output = node.output[0]
        target = self.float_values.get(output)
        missing = self._missing_in_sum(output)
        bias = constants[node.input[2]]
        reader = self.graph.sole_consumer(output, self.consumers)
        leaky = reader is not None and reader.op_type == "LeakyRelu"
        slope = float(attributes(reader).get("alpha", 0.01)) if reader is not None and leaky else 1.0
        return sampled_layer(
            self.codes.get(x.name),
            float(x.scale),
            target if missing is None else target + missing,
            constants[node.input[1]],
            bias,
            attributes(node),
            clip_bounds(reader, self.graph) if reader is not None else None,
            slope=slope,
            depthwise=self.convs[node.name].depthwise,
            samples=self._samples,
        )

    def _missing_in_sum(self, output: str) -> NDArray[np.float32] | None:
        """What a residual addition after this convolution lacks because of its other addend's codes."""
        add = self.graph.sole_consumer(output, self.consumers)
        if add is None or add.op_type != "Add":
            return None
        other = next((name for name in add.input if name != output), "")
        known = self.quantised.get(other)
        if known is None or self.positions.get(other, len(self.positions)) > self.positions[output]:
            return None
        total = self._calibrated(add.output[0])
        factor = np.float32(known.scale / total.scale)
        codes = np.clip(np.rint(self.codes.get(known.name).astype(np.float32) * factor), -128, 127)
        return cast("NDArray[np.float32]", self.float_values.get(other) - codes * total.scale)

    # The answer

    def _shrink(self, output: str, scale: float) -> None:
        """Give a convolution's output at most that scale; and the max pool that its range would come from."""
        names = [output]
        reader = self.graph.sole_consumer(output, self.consumers)
        if reader is not None and reader.op_type == "Relu":
            pool = self.graph.sole_consumer(reader.output[0], self.consumers)
            names += [pool.output[0]] if pool is not None and pool.op_type == "MaxPool" else []
        bound = float(np.float32(scale * LARGEST_CODE))
        for name in names:
            if name in self.ranges:
                low, high = self.ranges[name]
                self.found_ranges[name] = max(low, -bound), min(high, bound)

    def _note(self, node: onnx.NodeProto, x: Quantised, before: Rounded, found: Rounded) -> None:
        """Keep what differs from the plain mode."""
        values = self.graph.constants[node.input[1]]
        scale = found.scale.astype(np.float32)
        if not np.array_equal(found.scale, before.scale):
            self.weight_scales[node.name] = scale if len(scale) > 1 else scale[0]
        weight_scale = scale if len(scale) > 1 else scale[0]
        moved = found.codes.reshape(values.shape) - round_weights(values, weight_scale)
        if moved.any():
            self.rounding[node.name] = moved.astype(np.int8)
        default = quantize_bias(self.graph.constants[node.input[2]], x.scale, weight_scale).astype(np.int64)
        step = np.float64(x.scale) * scale.astype(np.float64)
        codes = np.clip(np.rint(found.bias / step), -LARGEST_BIAS, LARGEST_BIAS).astype(np.int64)
        if found.bias is not before.bias and (codes != default).any():
            self.biases[node.name] = (codes - default).astype(np.int32)

    def _forget(self, node: onnx.NodeProto) -> None:
        """Drop tensors that no later layer is computed from."""
        here = self.positions[node.output[0]]
        codes = {name: made.name for name, made in self.quantised.items()}
        for values, known_as in ((self.float_values, {}), (self.codes, codes)):
            needed: set[str] = set()
            for i in range(len(self.float_nodes) - 1, -1, -1):
                reader = self.float_nodes[i]
                open_ends = [name for name in reader.output if name in needed]
                if i > here or any(known_as.get(name, name) not in values.held for name in open_ends):
                    needed.update(reader.input)
            kept = {known_as.get(name, name) for name in needed}
            values.drop([name for name in values.held if name not in kept])
