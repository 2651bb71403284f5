"""Two artifacts of one model, layer by layer: where they part, and how far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import topfive
from topfive.errors import RunError
from topfive.graph import Graph, attributes
from topfive.targets.base import Artifact
from topfive.targets.onnxruntime_runner import MODEL_FILE

__all__ = [
    "CodeDifference",
    "LayerDifference",
    "LayerQuality",
    "accumulator",
    "code_differences",
    "compare_layers",
    "quality",
]

Array = NDArray[Any]
SUFFIX = "_quantized"


@dataclass(frozen=True)
class LayerQuality:
    """How close one tensor is to another: SQNR in dB, cosine, largest absolute error."""

    tensor: str
    sqnr: float
    cosine: float
    max_error: float


@dataclass(frozen=True)
class CodeDifference:
    """The first int8 code that differs between two integer artifacts, with its int32 accumulator if known.

    node: operator and name of what computes the tensor in the second artifact; "" where nobody looked.
    """

    tensor: str
    wrong: int
    total: int
    index: tuple[int, ...]
    left: int
    right: int
    accumulator: int | None
    node: str = ""


@dataclass(frozen=True)
class LayerDifference:
    """Every tensor that both artifacts show, in running order, and the first int8 code that differs."""

    layers: tuple[LayerQuality, ...]
    first_code: CodeDifference | None
    compared_codes: int


def quality(tensor: str, exact: Array, approximate: Array) -> LayerQuality:
    """Compare `approximate` with `exact`, any shape.

    SQNR = 10 log10(sum exact**2 / sum (exact - approximate)**2); infinite when they are equal.
    """
    a, b = exact.astype(np.float64).ravel(), approximate.astype(np.float64).ravel()
    error = float(np.square(a - b).sum())
    signal = float(np.square(a).sum())
    norms = np.sqrt(signal) * np.sqrt(float(np.square(b).sum()))
    sqnr = np.inf if error == 0 else 10 * np.log10(signal / error) if signal else -np.inf
    cosine = float(a @ b) / norms if norms else float(error == 0)
    return LayerQuality(tensor, float(sqnr), cosine, float(np.abs(a - b).max(initial=0.0)))


def compare_layers(reference: Artifact, other: Artifact, batch: Array) -> LayerDifference:
    """Run both on one batch and compare every tensor of the same name, int8 ones by their real values.

    batch: in the model's input layout and dtype. Raises RunError when the artifacts share no tensor.
    """
    with topfive.open(reference) as left_runner, topfive.open(other) as right_runner:
        left, right = left_runner.tensors(batch), right_runner.tensors(batch)
    left_values, right_values = _real_values(reference, left), _real_values(other, right)
    shared = [
        name
        for name, value in right_values.items()
        if name in left_values and left_values[name].shape == value.shape
    ]
    if not shared:
        raise RunError(
            f"{reference.target} {reference.quant} and {other.target} {other.quant} of {other.model} "
            "share no tensor"
        )
    layers = tuple(quality(name, left_values[name], right_values[name]) for name in shared)
    return LayerDifference(layers, *_first_code(other, left, right, batch))


def _graph(artifact: Artifact) -> Graph:
    """The graph whose constants hold the scales: the int8 one where the target keeps it."""
    from topfive.targets.gemmini.target import INT8_FILE

    int8 = artifact.path / INT8_FILE
    return Graph(onnx.load(int8 if int8.is_file() else artifact.path / MODEL_FILE))


def _real_values(artifact: Artifact, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Float tensors by name; `x_quantized` becomes `x`, its codes times its scale."""
    constants = _graph(artifact).constants
    found: dict[str, Array] = {}
    for name, value in tensors.items():
        if value.dtype == np.int8:
            scale = constants.get(f"{name}.scale")
            if scale is not None:
                found[name.removesuffix(SUFFIX)] = value.astype(np.float32) * scale
        elif value.dtype.kind == "f":
            found.setdefault(name, value)
    return found


def _first_code(
    artifact: Artifact, left: Mapping[str, Array], right: Mapping[str, Array], batch: Array
) -> tuple[CodeDifference | None, int]:
    compared = sum(right[name].size for name in _both_int8(left, right))
    first = next(code_differences(left, right), None)
    if first is None:
        return None, compared
    graph = _graph(artifact)
    acc = accumulator(graph, first.tensor, {**right, graph.input_names[0]: batch}, first.index)
    node = graph.producers().get(first.tensor)
    named = f"{node.op_type} {node.name}".strip() if node is not None else ""
    return replace(first, accumulator=acc, node=named), compared


def _both_int8(left: Mapping[str, Array], right: Mapping[str, Array]) -> Iterator[str]:
    for name, codes in right.items():
        other = left.get(name)
        same = other is not None and other.dtype == codes.dtype == np.int8 and other.shape == codes.shape
        if same:
            yield name


def code_differences(left: Mapping[str, Array], right: Mapping[str, Array]) -> Iterator[CodeDifference]:
    """Every int8 tensor whose codes differ, in the order of `right`, accumulators left out.

    left, right: tensors by name, as `Runner.tensors` gives them.
    """
    for name in _both_int8(left, right):
        wrong = np.argwhere(left[name] != right[name])
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            codes = int(left[name][at]), int(right[name][at])
            yield CodeDifference(name, len(wrong), int(right[name].size), at, *codes, None)


def accumulator(graph: Graph, tensor: str, values: Mapping[str, Array], index: tuple[int, ...]) -> int | None:
    """The int32 sum behind one output code of a QLinearConv or QLinearMatMul, bias included; None elsewhere.

    values: every tensor by name, int8 codes as int8. index: of the code, [N, C, H, W] or [..., I, J].
    """
    node = graph.producers().get(tensor)
    if node is None or node.op_type not in ("QLinearConv", "QLinearMatMul"):
        return None
    read = {**values, **graph.constants}
    x, w = read[node.input[0]].astype(np.int64), read[node.input[3]].astype(np.int64)
    if node.op_type == "QLinearMatMul":
        i, j = index[-2:]
        return int(_matrix(x, index[:-2])[i] @ _matrix(w, index[:-2])[:, j])
    bias = int(read[node.input[8]][index[1]]) if len(node.input) > 8 else 0
    return bias + _window_sum(x, w, attributes(node), index)


def _matrix(x: Array, batch: tuple[int, ...]) -> Array:
    """The matrix of a stack that a batch index selects; a plain matrix serves every index."""
    matrix: Array = x[batch[len(batch) - (x.ndim - 2) :]]
    return matrix


def _window_sum(x: Array, w: Array, attrs: Mapping[str, Any], index: tuple[int, ...]) -> int:
    n, channel, row, column = index
    top, left, bottom, right = attrs.get("pads", (0, 0, 0, 0))
    strides, dilations = attrs.get("strides", (1, 1)), attrs.get("dilations", (1, 1))
    padded = np.pad(x[n], ((0, 0), (top, bottom), (left, right)))
    depth = w.shape[1]
    first = channel // (w.shape[0] // attrs.get("group", 1)) * depth
    rows = slice(row * strides[0], row * strides[0] + (w.shape[2] - 1) * dilations[0] + 1, dilations[0])
    columns = slice(
        column * strides[1], column * strides[1] + (w.shape[3] - 1) * dilations[1] + 1, dilations[1]
    )
    return int((padded[first : first + depth, rows, columns] * w[channel]).sum())
