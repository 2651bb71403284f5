"""One output of a model that has several, and only what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from topfive.errors import CardError

__all__ = ["keep_output"]


def keep_output(model: onnx.ModelProto, name: str, path: Path, card: Path) -> None:
    """Leave the output `name` of a model, in place, with the nodes and weights that it is computed from.

    path, card: the files, for messages. Raises CardError where the model has no such output.
    """
    graph = model.graph
    kept = [value for value in graph.output if value.name == name]
    if not kept:
        names = ", ".join(str(value.name) for value in graph.output)
        raise CardError(f"{card}: key 'output.name' is {name!r}, but the outputs of {path} are {names}")
    needed, nodes = {name}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_reads(node))
            nodes.append(node)
    nodes.reverse()
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, values in (("output", kept), ("node", nodes), ("initializer", weights)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those in its subgraphs among them."""
    yield from node.input
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from (str(value.name) for value in body.output)
            for inner in body.node:
                yield from _reads(inner)
