"""The graphs of nine ImageNet networks that the onnx wheel ships without weights, tidied up for use.

They stand in `onnx/backend/test/data/light/light_*.onnx` (opset 9, batch 1, weights made by ConstantOfShape).
Tidied: opset 17 by onnx.version_converter, symbolic batch, no Dropout and no Softmax (the output is logits
[batch, 1000]), shapes inferred, names that say what a node is. No weights yet: only what they must be.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference, version_converter

from topfive.errors import UnknownNameError

__all__ = ["ARCHITECTURES", "Skeleton", "Weight", "light_file", "skeleton"]

ARCHITECTURES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
OPSET = 17
IR_VERSION = 8  # the one that belongs to opset 17

_ROLES = {
    "BatchNormalization": ("", "scale", "shift", "mean", "variance"),
    "Conv": ("", "kernel", "bias"),
    "Gemm": ("", "kernel", "bias"),
    "Mul": ("", "scale"),
    "Add": ("", "shift"),
}


@dataclass(frozen=True)
class Weight:
    """One weight tensor: `role` is kernel, bias, scale, shift, mean or variance; `node` uses it."""

    name: str
    dims: tuple[int, ...]
    role: str
    node: str

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def fan_in(self) -> int:
        """Inputs that one output of a kernel [out, in, ...] sums."""
        return math.prod(self.dims[1:])


@dataclass(frozen=True)
class Skeleton:
    """A model whose weights are declared as graph inputs, and what they are, in the order of their use."""

    model: onnx.ModelProto
    weights: tuple[Weight, ...]

    @property
    def classifier(self) -> str:
        """Name of the last layer with a kernel."""
        return next(weight.node for weight in reversed(self.weights) if weight.role == "kernel")


def light_file(architecture: str) -> Path:
    """The file inside the onnx wheel. Raises UnknownNameError for a name that is not in ARCHITECTURES."""
    if architecture not in ARCHITECTURES:
        raise UnknownNameError("light architecture", architecture, ARCHITECTURES)
    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{architecture}.onnx"


def skeleton(architecture: str) -> Skeleton:
    """Read and tidy one graph."""
    builder = _Builder(onnx.load(light_file(architecture)))
    model = version_converter.convert_version(builder.model(architecture), OPSET)
    model.ir_version = IR_VERSION
    return Skeleton(shape_inference.infer_shapes(model, strict_mode=True), tuple(builder.weights.values()))


class _Builder:
    """Walks the old graph once and writes the new one."""

    def __init__(self, old: onnx.ModelProto) -> None:
        self.old = old
        self.constants = {t.name: numpy_helper.to_array(t) for t in old.graph.initializer}
        self.dims: dict[str, tuple[int, ...]] = {}  # old weight name -> shape as its consumer wants it
        self.alias: dict[str, str] = {}  # old tensor -> new tensor
        self.maker: dict[str, str] = {}  # new tensor -> name of the node that makes it
        self.weights: dict[str, Weight] = {}
        self.shapes: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.numbers: Counter[str] = Counter()
        for name, value in self.constants.items():
            if value.dtype == np.float32:
                self.dims[name] = value.shape

    def model(self, architecture: str) -> onnx.ModelProto:
        (data,) = (i for i in self.old.graph.input if i.name not in self.constants)
        self.alias[data.name] = "data"
        for node in self.old.graph.node:
            self._take(node)
        if len(self.old.graph.output[0].type.tensor_type.shape.dim) > 2:
            self._emit("Flatten", "flatten", [self.alias[self.old.graph.output[0].name]], axis=1)
        last = self.nodes[-1]
        last.output[0] = "logits"
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes,
            f"light_{architecture}",
            [
                value("data", onnx.TensorProto.FLOAT, ["batch", 3, 224, 224]),
                *(value(w.name, onnx.TensorProto.FLOAT, w.dims) for w in self.weights.values()),
            ],
            [value("logits", onnx.TensorProto.FLOAT, ["batch", 1000])],
            self.shapes,
        )
        return onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", 9)],
            producer_name="topfive",
            ir_version=IR_VERSION,
        )

    def _take(self, node: onnx.NodeProto) -> None:
        source, target = node.input[0], node.output[0]
        if node.op_type == "ConstantOfShape":
            self.dims[target] = tuple(int(size) for size in self.constants[source])
        elif node.op_type == "Unsqueeze":  # of a weight, for Mul and Add over channels: [C] -> [C, 1, 1]
            self.dims[target] = (*self.dims[source], 1, 1)
            self.alias[target] = source
        elif node.op_type == "Reshape" and source in self.dims:
            self.dims[target] = tuple(int(size) for size in self.constants[node.input[1]])
            self.alias[target] = source
        elif node.op_type in ("Dropout", "Softmax"):
            self.alias[target] = self.alias[source]
        elif node.op_type == "Reshape":
            self.alias[target] = self._reshape(self.alias[source], self.constants[node.input[1]])
        else:
            self.alias[target] = self._layer(node)

    def _reshape(self, source: str, sizes: np.ndarray) -> str:
        """The same reshape for any batch: Flatten to two dimensions, else 0 ("as it is") for the first."""
        if len(sizes) == 2:
            return self._emit("Flatten", "flatten", [source], axis=1)
        name = self._numbered("reshape")
        self.shapes.append(numpy_helper.from_array(np.array([0, *sizes[1:]], np.int64), f"{name}_shape"))
        return self._emit("Reshape", name, [source, f"{name}_shape"])

    def _layer(self, node: onnx.NodeProto) -> str:
        name = self._name(node)
        inputs = []
        for source, role in zip(
            node.input, _ROLES.get(node.op_type, ()) + ("",) * len(node.input), strict=False
        ):
            if role:
                weight = Weight(f"{name}_{role}", self.dims[source], role, name)
                self.weights[weight.name] = weight
                inputs.append(weight.name)
            else:
                inputs.append(self.alias[source])
        output = self._emit(node.op_type, name, inputs)
        self.nodes[-1].attribute.extend(node.attribute)
        return output

    def _name(self, node: onnx.NodeProto) -> str:
        roles = _ROLES.get(node.op_type)
        if roles:
            old = self.alias.get(node.input[1], node.input[1]).removeprefix("gpu_0/")
            stem = old.rsplit("_", 2)[0]  # conv1_w_0 -> conv1
            return f"{stem}_{node.op_type.lower()}" if node.op_type in ("Mul", "Add") else stem
        if node.op_type == "Relu":
            return f"{self.maker[self.alias[node.input[0]]].removesuffix('_add')}_relu"
        return self._numbered(node.op_type.lower())

    def _numbered(self, kind: str) -> str:
        self.numbers[kind] += 1
        return f"{kind}_{self.numbers[kind]}"

    def _emit(self, op_type: str, name: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{name}_output"
        self.nodes.append(onnx.helper.make_node(op_type, inputs, [output], name, **attributes))
        self.maker[output] = name
        return output
