"""Explicit quantisation: QuantizeLinear and DequantizeLinear where a vendor's compiler computes in int8.

The result is plain ONNX whose meaning is the operators' own: what is between the two is int8, and a
convolution between dequantised operands is an integer convolution. Two placements:

* "tensorrt": what `int8` of TensorRT quantises when every layer that can runs in int8: the input of every
  convolution and matrix product, of average pools, and of residual adds. A tensor has one form: all its
  readers read it quantised. A residual add takes one addend straight from the convolution before it, which it
  is fused with, and so unquantised (NVIDIA, TensorRT developer guide, "Q/DQ fusion": convolution, bias,
  residual add, activation, quantise are one kernel).
* "magicmind": `qint8_mixed_*` of MagicMind: the inputs of convolutions and matrix products only; everything
  else reads the tensor as it was.

Activations are symmetric with one scale a tensor, `max(|low|, |high|) / 127`; weights are symmetric with one
scale a tensor or one an output channel, `max|w| / 127`. Biases stay floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from topfive.errors import QuantizeError
from topfive.graph import Graph, attributes
from topfive.quantize.ranges import RangeTable
from topfive.quantize.symmetric import DATA_MOVEMENT, activation_scale

__all__ = ["PLACEMENTS", "WEIGHTS", "quantize_channels", "quantize_qdq"]

PLACEMENTS = ("tensorrt", "magicmind")
WEIGHTS = ("per_tensor", "per_axis")
# Operators that int8 codes pass through unchanged: quantising before or after them is the same.
TRANSPARENT = DATA_MOVEMENT | {"Relu", "Clip", "LeakyRelu", "MaxPool", "Concat"}
WEIGHTED = ("Conv", "MatMul", "Gemm")
AVERAGES = ("AveragePool", "GlobalAveragePool")
LARGEST_CODE = 127


def quantize_channels(
    weights: NDArray[np.float32], axis: int | None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 codes of weights and their scales.

    axis: of the output channels, each with a scale `max|w| / 127` of its own; None: one scale for all. Codes
    are rint(w / scale) in float32, halves to even. Returns the codes, shape kept, and the scales, [channels]
    or []; a scale of nothing but zeros is 1.
    """
    others = tuple(i for i in range(weights.ndim) if i != axis) if axis is not None else None
    bound = np.abs(weights).max(axis=others, initial=0.0).astype(np.float64)
    scale = np.asarray(bound / LARGEST_CODE, np.float32)
    scale = np.where(scale == 0, np.float32(1), scale)
    shape = [-1 if i == axis else 1 for i in range(weights.ndim)] if axis is not None else []
    codes = np.rint(weights / scale.reshape(shape) if shape else weights / scale)
    return np.clip(codes, -LARGEST_CODE, LARGEST_CODE).astype(np.int8), scale


def quantize_qdq(
    model: onnx.ModelProto, table: RangeTable, *, placement: str, weights: str
) -> onnx.ModelProto:
    """The optimised float model with Q/DQ pairs (int8, zero points 0) where `placement` computes in int8.

    placement: one of PLACEMENTS. weights: one of WEIGHTS. A tensor t becomes `t_quantized` (scale
    `t_quantized.scale`) and `t_dequantized`. Raises QuantizeError when the table lacks a tensor that a
    convolution or matrix product reads.
    """
    return _Placement(Graph(model), table.ranges, placement == "tensorrt", weights == "per_axis").run()


