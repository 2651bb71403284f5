"""Rewriting an optimised float graph to 8-bit operators, whatever the codes are.

Conv, MatMul and residual Add become integer operators; ReLU, Clip, max pool and data movement stay on codes
with their input's scale; average pools become depthwise convolutions of ones; everything else is dequantised
and runs in float32. Follows `quantization/` of onnxruntime-riscv (calibrate.py, onnx_quantizer.py,
operators/), except that Clip keeps its bounds and that a tensor read by ReLU and others is quantised.
`symmetric`, `asymmetric` and `dynamic` say what the codes are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from topfive.errors import QuantizeError
from topfive.graph import MICROSOFT, Graph, attributes, node_label

__all__ = ["DATA_MOVEMENT", "Quantised", "Rewriter", "Weights", "quantize_bias"]

INT32 = np.iinfo(np.int32)
# Operators that move elements without computing: codes pass through with their scale.
DATA_MOVEMENT = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"}


def quantize_bias(
    bias: NDArray[np.float32], x_scale: np.float32, w_scale: np.float32 | NDArray[np.float32]
) -> NDArray[np.int32]:
    """int32 codes `rint(bias / (x_scale * w_scale))`; OverflowError if one does not fit int32."""
    codes = np.rint(bias.astype(np.float32) / (np.float32(x_scale) * np.asarray(w_scale, np.float32)))
    if not np.isfinite(codes).all() or (np.abs(codes.astype(np.float64)) > INT32.max).any():
        raise OverflowError
    return codes.astype(np.int32)


@dataclass(frozen=True)
class Quantised:
    """A tensor of codes that stands for a float one; the names are those of constants in the graph."""

    name: str
    scale: np.float32
    zero: int
    scale_name: str
    zero_name: str


@dataclass(frozen=True)
class Weights:
    """Codes of a constant, with their scale (one, or one per output channel) and zero point."""

    codes: NDArray[Any]
    scale: np.float32 | NDArray[np.float32]
    zero: int


class Rewriter(ABC):
    """One pass over the nodes; `quantised` maps float tensors to the tensors of codes that carry them."""

    dtype: ClassVar[type[np.int8 | np.uint8]]

    def __init__(self, graph: Graph, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.graph = graph
        self.ranges = ranges
        self.shapes = graph.shapes()
        self.consumers = graph.consumers()
        self.quantised: dict[str, Quantised] = {}
        self.floats = set(graph.input_names) | set(graph.constants)
        self.out: list[onnx.NodeProto] = []
        self.limits = np.iinfo(self.dtype)
        self.rules: Mapping[str, Callable[[onnx.NodeProto], bool]] = {
            "Conv": self._conv,
            "MatMul": self._matmul,
            "Add": self._add,
            "Relu": self._relu,
            "Clip": self._clip,
            "MaxPool": self._in_place,
            "AveragePool": self._average_pool,
            "LeakyRelu": self._table,
            "Sigmoid": self._table,
            "Shape": self._shape,
            **dict.fromkeys(sorted(DATA_MOVEMENT), self._in_place),
        }

    @abstractmethod
    def parameters(self, low: float, high: float) -> tuple[np.float32, int]:
        """Scale and zero point of an activation with that range."""

    @abstractmethod
    def zero_name(self, tensor: str, zero: int) -> str:
        """The constant that holds the zero point of a tensor of codes."""

    @abstractmethod
    def weights(self, values: NDArray[np.float32]) -> Weights:
        """A constant's codes; shape is kept."""

    def run(self) -> onnx.ModelProto:
        """The rewritten model. Raises QuantizeError: see `topfive.quantize.symmetric`."""
        for node in self.graph.nodes:
            rule = self.rules.get(node.op_type)
            if rule is None or not rule(node):
                self._keep_float(node)
        for name in self.graph.output_names:
            self._float(name)
        self.graph.nodes = self.out
        self.graph.opsets[MICROSOFT] = 1
        return self.graph.to_model()

    # Tensors

    def _calibrated(self, name: str) -> Quantised:
        """How the codes of a float tensor look by its calibrated range; nothing is emitted."""
        if name not in self.ranges:
            raise QuantizeError(
                f"no calibrated range for tensor {name!r}: calibrate again (another model's table?)"
            )
        return self._codes(name, *self.parameters(*self._folded_range(name)))

    def _codes(self, name: str, scale: np.float32, zero: int) -> Quantised:
        codes = f"{name}_quantized"
        scale_name = self.graph.constant(f"{codes}.scale", scale, np.float32)
        return Quantised(codes, scale, zero, scale_name, self.zero_name(codes, zero))

    def _folded_range(self, name: str) -> tuple[float, float]:
        """The range after what follows: ReLU cuts at 0, Clip at its bounds; before a max pool, the pool's."""
        low, high = self.ranges[name]
        reader = self.graph.sole_consumer(name, self.consumers)
        if reader is not None and reader.op_type == "Relu":
            pooled = self.graph.sole_consumer(reader.output[0], self.consumers)
            if pooled is not None and pooled.op_type == "MaxPool" and pooled.output[0] in self.ranges:
                low, high = self.ranges[pooled.output[0]]
            return max(low, 0.0), max(high, 0.0)
        if reader is not None and reader.op_type == "Clip":
            lower, upper = self._clip_bounds(reader)
            return min(max(low, lower), upper), max(min(high, upper), lower)
        return low, high

    def _quantise(self, name: str) -> Quantised:
        """The codes of a float tensor, quantising it here if it has none yet."""
        if name not in self.quantised:
            made = self._calibrated(name)
            inputs = [name, made.scale_name, made.zero_name]
            self._emit("QuantizeLinear", inputs, made.name, f"{name}_QuantizeLinear")
            self.quantised[name] = made
        return self.quantised[name]

    def _float(self, name: str) -> str:
        """Make sure that the float form of a tensor exists."""
        if name not in self.floats and name in self.quantised:
            q = self.quantised[name]
            inputs = [q.name, q.scale_name, q.zero_name]
            self._emit("DequantizeLinear", inputs, name, f"{name}_DequantizeLinear")
            self.floats.add(name)
        return name

    def _made(self, name: str) -> Quantised:
        """Note that the node at hand makes a tensor's codes, in its calibrated range."""
        self.quantised[name] = made = self._calibrated(name)
        return made

    def _like(self, name: str, x: Quantised) -> Quantised:
        """Note that the node at hand makes a tensor's codes, with the scale of `x`."""
        self.quantised[name] = made = self._codes(name, x.scale, x.zero)
        return made

    def _emit(
        self, op: str, inputs: list[str], output: str, name: str, domain: str = "", **attrs: Any
    ) -> None:
        self.out.append(helper.make_node(op, inputs, [output], name=name, domain=domain, **attrs))

    def _keep_float(self, node: onnx.NodeProto) -> None:
        for name in node.input:
            if name:
                self._float(name)
        self.out.append(node)
        self.floats.update(node.output)

    # Operators: each rule returns False to leave the node in float32

    def _conv(self, node: onnx.NodeProto) -> bool:
        values = self.graph.constants.get(node.input[1])
        if values is None or values.ndim != 4:
            return False
        x = self._quantise(node.input[0])
        bias = self.graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        self._integer_conv(node, x, self.conv_weights(node, x), bias)
        return True

    def conv_weights(self, node: onnx.NodeProto, x: Quantised) -> Weights:
        """The codes of a convolution's constant weights, when its input is `x`."""
        return self.weights(self.graph.constants[node.input[1]])

    def _integer_conv(
        self,
        node: onnx.NodeProto,
        x: Quantised,
        weights: Weights,
        bias: NDArray[np.float32] | None,
        divisor: int = 1,
        **attrs: Any,
    ) -> None:
        """Emit a QLinearConv whose result is also divided by `divisor`."""
        y = self._made(node.output[0])
        constant, base = self.graph.constant, node.name
        conv_scale = y.scale_name
        if divisor != 1:
            conv_scale = constant(f"{base}.output_scale", y.scale * np.float32(divisor), np.float32)
        inputs = [x.name, x.scale_name, x.zero_name, *self._weight_names(base, weights)]
        inputs += [conv_scale, y.zero_name]
        if bias is not None:
            inputs.append(self._bias(node, x, weights, bias))
        self._emit("QLinearConv", inputs, y.name, base, **(attrs or attributes(node)))

    def _weight_names(self, base: str, weights: Weights) -> list[str]:
        codes = self.graph.constant(f"{base}.weight_quantized", weights.codes)
        scale = self.graph.constant(f"{base}.weight_scale", weights.scale, np.float32)
        return [codes, scale, self.zero_name(codes, weights.zero)]

    def _bias(self, node: onnx.NodeProto, x: Quantised, weights: Weights, bias: NDArray[np.float32]) -> str:
        try:
            codes = quantize_bias(bias, x.scale, weights.scale)
        except OverflowError:
            raise QuantizeError(
                f"{node_label(node)}: a bias does not fit int32 at scale "
                f"{np.min(x.scale * weights.scale):.3g}: the weights' scale is too small for it"
            ) from None
        return self.graph.constant(f"{node.name}.bias_quantized", codes)

    def _matmul(self, node: onnx.NodeProto) -> bool:
        left, right = node.input
        if left in self.graph.constants:
            return False
        values = self.graph.constants.get(right)
        a = self._quantise(left)
        if values is not None:
            b_names = self._weight_names(node.name, self.weights(values))
        else:
            b = self._quantise(right)
            b_names = [b.name, b.scale_name, b.zero_name]
        y = self._made(node.output[0])
        inputs = [a.name, a.scale_name, a.zero_name, *b_names, y.scale_name, y.zero_name]
        self._emit("QLinearMatMul", inputs, y.name, node.name)
        return True

    def _add(self, node: onnx.NodeProto) -> bool:
        """A residual add of two activations of one shape, at least one of them already quantised."""
        left, right = node.input
        if left in self.graph.constants or right in self.graph.constants:
            return False
        if left not in self.quantised and right not in self.quantised:
            return False
        if not self.shapes.get(left) or self.shapes.get(left) != self.shapes.get(right):
            return False
        a, b = self._quantise(left), self._quantise(right)
        y = self._made(node.output[0])
        inputs = [a.name, a.scale_name, a.zero_name, b.name, b.scale_name, b.zero_name]
        inputs += [y.scale_name, y.zero_name]
        self._emit("QLinearAdd", inputs, y.name, node.name, MICROSOFT)
        return True

    def _relu(self, node: onnx.NodeProto) -> bool:
        return self._in_place(node)

    def _clip_bounds(self, node: onnx.NodeProto) -> tuple[float, float]:
        bounds = []
        for index, default in ((1, -np.inf), (2, np.inf)):
            name = node.input[index] if len(node.input) > index else ""
            bounds.append(
                float(self.graph.constants[name].item()) if name in self.graph.constants else default
            )
        return bounds[0], bounds[1]

    def _clip(self, node: onnx.NodeProto) -> bool:
        """Clip on codes."""
        if node.input[0] not in self.quantised:
            return False
        if any(name and name not in self.graph.constants for name in node.input[1:]):
            return False
        self._clip_codes(node, *self._clip_bounds(node))
        return True

    def _clip_codes(self, node: onnx.NodeProto, low: float, high: float) -> None:
        """Emit Clip on codes, between two real bounds."""
        x = self.quantised[node.input[0]]
        y = self._like(node.output[0], x)
        inputs = [x.name]
        for side, bound in (("minimum", low), ("maximum", high)):
            code = np.clip(np.rint(np.float32(bound) / x.scale) + x.zero, self.limits.min, self.limits.max)
            inputs.append(self.graph.constant(f"{node.name}.{side}", int(code), self.dtype))
        self._emit("Clip", inputs, y.name, node.name)

    def _in_place(self, node: onnx.NodeProto) -> bool:
        """An operator on codes that keeps the scale; float if its input is float."""
        if node.input[0] not in self.quantised or len([o for o in node.output if o]) != 1:
            return False
        x = self.quantised[node.input[0]]
        y = self._like(node.output[0], x)
        self._emit(
            node.op_type, [x.name, *node.input[1:]], y.name, node.name, node.domain, **attributes(node)
        )
        return True

    def _average_pool(self, node: onnx.NodeProto) -> bool:
        """A depthwise convolution of ones with weight scale 1 and output scale times the window's size."""
        attrs = attributes(node)
        plain = attrs.get("auto_pad", "NOTSET") == "NOTSET" and not attrs.get("ceil_mode", 0)
        padded_mean = any(attrs.get("pads", [])) and not attrs.get("count_include_pad", 0)
        shape = self.shapes.get(node.input[0], ())
        channels = shape[1] if len(shape) == 4 and isinstance(shape[1], int) else 0
        if not plain or padded_mean or len(attrs["kernel_shape"]) != 2 or not channels:
            return False
        x = self._quantise(node.input[0])
        kh, kw = attrs["kernel_shape"]
        ones = Weights(np.ones((channels, 1, kh, kw), self.dtype), np.float32(1), 0)
        conv = {k: attrs[k] for k in ("kernel_shape", "strides", "pads") if k in attrs}
        self._integer_conv(node, x, ones, None, kh * kw, group=channels, **conv)
        return True

    def _table(self, node: onnx.NodeProto) -> bool:
        """LeakyRelu and Sigmoid on codes, by onnxruntime's 256-entry tables."""
        if node.input[0] not in self.quantised or node.output[0] not in self.ranges:
            return False
        x = self.quantised[node.input[0]]
        y = self._made(node.output[0])
        inputs = [x.name, x.scale_name, x.zero_name, y.scale_name, y.zero_name]
        self._emit(f"QLinear{node.op_type}", inputs, y.name, node.name, MICROSOFT, **attributes(node))
        return True

    def _shape(self, node: onnx.NodeProto) -> bool:
        """Shape reads no elements: it may look at the codes."""
        if node.input[0] in self.floats or node.input[0] not in self.quantised:
            return False
        self._emit(
            "Shape", [self.quantised[node.input[0]].name], node.output[0], node.name, **attributes(node)
        )
        self.floats.add(node.output[0])
        return True
