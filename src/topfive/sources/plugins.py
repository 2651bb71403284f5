"""Operators that neither ONNX nor ONNX Runtime knows: which nodes they are, and the library that has them.

A library of custom operators (`RegisterCustomOps` of ONNX Runtime's C API) is code of other people that runs
in this process. It is loaded only if a card names it with its SHA-256, and before anything else runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from topfive.cache import file_sha256
from topfive.cards import Card
from topfive.errors import FetchError
from topfive.graph import node_label
from topfive.sources.onnx_file import graphs

__all__ = ["CustomNode", "check_plugins", "custom_nodes", "is_known", "library"]

_TENSOR = re.compile(r"tensor\((\w+)\)")


@dataclass(frozen=True)
class CustomNode:
    """A node whose operator is not known here: how messages name it, and its operator."""

    label: str
    domain: str
    op: str

    def __str__(self) -> str:
        operator = f"{self.domain}::{self.op}" if self.domain else self.op
        return f"{self.label} is the custom operator {operator}"


@cache
def _runtime_operators() -> frozenset[tuple[str, str]]:
    """(domain, operator) of everything that this ONNX Runtime has a schema of."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    return frozenset((schema.domain, schema.name) for schema in get_all_operator_schema())


def _text(name: Any) -> str:
    """A name of the graph; UnicodeDecodeError for one that is not UTF-8, which protobuf gives as bytes."""
    return name.decode() if isinstance(name, bytes) else str(name)


def is_known(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether a node's operator is ONNX's, ONNX Runtime's, or a function of the model."""
    op, domain = _text(node.op_type), _text(node.domain)
    own = "" if domain == "ai.onnx" else domain
    if onnx.defs.has(op, own) or (own, op) in _runtime_operators():
        return True
    return any((function.domain, function.name) == (domain, op) for function in model.functions)


def custom_nodes(model: onnx.ModelProto) -> Iterator[CustomNode]:
    """The nodes of a model, inner graphs included, whose operator is not known here."""
    for graph in graphs(model.graph):
        for node in graph.node:
            if not is_known(model, node):
                yield CustomNode(node_label(node), node.domain, node.op_type)


def library(card: Card) -> Path | None:
    """The card's library of custom operators, or None if it names none.

    Raises FetchError if the file is missing or is not the one whose SHA-256 the card gives.
    """
    path = card.plugin_path()
    if path is None:
        return None
    if not path.is_file():
        raise FetchError(f"the library of custom operators {path} (key 'plugins.onnxruntime') does not exist")
    found = file_sha256(path)
    if found != card.plugins.sha256:
        raise FetchError(
            f"{path} is not the library that {card.path} names: it was not loaded",
            details=f"sha256 of the file: {found}\nsha256 in the card: {card.plugins.sha256}",
        )
    return path


def check_plugins(model: onnx.ModelProto, path: Path, card: Card, kind: str) -> None:
    """Make sure that every custom operator of a model (read from `path`) has a library that has it.

    kind: whose libraries the target loads, "onnxruntime", "tensorrt" or "". The types of what the library's
    operators make are added to the model's value_info. Raises FetchError naming the node and its operator
    when there is no library, when it cannot be loaded, or when it lacks the operator.
    """
    nodes = list(custom_nodes(model))
    if not nodes:
        return
    other = [node for node in nodes if node.op not in card.plugins.tensorrt]
    if kind == "tensorrt" and not other:
        return
    if not other:
        raise FetchError(f"{path}: {nodes[0]}, a TensorRT plugin: only target tensorrt runs it")
    first = other[0]
    if kind != "onnxruntime":
        raise FetchError(f"{path}: {first}, which this target cannot load a library for")
    try:
        found = library(card)
    except FetchError as error:
        raise FetchError(f"{path}: {first}, but {error.message}", details=error.details) from error
    if found is None:
        raise FetchError(
            f"{path}: {first}, and no library is declared for it: add [plugins] with onnxruntime = PATH and "
            "its sha256 to the model's card, or list it in plugins.tensorrt"
        )
    _check_library(model, path, other, found)


def _check_library(model: onnx.ModelProto, path: Path, nodes: list[CustomNode], found: Path) -> None:
    from topfive.sessions import custom_operators, open_session  # cards of bare files do without

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    made = [name for node in probe.graph.node if not is_known(probe, node) for name in node.output if name]
    outputs = {output.name for output in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in outputs)
    try:
        with custom_operators([found]):
            session = open_session(probe.SerializeToString(), threads=1, optimise=False)
    except Exception as error:
        named = next((node for node in nodes if node.op in str(error)), nodes[0])
        raise FetchError(
            f"{path}: {named}, which does not load from {found}: is it in this library, built for this "
            "ONNX Runtime?",
            details=str(error),
        ) from error
    for output in session.get_outputs():
        kind = _TENSOR.fullmatch(output.type)
        if output.name in made and kind is not None:
            number = onnx.TensorProto.DataType.Value(kind[1].upper())
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(output.name, number, None))