class _Placement:
    """Finds the int8 kernels of a graph, then writes the graph with their inputs quantised."""

    def __init__(
        self, graph: Graph, ranges: Mapping[str, tuple[float, float]], whole: bool, per_axis: bool
    ) -> None:
        self.graph = graph
        self.ranges = ranges
        self.whole = whole
        self.per_axis = per_axis
        self.shapes = graph.shapes()
        self.consumers = graph.consumers()
        self.producers = graph.producers()
        self.order = {id(node): place for place, node in enumerate(graph.nodes)}
        self.zero = graph.constant("topfive.zero_int8", 0, np.int8)
        self.out: list[onnx.NodeProto] = []

    def run(self) -> onnx.ModelProto:
        kernels = {id(node): inputs for node in self.graph.nodes if (inputs := self._int8_inputs(node))}
        if self.whole:
            self._find_adds(kernels)
        quantised = {node.input[i] for node in self.graph.nodes for i in kernels.get(id(node), ())}
        for name in self.graph.input_names:
            self._quantise(name, quantised)
        for node in self.graph.nodes:
            ports = range(len(node.input)) if self.whole else kernels.get(id(node), ())
            weights = self._weights(node) if id(node) in kernels else None
            for i in ports:
                if node.input[i] in quantised:
                    node.input[i] = f"{node.input[i]}_dequantized"
            if weights is not None:
                node.input[1] = weights
            self.out.append(node)
            for name in node.output:
                self._quantise(name, quantised)
        self.graph.nodes = self.out
        return self.graph.to_model()

    # Which nodes are int8 kernels, and which of their inputs are int8

    def _int8_inputs(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """The activations that an int8 kernel of this node reads; () if the node computes in float."""
        constants = self.graph.constants
        if node.op_type in WEIGHTED:
            if node.input[0] in constants:
                return ()
            if node.op_type == "MatMul" and node.input[1] not in constants:
                return (0, 1)
            return (0,) if self._output_axis(node) is not None else ()
        averages = self.whole and node.op_type in AVERAGES and node.input[0] in self.ranges
        return (0,) if averages else ()

    def _output_axis(self, node: onnx.NodeProto) -> int | None:
        """The axis of the output channels in a node's constant weights; None if it has no int8 kernel."""
        weights = self.graph.constants.get(node.input[1])
        if weights is None or weights.dtype != np.float32 or not self._constant_bias(node):
            return None
        given = attributes(node)
        if node.op_type == "Conv":
            return 0 if weights.ndim == 4 else None
        if node.op_type == "MatMul":
            return 1 if weights.ndim == 2 else None
        plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
        return (0 if given.get("transB", 0) else 1) if plain else None

    def _constant_bias(self, node: onnx.NodeProto) -> bool:
        """Whether a node has no bias, or a constant one with a value a channel."""
        name = node.input[2] if len(node.input) > 2 else ""
        bias = self.graph.constants.get(name)
        return not name or (bias is not None and bias.shape[-1:] == (bias.size,))

    def _find_adds(self, kernels: dict[int, tuple[int, ...]]) -> None:
        """Add to `kernels` the residual adds whose result an int8 kernel reads, last first."""
        wanted: set[str] = set()
        for node in reversed(self.graph.nodes):
            if id(node) not in kernels and node.op_type == "Add" and node.output[0] in wanted:
                inputs = self._addends(node, kernels)
                if inputs:
                    kernels[id(node)] = inputs
            if id(node) in kernels:
                wanted.update(node.input[i] for i in kernels[id(node)])
            elif node.op_type in TRANSPARENT and wanted & set(node.output):
                wanted.update(node.input)

    def _addends(self, node: onnx.NodeProto, kernels: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
        """The addends that a residual add reads as int8: both, or the one that is not fused with it."""
        left, right = node.input
        same = self.shapes.get(left) and self.shapes.get(left) == self.shapes.get(right)
        if not same or not {left, right} <= set(self.ranges) or {left, right} & set(self.graph.constants):
            return ()
        fused = [
            (self.order[id(self.producers[name])], i)
            for i, name in enumerate(node.input)
            if name in self.producers
            and id(self.producers[name]) in kernels
            and self.producers[name].op_type in WEIGHTED
            and self.graph.sole_consumer(name, self.consumers) is not None
        ]
        return tuple(i for i in (0, 1) if not fused or i != max(fused)[1])

    # Writing

    def _quantise(self, name: str, quantised: set[str]) -> None:
        """The Q/DQ pair after a tensor, if something reads it as int8."""
        if name not in quantised:
            return
        if name not in self.ranges:
            raise QuantizeError(
                f"no calibrated range for tensor {name!r}: calibrate again (another model's table?)"
            )
        codes = f"{name}_quantized"
        scale = self.graph.constant(f"{codes}.scale", activation_scale(*self.ranges[name]), np.float32)
        self.out.append(
            helper.make_node(
                "QuantizeLinear", [name, scale, self.zero], [codes], name=f"{name}_QuantizeLinear"
            )
        )
        self.out.append(
            helper.make_node(
                "DequantizeLinear",
                [codes, scale, self.zero],
                [f"{name}_dequantized"],
                name=f"{name}_DequantizeLinear",
            )
        )

    def _weights(self, node: onnx.NodeProto) -> str | None:
        """The dequantised form of a node's constant weights, written once; None if it has none."""
        if node.op_type not in WEIGHTED or node.input[1] not in self.graph.constants:
            return None
        axis = self._output_axis(node) if self.per_axis else None
        codes, scale = quantize_channels(self.graph.constants[node.input[1]], axis)
        base = f"{node.input[1]}_quantized" + (f".axis{axis}" if axis else "")
        output = base.replace("_quantized", "_dequantized", 1)
        if f"{base}.scale" not in self.graph.constants:
            inputs = [
                self.graph.constant(base, codes),
                self.graph.constant(f"{base}.scale", scale),
                self.graph.constant(f"{base}.zero_point", np.zeros(scale.shape, np.int8)),
            ]
            self.out.append(
                helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=axis or 0)
            )
        return output
