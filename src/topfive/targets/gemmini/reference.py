"""Running an int8 graph node by node in plain numpy: what the fast form must equal, bit for bit.

Integer operators are computed by `arithmetic`; the rest (float operators, table look-ups, data movement) run
as one-node models of ONNX Runtime, which do the same to both forms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from topfive.graph import Graph, attributes, node_label, window_pads
from topfive.sessions import open_session
from topfive.targets.gemmini import arithmetic

__all__ = ["Mismatch", "mismatches", "run_node", "run_reference"]

Array = NDArray[Any]
Values = Mapping[str, Array]
# A padding code that changes no maximum.
NEVER_THE_MOST = -128


@dataclass(frozen=True)
class Mismatch:
    """A node whose observed int8 result is not what the numpy form computes from the same inputs."""

    node: str
    tensor: str
    wrong: int
    total: int
    first: tuple[int, ...]
    expected: int
    observed: int

    def __str__(self) -> str:
        return (
            f"{self.node}: {self.wrong} of {self.total} codes differ, first at {list(self.first)}: "
            f"expected {self.expected}, observed {self.observed}"
        )


def _nhwc(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _nchw(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _multiplier(x_scale: Array, w_scale: Array, y_scale: Array) -> NDArray[np.float32]:
    """The accumulator's scale `float32(x * w) / y`, each step rounded to float32 (systolic provider)."""
    product = np.asarray(x_scale, np.float32) * np.asarray(w_scale, np.float32)
    return np.asarray(product / np.asarray(y_scale, np.float32), np.float32)


