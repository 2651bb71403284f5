"""Graphs of many int8 layers over one input, as program targets are tested with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from topfive.targets.base import Artifact, Runner, Target
from topfive.targets.gemmini.reference import mismatches, run_reference

MICROSOFT = "com.microsoft"


class Layers:
    """A graph of many layers over one int8 input; every layer's result is seen through Runner.tensors."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.shape = shape
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Any] = {"one": np.float32(1), "zero": np.int8(0)}

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def codes(self, *shape: int) -> np.ndarray:
        return self.random.integers(-128, 128, shape).astype(np.int8)

    def add(self, op: str, inputs: list[str], domain: str = "", **attrs: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, domain=domain, **attrs))
        return name

    def conv(
        self, weights: np.ndarray, scale: Any, bias: np.ndarray | None = None, x: str = "x", **attrs: Any
    ) -> str:
        codes, factor = self.constant(weights), self.constant(np.asarray(scale, np.float32))
        inputs = [x, "one", "zero", codes, factor, "zero", "one", "zero"]
        return self.add("QLinearConv", inputs + ([] if bias is None else [self.constant(bias)]), **attrs)

    def matmul(self, a: str, b: str, scale: float) -> str:
        factor = self.constant(np.float32(scale))
        return self.add("QLinearMatMul", [a, factor, "zero", b, "one", "zero", "one", "zero"])

    def quantize(self, x: str, scale: float) -> str:
        return self.add("QuantizeLinear", [x, self.constant(np.float32(scale)), "zero"])

    def dequantize(self, x: str, scale: float) -> str:
        return self.add("DequantizeLinear", [x, self.constant(np.float32(scale)), "zero"])

    def model(self) -> onnx.ModelProto:
        read = {name for node in self.nodes for name in node.input}
        ends = [node.output[0] for node in self.nodes if node.output[0] not in read]
        graph = helper.make_graph(
            self.nodes,
            "layers",
            [helper.make_tensor_value_info("x", TensorProto.INT8, ("n", *self.shape[1:]))],
            [onnx.ValueInfoProto(name=name) for name in ends],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def build(self, target: Target, folder: Path) -> Artifact:
        """The graph compiled for a target into a new folder."""
        (folder / "program").mkdir()
        meta = target.compile(self.model(), "int8", folder / "program")
        return Artifact(folder / "program", "", "layers", target.name, "int8", meta)

    def check(
        self, target: Target, folder: Path, batch: np.ndarray | None = None, count: int = 3
    ) -> dict[str, np.ndarray]:
        """Compile and run; every int8 tensor has to be the numpy form's, every float one nearly."""
        batch = self.codes(count, *self.shape[1:]) if batch is None else batch
        with target.open(self.build(target, folder), threads=1) as runner:
            return self.compare(runner, batch)

    def compare(self, runner: Runner, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Run a batch; every int8 tensor has to be the numpy form's, every float one nearly."""
        model = self.model()
        seen = runner.tensors(batch)
        assert [str(m) for m in mismatches(model, seen, batch)] == []
        expected = run_reference(model, batch)
        assert set(seen) >= {node.output[0] for node in self.nodes}
        for name, value in seen.items():
            assert value.shape == expected[name].shape, name
            if value.dtype == np.float32:
                np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
        return seen


def random_conv(layers: Layers, channels: int, size: int) -> None:
    """One convolution, plain, grouped or depthwise, of any stride, dilation, padding and activation."""
    random = layers.random
    kind = random.choice(["plain", "depthwise", "grouped"][: 3 - channels % 2])
    groups = {"plain": 1, "grouped": 2, "depthwise": channels}[str(kind)]
    out = channels if kind == "depthwise" else int(random.integers(1, 12)) * groups
    kernel = random.integers(1, 4, 2).tolist()
    dilation = random.integers(1, 3, 2).tolist()
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    pads = [int(random.integers(0, r)) for r in reach * 2]
    assert max(reach) <= size
    weights = layers.codes(out, channels // groups, *kernel)
    scale = np.exp(random.uniform(-8, -4, out if random.random() < 0.3 else 1)).astype(np.float32)
    bias = random.integers(-5000, 5000, out).astype(np.int32) if random.random() < 0.7 else None
    name = layers.conv(
        weights,
        scale if scale.size > 1 else scale[0],
        bias,
        group=groups,
        kernel_shape=kernel,
        strides=random.integers(1, 4, 2).tolist(),
        dilations=dilation,
        pads=pads,
    )
    after = random.choice(["", "Relu", "Clip"])
    if after == "Relu":
        layers.add("Relu", [name])
    elif after == "Clip":
        layers.add("Clip", [name, layers.constant(np.int8(-3)), layers.constant(np.int8(90))])
