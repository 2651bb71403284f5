"""Float operators between DequantizeLinear and QuantizeLinear, as the integer operators that they stand for.

Every accelerator reads such a model this way: the codes are multiplied and accumulated as integers, and the
output's scale requantises the sum. Only graphs whose zero points are 0 and whose scales are scalar (but for
the weights of depthwise convolutions) get here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from topfive.graph import MICROSOFT, Graph, attributes
from topfive.quantize.rewriter import DATA_MOVEMENT, quantize_bias

__all__ = ["fuse_qdq"]


def fuse_qdq(graph: Graph) -> None:
    """Replace each DequantizeLinear-op-QuantizeLinear by its integer operator, in place.

    Conv, MatMul and Add (with an optional Relu or Clip before the QuantizeLinear), and Relu, Clip, MaxPool
    and data movement that keep their scale. Everything else stays float between its dequantise and quantise.
    """
    _Fusion(graph).run()


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = graph.producers()
        self.consumers = graph.consumers()
        self.replaced: dict[int, list[onnx.NodeProto]] = {}
        self.removed: set[int] = set()
        self.zero = graph.constant("topfive.zero_int8", 0, np.int8)
        self.rules: dict[str, Callable[[onnx.NodeProto], list[onnx.NodeProto] | None]] = {
            "Conv": self._conv,
            "MatMul": self._matmul,
            "Add": self._add,
            **dict.fromkeys(("Relu", "MaxPool", *sorted(DATA_MOVEMENT)), self._in_place),
        }

    def run(self) -> None:
        for node in self.graph.nodes:
            rule = self.rules.get(node.op_type)
            made = rule(node) if rule and id(node) not in self.removed else None
            if made:
                self.replaced[id(node)] = made
        kept: list[onnx.NodeProto] = []
        for node in self.graph.nodes:
            if id(node) not in self.removed:
                kept += self.replaced.get(id(node), [node])
        self.graph.nodes = kept
        self._drop_unread()
        self.graph.opsets[MICROSOFT] = 1

    def _drop_unread(self) -> None:
        """Remove DequantizeLinear nodes that nothing reads any more."""
        read = {name for node in self.graph.nodes for name in node.input} | set(self.graph.output_names)
        self.graph.nodes = [
            n for n in self.graph.nodes if n.op_type != "DequantizeLinear" or n.output[0] in read
        ]

    def _source(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that makes a tensor."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def _end(self, name: str) -> tuple[onnx.NodeProto | None, onnx.NodeProto | None]:
        """(activation, QuantizeLinear) after a tensor that nothing else reads; (None, None) without."""
        after = self.graph.sole_consumer(name, self.consumers)
        if after is not None and after.op_type == "QuantizeLinear":
            return None, after
        constant_bounds = after is not None and all(n in self.graph.constants for n in after.input[1:] if n)
        if after is not None and after.op_type in ("Relu", "Clip") and constant_bounds:
            last = self.graph.sole_consumer(after.output[0], self.consumers)
            if last is not None and last.op_type == "QuantizeLinear":
                return after, last
        return None, None

    def _scale(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self.graph.constants[name], np.float32)

    def _finish(
        self, op: str, inputs: list[str], node: onnx.NodeProto, domain: str = "", **attrs: Any
    ) -> list[onnx.NodeProto] | None:
        """The integer node, and its activation on codes, in place of node, activation and QuantizeLinear."""
        activation, quantize = self._end(node.output[0])
        if quantize is None:
            return None
        out = quantize.output[0]
        before = f"{out}.before_activation" if activation is not None else out
        nodes = [
            helper.make_node(
                op, [*inputs, quantize.input[1], self.zero], [before], name=node.name, domain=domain, **attrs
            )
        ]
        if activation is not None:
            nodes.append(self._activation(activation, before, out, self._scale(quantize.input[1])))
            self.removed.add(id(activation))
        self.removed.add(id(quantize))
        return nodes

    def _activation(
        self, node: onnx.NodeProto, before: str, out: str, scale: NDArray[np.float32]
    ) -> onnx.NodeProto:
        if node.op_type == "Relu":
            return helper.make_node("Relu", [before], [out], name=node.name)
        inputs = [before]
        for side, default, name in zip(
            ("minimum", "maximum"), (-128, 127), [*node.input[1:], "", ""][:2], strict=True
        ):
            bound = self._scale(name).item() / scale.item() if name else default
            code = int(np.clip(np.rint(bound), -128, 127))
            inputs.append(self.graph.constant(f"{node.name or out}.{side}", code, np.int8))
        return helper.make_node("Clip", inputs, [out], name=node.name)

    def _conv(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        x, w = self._source(node.input[0]), self._source(node.input[1])
        if x is None or w is None or w.input[0] not in self.graph.constants:
            return None
        bias = None
        if len(node.input) > 2 and node.input[2]:
            bias = self._bias(node, self._scale(x.input[1]), self._scale(w.input[1]))
            if bias is None:
                return None
        inputs = [*x.input[:2], self.zero, *w.input[:2], self.zero]
        made = self._finish("QLinearConv", inputs, node, **attributes(node))
        if made and bias is not None:
            made[0].input.append(bias)
        return made

    def _bias(
        self, node: onnx.NodeProto, x_scale: NDArray[np.float32], w_scale: NDArray[np.float32]
    ) -> str | None:
        """int32 codes of a bias at scale x * w: those in the model, or its float values quantised."""
        name = node.input[2]
        source = self._source(name)
        expected = x_scale * w_scale
        if source is not None and source.input[0] in self.graph.constants:
            codes, scale = self.graph.constants[source.input[0]], self._scale(source.input[1])
            if codes.dtype == np.int32 and np.allclose(scale, expected, rtol=1e-5, atol=0):
                return str(source.input[0])
            values = codes.astype(np.float32) * scale
        elif name in self.graph.constants:
            values = self.graph.constants[name].astype(np.float32)
        else:
            return None
        try:
            codes = quantize_bias(values, np.float32(x_scale.item()), w_scale)
        except OverflowError:
            return None
        label = node.name or node.output[0]
        return self.graph.constant(f"{label}.bias_quantized", codes)

    def _matmul(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        a, b = self._source(node.input[0]), self._source(node.input[1])
        if a is None or b is None or a.input[0] in self.graph.constants:
            return None
        return self._finish("QLinearMatMul", [*a.input[:2], self.zero, *b.input[:2], self.zero], node)

    def _add(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        a, b = self._source(node.input[0]), self._source(node.input[1])
        if a is None or b is None or {a.input[0], b.input[0]} & self.graph.constants.keys():
            return None
        return self._finish("QLinearAdd", [*a.input[:2], self.zero, *b.input[:2], self.zero], node, MICROSOFT)

    def _in_place(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """An operator that moves or selects codes, between a dequantise and a quantise of one scale."""
        x = self._source(node.input[0])
        activation, quantize = self._end(node.output[0])
        if x is None or quantize is None or activation is not None:
            return None
        if self._scale(x.input[1]) != self._scale(quantize.input[1]):
            return None
        self.removed.add(id(quantize))
        inputs = [x.input[0], *node.input[1:]]
        return [helper.make_node(node.op_type, inputs, quantize.output, name=node.name, **attributes(node))]
