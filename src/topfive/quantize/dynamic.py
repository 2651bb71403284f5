"""8-bit Conv and MatMul whose inputs are measured at run time, as the imagenet runner's `--static=False`.

Only Conv and MatMul are quantised. An input's scale is computed from its own minimum and maximum on every
run; the output's comes from a calibration, as in the original. Biases become int32 at run time, rounded down
(Floor). The original divides by zero where an input is all zero; here its scale is then 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from topfive.graph import Graph
from topfive.quantize.asymmetric import Asymmetric
from topfive.quantize.ranges import RangeTable
from topfive.quantize.rewriter import Quantised, Rewriter, Weights
from topfive.quantize.symmetric import ZERO_RANGE, Symmetric

__all__ = ["quantize_dynamic"]

UNKNOWN = np.float32("nan")
# The largest float32 within int32: a cast of anything beyond it is undefined.
LARGEST = np.float32(2147483520)


def quantize_dynamic(model: onnx.ModelProto, table: RangeTable, *, signed: bool) -> onnx.ModelProto:
    """Rewrite the Conv and MatMul of an optimised float model to int8 (`signed`) or uint8 operators.

    table: must hold the ranges of their outputs. Raises QuantizeError if it does not.
    """
    rewriter = DynamicInt8 if signed else DynamicUint8
    return rewriter(Graph(model), table.ranges).run()


class Dynamic(Rewriter):
    """Conv and MatMul only; what they read is quantised by parameters that the graph computes."""

    def __init__(self, graph: Graph, ranges: Mapping[str, tuple[float, float]]) -> None:
        super().__init__(graph, ranges)
        self.rules = {"Conv": self._conv, "MatMul": self._matmul}

    def _measured(self, name: str) -> Quantised:
        """Emit the nodes that measure and quantise a float tensor."""
        raise NotImplementedError

    def _quantise(self, name: str) -> Quantised:
        """The codes of a float tensor; those of a Conv or MatMul just before are used as they are."""
        if name not in self.quantised:
            self.quantised[name] = self._measured(name)
        return self.quantised[name]

    def _bias(self, node: onnx.NodeProto, x: Quantised, weights: Weights, bias: NDArray[np.float32]) -> str:
        """floor(bias / (x_scale * w_scale)) as int32, computed at run time; constant where the scale is."""
        if not np.isnan(x.scale):
            return super()._bias(node, x, weights, bias)
        base = f"{node.name}.bias"
        names = [self.graph.constant(base, bias, np.float32)]
        self._emit("Mul", [x.scale_name, f"{node.name}.weight_scale"], f"{base}_scale", f"{base}_scale")
        self._emit("Div", [names[0], f"{base}_scale"], f"{base}_steps", f"{base}_steps")
        self._emit("Floor", [f"{base}_steps"], f"{base}_floor", f"{base}_floor")
        limits = [
            self.graph.constant(f"topfive.int32_{side}", value, np.float32)
            for side, value in (("least", -LARGEST), ("most", LARGEST))
        ]
        self._emit("Clip", [f"{base}_floor", *limits], f"{base}_bounded", f"{base}_bounded")
        codes = f"{base}_quantized"
        self._emit("Cast", [f"{base}_bounded"], codes, codes, to=TensorProto.INT32)
        return codes


class DynamicInt8(Dynamic, Symmetric):
    """scale = max(|min|, |max|) / 127, zero point 0."""

    def _measured(self, name: str) -> Quantised:
        made = f"{name}_quantized"
        for op, source in (("ReduceMin", name), ("ReduceMax", name)):
            self._emit(op, [source], f"{name}_{op}", f"{name}_{op}", keepdims=0)
            self._emit("Abs", [f"{name}_{op}"], f"{name}_{op}_Abs", f"{name}_{op}_Abs")
        largest, scale = f"{name}_largest", f"{made}.scale"
        self._emit("Max", [f"{name}_ReduceMin_Abs", f"{name}_ReduceMax_Abs"], largest, largest)
        constant = self.graph.constant
        tiny = constant("topfive.zero_range", ZERO_RANGE, np.float32)
        one = constant("topfive.one", 1.0, np.float32)
        steps = constant("topfive.int8_steps", 127.0, np.float32)
        self._emit("Div", [largest, steps], f"{scale}_measured", f"{scale}_measured")
        self._emit("Less", [largest, tiny], f"{name}_is_zero", f"{name}_is_zero")
        self._emit("Where", [f"{name}_is_zero", one, f"{scale}_measured"], scale, scale)
        zero = self.zero_name(made, 0)
        self._emit("QuantizeLinear", [name, scale, zero], made, f"{name}_QuantizeLinear")
        return Quantised(made, UNKNOWN, 0, scale, zero)


class DynamicUint8(Dynamic, Asymmetric):
    """DynamicQuantizeLinear: scale = (max - min) / 255, zero point rounded, 0 inside the range."""

    def _measured(self, name: str) -> Quantised:
        made = f"{name}_quantized"
        outputs = [made, f"{made}.scale", f"{made}.zero_point"]
        self.out.append(
            onnx.helper.make_node("DynamicQuantizeLinear", [name], outputs, name=f"{name}_QuantizeLinear")
        )
        return Quantised(made, UNKNOWN, 0, *outputs[1:])
