"""How much noise 8-bit codes will add, predicted from weights and channel statistics, and its gradient.

The prediction for one convolution, relative to its output's power, with s the step of a tensor of codes
(rounding adds noise of power s**2 / 12):

* its weights: s_w**2 / 12 for each weight, times the mean square of the input that it meets;
* its input: s_x**2 / 12 for each input channel, times the sum of the squared weights that read it.

Both steps follow the largest value that the tensor holds, and that follows the channel scales. With
logarithms of the scales as variables, every term is convex (a sum of exponentials, and a p-norm in place of
the maximum). Error of an output channel counts as what the convolutions that read it afterwards make of it,
carried back from the last; so the prediction does not depend on which of two models that compute the same
(one rescaled) it starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topfive.graph import Graph
from topfive.quantize.passes.channels import Channels, Conv
from topfive.quantize.passes.statistics import ChannelStatistics

__all__ = ["NoiseModel"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
# In place of the maximum: at 12, a thousand equal values count as 1.8 times the largest.
NORM = 12
CODES = 127
# Powers below this are left out: they would only slow down (denormal numbers).
NEGLIGIBLE = 1e-30


@dataclass(frozen=True)
class _Layer:
    """One convolution as the prediction sees it; sizes: I inputs, O outputs, I = O if depthwise."""

    depthwise: bool
    inputs: Indices | None
    outputs: Indices
    largest_weight: float
    """Of all weights; `powers` are relative to it."""
    powers: Floats
    """(largest |weight| between each pair of channels / largest_weight) ** NORM: [O, I], depthwise [O]."""
    own_scales: bool
    """Whether each channel has a weight scale of its own, so that channel scales change nothing."""
    window: int
    energy: Floats
    """Mean square of each input channel [I]."""
    importance: Floats
    """Of each output channel [O], over the output's weighted power."""
    gain: Floats
    """Of noise in each input channel [I]: importance times squared weights."""
    largest_input: float
    input_powers: Floats
    """(largest |input| of each channel / largest_input) ** NORM."""


class NoiseModel:
    """The prediction for a whole model as a function of the logarithms of its channel scales."""

    def __init__(
        self,
        graph: Graph,
        channels: Channels,
        convs: Sequence[Conv],
        statistics: Mapping[str, ChannelStatistics],
        after: Mapping[str, str],
        *,
        own_depthwise_scales: bool,
    ) -> None:
        """statistics: of the inputs of `convs` and of `after`, a convolution's output to its activation."""
        self.count = channels.count
        self.layers = []
        importance, is_read = np.zeros(channels.count), np.zeros(channels.count, bool)
        # From the last: what noise costs where it is made is what its readers make of it.
        for conv in reversed(convs):
            own = own_depthwise_scales and conv.depthwise
            known = np.where(is_read, importance, 1.0)
            layer = _layer(conv, graph, channels, statistics, after, known, own=own)
            self.layers.append(layer)
            if layer.inputs is not None:
                np.add.at(importance, layer.inputs, layer.gain)
                is_read[layer.inputs] = True

    def value_and_gradient(self, logarithms: Floats) -> tuple[float, Floats]:
        """The sum over convolutions of noise over signal, and its derivatives; logarithms: [count]."""
        total, gradient = 0.0, np.zeros(self.count)
        for layer in self.layers:
            # Normalised where the tensor is read: f[c] = exp(logarithm) for its channels.
            inputs = np.ones(len(layer.energy)) if layer.inputs is None else np.exp(logarithms[layer.inputs])
            outputs = np.exp(logarithms[layer.outputs])
            for part in (_weight_noise, _input_noise):
                value, by_input, by_output = part(layer, inputs, outputs)
                total += value
                np.add.at(gradient, layer.outputs, by_output)
                if layer.inputs is not None:
                    np.add.at(gradient, layer.inputs, by_input)
        return total, gradient


def _layer(
    conv: Conv,
    graph: Graph,
    channels: Channels,
    statistics: Mapping[str, ChannelStatistics],
    after: Mapping[str, str],
    importance: Floats,
    *,
    own: bool,
) -> _Layer:
    node = conv.node
    weights = graph.constants[node.input[1]].astype(np.float64)
    count, window = len(weights), weights.shape[2] * weights.shape[3]
    read, made = statistics[node.input[0]], statistics[after[node.output[0]]]
    outputs = channels.of[node.output[0]]
    # A channel that is never active neither matters nor sets a step.
    weight = importance[outputs] * (made.mean_square > 0)
    power = float(weight @ made.mean_square)
    weight = weight / power if power else np.zeros(count)
    pairs = np.abs(weights).reshape(count, -1, window).max(axis=2)
    squares = np.square(weights).reshape(count, -1, window).sum(axis=2)
    if conv.depthwise:
        pairs, gain = pairs[:, 0] * (made.mean_square > 0) * (read.largest > 0), weight * squares[:, 0]
    else:
        pairs = pairs * (made.mean_square > 0)[:, None] * (read.largest > 0)
        gain = weight @ squares
    largest, largest_input = float(pairs.max(initial=0.0)), float(read.largest.max(initial=0.0))
    return _Layer(
        conv.depthwise,
        channels.of.get(node.input[0]),
        outputs,
        largest,
        _powers(pairs, largest),
        own,
        window,
        read.mean_square,
        weight,
        gain,
        largest_input,
        _powers(read.largest, largest_input),
    )


def _powers(values: Floats, largest: float) -> Floats:
    powers = (values / (largest or 1.0)) ** NORM
    powers[powers < NEGLIGIBLE] = 0.0
    return powers


def _rounding(largest: float, powers: float) -> float:
    """Noise power of codes whose largest value is `largest * powers ** (1 / NORM)`."""
    return float((largest / CODES) ** 2 / 12 * powers ** (2 / NORM))


def _weight_noise(layer: _Layer, inputs: Floats, outputs: Floats) -> tuple[float, Floats, Floats]:
    """(noise, its derivatives by the logarithms of input and output scales) of the weights' rounding."""
    nothing = 0.0, np.zeros(len(inputs)), np.zeros(len(outputs))
    met = layer.energy * inputs**2 * layer.window
    seen = layer.importance / outputs**2
    if layer.own_scales or not layer.largest_weight:
        return nothing
    if layer.depthwise:
        shares = layer.powers * (outputs / inputs) ** NORM
        total, noises = shares.sum(), seen * met
        value = _rounding(layer.largest_weight, total) * noises.sum()
        slope = 2 * value * (shares / total - noises / (noises.sum() or 1.0))
        return value, -slope, slope
    raised, lowered = outputs**NORM, inputs**-NORM
    by_output = raised * (layer.powers @ lowered)
    by_input = lowered * (raised @ layer.powers)
    total = by_output.sum()
    value = _rounding(layer.largest_weight, total) * seen.sum() * met.sum()
    slope_in = 2 * value * (met / (met.sum() or 1.0) - by_input / total)
    slope_out = 2 * value * (by_output / total - seen / (seen.sum() or 1.0))
    return value, slope_in, slope_out


def _input_noise(layer: _Layer, inputs: Floats, outputs: Floats) -> tuple[float, Floats, Floats]:
    """(noise, its derivatives) of the rounding of the input's codes."""
    shares, noises = layer.input_powers * inputs**NORM, layer.gain / inputs**2
    total = shares.sum()
    if not total:
        return 0.0, np.zeros(len(inputs)), np.zeros(len(outputs))
    value = _rounding(layer.largest_input, total) * noises.sum()
    slope = 2 * value * (shares / total - noises / (noises.sum() or 1.0))
    return value, slope, np.zeros(len(outputs))
