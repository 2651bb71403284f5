"""Per-channel figures of a float model's activations over pictures, reduced inside the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from topfive.errors import CalibrateError
from topfive.graph import Graph
from topfive.quantize.passes.batches import batches
from topfive.sessions import open_session

__all__ = ["ChannelStatistics", "channel_statistics"]

Floats = NDArray[np.float64]
REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceSumSquare")


@dataclass(frozen=True)
class ChannelStatistics:
    """Of one tensor [N, C, H, W]: each [C] over all pictures and pixels."""

    low: Floats
    high: Floats
    mean_square: Floats

    @property
    def largest(self) -> Floats:
        """Largest absolute value of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


def channel_statistics(
    graph: Graph, tensors: Sequence[str], pictures: NDArray[np.float32]
) -> Mapping[str, ChannelStatistics]:
    """Statistics of four-dimensional tensors of a float model.

    tensors: names, the model's input allowed. pictures: [N, C, H, W] float32, the model's input layout.
    Raises CalibrateError when there are no pictures or an activation is not finite.
    """
    wanted = list(dict.fromkeys(tensors))
    session = open_session(_with_reductions(graph, wanted).SerializeToString(), optimise=False)
    lows: dict[str, list[Floats]] = {name: [] for name in wanted}
    highs: dict[str, list[Floats]] = {name: [] for name in wanted}
    squares: dict[str, list[Floats]] = {name: [] for name in wanted}
    for batch in batches(graph, pictures):
        results = iter(session.run(None, {graph.input_names[0]: batch}))
        for name in wanted:
            low, high, square, pixels = (np.asarray(next(results), np.float64) for _ in range(4))
            if not np.isfinite(square).all():
                raise CalibrateError(f"activation {name!r} is not finite on the calibration pictures")
            lows[name].append(low)
            highs[name].append(high)
            # The last two sizes of the tensor: pixels a picture.
            squares[name].append(square / np.prod(pixels[-2:]))
    return {
        name: ChannelStatistics(
            np.min(lows[name], axis=0),
            np.max(highs[name], axis=0),
            np.sum(squares[name], axis=0) / len(pictures),
        )
        for name in wanted
    }


def _with_reductions(graph: Graph, tensors: Sequence[str]) -> onnx.ModelProto:
    """The model with four outputs a tensor: minimum, maximum and sum of squares [C], and the shape."""
    model = graph.to_model()
    del model.graph.output[:]
    for number, name in enumerate(tensors):
        outputs = [f"topfive_{reduction}_{number}" for reduction in REDUCTIONS]
        for reduction, output in zip(REDUCTIONS, outputs, strict=True):
            model.graph.node.append(helper.make_node(reduction, [name], [output], axes=[0, 2, 3], keepdims=0))
        outputs.append(f"topfive_shape_{number}")
        model.graph.node.append(helper.make_node("Shape", [name], [outputs[-1]]))
        model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in outputs)
    return model
