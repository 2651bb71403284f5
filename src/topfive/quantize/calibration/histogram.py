"""Histograms that grow: one pass, fixed memory, and the same counts whatever the order of the values.

A bin is `2**exponent` wide and bins start at multiples of their width, so that two neighbours of one width
are exactly one bin of the next. A value beyond the last bin doubles the width, as often as it takes, and adds
neighbours up. The exponent depends only on the largest absolute value that was ever seen, and a count on
the values alone: pictures may come in any order, in any batches, or in two sittings.
Two passes (first the range, then equal bins over it) would give exact edges, for twice the inference.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["HALF", "Histogram", "Scratch"]

HALF = 1 << 16
"""Bins on each side of zero; the largest absolute value lies in the outer half of its side."""
SMALLEST_EXPONENT = -126
CHUNK = 1 << 17
Counts = NDArray[np.int64]


class Scratch:
    """Buffers that the histograms of one thread share."""

    def __init__(self) -> None:
        self.scaled = np.empty(CHUNK, np.float32)
        self.codes = np.empty(CHUNK, np.int64)


class Histogram:
    """Counts of float32 values, with their exact minimum and maximum."""

    def __init__(self, scratch: Scratch | None = None) -> None:
        self.counts: Counts = np.zeros(2 * HALF, np.int64)
        self.exponent = SMALLEST_EXPONENT
        self.low, self.high = math.inf, -math.inf
        self._scratch = scratch or Scratch()

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def bound(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count `values` (flat, float32). Raises ValueError if one is not finite, counting none of them."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("values are not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(self.bound)
        first, last = math.floor(low / self.width), math.floor(high / self.width)
        counts = self.counts[HALF + first : HALF + last + 1]
        for start in range(0, values.size, CHUNK):
            codes = self._binned(values[start : start + CHUNK])
            codes -= first
            counts += np.bincount(codes, minlength=counts.size)

    def _widen(self, bound: float) -> None:
        # bound < 2**frexp(bound)[1], so that this many bins of that width hold it.
        wanted = max(math.frexp(bound)[1] - HALF.bit_length() + 1, SMALLEST_EXPONENT)
        if bound and wanted > self.exponent:
            factor = min(1 << min(wanted - self.exponent, HALF.bit_length()), HALF)
            merged = self.counts.reshape(-1, factor).sum(axis=1)
            self.counts[:] = 0
            self.counts[HALF - HALF // factor : HALF + HALF // factor] = merged
            self.exponent = wanted

    def _binned(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """floor(value / width) in a buffer that the next call overwrites."""
        scaled = self._scratch.scaled[: values.size]
        codes = self._scratch.codes[: values.size]
        if self.exponent > 0:
            # Whole numbers first: a tiny negative value must not become zero when it is scaled down.
            np.floor(values, out=scaled)
            values = scaled
        np.multiply(values, np.float32(1 / self.width), out=scaled)
        np.floor(scaled, out=scaled)
        np.copyto(codes, scaled, casting="unsafe")
        return codes

    def clipped(self, low: float, high: float) -> Histogram:
        """The histogram of the same values clipped to [low, high]: the counts that `add` would give them.

        Only its bins are as wide as here, and so fewer of them hold values.
        """
        made = Histogram(self._scratch)
        made.exponent = self.exponent
        made.low, made.high = max(self.low, low), max(min(self.high, high), low)
        made.low = min(made.low, made.high)
        first, last = (HALF + math.floor(end / self.width) for end in (made.low, made.high))
        made.counts[first : last + 1] = self.counts[first : last + 1]
        made.counts[first] += self.counts[:first].sum()
        made.counts[last] += self.counts[last + 1 :].sum()
        return made

    def below(self, edges: NDArray[np.float64]) -> Counts:
        """How many values lie below each edge (all, at and above the maximum), to the nearest whole number.

        Within a bin values are taken to be spread evenly; the first and the last bin that hold values end at
        the exact minimum and maximum.
        """
        first, last = (math.floor(end / self.width) for end in (self.low, self.high))
        places = np.arange(first, last + 2) * self.width
        places[0], places[-1] = self.low, self.high
        cumulative = np.concatenate([[0], np.cumsum(self.counts[HALF + first : HALF + last + 1])])
        found: Counts = np.rint(np.interp(edges, places, cumulative)).astype(np.int64)
        found[edges <= self.low] = 0
        found[edges >= self.high] = cumulative[-1]
        return found

    def absolute(self, bins: int) -> Counts:
        """Counts [bins] of absolute values in equal bins from 0 to bound."""
        edges = np.linspace(0.0, self.bound, bins + 1)
        above, below = np.split(self.below(np.concatenate([edges, -edges])), 2)
        cumulative = above - below
        cumulative[0], cumulative[-1] = 0, self.total
        return np.diff(cumulative)
