"""Random small int8 graphs: convolutions, ReLUs, clips, max pools and residual additions, with branches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import int8_graphs

__all__ = ["POOL", "Drawn", "draw", "negative_pool_file"]

POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}


@dataclass
class Drawn:
    """A graph being built: its last tensor, and every tensor's shape."""

    random: np.random.Generator
    last: str = "x"
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=int8_graphs.unit_constants)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[self.last]

    def model(self) -> onnx.ModelProto:
        return int8_graphs.model(self.nodes, {"x": self.shapes["x"]}, self.last, self.constants)

    def pictures(self) -> np.ndarray:
        return self.random.integers(-128, 128, self.shapes["x"]).astype(np.int8)

    def emit(
        self, op: str, inputs: list[str], shape: tuple[int, ...], domain: str = "", **attrs: Any
    ) -> None:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}.out"], name=name, domain=domain, **attrs))
        self.last = f"{name}.out"
        self.shapes[self.last] = shape

    def pick(self, *values: Any) -> Any:
        return values[int(self.random.integers(len(values)))]

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def pads(self, most: int) -> list[int]:
        return self.random.integers(0, most + 1, 4).tolist() if self.pick(0, 1, 2) == 0 else [most] * 4

    def conv(self) -> None:
        n, channels, *size = self.shape
        kernel, stride, dilation = self.pick(1, 2, 3), self.pick(1, 1, 2), self.pick(1, 1, 1, 2)
        depthwise = bool(self.pick(0, 0, 1))
        out_channels = channels if depthwise else self.pick(2, 3, 4)
        pads = self.pads(self.pick(0, 1, kernel - 1) if kernel > 1 else 0)
        reach = (kernel - 1) * dilation + 1
        out = [(n_ + pads[i] + pads[i + 2] - reach) // stride + 1 for i, n_ in enumerate(size)]
        if min(out) < 1:
            return
        weights = self.random.integers(
            -128, 128, (out_channels, 1 if depthwise else channels, kernel, kernel)
        )
        # Mostly negative sums: whole pool windows below zero, where padding decides.
        bias = self.random.integers(-20000, 5000, out_channels).astype(np.int32)
        inputs = [self.last, "one", "zero", self.constant(weights.astype(np.int8))]
        inputs += [self.constant(np.float32(0.004)), "zero", "one", "zero"]
        if self.pick(0, 1, 1):
            inputs.append(self.constant(bias))
        self.emit(
            "QLinearConv",
            inputs,
            (n, out_channels, *out),
            strides=[stride] * 2,
            dilations=[dilation] * 2,
            pads=pads,
            group=channels if depthwise else 1,
        )

    def relu(self) -> None:
        if self.pick(0, 1):
            self.emit("Relu", [self.last], self.shape)
        else:
            low, high = self.pick((0, 127), (0, 60), (-20, 50))
            bounds = [self.constant(np.int8(low)), self.constant(np.int8(high))]
            self.emit("Clip", [self.last, *bounds], self.shape)

    def pool(self) -> None:
        n, channels, *size = self.shape
        kernel, stride = self.pick(2, 3), self.pick(1, 2)
        pads = self.pads(kernel - 1)
        out = [(n_ + pads[i] + pads[i + 2] - kernel) // stride + 1 for i, n_ in enumerate(size)]
        if min(out) < 1 or min(size) < kernel:
            return
        where = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads}
        self.emit("MaxPool", [self.last], (n, channels, *out), **where)

    def add(self) -> None:
        same = [name for name, shape in self.shapes.items() if shape == self.shape]
        scales = [self.constant(np.float32(self.random.uniform(0.2, 2))) for _ in range(3)]
        inputs = [self.last, scales[0], "zero", self.pick(*same), scales[1], "zero", scales[2], "zero"]
        self.emit("QLinearAdd", inputs, self.shape, int8_graphs.MICROSOFT)


def draw(seed: int, steps: int) -> Drawn:
    """A graph of about `steps` nodes; the same for a seed."""
    drawn = Drawn(np.random.default_rng(seed))
    side = drawn.pick(5, 6, 8)
    drawn.shapes["x"] = (1, drawn.pick(1, 3), side, drawn.pick(side, side, side + 1))
    drawn.conv()
    for _ in range(steps):
        drawn.pick(drawn.conv, drawn.conv, drawn.relu, drawn.relu, drawn.pool, drawn.pool, drawn.add)()
        if drawn.pick(0, 0, 0, 1) and len(drawn.shapes) > 2:
            drawn.last = drawn.pick(*[name for name in drawn.shapes if name != "x"])
    if not drawn.nodes:
        drawn.emit("Relu", [drawn.last], drawn.shape)
    # The last tensor is the output; what else nothing reads stays in the graph, as a dead end.
    drawn.last = drawn.nodes[-1].output[0]
    return drawn


def negative_pool_file(folder: Path, groups: int = 1) -> Path:
    """A float classifier whose padded max pool sees negative maps only: its bias is far below zero."""
    random = np.random.default_rng(0)
    constants = {
        "w": random.normal(0, 0.05, (6, 3 // groups, 3, 3)).astype(np.float32),
        "b": np.full(6, -4, np.float32),
        "fc": random.normal(0, 0.3, (6, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c"], name="conv", pads=[1] * 4, group=groups),
        helper.make_node("MaxPool", ["c"], ["p"], name="pool", **POOL),
        helper.make_node("GlobalAveragePool", ["p"], ["g"], name="average"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "fc"], ["scores"], name="classifier"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("n", 3, 16, 16))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("n", 10))],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    path = folder / "negative.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
