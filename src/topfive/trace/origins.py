"""The graph that a trace shows, and which of its nodes each node of the compiled model belongs to.

A trace of `gemmini_sim` shows the int8 graph, whose operators are the quantised ones. What runs is its
lowered form, in which some nodes have become several. Elsewhere the graph that runs is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx
from onnx import helper

from topfive.graph import Graph
from topfive.targets.gemmini.layers import inferrable

__all__ = ["Origin", "ShownNode", "origins", "shown_nodes"]

# What lowering appends to the name of an int8 tensor that is an input or output of the whole graph.
SHIFTED = ".shifted"
# Element types as ONNX Runtime's profile writes them, where numpy's name is another.
RUNTIME_NAMES = {"float32": "float", "float64": "double"}


@dataclass(frozen=True)
class ShownNode:
    """A node of the graph that the trace shows.

    index: its place in running order. facts: activation_size, parameter_size and output_size in bytes;
    input_type_shape and output_type_shape of its activations, as far as shapes can be inferred.
    """

    label: str
    op_type: str
    index: int
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """What a node of the compiled model, of operator `compiled_op`, is for.

    piece: "" if it makes the shown node's output, else which part of its work it is (such as "left", the
    rescaling of an addition's first addend).
    """

    node: ShownNode
    compiled_op: str
    piece: str = ""


def shown_nodes(model: onnx.ModelProto, batch: int) -> list[ShownNode]:
    """The nodes of an ONNX model in running order, for a batch of `batch` pictures."""
    graph = Graph(model)
    types = _tensor_types(graph, batch)
    found = []
    for index, node in enumerate(graph.nodes):
        inputs = [types[name] for name in node.input if name in types]
        outputs = [types[name] for name in node.output if name in types]
        constants = [graph.constants[name].nbytes for name in node.input if name in graph.constants]
        known = len(inputs) == sum(bool(name) and name not in graph.constants for name in node.input)
        sizes = {
            "activation_size": sum(size for _, _, size in inputs) if known else None,
            "parameter_size": sum(constants),
            "output_size": sum(size for _, _, size in outputs) if outputs else None,
        }
        facts: dict[str, Any] = {key: value for key, value in sizes.items() if value is not None}
        facts["input_type_shape"] = [{kind: list(shape)} for kind, shape, _ in inputs]
        facts["output_type_shape"] = [{kind: list(shape)} for kind, shape, _ in outputs]
        found.append(ShownNode(node.name or node.output[0], node.op_type, index, facts))
    return found


def _tensor_types(graph: Graph, batch: int) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Tensor name to (element type, shape, bytes), of activations whose shape is known."""
    found = {}
    for value in inferrable(graph, batch).inferred():
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        if value.name in graph.constants or not tensor.elem_type or not all(shape):
            continue
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        kind = RUNTIME_NAMES.get(dtype.name, dtype.name)
        found[value.name] = kind, shape, prod(shape) * dtype.itemsize
    return found


def origins(compiled: onnx.ModelProto, shown: onnx.ModelProto, nodes: Sequence[ShownNode]) -> list[Origin]:
    """The origin of each node of the compiled model; nodes: `shown_nodes(shown)`.

    A node that makes a tensor of the shown graph is for the node that makes it there; one that makes another
    tensor is a piece of what reads that tensor.
    """
    makers = {
        name: nodes[index] for index, node in enumerate(Graph(shown).nodes) for name in node.output if name
    }
    running = list(compiled.graph.node)
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(running):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    found: dict[int, Origin] = {}
    # Backwards, so that whatever reads a node's tensor has its origin already.
    for index in reversed(range(len(running))):
        node = running[index]
        made = [makers.get(name) or makers.get(name.removesuffix(SHIFTED)) for name in node.output if name]
        direct = next((maker for maker in made if maker is not None), None)
        if direct is not None:
            found[index] = Origin(direct, node.op_type)
            continue
        after = [found[reader].node for name in node.output for reader in readers.get(name, ())]
        label = node.name or node.output[0]
        if after:
            piece = label.removeprefix(after[0].label).strip(".") or node.op_type
            found[index] = Origin(after[0], node.op_type, piece)
        else:
            found[index] = Origin(ShownNode(label, node.op_type, len(nodes) + index), node.op_type)
    return [found[index] for index in range(len(running))]
