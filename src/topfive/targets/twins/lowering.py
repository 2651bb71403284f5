"""Lowering a float or Q/DQ graph to one that ONNX Runtime computes with a vendor's arithmetic.

* A convolution or matrix product between dequantised operands becomes an integer one: uint8 codes (int8 plus
  128, zero points 128) accumulate in int32, exact on every processor, and the sum is rescaled in float32:
  `y = float32(acc) * float32(s_x * s_w[k]) + bias[k]`, each operation rounded.
* An average pool of a dequantised tensor adds its codes exactly: `y = float32(sum) * float32(s / n)`.
* With `half`, every other float tensor is rounded to float16: see `topfive.targets.twins.float16`.

Int8 tensors that only exact operators come before are the same bits on every machine; the last ones are
listed. The graph must run as it is written, without ONNX Runtime's optimiser: folding a rescale into weights
would change it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from topfive.errors import CompileError
from topfive.graph import Graph, attributes, node_label
from topfive.quantize.exactness import EXACT
from topfive.targets.twins.averages import SPATIAL, average_factor, exact_sum
from topfive.targets.twins.float16 import COMMUTING, SELECTING, rounded_constant

__all__ = ["LoweredTwin", "lower_twin"]

SHIFT = 128
# (operator, input) that are parameters of the operator, not values: they keep float32.
PARAMETERS = {("Resize", 1), ("Resize", 2), ("Upsample", 1)}
# So many float16 values (40 bits from the largest to the smallest) add up exactly in float64's 53 bits.
MOST_HALVES = 2**13


@dataclass(frozen=True)
class LoweredTwin:
    """A lowered model.

    int8_tensors: held as uint8 shifted by 128. exact_tensors: the last of those that are the same bits on
    every machine. clipped: weights beyond float16's range, tensor to count.
    """

    model: onnx.ModelProto
    int8_tensors: tuple[str, ...]
    exact_tensors: tuple[str, ...]
    clipped: Mapping[str, int]


@dataclass(frozen=True)
class _Codes:
    """The int8 codes that a dequantised tensor stands for: their name, and their scale, [] or [channels]."""

    name: str
    scale: NDArray[np.float32]


def lower_twin(model: onnx.ModelProto, *, half: bool) -> LoweredTwin:
    """Lower a float graph, with Q/DQ pairs (int8, zero points 0) or without.

    half: tensors outside int8 are float16 values, else float32. Raises CompileError for a tensor of unknown
    type, which could not be rounded.
    """
    return _Lowering(Graph(model), half).run()


class _Lowering:
    """One pass over the nodes."""

    def __init__(self, graph: Graph, half: bool) -> None:
        self.graph = graph
        self.half = half
        self.shapes = graph.shapes()
        self.types = _element_types(graph)
        self.consumers = graph.consumers()
        self.activations: dict[str, _Codes] = {}
        self.weights: dict[str, _Codes] = {}
        self.dequantised: set[str] = set()
        self.unrounded: set[str] = set()
        self.rounded_inputs: dict[str, str] = {}
        self.exact = {*graph.input_names, *graph.constants, ""}
        self.parents: dict[str, set[str]] = {}
        self.int8: dict[str, None] = {}
        self.clipped: dict[str, int] = {}
        self.out: list[onnx.NodeProto] = []
        self.zero = self._constant("topfive.zero_uint8", SHIFT, np.uint8)
        self.one = self._constant("topfive.one", 1.0, np.float32)
        self.rules: Mapping[str, Callable[[onnx.NodeProto], bool]] = {
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
            "Conv": self._conv,
            "MatMul": self._matmul,
            "Gemm": self._gemm,
            "AveragePool": self._average,
            "GlobalAveragePool": self._average,
        }

    def run(self) -> LoweredTwin:
        if self.half:
            self._round_inputs()
        for node in self.graph.nodes:
            rule = self.rules.get(node.op_type)
            if rule is None or not rule(node):
                self._float(node)
        exact = [name for name in self.int8 if name in self.exact]
        before = {name for made in exact for name in self.parents[made]}
        last = tuple(name for name in exact if name not in before)
        self.graph.nodes = self.out
        return LoweredTwin(self.graph.to_model(), tuple(self.int8), last, self.clipped)

    # Writing

    def _constant(self, name: str, value: Any, dtype: Any = None) -> str:
        made = self.graph.constant(name, value, dtype)
        self.exact.add(made)
        return made

    def _emit(self, op: str, inputs: list[str], output: str, *, exact: bool = True, **attrs: Any) -> str:
        self.out.append(helper.make_node(op, inputs, [output], name=f"{output}.{op}", **attrs))
        self._follow(inputs, [output], exact)
        return output

    def _follow(self, inputs: list[str], outputs: list[str], exact: bool) -> None:
        """Note whether outputs are exact, and the nearest int8 tensors before them."""
        sources: set[str] = set()
        for name in inputs:
            sources |= {name} if name in self.int8 else self.parents.get(name, set())
        for name in outputs:
            self.parents[name] = sources
            if exact and self.exact.issuperset(inputs):
                self.exact.add(name)

    def _raw(self, output: str) -> str:
        """The name to write a computed float tensor under: another than `output` if it is rounded after."""
        if not self.half:
            return output
        reader = self.graph.sole_consumer(output, self.consumers)
        if reader is not None and reader.op_type in COMMUTING and reader.input[0] == output:
            self.unrounded.add(output)
            return output
        return f"{output}.float32"

    def _settle(self, raw: str, output: str) -> None:
        """Round what was written as `raw` to float16 values, if it is to be rounded."""
        if raw != output:
            self._emit("Cast", [raw], f"{output}.float16", to=TensorProto.FLOAT16)
            self._emit("Cast", [f"{output}.float16"], output, to=TensorProto.FLOAT)

    def _round_inputs(self) -> None:
        for value in self.graph.inputs:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                self.rounded_inputs[value.name] = f"{value.name}.rounded"
                self._settle(value.name, f"{value.name}.rounded")

    def _value(self, name: str) -> str:
        """The name under which a tensor is read as floats."""
        if name in self.activations and name not in self.dequantised:
            codes = self.activations[name]
            self.dequantised.add(name)
            raw = self._raw(name)
            self._emit("DequantizeLinear", [codes.name, f"{codes.name}.scale", self.zero], raw)
            self._settle(raw, name)
        if self.half and name in self.graph.constants:
            return self._half_constant(name)
        return self.rounded_inputs.get(name, name)

    def _half_constant(self, name: str) -> str:
        values = self.graph.constants[name]
        if values.dtype != np.float32:
            return name
        rounded, clipped = rounded_constant(values)
        if clipped:
            self.clipped[name] = clipped
        return self._constant(f"{name}.float16", rounded, np.float32)

    # Operators: each rule returns False to leave the node to `_float`

    def _float(self, node: onnx.NodeProto) -> None:
        """An operator on floats or shapes as it is; with `half`, from and to float16 values."""
        inputs = [
            name if (node.op_type, i) in PARAMETERS else self._value(name)
            for i, name in enumerate(node.input)
        ]
        keeps = node.op_type in SELECTING and not self.unrounded.intersection(node.input)
        raw = [
            name if not name or keeps or not self._is_float(node, name) else self._raw(name)
            for name in node.output
        ]
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[:], made.output[:] = inputs, raw
        self.out.append(made)
        self._follow(inputs, raw, node.op_type in EXACT)
        for before, after in zip(raw, node.output, strict=True):
            self._settle(before, after)

    def _is_float(self, node: onnx.NodeProto, name: str) -> bool:
        if self.half and name not in self.types:
            raise CompileError(
                f"{node_label(node)}: the type of its output {name!r} is unknown, so it cannot be rounded"
            )
        return self.types.get(name) == TensorProto.FLOAT

    def _quantize(self, node: onnx.NodeProto) -> bool:
        if len(node.input) < 3 or self.graph.constants[node.input[2]].dtype != np.int8:
            return False
        codes = node.output[0]
        self._emit("QuantizeLinear", [self._value(node.input[0]), node.input[1], self.zero], codes)
        self.int8[codes] = None
        return True

    def _dequantize(self, node: onnx.NodeProto) -> bool:
        scale = self.graph.constants[node.input[1]]
        known = self.activations if node.input[0] in self.int8 else self.weights
        known[node.output[0]] = _Codes(node.input[0], scale)
        return True

    def _shifted_weights(self, codes: _Codes, transpose: bool = False) -> str:
        """Constant int8 weights as uint8, 128 higher."""
        values = (self.graph.constants[codes.name].astype(np.int16) + SHIFT).astype(np.uint8)
        name = f"{codes.name}.uint8" + (".transposed" if transpose else "")
        return self._constant(name, np.ascontiguousarray(values.T) if transpose else values)

    def _rescaled(
        self, op: str, operands: list[str], scale: NDArray[np.float32], bias: str, node: onnx.NodeProto
    ) -> None:
        """Emit the integer operator on uint8 operands, the rescale, the bias, and the rounding.

        scale: of the sum, shaped to broadcast against it. bias: a constant's name, or "".
        """
        output = node.output[0]
        raw = self._raw(output)
        attrs = attributes(node) if op == "ConvInteger" else {}
        total = self._emit(op, [*operands, self.zero, self.zero], f"{output}.accumulator", **attrs)
        total = self._emit("Cast", [total], f"{output}.sum", to=TensorProto.FLOAT)
        factor = self._constant(f"{output}.factor", scale, np.float32)
        if not bias:
            self._emit("Mul", [total, factor], raw)
        else:
            scaled = self._emit("Mul", [total, factor], f"{output}.scaled")
            self._emit("Add", [scaled, bias], raw)
        self._settle(raw, output)

    def _bias(self, node: onnx.NodeProto, shape: tuple[int, ...]) -> str:
        """A node's constant third input, shaped and, with `half`, rounded; "" if it has none."""
        if len(node.input) < 3 or not node.input[2]:
            return ""
        name = self._value(node.input[2])
        return self._constant(f"{node.output[0]}.bias", self.graph.constants[name].reshape(shape))

    def _conv(self, node: onnx.NodeProto) -> bool:
        x, w = self.activations.get(node.input[0]), self.weights.get(node.input[1])
        if x is None or w is None:
            return False
        channels = (1, -1, 1, 1)
        scale = np.asarray(x.scale * w.scale, np.float32)
        scale = scale.reshape(channels) if scale.ndim else scale
        operands = [x.name, self._shifted_weights(w)]
        self._rescaled("ConvInteger", operands, scale, self._bias(node, channels), node)
        return True

    def _matmul(self, node: onnx.NodeProto) -> bool:
        a = self.activations.get(node.input[0])
        b = self.activations.get(node.input[1]) or self.weights.get(node.input[1])
        if a is None or b is None:
            return False
        right = b.name if b.name in self.int8 else self._shifted_weights(b)
        self._rescaled("MatMulInteger", [a.name, right], np.asarray(a.scale * b.scale), "", node)
        return True

    def _gemm(self, node: onnx.NodeProto) -> bool:
        a, b = self.activations.get(node.input[0]), self.weights.get(node.input[1])
        if a is None or b is None:
            return False
        right = self._shifted_weights(b, transpose=bool(attributes(node).get("transB", 0)))
        scale = np.asarray(a.scale * b.scale)
        self._rescaled("MatMulInteger", [a.name, right], scale, self._bias(node, (-1,)), node)
        return True

    def _average(self, node: onnx.NodeProto) -> bool:
        """An average of codes, or of float16 values, whose sum does not depend on the order."""
        codes = self.activations.get(node.input[0])
        shape = self.shapes.get(node.input[0], ())
        if codes is None:
            return self.half and node.op_type == "GlobalAveragePool" and self._half_mean(node, shape)
        factor = average_factor(node, shape, codes.scale)
        if factor is None:
            return False
        output = node.output[0]
        values = self._emit("DequantizeLinear", [codes.name, self.one, self.zero], f"{output}.codes")
        self.out.append(exact_sum(node, values, f"{output}.sum", shape, self._constant))
        self._follow([values], [f"{output}.sum"], exact=True)
        raw = self._raw(output)
        self._emit("Mul", [f"{output}.sum", self._constant(f"{output}.factor", factor)], raw)
        self._settle(raw, output)
        return True

    def _half_mean(self, node: onnx.NodeProto, shape: tuple[int | str, ...]) -> bool:
        """A global mean of float16 values: their sum is exact in float64, whatever the order."""
        sizes = [size for size in shape[2:] if isinstance(size, int)]
        if len(shape) != 4 or len(sizes) != len(SPATIAL) or prod(sizes) > MOST_HALVES:
            return False
        output = node.output[0]
        wide = self._emit("Cast", [self._value(node.input[0])], f"{output}.wide", to=TensorProto.DOUBLE)
        axes = self._constant("topfive.spatial_axes", SPATIAL, np.int64)
        total = self._emit("ReduceSum", [wide, axes], f"{output}.sum", keepdims=1)
        count = self._constant(f"{output}.count", float(prod(sizes)), np.float64)
        mean = self._emit("Div", [total, count], f"{output}.mean")
        raw = self._raw(output)
        self._emit("Cast", [mean], raw, to=TensorProto.FLOAT)
        self._settle(raw, output)
        return True


def _element_types(graph: Graph) -> dict[str, int]:
    """Element types of tensors, by name, where shape inference knows them."""
    values = graph.inferred()
    return {v.name: v.type.tensor_type.elem_type for v in values if v.type.tensor_type.elem_type}
