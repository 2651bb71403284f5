"""Cross-layer equalisation: channel scales under which 8-bit codes with one scale a tensor lose least.

Two objectives. "ranges" is that of Nagel et al. 2019 (Data-Free Quantization Through Weight Equalization and
Bias Correction, section 4.1): the largest weight that makes a channel equals the largest that reads it.
"noise" minimises `NoiseModel` by Adam (Kingma and Ba 2015), a convex problem, so that activations count too.
Both keep a channel that reaches the upper bound of a Clip at scale 1, and others below the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topfive.graph import Graph
from topfive.quantize.passes.channels import Channels, Conv, convolutions, scalable_channels
from topfive.quantize.passes.noise import NoiseModel
from topfive.quantize.passes.recipe import Equalize
from topfive.quantize.passes.statistics import ChannelStatistics, channel_statistics

__all__ = ["Activity", "equalizing_factors", "few_bits", "measure_activity", "silent_channels"]

Floats = NDArray[np.float64]
Factors = dict[str, Floats]
STEPS = 300
RATE = 0.06
SWEEPS = 30
# Scales stay within these, and above the first where a Clip bounds them.
SMALLEST, LARGEST = 2.0**-10, 2.0**14
MANTISSA = 16


def few_bits(values: Floats) -> Floats:
    """Round positive numbers to five significant bits: short in files, and the same everywhere; 0 stays 0."""
    mantissas, exponents = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(mantissas * 2 * MANTISSA) / (2 * MANTISSA), exponents))


@dataclass(frozen=True)
class Activity:
    """What channels do on the calibration pictures, and which of them can be scaled.

    after: each convolution's output to the tensor after its ReLU, LeakyReLU or Clip, or to itself.
    statistics: of the convolutions' inputs, outputs and of `after`.
    """

    convs: Sequence[Conv]
    channels: Channels
    after: Mapping[str, str]
    statistics: Mapping[str, ChannelStatistics]


def measure_activity(graph: Graph, pictures: NDArray[np.float32]) -> Activity:
    """Run a float model over pictures [N, C, H, W] float32. Raises CalibrateError: see `statistics`."""
    convs, consumers = convolutions(graph), graph.consumers()
    after = {}
    for conv in convs:
        output = conv.node.output[0]
        reader = graph.sole_consumer(output, consumers)
        acts = reader is not None and reader.op_type in ("Relu", "LeakyRelu", "Clip")
        after[output] = str(reader.output[0]) if reader is not None and acts else output
    tensors = [name for conv in convs for name in (conv.node.input[0], conv.node.output[0])]
    found = channel_statistics(graph, [*tensors, *after.values()], pictures)
    return Activity(convs, scalable_channels(graph), after, found)


def silent_channels(activity: Activity) -> Factors:
    """Convolution to factors: 0 for output channels whose activation is 0 on all pictures, else 1.

    Channels whose scale must be 1 (`Channels.fixed`), and those without an activation function, stay.
    """
    channels = activity.channels
    fixed = np.isin(np.arange(channels.count), list(channels.fixed))
    found = {}
    for conv in activity.convs:
        output = conv.node.output[0]
        after = activity.after[output]
        silent = (activity.statistics[after].largest == 0) & ~fixed[channels.of[output]]
        if after != output and silent.any():
            found[conv.name] = np.where(silent, 0.0, 1.0)
    return found


def equalizing_factors(
    graph: Graph, activity: Activity, settings: Equalize, *, own_depthwise_scales: bool
) -> Factors:
    """Convolution to the factor of each output channel, for `channels.rescale`.

    graph: a float model, left alone; silent channels may be 0 already. own_depthwise_scales: the weights of
    depthwise convolutions have one scale a channel (quant mode int8_dw).
    """
    convs, channels = activity.convs, activity.channels
    low, high = _bounds(channels, activity.statistics, settings.margin)
    if settings.objective == "noise":
        model = NoiseModel(
            graph,
            channels,
            convs,
            activity.statistics,
            activity.after,
            own_depthwise_scales=own_depthwise_scales,
        )
        logarithms = _descend(model, low, high)
    else:
        logarithms = _balance(graph, channels, convs, low, high)
    scales = few_bits(np.exp(logarithms))
    found = {conv.name: scales[channels.of[conv.node.output[0]]] for conv in convs}
    return {name: factors for name, factors in found.items() if (factors != 1).any()}


def _bounds(
    channels: Channels, statistics: Mapping[str, ChannelStatistics], margin: float
) -> tuple[Floats, Floats]:
    """Least and most logarithm of each scale."""
    low, high = np.full(channels.count, np.log(SMALLEST)), np.full(channels.count, np.log(LARGEST))
    for name, bound in channels.bounded:
        largest, scales = statistics[name].high, channels.of[name]
        clips = largest >= bound
        room = np.log(np.maximum(bound / np.maximum(largest * margin, bound / LARGEST), 1.0))
        np.minimum.at(high, scales, np.where(clips, 0.0, room))
        np.maximum.at(low, scales, np.where(clips, 0.0, np.log(SMALLEST)))
    fixed = list(channels.fixed)
    low[fixed] = high[fixed] = 0.0
    return low, high


def _descend(model: NoiseModel, low: Floats, high: Floats) -> Floats:
    """The logarithms with the least predicted noise between bounds; starts at 0 (scales of 1)."""
    here, mean, square = np.zeros(model.count), np.zeros(model.count), np.zeros(model.count)
    for step in range(STEPS):
        _, gradient = model.value_and_gradient(here)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        unbiased = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.99 ** (step + 1))
        rate = RATE * (1 - step / STEPS)
        here = np.clip(here - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-15), low, high)
    return here


def _balance(graph: Graph, channels: Channels, convs: Sequence[Conv], low: Floats, high: Floats) -> Floats:
    """The logarithms at which the weights that make a channel are as large as those that read it."""
    here = np.zeros(channels.count)
    for _ in range(SWEEPS):
        made, read = np.zeros(channels.count), np.zeros(channels.count)
        for conv in convs:
            makes, reads = channels.of[conv.node.output[0]], channels.of.get(conv.node.input[0])
            weights = np.abs(graph.constants[conv.node.input[1]].astype(np.float64)).max(axis=(2, 3))
            weights = weights * np.exp(here[makes])[:, None]
            if reads is not None:
                weights = weights / np.exp(here[reads]).reshape((-1, 1) if conv.depthwise else (1, -1))
                if conv.depthwise:
                    np.maximum.at(read, reads, weights[:, 0])
                else:
                    np.maximum.at(read, reads, weights.max(axis=0))
            np.maximum.at(made, makes, weights.max(axis=1))
        known = (made > 0) & (read > 0)
        change = np.log(read, where=known, out=np.zeros_like(read))
        change -= np.log(made, where=known, out=np.zeros_like(made))
        here = np.clip(here + change / 2, low, high)
    return here
