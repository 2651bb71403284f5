"""Small float convolution networks that tests make, with batch 1 to N and names on every node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Nodes appended one after another; every method returns the name of what it made."""

    def __init__(self, seed: int = 0, channels: int = 3, size: int = 8) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.channels = {"x": channels}
        self.size = size

    def node(self, op: str, inputs: list[str], channels: int, **attrs: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attrs))
        self.channels[f"{name}_out"] = channels
        return f"{name}_out"

    def constant(self, value: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def conv(self, x: str, channels: int, kernel: int = 3, spread: float = 0.0, **attrs: Any) -> str:
        """`spread`: of the logarithm of each output channel's weights."""
        inputs = self.channels[x]
        depthwise = attrs.get("group", 1) > 1
        shape = (channels, 1 if depthwise else inputs, kernel, kernel)
        weights = self.random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        weights *= np.exp(self.random.normal(0, spread, (channels, 1, 1, 1)))
        names = [self.constant(weights.astype(np.float32))]
        names.append(self.constant(self.random.normal(0, 0.2, channels).astype(np.float32)))
        attrs = {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4, **attrs}
        return self.node("Conv", [x, *names], channels, **attrs)

    def depthwise(self, x: str, spread: float = 0.0, **attrs: Any) -> str:
        return self.conv(x, self.channels[x], 3, spread, group=self.channels[x], **attrs)

    def apply(self, op: str, x: str, **attrs: Any) -> str:
        if op == "Relu6":
            bounds = [self.constant(np.float32(0)), self.constant(np.float32(6))]
            return self.node("Clip", [x, *bounds], self.channels[x])
        return self.node(op, [x], self.channels[x], **attrs)

    def add(self, a: str, b: str) -> str:
        return self.node("Add", [a, b], self.channels[a])

    def concat(self, *parts: str) -> str:
        return self.node("Concat", list(parts), sum(self.channels[p] for p in parts), axis=1)

    def model(self, output: str) -> onnx.ModelProto:
        flat = self.node("Flatten", [self.apply("GlobalAveragePool", output)], 0)
        graph = helper.make_graph(
            self.nodes,
            "net",
            [
                helper.make_tensor_value_info(
                    "x", TensorProto.FLOAT, ["n", self.channels["x"], self.size, self.size]
                )
            ],
            [helper.make_tensor_value_info(flat, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def pictures(self, count: int) -> np.ndarray:
        shape = (count, self.channels["x"], self.size, self.size)
        return self.random.normal(0, 1, shape).astype(np.float32)


def branching(seed: int, activation: str = "Relu", spread: float = 1.0) -> Net:
    """Residual, concatenation, max pool, depthwise and a 1x1 head; `out` is before the head's pool."""
    net = Net(seed)
    stem = net.apply(activation, net.conv("x", 8, spread=spread))
    wide = net.apply(activation, net.conv(stem, 12, 1, spread))
    depth = net.apply(activation, net.depthwise(wide, spread))
    projected = net.conv(depth, 8, 1, spread)
    joined = net.add(projected, net.conv(stem, 8, 1, spread))
    pooled = net.apply("MaxPool", joined, kernel_shape=[2, 2], strides=[2, 2])
    both = net.concat(
        net.apply(activation, net.conv(pooled, 5, 1, spread)),
        net.apply(activation, net.conv(pooled, 7, 3, spread)),
    )
    net.out = net.conv(both, 10, 1)  # type: ignore[attr-defined]
    return net


def inverted(seed: int, spread: float = 1.5) -> Net:
    """An inverted residual block with ReLU6, as in MobileNet v2."""
    net = Net(seed)
    stem = net.apply("Relu6", net.conv("x", 8, spread=spread / 3))
    wide = net.apply("Relu6", net.conv(stem, 16, 1, spread / 3))
    depth = net.apply("Relu6", net.depthwise(wide, spread))
    net.out = net.conv(net.conv(depth, 8, 1), 10, 1)  # type: ignore[attr-defined]
    return net
