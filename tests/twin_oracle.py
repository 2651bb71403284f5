"""A Q/DQ graph computed in plain numpy, tensor by tensor: what the numeric twins must equal.

Sums of codes are int64, everything else float32, each operation rounded; with `half`, the output of every
operator is rounded to float16. Convolutions and matrix products of floats go through float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from topfive.graph import Graph, attributes

Array = np.ndarray


def run(model: onnx.ModelProto, batch: Array, *, half: bool) -> dict[str, Array]:
    """Every tensor of the graph by name; codes as int8."""
    return _Oracle(Graph(model), half).run(batch)


class _Oracle:
    def __init__(self, graph: Graph, half: bool) -> None:
        self.graph = graph
        self.half = half
        self.values: dict[str, Array] = {}
        self.codes: dict[str, tuple[Array, Array]] = {}

    def run(self, batch: Array) -> dict[str, Array]:
        self.values[self.graph.input_names[0]] = self.rounded(batch)
        for node in self.graph.nodes:
            rule = getattr(self, f"op_{node.op_type.lower()}")
            result = rule(node, attributes(node))
            floats = result.dtype == np.float32 and node.op_type != "DequantizeLinear"
            self.values[node.output[0]] = self.rounded(result) if floats else result
        return self.values

    def rounded(self, x: Array) -> Array:
        return x.astype(np.float16).astype(np.float32) if self.half else x

    def read(self, name: str) -> Array:
        if name in self.values:
            return self.values[name]
        constant = self.graph.constants[name]
        if self.half and constant.dtype == np.float32:
            return self.rounded(np.clip(constant, -65504, 65504))
        return constant

    def inputs(self, node: onnx.NodeProto) -> list[Array]:
        return [self.read(name) for name in node.input if name]

    # Quantisation

    def op_quantizelinear(self, node: onnx.NodeProto, _: Any) -> Array:
        scale = self.graph.constants[node.input[1]]
        return np.clip(np.rint(self.read(node.input[0]) / scale), -128, 127).astype(np.int8)

    def op_dequantizelinear(self, node: onnx.NodeProto, attrs: Any) -> Array:
        codes, scale = self.read(node.input[0]), self.graph.constants[node.input[1]]
        self.codes[node.output[0]] = codes, scale
        shape = [-1 if i == attrs.get("axis", 1) else 1 for i in range(codes.ndim)]
        return codes.astype(np.float32) * (scale.reshape(shape) if scale.ndim else scale)

    def operands(self, node: onnx.NodeProto) -> tuple[Array, Array, Array | None]:
        """Both operands, as codes with their scale, or as floats with None."""
        left, right = node.input[:2]
        if left in self.codes and right in self.codes:
            (a, a_scale), (b, b_scale) = self.codes[left], self.codes[right]
            return a.astype(np.int64), b.astype(np.int64), np.asarray(a_scale * b_scale, np.float32)
        return self.read(left).astype(np.float64), self.read(right).astype(np.float64), None

    def rescaled(self, total: Array, scale: Array | None, axis: int) -> Array:
        if scale is None:
            return total.astype(np.float32)
        shape = [-1 if i == axis % total.ndim else 1 for i in range(total.ndim)]
        return total.astype(np.float32) * (scale.reshape(shape) if scale.ndim else scale)

    # Operators

    def op_conv(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> Array:
        x, w, scale = self.operands(node)
        y = self.rescaled(convolve(x, w, attrs), scale, 1)
        return y + self.read(node.input[2]).reshape(1, -1, 1, 1) if len(node.input) > 2 else y

    def op_matmul(self, node: onnx.NodeProto, _: Any) -> Array:
        a, b, scale = self.operands(node)
        return self.rescaled(a @ b, scale, -1)

    def op_gemm(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> Array:
        a, b, scale = self.operands(node)
        y = self.rescaled(a @ (b.T if attrs.get("transB") else b), scale, -1)
        return y + self.read(node.input[2]) if len(node.input) > 2 else y

    def op_add(self, node: onnx.NodeProto, _: Any) -> Array:
        a, b = self.inputs(node)
        return a + b

    def op_mul(self, node: onnx.NodeProto, _: Any) -> Array:
        a, b = self.inputs(node)
        return a * b

    def op_relu(self, node: onnx.NodeProto, _: Any) -> Array:
        return np.maximum(self.read(node.input[0]), np.float32(0))

    def op_leakyrelu(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> Array:
        x = self.read(node.input[0])
        return np.where(x >= 0, x, x * np.float32(attrs["alpha"]))

    def op_clip(self, node: onnx.NodeProto, _: Any) -> Array:
        x, low, high = self.inputs(node)
        return np.clip(x, low, high)

    def op_concat(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> Array:
        return np.concatenate(self.inputs(node), axis=attrs["axis"])

    def op_flatten(self, node: onnx.NodeProto, _: Any) -> Array:
        x = self.read(node.input[0])
        return x.reshape(len(x), -1)

    def op_maxpool(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> Array:
        x = self.read(node.input[0])
        return windows(x, attrs["kernel_shape"], attrs, -np.inf).max(axis=(-2, -1)).astype(np.float32)

    def op_globalaveragepool(self, node: onnx.NodeProto, _: Any) -> Array:
        kernel = self.read(node.input[0]).shape[2:]
        return self.op_averagepool(node, {"kernel_shape": kernel})

    def op_averagepool(self, node: onnx.NodeProto, attrs: dict[str, Any]) -> Array:
        codes, scale = self.codes.get(node.input[0], (None, None))
        values = self.read(node.input[0]) if codes is None else codes
        kernel = attrs["kernel_shape"]
        total = windows(values, kernel, attrs, 0).sum(axis=(-2, -1))
        inside = windows(np.ones_like(values), kernel, attrs, 0).sum(axis=(-2, -1))
        count = np.prod(kernel) if attrs.get("count_include_pad") else inside
        if codes is None:
            return (total / count).astype(np.float32)
        return total.astype(np.float32) * (scale / np.asarray(count, np.float32))


def windows(x: Array, kernel: Any, attrs: dict[str, Any], fill: float) -> Array:
    """[N, C, OH, OW, KH, KW]: what each place of a window sees."""
    top, left, bottom, right = attrs.get("pads", [0] * 4)
    dilations, strides = attrs.get("dilations", [1, 1]), attrs.get("strides", [1, 1])
    dtype = np.int64 if x.dtype == np.int64 else np.float64
    padded = np.pad(x.astype(dtype), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def convolve(x: Array, w: Array, attrs: dict[str, Any]) -> Array:
    groups = attrs.get("group", 1)
    seen = windows(x, w.shape[2:], attrs, 0)
    n, c, oh, ow, kh, kw = seen.shape
    seen = seen.reshape(n, groups, c // groups, oh, ow, kh, kw)
    weights = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return np.einsum("ngchwij,gkcij->ngkhw", seen, weights).reshape(n, w.shape[0], oh, ow)
