"""From a histogram to a range: percentile, entropy (two variants) and mean squared error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topfive.quantize.calibration.histogram import Histogram
from topfive.quantize.calibration.method import MOST_BINS, Method

__all__ = [
    "entropy_bins",
    "entropy_divergences",
    "histogram_range",
    "mse_bins",
    "onnxruntime_window",
]

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Range = tuple[float, float]
LARGEST_CODE = 127
STEPS = 255
SMOOTHING = 1e-4
BLOCK = 128
LOGARITHMS = np.log(np.maximum(np.arange(MOST_BINS + 1), 1))
MSE_SMALLEST = 16
"""The smallest threshold that `mse` tries is this part of the largest value (one sixteenth)."""
MSE_CANDIDATES = 256
MSE_SHRINKS = 32


def histogram_range(histogram: Histogram, method: Method) -> Range:
    """The range that a method chooses. A tensor of one value keeps it, whatever the method.

    symmetric: (-t, t). Else the range is cut to the minimum and maximum that were seen.
    """
    low, high = histogram.low, histogram.high
    if low < high:
        low, high = _RANGES[method.name](histogram, method)
    if method.symmetric:
        bound = max(abs(low), abs(high))
        return -bound, bound
    return low, high


def _percentile(histogram: Histogram, method: Method) -> Range:
    """Where the share of values reaches the percentile, to the lower end of the histogram's own bin.

    symmetric: of absolute values. Else half of what is cut is cut at each end. onnxruntime takes the lower
    end of one of `bins` equal bins from 0 (or -bound) to bound. So that this result is less than such a bin
    away from that, the upper end is never above the lower end of the last of those bins.
    Source: onnxruntime/python/tools/quantization/calibrate.py, compute_percentile.
    """
    cut, bins, half = 100.0 - method.percentile, method.histogram_bins, histogram.counts.size // 2
    if cut == 0:
        return histogram.low, histogram.high
    if method.symmetric:
        absolute = histogram.counts[half:] + histogram.counts[:half][::-1]
        reached = _reached(absolute, method.percentile / 100) * histogram.width
        threshold = min(reached, histogram.bound * (1 - 1 / bins))
        return -threshold, threshold
    left, right = (
        (_reached(histogram.counts, share) - half) * histogram.width for share in (cut / 200, 1 - cut / 200)
    )
    low = max(left, histogram.low)
    return low, max(min(right, histogram.high, histogram.bound * (1 - 2 / bins)), low)


def _reached(counts: Counts, share: float) -> int:
    """The first bin at which the cumulative share of the counts is at least `share`."""
    cumulative = np.cumsum(counts)
    return int(np.searchsorted(cumulative, share * cumulative[-1]))


def _entropy(histogram: Histogram, method: Method) -> Range:
    bins = method.histogram_bins
    kept = entropy_bins(histogram.absolute(bins), method.histogram_levels)
    return _within(histogram, histogram.bound * kept / bins)


def _within(histogram: Histogram, threshold: float) -> Range:
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def entropy_bins(counts: Counts, levels: int) -> int:
    """How many of the bins of absolute values to keep: the last that diverges least (`entropy_divergences`).

    counts: [bins], from zero up. Returns levels to bins; the threshold is the upper end of the last bin kept.
    """
    divergences = entropy_divergences(counts, levels)
    return counts.size - int(np.argmin(divergences[::-1]))


def entropy_divergences(counts: Counts, levels: int) -> Floats:
    """Kullback-Leibler divergence D(P || Q) for each number of bins kept, from `levels` to all: [candidates].

    With n bins kept: P is their counts with everything beyond added to the last bin. Q has `levels` levels:
    bin j belongs to level floor(j * levels / n), and a level's count, without what is beyond, is spread
    evenly over those of its bins that are not empty. Both are divided by their sums. Infinite where P has
    something that Q has not: when the last bin kept is empty and something lies beyond.
    The first bin takes the count of the second, so that the many zeros after a ReLU do not decide.
    Source: NVIDIA, "8-bit inference with TensorRT" (GTC 2017, S7310), with the bin handling of the entropy
    calibrator of NVIDIA's pytorch-quantization; TensorRT itself is closed.
    """
    held = counts.astype(np.float64)
    held[0] = held[1]
    sums = np.concatenate([[0.0], np.cumsum(held)])
    filled = np.concatenate([[0], np.cumsum(held > 0)])
    information = np.concatenate([[0.0], np.cumsum(_x_log_x(held))])
    found = np.full(held.size - levels + 1, np.inf)
    # In blocks, so that the tables of a block stay in the processor's cache.
    for first in range(levels, held.size + 1, BLOCK):
        kept = np.arange(first, min(first + BLOCK, held.size + 1))
        starts = -(-np.arange(levels + 1) * kept[:, None] // levels)
        mass, parts = np.diff(sums[starts]), np.diff(filled[starts])
        spread = np.log(np.where(mass > 0, mass, 1.0)) - LOGARITHMS[parts]
        beyond = sums[-1] - sums[kept]
        mass[:, -1] += beyond
        # The sum of p log p over all but the last bin, and over the last with what lies beyond.
        own = information[kept - 1] + _x_log_x(held[kept - 1] + beyond)
        possible = (sums[kept] > 0) & ((held[kept - 1] > 0) | (beyond == 0))
        divergence = (own - (mass * spread).sum(axis=1)) / sums[-1]
        scale = np.log(np.where(possible, sums[kept], 1.0) / sums[-1])
        found[kept - levels] = np.where(possible, divergence + scale, np.inf)
    return found


def _x_log_x(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0, values, 1.0))


def onnxruntime_window(counts: Counts, levels: int) -> tuple[int, int]:
    """(start, end) of the bins that onnxruntime.quantization's entropy calibrator keeps: [start, end).

    counts: [bins], from -bound to bound. Windows grow from the middle, one bin on each side, and one more on
    the right while there is one. P is the window with what lies outside added to its ends; Q merges
    `bins // levels` neighbours (the remainder goes to the last level) and spreads each sum over the level's
    bins, divided by how many of them are not empty in P, fraction dropped. Both are smoothed; the first
    window that diverges least wins. With 128 bins and levels, its defaults, there is one window: everything.
    Source: onnxruntime/python/tools/quantization/calibrate.py, HistogramCollector.get_entropy_threshold.
    """
    middle = counts.size // 2
    outside = np.concatenate([[0], np.cumsum(counts)])
    best, window = np.inf, (middle - levels // 2, min(middle + levels // 2 + 1, counts.size))
    for reach in range(levels // 2, middle + 1):
        start, end = middle - reach, min(middle + reach + 1, counts.size)
        inside = counts[start:end]
        reference = inside.copy()
        reference[0] += outside[start]
        reference[-1] += outside[-1] - outside[end]
        divergence = _smoothed_divergence(reference, _merged(inside, reference != 0, levels))
        if divergence < best:
            best, window = divergence, (start, end)
    return window


def _merged(inside: Counts, filled: NDArray[np.bool_], levels: int) -> Counts:
    """Counts merged to levels and spread again; bins after the last whole level get nothing."""
    width = inside.size // levels
    body = width * levels
    sums = inside[:body].reshape(levels, width).sum(axis=1)
    sums[-1] += inside[body:].sum()
    parts = filled[:body].reshape(levels, width).sum(axis=1)
    spread = np.zeros(inside.size, np.int64)
    spread[:body] = np.repeat(np.where(parts > 0, sums / np.maximum(parts, 1), 0).astype(np.int64), width)
    return spread


def _smoothed_divergence(reference: Counts, candidate: Counts) -> float:
    """D(P || Q) in float32 after empty bins got a little of the others; infinite if one has nothing."""
    if not reference.any() or not candidate.any():
        return float("inf")
    p, q = (_smoothed(counts) for counts in (reference, candidate))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p * np.log(p / q)))


def _smoothed(counts: Counts) -> NDArray[np.float32]:
    empty = counts == 0
    taken = SMOOTHING * float(empty.sum()) / float(counts.size - empty.sum())
    return counts.astype(np.float32) + np.where(empty, np.float32(SMOOTHING), np.float32(-taken))


def _mse(histogram: Histogram, method: Method) -> Range:
    bins = method.histogram_bins
    if method.symmetric:
        return _within(histogram, histogram.bound * mse_bins(histogram.absolute(bins)) / bins)
    return _mse_asymmetric(histogram, bins)


def mse_bins(counts: Counts) -> int:
    """How many of the bins of absolute values to keep for the least mean squared error of int8 codes.

    counts: [bins], from zero up; every value stands in the middle of its bin. A threshold t has codes 0 to
    127 of step t / 127; beyond it values become t. Thresholds from a sixteenth of the largest value up are
    tried, about 240 of them; of equal ones the largest wins.
    """
    bins = counts.size
    kept = np.arange(bins, max(bins // MSE_SMALLEST, 1) - 1, -max(bins // MSE_CANDIDATES, 1))
    values = np.arange(bins) + 0.5
    step = kept[:, None] / LARGEST_CODE
    error = np.minimum(np.rint(values / step), LARGEST_CODE) * step - values
    return int(kept[np.argmin((error * error) @ counts.astype(np.float64))])


def _mse_asymmetric(histogram: Histogram, bins: int) -> Range:
    """Both ends shrunk towards zero in steps of a thirty-second, whichever pair of 8-bit codes errs least."""
    edges = np.linspace(histogram.low, histogram.high, bins + 1)
    counts = np.diff(histogram.below(edges)).astype(np.float64)
    values = (edges[:-1] + edges[1:]) / 2
    parts = np.arange(MSE_SHRINKS, MSE_SHRINKS // MSE_SMALLEST - 1, -1) / MSE_SHRINKS
    best, found = np.inf, (histogram.low, histogram.high)
    highs = histogram.high * parts if histogram.high > 0 else np.array([histogram.high])
    for low in histogram.low * parts if histogram.low < 0 else np.array([histogram.low]):
        first, last = min(low, 0.0), np.maximum(highs, 0.0)
        step = ((last - first) / STEPS)[:, None]
        zero = np.rint(-first / step)
        codes = np.clip(np.rint(values / step) + zero, 0, STEPS) - zero
        error = codes * step - values
        squares = (error * error) @ counts
        place = int(np.argmin(squares))
        if squares[place] < best:
            best, found = squares[place], (float(low), float(highs[place]))
    return found


_RANGES = {
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