def _spatial(attrs: Mapping[str, Any], kernel: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """Stride, dilation and (top, left, bottom, right) padding of a convolution or pool."""
    stride = tuple(attrs.get("strides", (1, 1)))
    dilation = tuple(attrs.get("dilations", (1, 1)))
    return {"stride": stride, "dilation": dilation, "padding": window_pads(attrs, size, kernel)}


def _conv(node: onnx.NodeProto, values: list[Array]) -> Array:
    x, x_scale, _, w, w_scale, _, y_scale, _, *bias = values
    attrs = attributes(node)
    groups = attrs.get("group", 1)
    scale = _multiplier(x_scale, w_scale, y_scale)
    where = _spatial(attrs, w.shape[2:], x.shape[2:])
    b = bias[0] if bias else None
    if groups == x.shape[1] == w.shape[0] and w.shape[1] == 1:
        y = arithmetic.depthwise_conv(_nhwc(x), w[:, 0], b, scale=scale, **where)
    else:
        y = arithmetic.conv(_nhwc(x), w.transpose(2, 3, 1, 0), b, scale=scale, groups=groups, **where)
    return _nchw(y)


def _matmul(node: onnx.NodeProto, values: list[Array]) -> Array:
    a, a_scale, _, b, b_scale, _, y_scale, _ = values
    return arithmetic.matmul(a, b, scale=_multiplier(a_scale, b_scale, y_scale))


def _add(node: onnx.NodeProto, values: list[Array]) -> Array:
    a, a_scale, _, b, b_scale, _, y_scale, _ = values
    return arithmetic.resadd(
        a, b, A_scale=np.float32(a_scale / y_scale), B_scale=np.float32(b_scale / y_scale)
    )


def _relu(_: onnx.NodeProto, values: list[Array]) -> Array:
    return np.maximum(values[0], np.int8(0))


def _clip(_: onnx.NodeProto, values: list[Array]) -> Array:
    low = values[1] if len(values) > 1 and values[1].size else np.int8(-128)
    high = values[2] if len(values) > 2 and values[2].size else np.int8(127)
    return np.clip(values[0], low, high)


def _max_pool(node: onnx.NodeProto, values: list[Array]) -> Array:
    """Padded positions count as 0."""
    return _pooled(node, values, 0)


def _pooled(node: onnx.NodeProto, values: list[Array], padding_code: int) -> Array:
    attrs = attributes(node)
    kernel = tuple(attrs["kernel_shape"])
    where = _spatial(attrs, kernel, values[0].shape[2:])
    if attrs.get("ceil_mode", 0) or where["dilation"] != (1, 1):
        return _run_onnx(node, values)
    window = kernel, where["stride"], where["padding"]
    return _nchw(arithmetic.max_pool(_nhwc(values[0]), *window, padding_code=padding_code))


INTEGER: dict[str, Callable[[onnx.NodeProto, list[Array]], Array]] = {
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QLinearAdd": _add,
    "QLinearRelu": _relu,
    "Relu": _relu,
    "Clip": _clip,
    "MaxPool": _max_pool,
}


def run_node(
    node: onnx.NodeProto,
    values: list[Array],
    opset: int = 17,
    *,
    zero_padded: Collection[str] | None = None,
) -> list[Array]:
    """One node's outputs: numpy for operators on int8 codes, ONNX Runtime for the rest.

    values: one array an input, an empty array where an optional input is absent. zero_padded: as of
    `run_reference`.
    """
    rule = INTEGER.get(node.op_type)
    if rule is not None and values[0].dtype == np.int8:
        if node.op_type == "MaxPool" and zero_padded is not None and node.output[0] not in zero_padded:
            return [_pooled(node, values, NEVER_THE_MOST)]
        return [rule(node, values)]
    return _run_onnx_all(node, values, opset)


def _run_onnx(node: onnx.NodeProto, values: list[Array]) -> Array:
    return _run_onnx_all(node, values, 17)[0]


def _run_onnx_all(node: onnx.NodeProto, values: list[Array], opset: int) -> list[Array]:
    given = {name: value for name, value in zip(node.input, values, strict=True) if name}
    tensors = [numpy_helper.from_array(np.asarray(v, order="C"), k) for k, v in given.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "one_node", [], outputs, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session: ort.InferenceSession = open_session(model.SerializeToString(), threads=1, optimise=False)
    return list(session.run(None, {}))


def _steps(
    graph: Graph, values: dict[str, Array], zero_padded: Collection[str] | None
) -> Iterator[tuple[onnx.NodeProto, list[Array]]]:
    empty = np.empty(0, np.int8)
    for node in graph.nodes:
        arrays = [
            graph.constants.get(name, values.get(name, empty)) if name else empty for name in node.input
        ]
        yield node, run_node(node, arrays, graph.opset, zero_padded=zero_padded)


def run_reference(
    model: onnx.ModelProto, batch: Array, *, zero_padded: Collection[str] | None = None
) -> dict[str, Array]:
    """Every tensor of an int8 graph for one batch, in running order, int8 tensors as int8.

    batch: the model's input layout and dtype. zero_padded: outputs of the int8 max pools in which padded
    positions count as 0 (`execution.plan`); the others ignore padding. None: they count as 0 in all.
    """
    graph = Graph(model)
    values: dict[str, Array] = {graph.input_names[0]: batch}
    for node, results in _steps(graph, values, zero_padded):
        values.update(zip([o for o in node.output if o], results, strict=True))
    return values


def mismatches(
    model: onnx.ModelProto,
    observed: Values,
    batch: Array,
    *,
    zero_padded: Collection[str] | None = None,
) -> Iterator[Mismatch]:
    """Nodes whose observed int8 output is not the numpy form of their observed inputs, in running order.

    observed: every tensor of the same graph as another implementation computed it (`Runner.tensors`).
    zero_padded: as of `run_reference`.
    """
    graph = Graph(model)
    values = {**observed, graph.input_names[0]: batch}
    for node, results in _steps(graph, values, zero_padded):
        for name, expected in zip([o for o in node.output if o], results, strict=True):
            seen = values.get(name)
            if seen is None or expected.dtype != np.int8:
                continue
            wrong = np.argwhere(expected != seen)
            if len(wrong):
                at = tuple(int(i) for i in wrong[0])
                counts = len(wrong), int(expected.size)
                yield Mismatch(node_label(node), name, *counts, at, int(expected[at]), int(seen[at]))
