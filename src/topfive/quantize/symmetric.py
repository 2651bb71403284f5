"""int8 as the Gemmini imagenet runner's quantiser makes it: symmetric, per tensor, zero point 0.

Follows `quantization/` of onnxruntime-riscv (calibrate.py, onnx_quantizer.py, operators/): Conv, MatMul and
residual Add become integer operators; ReLU, Clip and max pool stay in int8 with their input's scale; average
pools become depthwise convolutions of ones; everything else is dequantised and runs in float32. Unlike the
original, Clip and ReLU6 keep their upper bound.

The result is plain ONNX: int8 QLinearConv, QLinearMatMul, com.microsoft QLinearAdd, and Relu, Clip and
MaxPool on int8. What a target makes of it (which rounding an Add has, what a padded pool position counts)
is the target's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from topfive.errors import QuantizeError
from topfive.graph import MICROSOFT, Graph, attributes, node_label
from topfive.quantize.ranges import RangeTable

__all__ = ["DATA_MOVEMENT", "activation_scale", "quantize_bias", "quantize_symmetric", "quantize_weights"]

INT32 = np.iinfo(np.int32)
# Operators that move elements without computing: int8 passes through with its scale.
DATA_MOVEMENT = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"}
ZERO_RANGE = 1e-8


def activation_scale(low: float, high: float) -> np.float32:
    """Scale of a symmetric int8 tensor: `max(|low|, |high|) / 127` in float32, with 0 inside the range.

    1.0 for a range of zero. Source: compute_scale_zp of the imagenet runner's quantiser.
    """
    bound = np.float32(max(abs(min(low, 0.0)), abs(max(high, 0.0))))
    return np.float32(1.0) if bound < ZERO_RANGE else np.float32(bound / np.float32(127))


def quantize_weights(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], np.float32]:
    """Per-tensor symmetric int8: scale = 2 * max|w| / 254, codes = rint(w / scale). Shape is kept."""
    bound = float(np.abs(weights).max(initial=0.0))
    scale = np.float32(bound * 2 / 254) if bound > 0 else np.float32(1.0)
    if scale == 0:
        scale = np.float32(1.0)
    return np.clip(np.rint(weights / scale), -127, 127).astype(np.int8), scale


def quantize_bias(
    bias: NDArray[np.float32], x_scale: np.float32, w_scale: np.float32 | NDArray[np.float32]
) -> NDArray[np.int32]:
    """int32 codes `rint(bias / (x_scale * w_scale))`; OverflowError if one does not fit int32."""
    codes = np.rint(bias.astype(np.float32) / (np.float32(x_scale) * np.asarray(w_scale, np.float32)))
    if not np.isfinite(codes).all() or (np.abs(codes.astype(np.float64)) > INT32.max).any():
        raise OverflowError
    return codes.astype(np.int32)


@dataclass(frozen=True)
class _Quantised:
    """An int8 tensor that stands for a float one."""

    name: str
    scale: np.float32


def quantize_symmetric(model: onnx.ModelProto, table: RangeTable) -> onnx.ModelProto:
    """Rewrite an optimised float model to int8 with the ranges of a calibration.

    Raises QuantizeError when the table lacks a tensor that the rewriting needs, or a bias overflows int32.
    """
    return _Rewriter(Graph(model), table.ranges).run()


class _Rewriter:
    """One pass over the nodes; `quantised` maps float tensor names to the int8 tensors that carry them."""

    def __init__(self, graph: Graph, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.graph = graph
        self.ranges = ranges
        self.shapes = graph.shapes()
        self.consumers = graph.consumers()
        self.quantised: dict[str, _Quantised] = {}
        self.floats = set(graph.input_names) | set(graph.constants)
        self.out: list[onnx.NodeProto] = []
        self.zero = graph.constant("topfive.zero_int8", 0, np.int8)
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

    def run(self) -> onnx.ModelProto:
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

    def _scale(self, name: str) -> np.float32:
        if name not in self.ranges:
            raise QuantizeError(
                f"no calibrated range for tensor {name!r}: calibrate again (another model's table?)"
            )
        return activation_scale(*self._folded_range(name))

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

    def _int8(self, name: str) -> _Quantised:
        """The int8 form of a float tensor, quantising it here if it has none yet."""
        if name not in self.quantised:
            scale = self._scale(name)
            made = _Quantised(f"{name}_quantized", scale)
            self._emit(
                "QuantizeLinear",
                [name, self._scale_name(made), self.zero],
                made.name,
                f"{name}_QuantizeLinear",
            )
            self.quantised[name] = made
        return self.quantised[name]

    def _float(self, name: str) -> str:
        """Make sure that the float form of a tensor exists."""
        if name not in self.floats and name in self.quantised:
            q = self.quantised[name]
            self._emit(
                "DequantizeLinear", [q.name, self._scale_name(q), self.zero], name, f"{name}_DequantizeLinear"
            )
            self.floats.add(name)
        return name

    def _scale_name(self, q: _Quantised) -> str:
        return self.graph.constant(f"{q.name}.scale", q.scale, np.float32)

    def _made(self, name: str, scale: np.float32) -> _Quantised:
        self.quantised[name] = made = _Quantised(f"{name}_quantized", scale)
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
        weights = self.graph.constants.get(node.input[1])
        if weights is None or weights.ndim != 4:
            return False
        x = self._int8(node.input[0])
        codes, w_scale = quantize_weights(weights)
        bias = self.graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        self._integer_conv(node, x, codes, w_scale, bias, self._scale(node.output[0]))
        return True

    def _integer_conv(
        self,
        node: onnx.NodeProto,
        x: _Quantised,
        codes: NDArray[np.int8],
        w_scale: np.float32,
        bias: NDArray[np.float32] | None,
        y_scale: np.float32,
        divisor: int = 1,
        **attrs: Any,
    ) -> None:
        """Emit a QLinearConv whose result is also divided by `divisor`; the tensor has scale y_scale."""
        y = self._made(node.output[0], y_scale)
        constant, base = self.graph.constant, node.name
        conv_scale = self._scale_name(y)
        if divisor != 1:
            conv_scale = constant(f"{base}.output_scale", y_scale * np.float32(divisor), np.float32)
        inputs = [
            *(x.name, self._scale_name(x), self.zero),
            *(
                constant(f"{base}.weight_quantized", codes),
                constant(f"{base}.weight_scale", w_scale, np.float32),
            ),
            *(self.zero, conv_scale, self.zero),
        ]
        if bias is not None:
            try:
                inputs.append(constant(f"{base}.bias_quantized", quantize_bias(bias, x.scale, w_scale)))
            except OverflowError:
                raise QuantizeError(
                    f"{node_label(node)}: a bias does not fit int32 at scale {x.scale * w_scale:.3g}: "
                    "the weights' per-tensor scale is too small for it"
                ) from None
        self._emit("QLinearConv", inputs, y.name, base, **(attrs or attributes(node)))

    def _matmul(self, node: onnx.NodeProto) -> bool:
        left, right = node.input
        if left in self.graph.constants:
            return False
        weights = self.graph.constants.get(right)
        y_scale = self._scale(node.output[0])
        a = self._int8(left)
        if weights is not None:
            codes, w_scale = quantize_weights(weights)
            b_name = self.graph.constant(f"{node.name}.weight_quantized", codes)
            b_scale = self.graph.constant(f"{node.name}.weight_scale", w_scale, np.float32)
        else:
            b = self._int8(right)
            b_name, b_scale = b.name, self._scale_name(b)
        y = self._made(node.output[0], y_scale)
        inputs = [
            a.name,
            self._scale_name(a),
            self.zero,
            b_name,
            b_scale,
            self.zero,
            self._scale_name(y),
            self.zero,
        ]
        self._emit("QLinearMatMul", inputs, y.name, node.name)
        return True

    def _add(self, node: onnx.NodeProto) -> bool:
        """A residual add of two activations of one shape, at least one of them already int8."""
        left, right = node.input
        if left in self.graph.constants or right in self.graph.constants:
            return False
        if left not in self.quantised and right not in self.quantised:
            return False
        if not self.shapes.get(left) or self.shapes.get(left) != self.shapes.get(right):
            return False
        y_scale = self._scale(node.output[0])
        a, b = self._int8(left), self._int8(right)
        y = self._made(node.output[0], y_scale)
        inputs = [a.name, self._scale_name(a), self.zero, b.name, self._scale_name(b), self.zero]
        inputs += [self._scale_name(y), self.zero]
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
        """Clip on int8 codes; a bound that the code range already enforces needs no operator."""
        if node.input[0] not in self.quantised:
            return False
        if any(name and name not in self.graph.constants for name in node.input[1:]):
            return False
        x = self.quantised[node.input[0]]
        y = self._made(node.output[0], x.scale)
        low, high = (
            int(np.clip(np.rint(np.float32(bound) / x.scale), -128, 127)) for bound in self._clip_bounds(node)
        )
        inputs = [x.name]
        for side, code in (("minimum", low), ("maximum", high)):
            inputs.append(self.graph.constant(f"{node.name}.{side}", code, np.int8))
        self._emit("Clip", inputs, y.name, node.name)
        return True

    def _in_place(self, node: onnx.NodeProto) -> bool:
        """An operator on int8 codes that keeps the scale; float if its input is float."""
        if node.input[0] not in self.quantised or len([o for o in node.output if o]) != 1:
            return False
        x = self.quantised[node.input[0]]
        y = self._made(node.output[0], x.scale)
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
        x = self._int8(node.input[0])
        kh, kw = attrs["kernel_shape"]
        y_scale = self._scale(node.output[0])
        ones = np.ones((channels, 1, kh, kw), np.int8)
        conv = {k: attrs[k] for k in ("kernel_shape", "strides", "pads") if k in attrs}
        self._integer_conv(node, x, ones, np.float32(1), None, y_scale, kh * kw, group=channels, **conv)
        return True

    def _table(self, node: onnx.NodeProto) -> bool:
        """LeakyRelu and Sigmoid on codes, by onnxruntime's 256-entry tables."""
        if node.input[0] not in self.quantised or node.output[0] not in self.ranges:
            return False
        x = self.quantised[node.input[0]]
        y = self._made(node.output[0], self._scale(node.output[0]))
        inputs = [x.name, self._scale_name(x), self.zero, self._scale_name(y), self.zero]
        self._emit(f"QLinear{node.op_type}", inputs, y.name, node.name, MICROSOFT, **attributes(node))
        return True

    def _shape(self, node: onnx.NodeProto) -> bool:
        """Shape reads no elements: it may look at the int8 tensor."""
        if node.input[0] in self.floats or node.input[0] not in self.quantised:
            return False
        self._emit(
            "Shape", [self.quantised[node.input[0]].name], node.output[0], node.name, **attributes(node)
        )
        self.floats.add(node.output[0])
        return True
