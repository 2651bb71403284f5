"""The fast form: an int8 graph lowered to one that ONNX Runtime runs whole, bit-equal to the numpy form.

Every int8 tensor x becomes the uint8 tensor x + 128 with zero point 128, because ONNX Runtime's kernels for
unsigned activations are both fast and exact (sums of int8 products in int32, requantised by a float32 product
and rounding half to even: `scale_and_saturate`). What ONNX Runtime computes differently is spelled out:

* a residual add rounds and saturates each addend first: a requantisation an addend, then QLinearAdd;
* a padded max-pool position counts as 0 in the pools that Gemmini does: an explicit Pad, unless the input
  cannot be negative;
* ReLU and Clip become Clip on the shifted codes.

Float operators between DequantizeLinear and QuantizeLinear stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from topfive.errors import CompileError
from topfive.graph import MICROSOFT, OPSET, Graph, attributes, node_label
from topfive.quantize.rewriter import DATA_MOVEMENT

__all__ = ["SHIFT", "Lowered", "lower"]

SHIFT = 128
TABLES = {"QLinearLeakyRelu", "QLinearSigmoid"}
UINT8_ACTIVATIONS = "topfive.zero_uint8"


@dataclass(frozen=True)
class Lowered:
    """A lowered model; `int8_tensors` are the int8 tensors' names, each held as uint8 shifted by 128."""

    model: onnx.ModelProto
    int8_tensors: tuple[str, ...]


def lower(
    model: onnx.ModelProto,
    *,
    arithmetic: Literal["gemmini", "onnx"] = "gemmini",
    zero_padded: Collection[str] | None = None,
) -> Lowered:
    """Lower an int8 graph (zero points 0) to uint8 activations and int8 weights.

    arithmetic: "onnx" keeps ONNX Runtime's own residual add and pool padding. zero_padded: outputs of the
    max pools in which padded positions count as 0 (`execution.plan`), the others ignore padding; None: they
    count as 0 in all. Raises CompileError for an operator on int8 that has no lowering. Whether the kernels
    for uint8 x int8 are exact depends on the processor: `topfive.sessions.open_exact` decides.
    """
    return _Lowering(Graph(model), arithmetic == "gemmini", zero_padded).run()


