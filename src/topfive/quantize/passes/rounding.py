"""Layer-wise reconstruction: integer weights whose outputs come closest to the float model's.

What the layer reads are the codes of the layers before it, errors included. First the real weights that make
up for those errors are found (ridge regression towards the float weights, with the penalty that does best on
pictures left out of the fit), then they are rounded one after another, each making up for the roundings
before it: Frantar et al. 2023 (GPTQ), after Hassibi and Stork 1993 (optimal brain surgeon). Depthwise
convolutions have few weights a channel: there each weight is set to the integer that is best for all others
as they are, until nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topfive.quantize.passes.layer import CHUNK, Layer, fit_bias

__all__ = ["Rounded", "nearest", "reconstruct"]

Floats = NDArray[np.float64]
LARGEST = 127
BLOCK = 64
SWEEPS = 6
DAMPING = 0.01
# Penalties towards the float weights, in means of the diagonal; infinite: the float weights themselves.
PENALTIES = (0.03, 0.3, 3.0, 30.0)
DEPTHWISE_PENALTY = 0.05
# What a sample counts whose output the activation cuts off, before and after.
CUT_OFF = 0.02
SCALES = (1.0, 0.9, 0.8, 0.7, 0.6)


@dataclass(frozen=True)
class Rounded:
    """Integer weights [outputs, K] as float64, their scale (one, or [outputs]) and the bias [outputs]."""

    codes: Floats
    scale: Floats
    bias: Floats

    @property
    def weights(self) -> Floats:
        """In real units."""
        return self.codes * self.scale.reshape(-1, 1)


def _clipped(values: Floats) -> Floats:
    return np.clip(np.rint(values), -LARGEST, LARGEST)


def nearest(layer: Layer, scale: Floats) -> Rounded:
    """Every weight rounded to the nearest code; the float bias."""
    return Rounded(_clipped(layer.weights / scale.reshape(-1, 1)), scale, layer.bias)


def reconstruct(layer: Layer, plain: Rounded, *, own_scales: bool) -> Rounded:
    """Integer weights and bias with a smaller mean squared error than `plain`, or `plain` itself.

    own_scales: each output has a scale of its own; else there is one, and the result has one.
    """
    if layer.depthwise:
        candidate = _depthwise(layer, plain, own_scales=own_scales)
    else:
        candidate = _dense(layer, plain)
    sums = layer.sums(candidate.weights)
    fitted = Rounded(candidate.codes, candidate.scale, fit_bias(layer, sums, candidate.bias))
    before = layer.errors(layer.sums(plain.weights), plain.bias).sum()
    return fitted if layer.errors(sums, fitted.bias).sum() < before else plain


def _reachable_target(layer: Layer, plain: Rounded) -> Floats:
    """The target, except where it and the layer as it is are both cut off: nothing to win there."""
    if layer.bounds is None:
        return layer.target
    low, high = layer.bounds
    now = layer.sums(plain.weights) + plain.bias
    cut = ((now <= low) & (layer.target <= low)) | ((now >= high) & (layer.target >= high))
    return np.where(cut, now, layer.target)


# Dense: all outputs share the inputs, and so the matrix of their products


def _moments(layer: Layer, target: Floats, rows: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(X'X, X'Z) over some samples, each centred, in real units: [K, K] and [K, outputs]."""
    codes, wanted = layer.codes[rows], target[rows]
    mean, offset = codes.mean(axis=0, dtype=np.float64), wanted.mean(axis=0)
    size = codes.shape[1]
    products, moments = np.zeros((size, size)), np.zeros((size, wanted.shape[1]))
    for start in range(0, len(codes), CHUNK):
        part = codes[start : start + CHUNK] - mean
        products += part.T @ part
        moments += part.T @ (wanted[start : start + CHUNK] - offset)
    return products * layer.x_scale**2, moments * layer.x_scale


def _shifted(weights: Floats, products: Floats, moments: Floats, penalty: float) -> Floats:
    """Ridge regression towards `weights` [outputs, K]; penalty in means of the diagonal."""
    size = len(products)
    ridge = penalty * np.trace(products) / size + 1e-12
    change = np.linalg.solve(products + ridge * np.eye(size), moments - products @ weights.T)
    return np.asarray(weights + change.T)


def _best_real_weights(layer: Layer, target: Floats) -> Floats:
    """The real weights to round: of the penalty that does best on every second picture left out."""
    held_out = layer.picture % 2 == 1
    if not held_out.any() or held_out.all():
        return layer.weights
    fitted, judged = _moments(layer, target, ~held_out), _moments(layer, target, held_out)

    def loss(weights: Floats) -> float:
        return float(np.sum(weights.T * (judged[0] @ weights.T - 2 * judged[1])))

    losses = {penalty: loss(_shifted(layer.weights, *fitted, penalty)) for penalty in PENALTIES}
    best = min(losses, key=lambda penalty: losses[penalty])
    if losses[best] >= loss(layer.weights):
        return layer.weights
    everything = _moments(layer, target, np.ones(len(target), np.bool_))
    return _shifted(layer.weights, *everything, best)


