"""One convolution of the walk: what it reads in codes, and what it should make, at sampled output pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.graph import window_pads

__all__ = ["Layer", "fit_bias", "sampled_layer"]

Floats = NDArray[np.float64]
NEWTON_STEPS = 5
# Rows that become float64 at a time.
CHUNK = 1024


@dataclass(frozen=True)
class Layer:
    """A convolution's least-squares problem.

    codes: int8 [samples, K], or depthwise [samples, channels, K]; K weights make one output. x_scale: of the
    codes. target: [samples, outputs] before the activation. bounds: of the activation, if it is a ReLU or a
    Clip. slope: of negative values, if it is a LeakyReLU; else 1. weights: float [outputs, K]. bias:
    [outputs]. picture: [samples], which picture a sample is of.
    """

    codes: NDArray[np.int8]
    x_scale: float
    target: Floats
    bounds: tuple[float, float] | None
    weights: Floats
    bias: Floats
    picture: NDArray[np.int64]
    slope: float = 1.0

    @property
    def depthwise(self) -> bool:
        """Whether each output has an input channel of its own."""
        return self.codes.ndim == 3

    def activate(self, values: Floats) -> Floats:
        """The activation function; the identity without one."""
        if self.slope != 1:
            return np.where(values < 0, values * self.slope, values)
        return np.clip(values, *self.bounds) if self.bounds else values

    def steepness(self, before: Floats) -> Floats:
        """How much of a change before the activation comes through it; of values cut off: none.

        Where either `before` or the target is inside the activation's bounds, a change can still help.
        """
        if self.slope != 1:
            return np.where(before < 0, self.slope, 1.0)
        if self.bounds is None:
            return np.ones_like(before)
        low, high = self.bounds
        inside = (before > low) & (before < high)
        return np.asarray(inside | ((self.target > low) & (self.target < high)), np.float64)

    def sums(self, weights: Floats) -> Floats:
        """[samples, outputs] without bias, in real units, for real weights [outputs, K]."""
        parts = []
        for start in range(0, len(self.codes), CHUNK):
            rows = self.codes[start : start + CHUNK].astype(np.float64)
            made = np.einsum("sck,ck->sc", rows, weights) if self.depthwise else rows @ weights.T
            parts.append(made * self.x_scale)
        return np.concatenate(parts)

    def errors(self, sums: Floats, bias: Floats) -> Floats:
        """Mean squared error after the activation of each output [outputs]."""
        difference = self.activate(sums + bias) - self.activate(self.target)
        return np.asarray(np.square(difference).mean(axis=0))


def fit_bias(layer: Layer, sums: Floats, start: Floats) -> Floats:
    """The bias [outputs] with which `sums` come closest to the target after the activation.

    Without an activation: the mean difference. Else Newton's steps, each kept where it makes the squared
    error smaller; never worse than `start`.
    """
    if layer.bounds is None and layer.slope == 1:
        return np.asarray((layer.target - sums).mean(axis=0))
    wanted, bias = layer.activate(layer.target), start.astype(np.float64)
    best = layer.errors(sums, bias)
    for _ in range(NEWTON_STEPS):
        before = sums + bias
        steep = layer.steepness(before)
        missing = ((wanted - layer.activate(before)) * steep).sum(axis=0)
        moved = bias + missing / np.maximum(np.square(steep).sum(axis=0), 1e-6)
        found = layer.errors(sums, moved)
        better = found < best
        if not better.any():
            break
        bias, best = np.where(better, moved, bias), np.where(better, found, best)
    return bias


def sampled_layer(
    x: NDArray[np.int8],
    x_scale: float,
    target: NDArray[Any],
    weights: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    attrs: Mapping[str, Any],
    bounds: tuple[float, float] | None,
    *,
    slope: float = 1.0,
    depthwise: bool,
    samples: int,
) -> Layer:
    """The layer at `samples` output pixels, drawn with a fixed seed.

    x: int8 [N, C, H, W]; target: [N, O, OH, OW] before the activation; weights: [O, C or 1, kh, kw]; attrs:
    of the Conv.
    """
    kernel = weights.shape[2:]
    strides, dilations = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
    pads = window_pads(attrs, x.shape[2:], kernel)
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    shape = (len(x), *target.shape[2:])
    total = int(np.prod(shape))
    chosen = np.sort(np.random.default_rng(0).choice(total, min(samples, total), replace=False))
    picture, row, column = np.unravel_index(chosen, shape)
    # Advanced indices around a slice: numpy puts the samples first.
    codes = windows[picture, :, row, column].reshape(len(chosen), x.shape[1], -1)
    return Layer(
        codes if depthwise else codes.reshape(len(chosen), -1),
        x_scale,
        target[picture, :, row, column].astype(np.float64),
        bounds,
        weights.reshape(len(weights), -1).astype(np.float64),
        np.zeros(len(weights)) if bias is None else bias.astype(np.float64),
        picture.astype(np.int64),
        slope,
    )
