"""What ONNX Runtime and onnxslim offer to make a float graph smaller, and whether two graphs agree.

ONNX Runtime's "basic" level folds constants and removes what is redundant; "extended" also fuses operators
into its own (com.microsoft FusedConv and the like), which only it can run and no quantiser here knows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from topfive.errors import OptimizeError
from topfive.graph import Graph
from topfive.sessions import open_session, session_options

__all__ = ["OTHER_PASSES", "TOLERANCE", "disagreement"]

TOLERANCE = 1e-4
"""Largest difference of outputs, as a share of the largest output, that rounding explains."""
BATCH = 2
SEED = 0


def _by_onnxruntime(level: ort.GraphOptimizationLevel, model: onnx.ModelProto) -> onnx.ModelProto:
    options = session_options(threads=1)
    options.graph_optimization_level = level
    with tempfile.TemporaryDirectory(prefix="topfive-optimize-") as folder:
        file = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(file)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        # Through a Graph, which leaves out the domains that ONNX Runtime declares and no node uses.
        return Graph(onnx.load(file)).to_model()


def _basic(model: onnx.ModelProto) -> onnx.ModelProto:
    return _by_onnxruntime(ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, model)


def _extended(model: onnx.ModelProto) -> onnx.ModelProto:
    return _by_onnxruntime(ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED, model)


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        import onnxslim
    except ImportError as error:
        raise OptimizeError(
            "pass 'onnxslim' needs the package onnxslim: pip install 'topfive[optimize]'"
        ) from error
    slimmed: onnx.ModelProto = onnxslim.slim(model)
    return slimmed


OTHER_PASSES: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = MappingProxyType(
    {"onnxruntime-basic": _basic, "onnxruntime-extended": _extended, "onnxslim": _slim}
)
"""Passes of other tools by name: a new model from a model."""


def disagreement(before: onnx.ModelProto, after: onnx.ModelProto) -> float:
    """The largest difference of two models' outputs on random input, as a share of the largest output.

    Inputs are standard normal (seeded), a batch of 2 where the first dimension is free; ONNX Runtime runs
    both without optimisations of its own. 0.0 for equal outputs; inf where only one gives NaN, or shapes
    differ. Raises OptimizeError for an input with another free dimension, or if a model does not run.
    """
    feed = _random_feed(Graph(before))
    expected, found = (_outputs(model, feed) for model in (before, after))
    worst = 0.0
    for left, right in zip(expected, found, strict=True):
        if left.shape != right.shape or not np.array_equal(np.isnan(left), np.isnan(right)):
            return float("inf")
        difference = np.nanmax(np.abs(left - right), initial=0.0)
        largest = np.nanmax(np.abs(left), initial=0.0)
        worst = max(worst, float(difference / largest) if largest else float(difference and np.inf))
    return worst


def _random_feed(graph: Graph) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(SEED)
    feed = {}
    for value in graph.inputs:
        dims = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        if None in dims[1:]:
            raise OptimizeError(
                f"input {value.name!r} has free dimensions besides the batch, so that the result cannot be "
                "checked: fix them, or leave the check out with --no-check"
            )
        shape = [BATCH if dim is None else dim for dim in dims]
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type or TensorProto.FLOAT)
        drawn = random.normal(size=shape) if kind.kind == "f" else random.integers(0, 128, shape)
        feed[value.name] = drawn.astype(kind)
    return feed


def _outputs(model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float64]]:
    try:
        session = open_session(model.SerializeToString(), optimise=False)
        return [np.asarray(value, np.float64) for value in session.run(None, dict(feed))]
    except Exception as error:
        raise OptimizeError(
            "ONNX Runtime cannot run the model, so that the result cannot be checked (--no-check leaves the "
            "check out)",
            details=str(error),
        ) from error
