"""How a convolution's time divides among the steps that the runner makes of it: im2col, bias splat, matmul.

ONNX Runtime's kernel does them in one go, so its profile cannot tell them apart. Each step is timed alone
here, on one thread, at the layer's own sizes: im2col and bias splat in numpy, the product by ONNX Runtime.
The kernel's measured time is divided in that proportion. The sum is measured, the division is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from topfive.graph import Graph, attributes
from topfive.sessions import open_session
from topfive.targets.gemmini.execution import PlannedNode, SubAction

__all__ = ["StepTimes", "divided", "im2col", "product"]

# The shortest of so many runs counts; long steps run less often.
REPEATS, ENOUGH = 7, 50_000.0
Sizes = tuple[int, ...]
# The padded picture (height, width, channels), kernel, strides, dilations.
Geometry = tuple[Sizes, Sizes, Sizes, Sizes]


class StepTimes:
    """Times of steps alone, in microseconds, measured when they are first asked for."""

    def __init__(self, shown: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
        self._nodes = {node.name or node.output[0]: node for node in Graph(shown).nodes}
        self._shapes = shapes

    def of(self, planned: PlannedNode) -> dict[str, float]:
        """Microseconds of each step of a node, done once (one picture, one group).

        {} if it has one step, or is not a convolution over two dimensions.
        """
        node = self._nodes[planned.name]
        x, w = (self._shapes.get(node.input[at], ()) for at in (0, 3))
        if len(planned.steps) < 2 or len(x) != 4 or len(w) != 4:
            return {}
        channels, pixels, depth = next(step.dimensions for step in planned.steps if step.dimensions)
        geometry = _geometry(node, x, w)
        return {step.name: _alone(step.name, channels, pixels, depth, geometry) for step in planned.steps}


def divided(duration: float, steps: Sequence[SubAction], alone: Mapping[str, float]) -> list[float]:
    """A duration cut into the steps' shares, which add up to it; one step takes it all."""
    weights = [step.count * alone[step.name] if alone else 1.0 for step in steps]
    total = sum(weights)
    ends = [duration * sum(weights[: place + 1]) / total for place in range(len(steps))]
    ends[-1] = duration
    return [end - begin for begin, end in zip([0.0, *ends], ends, strict=False)]


def _geometry(node: onnx.NodeProto, x: Sequence[int], w: Sequence[int]) -> Geometry:
    found = attributes(node)
    channels = x[1] // int(found.get("group", 1))
    pads = tuple(found.get("pads", (0, 0, 0, 0)))
    picture = (x[2] + pads[0] + pads[2], x[3] + pads[1] + pads[3], channels)
    strides, dilations = tuple(found.get("strides", (1, 1))), tuple(found.get("dilations", (1, 1)))
    return picture, tuple(w[2:]), strides, dilations


@cache
def _alone(step: str, channels: int, pixels: int, depth: int, geometry: Geometry) -> float:
    """Microseconds of a step on one thread, on a picture already padded, values 1."""
    if step == "im2col":
        picture, kernel, strides, dilations = geometry
        x = np.ones(picture, np.int8)
        return _shortest(lambda: im2col(x, kernel, strides, dilations))
    if step == "bias splat":
        bias = np.ones((1, channels), np.int32)
        return _shortest(lambda: np.repeat(bias, pixels, axis=0))
    session = open_session(product(channels, depth).SerializeToString(), threads=1)
    columns = np.ones((pixels, depth), np.uint8)
    return _shortest(lambda: session.run(None, {"columns": columns}))


def product(channels: int, depth: int) -> onnx.ModelProto:
    """Columns [pixels, depth] times constant weights [depth, channels], requantised: a QLinearMatMul."""
    constants = {
        "one": np.float32(1),
        "scale": np.float32(0.5),
        "zero": np.uint8(0),
        "weights": np.ones((depth, channels), np.int8),
        "weights_zero": np.int8(0),
    }
    inputs = ["columns", "one", "zero", "weights", "scale", "weights_zero", "one", "zero"]
    graph = helper.make_graph(
        [helper.make_node("QLinearMatMul", inputs, ["out"])],
        "product",
        [helper.make_tensor_value_info("columns", TensorProto.UINT8, ["pixels", depth])],
        [helper.make_tensor_value_info("out", TensorProto.UINT8, ["pixels", channels])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _shortest(work: Callable[[], Any]) -> float:
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < ENOUGH:
        start = time.perf_counter_ns()
        work()
        times.append((time.perf_counter_ns() - start) / 1000)
    return min(times)


def im2col(
    x: NDArray[np.int8], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> NDArray[np.int8]:
    """Columns [OH * OW, kh * kw * C] of a padded picture [H, W, C]: the layout in which ONNX Runtime runs."""
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(0, 1))
    windows = view[:: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    columns = np.ascontiguousarray(windows.transpose(0, 1, 3, 4, 2))
    return columns.reshape(-1, kernel[0] * kernel[1] * x.shape[2])
