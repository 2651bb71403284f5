"""Which tensors are calibrated, and sessions that give their ranges or their values."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from topfive.graph import Graph
from topfive.sessions import session_options

__all__ = ["RangeSession", "ValueSession", "calibrated_tensors", "clipped_tensors"]

Values = NDArray[np.float32]

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
    return {v.name for v in graph.inferred() if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def _with_reductions(graph: Graph, tensors: list[str]) -> onnx.ModelProto:
    """The model with one output: [2 * tensors] minima and maxima, interleaved."""
    model = graph.to_model()
    shape = "topfive_flat"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), shape))
    parts = []
    for i, name in enumerate(tensors):
        for op in ("ReduceMin", "ReduceMax"):
            # Flattened after the reduction: before it, the whole tensor would be copied.
            reduced, flat = f"topfive_{op}_{i}", f"topfive_{op}_{i}_flat"
            model.graph.node.append(helper.make_node(op, [name], [reduced], keepdims=1))
            model.graph.node.append(helper.make_node("Reshape", [reduced, shape], [flat]))
            parts.append(flat)
    model.graph.node.append(helper.make_node("Concat", parts, ["topfive_ranges"], axis=0))
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("topfive_ranges", TensorProto.FLOAT, [2 * len(tensors)])
    )
    return model


def _open(model: onnx.ModelProto, threads: int | None) -> ort.InferenceSession:
    # Unoptimised, as onnxruntime's own calibrators run: fused kernels round differently.
    options = session_options(optimise=False, threads=threads)
    # Its threads would spin, and cost processor time, while histograms are counted between two runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A planned layout keeps every activation of a batch in memory at once.
    options.enable_mem_pattern = False
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class RangeSession:
    """Runs a model and gives only the minimum and the maximum of each tensor, found inside the graph."""

    def __init__(self, graph: Graph, tensors: list[str], threads: int | None = None) -> None:
        self._clipped = clipped_tensors(graph, tensors)
        self._reduced = [i for i in range(len(tensors)) if i not in self._clipped]
        self._session = _open(_with_reductions(graph, [tensors[i] for i in self._reduced]), threads)
        self._input = graph.input_names[0]
        self._count = len(tensors)

    def run(self, batch: Values) -> tuple[Values, Values]:
        """(minima, maxima) [tensors] over one batch in the model's input layout."""
        (pairs,) = self._session.run(None, {self._input: batch})
        ends = np.empty((2, self._count), np.float32)
        ends[:, self._reduced] = pairs.reshape(-1, 2).T
        for i, (source, low, high) in self._clipped.items():
            ends[:, i] = np.clip(ends[:, source], low, high)
        return ends[0], ends[1]


def clipped_tensors(graph: Graph, tensors: list[str]) -> dict[int, tuple[int, np.float32, np.float32]]:
    """Tensors that are another, clipped to constants: index to (index of the other, low, high).

    Their ends and their histograms follow from the other's, exactly, for less than half of the work.
    """
    places = {name: i for i, name in enumerate(tensors)}
    found = {}
    for node in graph.nodes:
        bounds = _bounds(node, graph) if node.op_type in ("Relu", "Clip") else None
        if bounds and node.input[0] in places and node.output[0] in places:
            found[places[node.output[0]]] = (places[node.input[0]], *bounds)
    # In order of the graph, so that a clipped tensor of a clipped tensor comes after it.
    return found


def _bounds(node: onnx.NodeProto, graph: Graph) -> tuple[np.float32, np.float32] | None:
    """The bounds of a Relu or Clip; None if one is computed."""
    if node.op_type == "Relu":
        return np.float32(0), np.float32(np.inf)
    bounds = []
    for place, default in ((1, -np.inf), (2, np.inf)):
        name = node.input[place] if len(node.input) > place else ""
        if name and (name not in graph.constants or graph.constants[name].size != 1):
            return None
        bounds.append(np.float32(graph.constants[name].item() if name else default))
    return bounds[0], bounds[1]


class ValueSession:
    """Runs a model and gives the values of each tensor."""

    def __init__(self, graph: Graph, tensors: list[str], threads: int | None = None) -> None:
        self._input = graph.input_names[0]
        self._tensors = tensors
        # A graph input cannot be fetched safely as an output: the batch itself is used instead.
        self._fetched = [name for name in tensors if name != self._input]
        model = graph.to_model()
        del model.graph.output[:]
        model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self._fetched
        )
        self._session = _open(model, threads)

    def run(self, batch: Values) -> list[Values]:
        """The values of each tensor, flat, for one batch in the model's input layout."""
        fetched = dict(
            zip(self._fetched, self._session.run(self._fetched, {self._input: batch}), strict=True)
        )
        fetched[self._input] = batch
        return [fetched[name].reshape(-1) for name in self._tensors]
