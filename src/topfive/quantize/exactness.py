"""Which int8 tensors are the same bits on every machine.

A tensor is exact when every operator before it is: integer operators are, and so are single IEEE operations
on floats (quantising, adding, scaling). Sums of floats (Gemm, averages) and library functions (softmax,
sigmoid) are not: their last bit depends on the processor.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from topfive.graph import Graph
from topfive.quantize.rewriter import DATA_MOVEMENT

__all__ = ["exact_int8_tensors"]

INTEGER = {"QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearLeakyRelu", "QLinearRelu"}
SINGLE_OPERATIONS = {"QuantizeLinear", "DequantizeLinear", "Add", "Mul", "Sub", "Relu", "Clip", "LeakyRelu"}
SELECTION = {
    "MaxPool",
    "Concat",
    "Pad",
    "Slice",
    "Split",
    "Gather",
    "Shape",
    "Constant",
    "Cast",
    "Max",
    "Min",
}
EXACT = INTEGER | SINGLE_OPERATIONS | SELECTION | DATA_MOVEMENT


def exact_int8_tensors(model: onnx.ModelProto) -> list[str]:
    """The last exact int8 tensors of an int8 graph: those with no exact int8 tensor after them.

    Their bits decide all others', so hashing them is enough. In graph order.
    """
    graph = Graph(model)
    exact = set(graph.input_names) | set(graph.constants) | {""}
    int8 = {i.name for i in graph.inputs if i.type.tensor_type.elem_type == TensorProto.INT8}
    parents: dict[str, set[str]] = {}
    order = []
    for node in graph.nodes:
        if node.op_type not in EXACT or not all(name in exact for name in node.input):
            continue
        # The nearest int8 tensors before this node, through any float ones.
        sources: set[str] = set()
        for name in node.input:
            sources |= {name} if name in int8 else parents.get(name, set())
        makes_int8 = _makes_int8(node, graph, int8)
        for name in node.output:
            exact.add(name)
            parents[name] = sources
            if makes_int8:
                int8.add(name)
                order.append(name)
    before = {name for made in order for name in parents[made]}
    return [name for name in order if name not in before]


def _makes_int8(node: onnx.NodeProto, graph: Graph, int8: set[str]) -> bool:
    if node.op_type == "QuantizeLinear":
        return len(node.input) > 2 and graph.constants[node.input[2]].dtype.name == "int8"
    if node.op_type in ("DequantizeLinear", "Shape"):
        return False
    return node.op_type in INTEGER or node.input[0] in int8
