"""Where a series of measurements changes its level.

The series is fitted by a piecewise constant function: of all ways to cut it, the one with the least sum of
squared distances plus a penalty for each cut (penalised least squares, found exactly by dynamic programming;
airspeed velocity fits the same kind of function to absolute distances). Values are compared as logarithms,
so that a change is a ratio. Same input, same output: nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["Level", "levels"]

SMALLEST_NOISE = 0.01
"""Measurements closer than 1 % are never told apart: quiet series would else be cut at every bit."""
PENALTY = 4.0
"""A cut must lower the sum of squares by so many noise variances for each ln(n)."""
# The median absolute deviation of a normal distribution is 0.6745 of its standard deviation.
NORMAL_MAD = 0.6745


@dataclass(frozen=True)
class Level:
    """Places start to end (not included) of a series, and the geometric mean of the values there."""

    start: int
    end: int
    value: float


def levels(values: Sequence[float]) -> list[Level]:
    """The levels of a series of positive numbers, in order; [] for none. ValueError for a number <= 0.

    Noise is the robust deviation of neighbours (median of |difference| / 0.6745 / sqrt 2), which a few steps
    do not change; at least SMALLEST_NOISE. The penalty of a cut is PENALTY * noise**2 * ln(n).
    """
    if any(not value > 0 or not math.isfinite(value) for value in values):
        raise ValueError("a level is of positive numbers")
    if not values:
        return []
    logs = np.log(np.asarray(values, np.float64))
    cuts = _best_cuts(logs, PENALTY * noise(logs) ** 2 * math.log(max(len(values), 2)))
    edges = [0, *cuts, len(values)]
    return [Level(start, end, float(np.exp(logs[start:end].mean()))) for start, end in pairwise(edges)]


def noise(logs: npt.NDArray[np.float64]) -> float:
    """Standard deviation of a series around its levels, estimated from the differences of neighbours."""
    if len(logs) < 3:
        return SMALLEST_NOISE
    spread = float(np.median(np.abs(np.diff(logs)))) / (NORMAL_MAD * math.sqrt(2))
    return max(spread, SMALLEST_NOISE)


def _best_cuts(logs: npt.NDArray[np.float64], penalty: float) -> list[int]:
    """Where to cut: least sum of squares plus penalty a cut; of equal ones that with the earliest cut."""
    sums = np.concatenate([[0.0], np.cumsum(logs)])
    squares = np.concatenate([[0.0], np.cumsum(logs**2)])
    best, last = np.zeros(len(logs) + 1), np.zeros(len(logs) + 1, int)
    best[0] = -penalty
    for end in range(1, len(logs) + 1):
        starts = np.arange(end)
        total = sums[end] - sums[:end]
        error = squares[end] - squares[:end] - total**2 / (end - starts)
        costs = best[:end] + np.maximum(error, 0.0) + penalty
        last[end] = int(np.argmin(costs))
        best[end] = costs[last[end]]
    cuts, end = [], len(logs)
    while last[end] > 0:
        end = int(last[end])
        cuts.append(end)
    return cuts[::-1]
