"""What a classifier gives: its last softmax removed, the index of the best classes in place of scores.

As MLPerf submissions do ("Removal of Softmax" in Alibaba's README of inference results v1.0: the softmax does
not affect the predicted label, and a TopK whose index output alone is marked follows the logits).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from topfive.errors import OptimizeError
from topfive.graph import Graph, attributes, node_label
from topfive.quantize.symmetric import DATA_MOVEMENT

__all__ = ["Head", "append_selection", "change_head", "remove_softmax", "selected"]

SOFTMAXES = ("Softmax", "LogSoftmax")
# Before opset 13 a softmax works on everything from its axis on, which is 1 if not said.
OWN_AXIS_OPSET = 13
CLASSES = "topfive.classes"
_SELECTION = re.compile(r"argmax|top([1-9]\d{0,5})")


@dataclass(frozen=True)
class Head:
    """How a model's output is changed. select: "", "argmax", or "top" and a number."""

    remove_softmax: bool = False
    select: str = ""

    def __bool__(self) -> bool:
        return self.remove_softmax or bool(self.select)


def selected(select: str) -> int:
    """How many classes "argmax" or "topK" gives; OptimizeError for any other text."""
    found = _SELECTION.fullmatch(select)
    if found is None:
        raise OptimizeError(f"{select!r} is no selection of classes: argmax, or top1, top2 and so on")
    return int(found[1] or 1)


def change_head(model: onnx.ModelProto, head: Head) -> onnx.ModelProto:
    """The model with its output changed. Raises OptimizeError where that cannot be."""
    if head.remove_softmax:
        model = remove_softmax(model)
    return append_selection(model, head.select) if head.select else model


def remove_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the Softmax (or LogSoftmax) over the classes that makes its output.

    Reshapes after it stay. Raises OptimizeError if there is none, or if its result is read elsewhere too.
    """
    graph = Graph(model)
    (output,) = graph.output_names
    producers, consumers = graph.producers(), graph.consumers()
    name = output
    while name in producers and producers[name].op_type in DATA_MOVEMENT:
        name = producers[name].input[0]
    node = producers.get(name)
    if node is None or node.op_type not in SOFTMAXES:
        raise OptimizeError(f"output {output!r} is not made by a Softmax: there is none to remove")
    rank = len(graph.shapes().get(name, ()))
    axis = attributes(node).get("axis", -1 if graph.opset >= OWN_AXIS_OPSET else 1)
    if not rank or axis % rank != 1:
        raise OptimizeError(f"{node_label(node)} is over axis {axis} of {rank}, not over the classes")
    if len(consumers.get(name, [])) > (name != output):
        raise OptimizeError(f"{node_label(node)} is read inside the graph too: it cannot be removed")
    before = node.input[0]
    graph.nodes = [n for n in graph.nodes if n is not node]
    for reader in consumers.get(name, []):
        reader.input[:] = [before if i == name else i for i in reader.input]
    if name == output:
        # The tensor before keeps its name, by which tables of ranges know it.
        value = onnx.ValueInfoProto()
        value.CopyFrom(graph.outputs[0])
        value.name = before
        graph.outputs = [value]
    return graph.to_model()


def append_selection(model: onnx.ModelProto, select: str) -> onnx.ModelProto:
    """The model with its scores replaced by the classes that score best, int64, ties to the lower index.

    select: "argmax" gives [N], "topK" gives [N, K], best first. Raises OptimizeError for more than there are.
    """
    count = selected(select)
    graph = Graph(model)
    (scores,) = graph.output_names
    sizes = [size for size in graph.shapes().get(scores, ())[1:] if isinstance(size, int)]
    entries = int(np.prod(sizes)) if sizes else 0
    if entries and count > entries:
        raise OptimizeError(f"{select}: the model has {entries} classes")
    if len(sizes) != 1:
        graph.nodes.append(
            helper.make_node("Flatten", [scores], [f"{CLASSES}.flat"], name=f"{CLASSES}.Flatten", axis=1)
        )
        scores = f"{CLASSES}.flat"
    if select == "argmax":
        graph.nodes.append(
            helper.make_node("ArgMax", [scores], [CLASSES], name=f"{CLASSES}.ArgMax", axis=1, keepdims=0)
        )
        shape: tuple[str | int, ...] = ("batch",)
    else:
        k = graph.constant(f"{CLASSES}.count", [count], np.int64)
        outputs = [f"{CLASSES}.scores", CLASSES]
        graph.nodes.append(helper.make_node("TopK", [scores, k], outputs, name=f"{CLASSES}.TopK", axis=1))
        shape = ("batch", count)
    graph.outputs = [helper.make_tensor_value_info(CLASSES, TensorProto.INT64, shape)]
    return graph.to_model()
