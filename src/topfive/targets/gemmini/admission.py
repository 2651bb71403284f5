"""Which already quantised models Gemmini can run as they are, and why not, node by node.

The accelerator multiplies int8 codes: zero points must be 0, and one scale serves a whole tensor, because the
accumulator's store multiplies everything by one number (systolic provider of onnxruntime-riscv: "can only
handle zero offset"). The weights of a depthwise convolution may have a scale a channel, as in quant mode
int8_dw: its channels are stored one after another.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx

from topfive.errors import CompileError
from topfive.graph import Graph, attributes, node_label
from topfive.targets.gemmini.qdq import fuse_qdq

__all__ = ["admit", "refusals"]

# Operator to the (what, scale input, zero point input) of its quantised tensors.
OPERANDS = {
    "QuantizeLinear": (("output", 1, 2),),
    "DequantizeLinear": (("input", 1, 2),),
    "QLinearConv": (("input", 1, 2), ("weights", 4, 5), ("output", 6, 7)),
    "QLinearMatMul": (("left", 1, 2), ("right", 4, 5), ("output", 6, 7)),
    "QLinearAdd": (("left", 1, 2), ("right", 4, 5), ("output", 6, 7)),
    "QLinearLeakyRelu": (("input", 1, 2), ("output", 3, 4)),
    "QLinearSigmoid": (("input", 1, 2), ("output", 3, 4)),
}
# Operands whose scale may be one a channel in depthwise convolutions.
PER_CHANNEL = {("QLinearConv", "weights"), ("DequantizeLinear", "input")}
SHOWN = 12


def refusals(graph: Graph) -> list[tuple[str, str]]:
    """(node, reason) for every quantised node that is not Gemmini's arithmetic; empty if it can run."""
    found = []
    for node in graph.nodes:
        if node.op_type.startswith("QLinear") and node.op_type not in (*OPERANDS, "QLinearRelu"):
            found.append((node_label(node), "no int8 form of this operator on Gemmini"))
        if node.op_type == "DequantizeLinear" and _is_int32(node.input[0], graph):
            continue
        for what, scale, zero in OPERANDS.get(node.op_type, ()):
            reason = _operand_refusal(node, graph, what, scale, zero)
            if reason:
                found.append((node_label(node), f"{what}: {reason}"))
    return found


def _is_int32(name: str, graph: Graph) -> bool:
    """Whether a tensor is an int32 constant: a bias, whose scales Gemmini never sees."""
    return name in graph.constants and graph.constants[name].dtype == np.int32


def _depthwise_channels(node: onnx.NodeProto, graph: Graph) -> int:
    """Channels of the depthwise convolution whose weights a node reads or dequantises; 1 for others."""
    weights, conv = node.input[0], node
    if node.op_type == "QLinearConv":
        weights = node.input[3]
    else:
        reader = graph.sole_consumer(node.output[0], graph.consumers())
        if reader is None or attributes(node).get("axis", 1) != 0:
            return 1
        conv = reader
    shape = graph.constants[weights].shape if weights in graph.constants else ()
    depthwise = len(shape) == 4 and shape[1] == 1 and shape[0] == attributes(conv).get("group", 1)
    return int(shape[0]) if depthwise and conv.op_type in ("QLinearConv", "Conv") else 1


def _operand_refusal(node: onnx.NodeProto, graph: Graph, what: str, scale_at: int, zero_at: int) -> str:
    scale = graph.constants.get(node.input[scale_at])
    zero_name = node.input[zero_at] if len(node.input) > zero_at else ""
    zero = graph.constants.get(zero_name)
    if scale is None or (zero_name and zero is None):
        return "scale or zero point is computed at run time, not constant"
    per_channel = scale.size != 1 and (node.op_type, what) in PER_CHANNEL
    if scale.size != (_depthwise_channels(node, graph) if per_channel else 1):
        return f"per-channel scales ({scale.size} values); one scale a tensor is needed"
    wrong = scale[~(np.isfinite(scale) & (scale > 0))]
    if wrong.size:
        return f"scale {wrong.ravel()[0]} is not positive and finite"
    if zero is None or zero.dtype != np.int8:
        kind = "uint8" if zero is None else f"{zero.dtype} with zero point {zero.ravel()[0]}"
        return f"codes are {kind}; int8 with zero point 0 is needed"
    if zero.any():
        return f"zero point {np.unique(zero).tolist()[0]}; 0 is needed (asymmetric)"
    return ""


def admit(model: onnx.ModelProto) -> Graph:
    """The model as a graph of integer operators; CompileError lists each refused node with its reason.

    Both forms that models come in are taken: integer operators (QLinearConv ...), and float operators between
    DequantizeLinear and QuantizeLinear, which are fused to the same integer operators.
    """
    graph = Graph(model)
    total = sum(node.op_type in OPERANDS or node.op_type.startswith("QLinear") for node in graph.nodes)
    if not total:
        raise CompileError("the model holds no quantised operator: choose quant mode int8 for a float model")
    found = refusals(graph)
    if not found:
        fuse_qdq(graph)
        return graph
    lines = [f"  {label}: {reason}" for label, reason in found[:SHOWN]]
    if len(found) > SHOWN:
        kinds = Counter(reason.split(":")[0].split("(")[0].strip() for _, reason in found[SHOWN:])
        rest = ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common())
        lines.append(f"  and {len(found) - SHOWN} more ({rest})")
    refused = len({label for label, _ in found})
    raise CompileError(
        f"{refused} of {total} quantised nodes are not Gemmini's arithmetic: "
        "quantise the float model with quant mode int8 instead",
        details="\n".join(lines),
    )
