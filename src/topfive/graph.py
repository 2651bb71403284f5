"""A thin view of an ONNX model for rewriting: names to producers, consumers and constants.

The protobuf stays the single source of truth for nodes; constants live in a dict of numpy arrays so that
passes can read and add them without protobuf noise. `to_model` writes everything back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["KNOWN_DOMAINS", "MICROSOFT", "Graph", "attributes", "node_label", "save_model", "window_pads"]

MICROSOFT = "com.microsoft"
# Everything else is custom: shape inference and the float16 converter know nothing of it.
KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", MICROSOFT)
# Constants that a shape may follow from (of Reshape, Slice, Pad ...) have no more elements.
MOST_OF_SHAPES = 1024
IR_VERSION = 8
OPSET = 17


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values (strings decoded)."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def node_label(node: onnx.NodeProto) -> str:
    """How messages name a node: `Conv 'features.0/conv'`."""
    return f"{node.op_type} {node.name or (node.output[0] if node.output else '?')!r}"


def window_pads(found: Mapping[str, Any], size: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Pads of a convolution with attributes `found`: all starts, then all ends; SAME ones are worked out."""
    auto = found.get("auto_pad", "NOTSET")
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(found.get("pads", [0] * 2 * len(kernel)))
    strides, dilations = found.get("strides", [1] * len(kernel)), found.get("dilations", [1] * len(kernel))
    totals = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, s, k, d in zip(size, strides, kernel, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return tuple(small + large if auto == "SAME_UPPER" else large + small)


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


class Graph:
    """An ONNX model with its nodes in topological order and its constants as numpy arrays.

    The nodes are copies: rewriting a graph leaves the model that it was read from alone.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.inputs = [
            i for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}
        ]
        self.outputs = list(model.graph.output)
        self.nodes = [_copied(node) for node in model.graph.node]
        self.constants: dict[str, NDArray[Any]] = {
            t.name: numpy_helper.to_array(t) for t in model.graph.initializer
        }
        self.opsets = {o.domain: o.version for o in model.opset_import}
        self.name = model.graph.name or "topfive"
        self.value_info = list(model.graph.value_info)
        self._lift_constant_nodes()

    def _lift_constant_nodes(self) -> None:
        kept = []
        for node in self.nodes:
            value = attributes(node).get("value") if node.op_type == "Constant" else None
            if isinstance(value, onnx.TensorProto):
                self.constants[node.output[0]] = numpy_helper.to_array(value)
            else:
                kept.append(node)
        self.nodes = kept

    @classmethod
    def load(cls, path: Path) -> Graph:
        """Read an ONNX file, external data included."""
        return cls(onnx.load(path))

    @property
    def opset(self) -> int:
        """The default domain's opset version."""
        return int(self.opsets.get("", 0))

    @property
    def input_names(self) -> list[str]:
        """Names of the graph's true inputs."""
        return [i.name for i in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the graph's outputs."""
        return [o.name for o in self.outputs]

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Tensor name to the node that makes it."""
        return {name: node for node in self.nodes for name in node.output if name}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Tensor name to the nodes that read it; a graph output counts as one more reader: see `readers`."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                if name:
                    found.setdefault(name, []).append(node)
        return found

    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Inferred shapes by tensor name, where known: a number or a symbol a dimension (unknown: '?')."""
        found = {name: tuple(array.shape) for name, array in self.constants.items()}
        for value in self.inferred():
            if not value.type.tensor_type.HasField("shape"):
                continue
            dims = value.type.tensor_type.shape.dim
            found[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in dims
            )
        return found

    def inferred(self) -> list[onnx.ValueInfoProto]:
        """Inputs, outputs and what lies between with the types and shapes that ONNX infers; no constants."""
        graph = onnx.shape_inference.infer_shapes(self.weightless()).graph
        values = (*graph.value_info, *graph.input, *graph.output)
        return [value for value in values if value.name not in self.constants]

    def sole_consumer(
        self, name: str, consumers: Mapping[str, list[onnx.NodeProto]]
    ) -> onnx.NodeProto | None:
        """The one node that reads a tensor, or None if there are several or it is a graph output."""
        readers = consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.output_names else None

    def constant(self, name: str, value: Any, dtype: Any = None) -> str:
        """Add a constant (once: equal values under one name are reused) and return its name."""
        array = np.asarray(value, dtype)
        existing = self.constants.get(name)
        if existing is not None and not (
            existing.dtype == array.dtype
            and existing.shape == array.shape
            and existing.tobytes() == array.tobytes()
        ):
            raise ValueError(f"constant {name!r} already holds another value")
        self.constants[name] = array
        return name

    def _custom_types(self) -> list[onnx.ValueInfoProto]:
        """The known types of what custom operators make, which shape inference cannot tell."""
        made = {name for node in self.nodes if node.domain not in KNOWN_DOMAINS for name in node.output}
        return [value for value in self.value_info if value.name in made]

    def to_model(self, extra_outputs: Iterable[onnx.ValueInfoProto] = ()) -> onnx.ModelProto:
        """Write the graph back as a checked-size ModelProto, keeping only constants that are used."""
        return self._model(self.inputs, [*self.outputs, *extra_outputs], self._used_constants())

    def weightless(self) -> onnx.ModelProto:
        """The model for shape inference: weights are declared as inputs, which need not be copied."""
        used = self._used_constants()
        small = {name: array for name, array in used.items() if array.size <= MOST_OF_SHAPES}
        weights = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in used.items()
            if name not in small
        ]
        return self._model([*self.inputs, *weights], self.outputs, small)

    def _used_constants(self) -> dict[str, NDArray[Any]]:
        used = {name for node in self.nodes for name in node.input} | set(self.output_names)
        return {name: array for name, array in self.constants.items() if name in used}

    def _model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        constants: Mapping[str, NDArray[Any]],
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            self.name,
            inputs,
            outputs,
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
            value_info=self._custom_types(),
        )
        domains = {n.domain for n in self.nodes} | {""}
        opsets = {d: self.opsets.get(d, 1) for d in sorted(domains)}
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()],
            ir_version=IR_VERSION if opsets[""] <= OPSET else 10,
            producer_name="topfive",
        )


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Serialise deterministically: the same model gives the same bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))
