"""The optimize stage: a float graph in one opset, with nothing left that training needed.

Folding is done here in float64, not by a runtime's optimiser, so that the folded weights, and every int8
golden after them, are the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper, version_converter

from topfive.errors import OptimizeError
from topfive.graph import OPSET, Graph, attributes, node_label
from topfive.quantize.replace_gemm import replace_gemm

__all__ = ["PASSES", "STAGE", "optimize"]

OLDEST_READABLE = 7


def optimize(model: onnx.ModelProto, passes: Sequence[str] | None = None) -> onnx.ModelProto:
    """Convert to opset 17, name every node, and run passes of PASSES in that order (default: STAGE).

    Raises OptimizeError if the model cannot be converted. Float results change only by rounding.
    """
    graph = Graph(_convert(model))
    graph.nodes = [_named(node, i) for i, node in enumerate(graph.nodes)]
    for name in STAGE if passes is None else passes:
        PASSES[name](graph)
    return graph.to_model()


def _convert(model: onnx.ModelProto) -> onnx.ModelProto:
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= OPSET:
        return model
    if version < OLDEST_READABLE:
        raise OptimizeError(f"opset {version} is older than {OLDEST_READABLE}: export the model again")
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:
        raise OptimizeError(
            f"cannot convert opset {version} to {OPSET}: export the model with a newer opset",
            details=str(error),
        ) from error


def _named(node: onnx.NodeProto, index: int) -> onnx.NodeProto:
    if not node.name:
        node.name = f"{node.op_type}_{index}"
    return node


def _remove_passthrough(graph: Graph) -> None:
    """Remove Dropout (inference) and Identity, joining their input to their readers."""
    alias: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            node.input[i] = alias.get(name, name)
        passes = node.op_type in ("Dropout", "Identity") and not any(node.output[1:])
        if passes and node.output[0] not in graph.output_names:
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    graph.nodes = kept


def _fold_batch_norm(graph: Graph) -> None:
    """Conv followed only by BatchNormalization: scale the weights, in float64 (Jacob et al. 2018, 3.2)."""
    producers, consumers = graph.producers(), graph.consumers()
    folded = set()
    for node in graph.nodes:
        if node.op_type != "BatchNormalization" or any(node.output[1:]):
            continue
        conv = producers.get(node.input[0])
        parameters = [graph.constants.get(name) for name in node.input[1:5]]
        foldable = (
            conv is not None
            and conv.op_type == "Conv"
            and graph.sole_consumer(node.input[0], consumers) is node
            and conv.input[1] in graph.constants
            and all(p is not None for p in parameters)
        )
        if not foldable or conv is None:
            continue
        gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
        factor = gamma / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        weights = graph.constants[conv.input[1]].astype(np.float64)
        bias = (
            graph.constants[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else np.zeros_like(mean)
        )
        new_weights = weights * factor.reshape(-1, *[1] * (weights.ndim - 1))
        new_bias = (bias - mean) * factor + beta
        del conv.input[1:]
        conv.input.append(graph.constant(f"{conv.name}.folded_weight", new_weights.astype(np.float32)))
        conv.input.append(graph.constant(f"{conv.name}.folded_bias", new_bias.astype(np.float32)))
        conv.output[0] = node.output[0]
        folded.add(id(node))
    graph.nodes = [n for n in graph.nodes if id(n) not in folded]


def _constants(graph: Graph) -> None:
    """Make Constant nodes initialisers, no initialiser an input, and leave out those that nothing reads.

    A Graph is read and written that way: there is nothing left to do.
    """


def _sum_to_add(graph: Graph) -> None:
    for i, node in enumerate(graph.nodes):
        if node.op_type == "Sum" and len(node.input) == 2:
            graph.nodes[i] = helper.make_node("Add", node.input, node.output, name=node.name)
        elif node.op_type == "BatchNormalization" and attributes(node).get("training_mode"):
            raise OptimizeError(f"{node_label(node)} is in training mode: export the model for inference")


STAGE = ("constants", "remove_passthrough", "fuse_bn_into_conv", "sum_to_add")
"""The passes of the optimize stage."""

PASSES: Mapping[str, Callable[[Graph], None]] = MappingProxyType(
    {
        "constants": _constants,
        "remove_passthrough": _remove_passthrough,
        "fuse_bn_into_conv": _fold_batch_norm,
        "replace_gemm": replace_gemm,
        "sum_to_add": _sum_to_add,
    }
)
"""Passes by name; each rewrites a graph of opset 17 in place."""
