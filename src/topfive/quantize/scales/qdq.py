"""Scale tables and Q/DQ models: a table written into a float model, and read back out of any Q/DQ model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.errors import CalibrateError, UnknownNameError
from topfive.graph import Graph
from topfive.quantize.qdq_placement import WEIGHTS, quantize_qdq
from topfive.quantize.ranges import RangeTable, ranges_from_text, ranges_text
from topfive.quantize.symmetric import activation_scale

__all__ = ["METADATA", "qdq_table", "with_table"]

METADATA = "topfive.ranges"
"""Key of the model's metadata that holds the whole table: tensors without a Q/DQ pair, the cache's form."""


def with_table(model: onnx.ModelProto, table: RangeTable, *, weights: str = "per_axis") -> onnx.ModelProto:
    """The optimised float model with a Q/DQ pair wherever TensorRT computes in int8, scales from the table.

    weights: "per_axis" or "per_tensor". Placement and formulas are those of `quantize_qdq`. The table is kept
    in the metadata, so that `qdq_table` gives it back whole. Raises QuantizeError when the table lacks a
    tensor that has to be quantised.
    """
    if weights not in WEIGHTS:
        raise UnknownNameError("granularity of weights", weights, WEIGHTS)
    made = quantize_qdq(model, table, placement="tensorrt", weights=weights)
    onnx.helper.set_model_props(made, {METADATA: ranges_text(table)})
    return made


def qdq_table(model: onnx.ModelProto, place: object) -> RangeTable:
    """The activation ranges that a Q/DQ model's scales and zero points stand for.

    A tensor's range is that of its codes: (min code - zero point) * scale to (max code - zero point) * scale;
    of int8 with zero point 0, plus and minus 127 times the scale. If `with_table` wrote the model, ranges
    that the graph still agrees with come from its metadata, with those of tensors that have no pair. place:
    where the model is from, for messages. Raises CalibrateError naming the tensor: a scale that is computed,
    not finite, not positive, or one of many (per channel); two scales of one tensor; no pair at all.
    """
    graph = Graph(model)
    found: dict[str, tuple[float, float]] = {}
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear" or node.input[0] in graph.constants:
            continue
        name, ends = node.input[0], _ends(node, graph, place)
        if found.setdefault(name, ends) != ends:
            raise CalibrateError(f"{place}: tensor {name!r} is quantised with two different scales")
    kept = _kept(model, place)
    if not found and kept is None:
        raise CalibrateError(f"{place}: has no QuantizeLinear of an activation: it is no Q/DQ model")
    if kept is None:
        return RangeTable(found, "qdq")
    ranges = dict(kept.ranges)
    for name, ends in found.items():
        if name not in ranges or _symmetric(activation_scale(*ranges[name])) != ends:
            ranges[name] = ends
    return RangeTable(ranges, kept.method, kept.provenance, kept.cache)


def _kept(model: onnx.ModelProto, place: object) -> RangeTable | None:
    for entry in model.metadata_props:
        if entry.key == METADATA:
            return ranges_from_text(entry.value, f"{place}, metadata {METADATA}")
    return None


def _symmetric(scale: np.float32) -> tuple[float, float]:
    bound = float(scale) * 127
    return -bound, bound


def _ends(node: onnx.NodeProto, graph: Graph, place: object) -> tuple[float, float]:
    """The range of one QuantizeLinear."""
    name = node.input[0]
    scale = _single(node.input[1], graph, f"{place}: the scale of {name!r}")
    if not (np.isfinite(scale) and scale > 0):
        raise CalibrateError(f"{place}: the scale of {name!r} is {scale}, not a positive number")
    zero: Any = np.uint8(0)
    if len(node.input) > 2 and node.input[2]:
        zero = _single(node.input[2], graph, f"{place}: the zero point of {name!r}")
    codes = np.iinfo(zero.dtype)
    if zero == 0 and codes.min < 0:
        return -float(scale) * codes.max, float(scale) * codes.max
    low, high = (float(scale) * (code - int(zero)) for code in (codes.min, codes.max))
    return low, high


def _single(name: str, graph: Graph, what: str) -> Any:
    values: NDArray[Any] | None = graph.constants.get(name)
    if values is None:
        raise CalibrateError(f"{what} is computed by the graph, not a constant")
    if values.size != 1:
        raise CalibrateError(f"{what} is {values.size} numbers, one a channel: activations have one")
    return values.reshape(-1)[0]
