"""What TensorRT gets of a float model: with its scale table (10.x, int8), or typed float16 (11.x)."""

from __future__ import annotations

import onnx

from topfive.errors import CompileError
from topfive.graph import Graph
from topfive.quantize.float16 import quantize_float16
from topfive.quantize.ranges import RangeTable, ranges_from_text, ranges_text
from topfive.quantize.scales.tensorrt_cache import cache_header, write_cache

__all__ = ["calibration_cache", "typed_float16", "with_ranges"]

METADATA = "topfive.tensorrt.ranges"


def with_ranges(model: onnx.ModelProto, table: RangeTable) -> onnx.ModelProto:
    """The float model as it is, with the table in its metadata."""
    onnx.helper.set_model_props(model, {METADATA: ranges_text(table)})
    return model


def calibration_cache(model: onnx.ModelProto, version: str) -> tuple[bytes, str]:
    """(the calibration cache, the calibration method) of a model from `with_ranges`.

    version: TensorRT's; the cache's header names it, as TensorRT reads only its own. Raises CompileError for
    a model without a table.
    """
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA]
    if not texts:
        raise CompileError("the model has no calibrated ranges: calibrate it first")
    table = ranges_from_text(texts[0], METADATA)
    graph = Graph(model)
    order = [*graph.input_names, *(name for node in graph.nodes for name in node.output)]
    header = cache_header(table.method, ".".join(version.partition("+")[0].split(".")[:3]))
    return write_cache(table, header=header, order=order), table.method


def typed_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16 with float32 input and output, its nodes in topological order.

    The converter adds its casts at the end; ONNX demands an order, and ONNX Runtime alone does not mind.
    """
    made = quantize_float16(model)
    graph = made.graph
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise CompileError(f"the float16 model has a loop at {waiting[0].name!r}")
        ordered += ready
        known.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    del graph.node[:]
    graph.node.extend(ordered)
    return made
