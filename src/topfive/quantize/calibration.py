"""Calibration: running the float model over pictures and keeping each activation's range.

Only two numbers a tensor are kept (ReduceMin and ReduceMax run inside the graph), so memory does not grow
with the number of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from topfive.errors import CalibrateError
from topfive.graph import Graph
from topfive.quantize.ranges import RangeTable
from topfive.sessions import open_session

__all__ = ["calibrated_tensors", "minmax"]

# Operators whose inputs, and operators whose outputs, the int8 rewriting asks a range of.
INPUT_RANGES = {"Conv": 1, "MatMul": 2, "Gemm": 1, "MaxPool": 1, "AveragePool": 1, "Add": 2}
OUTPUT_RANGES = {
    "Conv",
    "MatMul",
    "MaxPool",
    "AveragePool",
    "Add",
    "Mul",
    "LeakyRelu",
    "Sigmoid",
    "Relu",
    "Clip",
}


def calibrated_tensors(graph: Graph) -> list[str]:
    """The float activations whose ranges the int8 rewriting may need, in graph order."""
    wanted: dict[str, None] = {}
    for node in graph.nodes:
        for name in node.input[: INPUT_RANGES.get(node.op_type, 0)]:
            wanted.setdefault(name)
        if node.op_type in OUTPUT_RANGES:
            wanted.setdefault(node.output[0])
    types = _float_tensors(graph)
    return [name for name in wanted if name and name not in graph.constants and name in types]


def _float_tensors(graph: Graph) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(graph.to_model())
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def _with_reductions(graph: Graph, tensors: list[str]) -> onnx.ModelProto:
    """The model with one extra output: [2 * tensors] minima and maxima, interleaved."""
    model = graph.to_model()
    parts = []
    for i, name in enumerate(tensors):
        for op in ("ReduceMin", "ReduceMax"):
            flat, reduced = f"topfive_{op}_{i}_flat", f"topfive_{op}_{i}"
            shape = f"topfive_shape_{op}_{i}"
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), shape))
            model.graph.node.append(helper.make_node("Reshape", [name, shape], [flat]))
            model.graph.node.append(helper.make_node(op, [flat], [reduced], keepdims=1))
            parts.append(reduced)
    model.graph.node.append(helper.make_node("Concat", parts, ["topfive_ranges"], axis=0))
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("topfive_ranges", TensorProto.FLOAT, [2 * len(tensors)])
    )
    return model


def minmax(
    model: onnx.ModelProto,
    batches: Iterable[NDArray[np.float32]],
    *,
    progress: Callable[[int], None] | None = None,
) -> RangeTable:
    """Ranges by minimum and maximum over all batches.

    model: float ONNX with one input. batches: arrays in the model's input layout, float32. Raises
    CalibrateError when there are no batches or an activation is not finite.
    """
    graph = Graph(model)
    tensors = calibrated_tensors(graph)
    # Unoptimised, as onnxruntime's own calibrators run: fused kernels round differently.
    session = open_session(_with_reductions(graph, tensors).SerializeToString(), optimise=False)
    low = np.full(len(tensors), np.inf, np.float32)
    high = np.full(len(tensors), -np.inf, np.float32)
    count = 0
    for batch in batches:
        (pairs,) = session.run(None, {graph.input_names[0]: batch})
        if not np.isfinite(pairs).all():
            bad = tensors[int(np.flatnonzero(~np.isfinite(pairs))[0]) // 2]
            raise CalibrateError(f"activation {bad!r} is not finite after {count} calibration pictures")
        low, high = np.minimum(low, pairs[0::2]), np.maximum(high, pairs[1::2])
        count += len(batch)
        if progress:
            progress(count)
    if not count:
        raise CalibrateError("the calibration set is empty: name a folder with pictures in [calibration]")
    ranges = {t: (float(a), float(b)) for t, a, b in zip(tensors, low, high, strict=True)}
    return RangeTable(ranges, "minmax", {"pictures": count})