class _Lowering:
    """One pass over the nodes, tracking which tensors are shifted int8 and which cannot be negative."""

    def __init__(self, graph: Graph, gemmini: bool, zero_padded: Collection[str] | None) -> None:
        self.graph = graph
        self.gemmini = gemmini
        self.zero_padded = zero_padded
        self.int8: dict[str, None] = {}
        self.not_negative: set[str] = set()
        self.out: list[onnx.NodeProto] = []
        self.waiting: list[onnx.NodeProto] = []
        self.channels: dict[str, int] = {}
        self.zero = graph.constant(UINT8_ACTIVATIONS, SHIFT, np.uint8)
        self.one = graph.constant("topfive.one", 1.0, np.float32)
        self.rules: dict[str, Callable[[onnx.NodeProto], None]] = {
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
            "QLinearConv": self._conv,
            "QLinearMatMul": self._matmul,
            "QLinearAdd": self._add,
            "Relu": self._relu,
            "QLinearRelu": self._relu,
            "Clip": self._clip,
            "MaxPool": self._max_pool,
            "Shape": self._as_it_is,
            **dict.fromkeys(sorted(TABLES), self._table),
            **dict.fromkeys(sorted(DATA_MOVEMENT), self._move),
        }

    def run(self) -> Lowered:
        self.waiting = self.graph.nodes
        for value in self.graph.inputs:
            if value.type.tensor_type.elem_type == TensorProto.INT8:
                self._shift_input(value.name)
        renamed = {o.name for o in self.graph.outputs if o.type.tensor_type.elem_type == TensorProto.INT8}
        for node in self.waiting:
            self._lower_node(node)
        for name in sorted(renamed):
            self._unshift_output(name)
        self.graph.nodes = self.out
        self.graph.opsets[MICROSOFT] = 1
        self.graph.opsets[""] = max(self.graph.opset, OPSET)
        return Lowered(self.graph.to_model(), tuple(self.int8))

    def _lower_node(self, node: onnx.NodeProto) -> None:
        quantizes = node.op_type == "QuantizeLinear" and self._zero_point_is(node, 2, np.int8)
        reads_int8 = any(name in self.int8 for name in node.input)
        if not (quantizes or reads_int8):
            self.out.append(node)
            return
        rule = self.rules.get(node.op_type)
        if rule is None:
            raise CompileError(f"{node_label(node)} on int8 has no Gemmini form: dequantise before it")
        rule(node)

    # Tensors

    def _shifted(self, name: str, like: str = "", *, not_negative: bool = False) -> None:
        """Note a new shifted tensor; `like` names one of the same channels."""
        self.int8[name] = None
        if not_negative:
            self.not_negative.add(name)
        if like in self.channels:
            self.channels[name] = self.channels[like]

    def _emit(
        self, op: str, inputs: list[str], outputs: list[str], name: str, domain: str = "", **attrs: Any
    ) -> None:
        self.out.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attrs))

    def _zero_point_is(self, node: onnx.NodeProto, index: int, dtype: type) -> bool:
        name = node.input[index] if len(node.input) > index else ""
        return name in self.graph.constants and self.graph.constants[name].dtype == dtype

    def _shift_input(self, name: str) -> None:
        """An int8 graph input: through float and back, which is exact."""
        zero = self.graph.constant("topfive.zero_int8", 0, np.int8)
        self._emit("DequantizeLinear", [name, self.one, zero], [f"{name}.float"], f"{name}.to_float")
        self._emit(
            "QuantizeLinear", [f"{name}.float", self.one, self.zero], [f"{name}.shifted"], f"{name}.to_uint8"
        )
        self._shifted(f"{name}.shifted")
        for node in self.waiting:
            node.input[:] = [f"{name}.shifted" if x == name else x for x in node.input]

    def _unshift_output(self, name: str) -> None:
        """An int8 graph output: the inner tensor is renamed and shifted back."""
        zero = self.graph.constant("topfive.zero_int8", 0, np.int8)
        inner = f"{name}.shifted"
        for node in self.out:
            node.input[:] = [inner if x == name else x for x in node.input]
            node.output[:] = [inner if x == name else x for x in node.output]
        self.int8 = {inner if x == name else x: None for x in self.int8}
        self._emit("DequantizeLinear", [inner, self.one, self.zero], [f"{name}.float"], f"{name}.to_float")
        self._emit("QuantizeLinear", [f"{name}.float", self.one, zero], [name], f"{name}.to_int8")

    # Operators

    def _quantize(self, node: onnx.NodeProto) -> None:
        self._emit("QuantizeLinear", [*node.input[:2], self.zero], [node.output[0]], node.name)
        self._shifted(node.output[0], not_negative=node.input[0] in self.not_negative)

    def _dequantize(self, node: onnx.NodeProto) -> None:
        self._emit("DequantizeLinear", [*node.input[:2], self.zero], [node.output[0]], node.name)
        if node.input[0] in self.not_negative:
            self.not_negative.add(node.output[0])

    def _weight_zero(self, name: str) -> str:
        """A zero point of its own a weight: ONNX Runtime's weight rewriting trips over a shared one."""
        return self.graph.constant(f"{name}.zero_point", 0, np.int8)

    def _conv(self, node: onnx.NodeProto) -> None:
        x, xs, _, w, ws, _, ys, _, *bias = node.input
        inputs = [x, xs, self.zero, w, ws, self._weight_zero(w), ys, self.zero, *bias]
        self._emit("QLinearConv", inputs, [node.output[0]], node.name, **attributes(node))
        self._shifted(node.output[0])
        if w in self.graph.constants and self.graph.constants[w].ndim == 4:
            self.channels[node.output[0]] = self.graph.constants[w].shape[0]

    def _matmul(self, node: onnx.NodeProto) -> None:
        a, a_scale, _, b, b_scale, _, y_scale, _ = node.input
        b_zero = self.zero if b in self.int8 else self._weight_zero(b)
        inputs = [a, a_scale, self.zero, b, b_scale, b_zero, y_scale, self.zero]
        self._emit("QLinearMatMul", inputs, [node.output[0]], node.name)
        self._shifted(node.output[0])

    def _add(self, node: onnx.NodeProto) -> None:
        a, a_scale, _, b, b_scale, _, y_scale, _ = node.input
        if not self.gemmini:
            inputs = [a, a_scale, self.zero, b, b_scale, self.zero, y_scale, self.zero]
        else:
            left = self._addend(a, a_scale, y_scale, f"{node.name}.left")
            right = self._addend(b, b_scale, y_scale, f"{node.name}.right")
            inputs = [left, self.one, self.zero, right, self.one, self.zero, self.one, self.zero]
        self._emit("QLinearAdd", inputs, [node.output[0]], node.name, MICROSOFT)
        self._shifted(node.output[0], like=a)

    def _addend(self, name: str, scale: str, y_scale: str, label: str) -> str:
        """One addend scaled, rounded and saturated: `mvin_scale`.

        QLinearMul would do, but it adds the zero point before rounding and so misses some ties. A depthwise
        convolution by 1 requantises exactly, and fast inside a channels-last graph; where the channels are
        not known, a 256-entry table does.
        """
        factor = np.float32(self.graph.constants[scale] / self.graph.constants[y_scale])
        if factor == 1:
            return name
        factor_name = self.graph.constant(f"{label}.factor", factor, np.float32)
        channels = self.channels.get(name)
        if channels:
            ones = self.graph.constant(f"{label}.ones", np.ones((channels, 1, 1, 1)), np.int8)
            inputs = [
                name,
                factor_name,
                self.zero,
                ones,
                self.one,
                self._weight_zero(ones),
                self.one,
                self.zero,
            ]
            self._emit("QLinearConv", inputs, [label], label, group=channels)
        else:
            inputs = [name, factor_name, self.zero, self.one, self.zero]
            self._emit("QLinearLeakyRelu", inputs, [label], label, MICROSOFT, alpha=1.0)
        return label

    def _relu(self, node: onnx.NodeProto) -> None:
        self._emit("Clip", [node.input[0], self.zero], [node.output[0]], node.name)
        self._shifted(node.output[0], like=node.input[0], not_negative=True)

    def _clip(self, node: onnx.NodeProto) -> None:
        bounds = [-128, 127]
        for i, name in enumerate(node.input[1:3]):
            if name:
                bounds[i] = int(self.graph.constants[name].item())
        low, high = bounds
        names = [
            self.graph.constant(f"topfive.code_{v}", v + SHIFT, np.uint8) if v != edge else ""
            for v, edge in ((low, -128), (high, 127))
        ]
        inputs = [node.input[0], *names]
        while inputs[-1] == "":
            inputs.pop()
        self._emit("Clip" if len(inputs) > 1 else "Identity", inputs, [node.output[0]], node.name)
        self._shifted(node.output[0], like=node.input[0], not_negative=low >= 0)

    def _max_pool(self, node: onnx.NodeProto) -> None:
        attrs = attributes(node)
        x = node.input[0]
        pads = attrs.get("pads", [0, 0, 0, 0])
        padded = any(pads) or attrs.get("auto_pad", "NOTSET") != "NOTSET"
        on_gemmini = self.gemmini and (self.zero_padded is None or node.output[0] in self.zero_padded)
        if on_gemmini and padded and x not in self.not_negative:
            if attrs.get("auto_pad", "NOTSET") != "NOTSET" or attrs.get("ceil_mode", 0):
                raise CompileError(
                    f"{node_label(node)}: auto_pad and ceil_mode have no Gemmini form: use pads"
                )
            widths = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
            label = node.name or node.output[0]
            padding = self.graph.constant(f"{label}.pads", widths)
            self._emit("Pad", [x, padding, self.zero], [f"{label}.padded"], f"{label}.pad")
            x = f"{label}.padded"
            attrs = {k: v for k, v in attrs.items() if k != "pads"}
        self._emit("MaxPool", [x], [node.output[0]], node.name, **attrs)
        self._shifted(node.output[0], like=node.input[0], not_negative=node.input[0] in self.not_negative)

    def _table(self, node: onnx.NodeProto) -> None:
        x, x_scale, _, y_scale, _ = node.input
        inputs = [x, x_scale, self.zero, y_scale, self.zero]
        self._emit(node.op_type, inputs, [node.output[0]], node.name, MICROSOFT, **attributes(node))
        self._shifted(node.output[0], like=x)

    def _move(self, node: onnx.NodeProto) -> None:
        self.out.append(node)
        self._shifted(node.output[0], not_negative=node.input[0] in self.not_negative)

    def _as_it_is(self, node: onnx.NodeProto) -> None:
        self.out.append(node)
