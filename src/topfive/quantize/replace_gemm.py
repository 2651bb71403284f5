"""Gemm as MatMul and Add, which the Gemmini imagenet runner can quantise where it leaves Gemm in float."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from topfive.graph import Graph, attributes

__all__ = ["replace_gemm"]


def replace_gemm(graph: Graph) -> None:
    """Turn each Gemm with alpha = beta = 1 and transA = 0 into MatMul, and Add if it has a bias.

    A transposed constant weight (transB) is transposed here; a Gemm whose transposed weight is not constant
    stays.
    """
    graph.nodes = [new for node in graph.nodes for new in _replaced(graph, node)]


def _replaced(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    given = attributes(node)
    plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
    transposed = bool(given.get("transB", 0))
    if node.op_type != "Gemm" or not plain or (transposed and node.input[1] not in graph.constants):
        return [node]
    name, weight, output = node.name, node.input[1], node.output[0]  # a node's name need not be unique
    if transposed:
        weight = graph.constant(
            f"{output}.transposed_weight", np.ascontiguousarray(graph.constants[weight].T)
        )
    if len(node.input) < 3 or not node.input[2]:
        return [helper.make_node("MatMul", [node.input[0], weight], node.output, name=name)]
    product = f"{output}.product"
    return [
        helper.make_node("MatMul", [node.input[0], weight], [product], name=name),
        helper.make_node("Add", [product, node.input[2]], node.output, name=f"{name}.bias"),
    ]
