"""Bias absorption (Nagel et al. 2019, section 4.1.3): what a ReLU always lets through moves on.

If the output of a convolution is at least c before its ReLU, then max(0, y) = max(0, y - c) + c, and a
convolution that reads it without padding can have the constant c in its bias. The range shrinks by c.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.errors import QuantizeError
from topfive.graph import Graph, attributes
from topfive.quantize.passes.channels import clip_bounds, convolutions
from topfive.quantize.passes.equalize import few_bits
from topfive.quantize.passes.statistics import channel_statistics

__all__ = ["absorb", "absorbable"]

Floats = NDArray[np.float64]


def _next_conv(graph: Graph, node: onnx.NodeProto) -> tuple[onnx.NodeProto, float] | None:
    """(the unpadded convolution that alone reads a convolution through a ReLU, upper bound), if any."""
    consumers = graph.consumers()
    activation = graph.sole_consumer(node.output[0], consumers)
    bounds = clip_bounds(activation, graph) if activation is not None else None
    if activation is None or bounds is None or bounds[0] != 0:
        return None
    reader = graph.sole_consumer(activation.output[0], consumers)
    names = {conv.name for conv in convolutions(graph)}
    if reader is None or reader.name not in names:
        return None
    found = attributes(reader)
    padded = any(found.get("pads", ())) or found.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return None if padded else (reader, bounds[1])


def absorbable(graph: Graph, pictures: NDArray[np.float32]) -> dict[str, Floats]:
    """Convolution to the amount that each output channel can be lowered by, for `absorb`.

    The least value of each channel over the pictures, rounded down, where it is more than 0 and, before a
    Clip, the channel stays below the upper bound. pictures: [N, C, H, W] float32.
    """
    pairs = {conv.name: (conv.node, _next_conv(graph, conv.node)) for conv in convolutions(graph)}
    found = {name: (node, after) for name, (node, after) in pairs.items() if after is not None}
    if not found:
        return {}
    statistics = channel_statistics(graph, [node.output[0] for node, _ in found.values()], pictures)
    amounts = {}
    for name, (node, (_, upper)) in found.items():
        seen = statistics[node.output[0]]
        least = np.where(seen.high < upper, np.maximum(seen.low, 0.0), 0.0)
        rounded = few_bits(least)
        # Down: 15/16 of a number that five bits rounded up is below it.
        amount = np.where(rounded > least, few_bits(rounded * 15 / 16), rounded)
        if amount.any():
            amounts[name] = amount
    return amounts


def _window_sums(weights: NDArray[np.float32]) -> Floats:
    """[out, in, kh, kw] summed over the window, one position after another."""
    total = np.zeros(weights.shape[:2])
    for row, column in np.ndindex(*weights.shape[2:]):
        total += weights[:, :, row, column]
    return total


def absorb(graph: Graph, amounts: Mapping[str, Floats]) -> None:
    """Lower output channels by `amounts`, in place, and raise the biases of what reads them by as much.

    Sums run channel by channel in float64 and are rounded once, so that they are the same everywhere. Raises
    QuantizeError for a name or a length that does not fit the model.
    """
    convs = {conv.name: conv for conv in convolutions(graph)}
    raised: dict[str, Floats] = {}
    for name, amount in amounts.items():
        after = _next_conv(graph, convs[name].node) if name in convs else None
        if after is None or amount.shape != (len(graph.constants[convs[name].node.input[1]]),):
            raise QuantizeError(f"{name!r}: this model has no such bias to absorb: calibrate again")
        reader = convs[after[0].name]
        weights = _window_sums(graph.constants[reader.node.input[1]])
        if reader.depthwise:
            gained = weights[:, 0] * amount
        else:
            gained = np.zeros(len(weights))
            for channel, one in enumerate(amount.tolist()):
                gained += weights[:, channel] * one
        raised[name] = raised.get(name, 0.0) - amount
        raised[reader.name] = raised.get(reader.name, 0.0) + gained
    for name, change in raised.items():
        node = convs[name].node
        had = len(node.input) > 2 and bool(node.input[2])
        bias = graph.constants[node.input[2]].astype(np.float64) if had else np.zeros(len(change))
        del node.input[2:]
        node.input.append(graph.constant(f"{name}.bias_absorbed", (bias + change).astype(np.float32)))