def _dense(layer: Layer, plain: Rounded) -> Rounded:
    target = _reachable_target(layer, plain)
    real = _best_real_weights(layer, target)
    products, _ = _moments(layer, target, np.ones(len(target), np.bool_))
    products += (DAMPING * np.trace(products) / len(products) + 1e-12) * np.eye(len(products))
    order = np.argsort(-np.diag(products), kind="stable")
    factor = np.linalg.cholesky(np.linalg.inv(products[np.ix_(order, order)])).T
    whole = np.float32(np.abs(real).max() / LARGEST) or plain.scale
    best, least = plain, np.inf
    for share in SCALES:
        scale = np.float64(np.float32(whole * share))
        codes = np.empty_like(real)
        codes[:, order] = _rounded_in_turn(real[:, order], factor, float(scale))
        error = codes * scale - real
        loss = float(np.sum(error @ products * error))
        if loss >= least:
            break
        bias = layer.bias + (layer.weights - codes * scale) @ layer.codes.mean(axis=0) * layer.x_scale
        best, least = Rounded(codes, np.array([scale]), bias), loss
    return best


def _rounded_in_turn(weights: Floats, factor: Floats, scale: float) -> Floats:
    """Codes of `weights` [outputs, K], column by column; factor: upper Cholesky factor of the inverse."""
    left, codes = weights.copy(), np.empty_like(weights)
    for first in range(0, left.shape[1], BLOCK):
        last = min(first + BLOCK, left.shape[1])
        errors = np.empty((len(left), last - first))
        for column in range(first, last):
            codes[:, column] = _clipped(left[:, column] / scale)
            error = (left[:, column] - codes[:, column] * scale) / factor[column, column]
            left[:, column + 1 : last] -= np.outer(error, factor[column, column + 1 : last])
            errors[:, column - first] = error
        left[:, last:] -= errors @ factor[first:last, last:]
    return codes


# Depthwise: a small problem for each channel, all solved at once


def _depthwise(layer: Layer, plain: Rounded, *, own_scales: bool) -> Rounded:
    products, moments = _channel_moments(layer, plain)
    size = layer.weights.shape[1]
    ridge = DEPTHWISE_PENALTY * np.trace(products[:, :size, :size], axis1=1, axis2=2) / size + 1e-12
    penalty = np.zeros_like(products)
    penalty[:, range(size), range(size)] = ridge[:, None]
    penalty[:, size, size] = 1e-9
    known = np.concatenate([layer.weights, layer.bias[:, None]], axis=1)
    missing = moments - np.einsum("ckl,cl->ck", products, known)
    change = np.linalg.solve(products + penalty, missing[..., None])
    real = known + change[..., 0]
    # The bias follows the weights: what is left is a problem of the weights alone.
    count, cross = np.maximum(products[:, size, size], 1e-9), products[:, :size, size]
    inner = products[:, :size, :size] - cross[:, :, None] * cross[:, None, :] / count[:, None, None]
    inner[:, range(size), range(size)] += ridge[:, None]
    codes, scale = _best_scale(real[:, :size], inner, plain.scale, own_scales=own_scales)
    lost = real[:, :size] - codes * scale.reshape(-1, 1)
    return Rounded(codes, scale, real[:, size] + np.einsum("ck,ck->c", cross, lost) / count)


def _channel_moments(layer: Layer, plain: Rounded) -> tuple[Floats, Floats]:
    """Products of inputs and a constant 1 with themselves and the target: [C, K + 1, K + 1], [C, K + 1]."""
    now = layer.sums(plain.weights) + plain.bias
    counts = np.maximum(np.square(layer.steepness(now)), CUT_OFF)
    channels, size = layer.codes.shape[1:]
    products, moments = np.zeros((channels, size + 1, size + 1)), np.zeros((channels, size + 1))
    for start in range(0, len(layer.codes), CHUNK):
        part = slice(start, start + CHUNK)
        inputs = np.ones((len(layer.codes[part]), channels, size + 1))
        inputs[..., :size] = layer.codes[part] * layer.x_scale
        weighted = (inputs * counts[part, :, None]).transpose(1, 2, 0)
        products += weighted @ inputs.transpose(1, 0, 2)
        moments += np.einsum("cks,sc->ck", weighted, layer.target[part])
    return products, moments


def _best_scale(real: Floats, inner: Floats, scale: Floats, *, own_scales: bool) -> tuple[Floats, Floats]:
    """(codes [C, K], scale) with the least error: for each channel, or for all of them together."""
    found = []
    for share in SCALES:
        tried = (scale * share).astype(np.float32).astype(np.float64)
        codes = _settled(real, inner, np.broadcast_to(tried, (len(real),)))
        error = codes * tried.reshape(-1, 1) - real
        found.append((codes, tried, np.einsum("ck,ckl,cl->c", error, inner, error)))
    if not own_scales:
        codes, tried, _ = min(found, key=lambda one: float(one[2].sum()))
        return codes, tried
    best = np.argmin([one[2] for one in found], axis=0)
    rows = np.arange(len(real))
    return np.stack([f[0] for f in found])[best, rows], np.stack([f[1] for f in found])[best, rows]


def _settled(real: Floats, inner: Floats, scale: Floats) -> Floats:
    """Codes [C, K] of which none can change alone without making the error of its channel larger."""
    codes = _clipped(real / scale[:, None])
    slope = np.einsum("ckl,cl->ck", inner, codes * scale[:, None] - real)
    for _ in range(SWEEPS):
        changed = False
        for place in range(codes.shape[1]):
            curve = inner[:, place, place] * scale
            better = _clipped(codes[:, place] - np.divide(slope[:, place], curve))
            step = better - codes[:, place]
            changed |= bool(step.any())
            slope += inner[:, :, place] * (step * scale)[:, None]
            codes[:, place] = better
        if not changed:
            break
    return codes
