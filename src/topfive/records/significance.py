"""Whether two sets of measured times differ, and by how much; no distribution is assumed.

Mann and Whitney 1947 (U); Glass 1965 (rank-biserial correlation); Hodges and Lehmann 1963 (shift). The
quantile test is Mood's median test (1950) at another quantile than 1/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Difference", "hodges_lehmann", "hypergeometric_tails", "mann_whitney", "quantile_test"]

Times = npt.NDArray[np.float64]
EXACT_UP_TO = 40
"""Values in both samples together up to which U's distribution is counted out, ties included."""
PAIRS = 1000
"""Order statistics of a sample that the shift is found from, when there are more."""


@dataclass(frozen=True)
class Difference:
    """p: two-sided. effect: from -1 to 1, for Mann-Whitney the rank-biserial correlation, positive when the
    second sample is larger. least: the smallest p that samples of these sizes can give."""

    p: float
    effect: float
    least: float


def mann_whitney(first: Times, second: Times) -> Difference:
    """Mann-Whitney U of two samples, each of at least one value; ties count half.

    Exact over all orders of the pooled values up to EXACT_UP_TO of them, else the normal approximation with
    tie and continuity corrections.
    """
    n, m = len(first), len(second)
    if not n or not m:
        raise ValueError("a sample is empty")
    doubled = _doubled_midranks(np.concatenate([first, second]))
    total = int(doubled[n:].sum())
    # Twice U of the second sample: how often its values are larger, ties half.
    twice_u = total - m * (m + 1)
    effect = twice_u / (n * m) - 1
    if n + m <= EXACT_UP_TO:
        return Difference(_exact(doubled, m, total), effect, min(1.0, 2 / math.comb(n + m, m)))
    _, counts = np.unique(doubled, return_counts=True)
    size = n + m
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / (size * (size - 1))
    variance = n * m / 12 * (size + 1 - ties)
    if variance <= 0:
        return Difference(1.0, effect, 0.0)
    distance = max(0.0, abs(twice_u / 2 - n * m / 2) - 0.5)
    return Difference(math.erfc(distance / math.sqrt(2 * variance)), effect, 0.0)


def _doubled_midranks(values: Times) -> npt.NDArray[np.int64]:
    """Twice the rank of each value from 1, equal values sharing the mean: whole numbers."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((2 * ends - counts + 1)[place], np.int64)


def _exact(doubled: npt.NDArray[np.int64], m: int, total: int) -> float:
    """Two-sided p of a sum of doubled ranks among all choices of m of the values."""
    ways = np.zeros((m + 1, int(doubled.sum()) + 1), np.int64)
    ways[0, 0] = 1
    for rank in doubled:
        for chosen in range(m, 0, -1):
            ways[chosen, rank:] += ways[chosen - 1, : ways.shape[1] - rank]
    last = ways[m]
    every = int(last.sum())
    tail = min(int(last[: total + 1].sum()), int(last[total:].sum()))
    return min(1.0, 2 * tail / every)


def hodges_lehmann(first: Times, second: Times) -> float:
    """The shift from the first sample to the second: the median of all differences second - first.

    Of samples of more than PAIRS values, so many evenly spaced order statistics stand for all.
    """
    a, b = _thinned(first), _thinned(second)
    return float(np.median(b[:, None] - a[None, :]))


def _thinned(values: Times) -> Times:
    if len(values) <= PAIRS:
        return values
    return np.asarray(np.quantile(values, (np.arange(PAIRS) + 0.5) / PAIRS), np.float64)


def quantile_test(first: Times, second: Times, q: float) -> Difference:
    """Whether the values beyond the pooled q-quantile are shared out by chance (hypergeometric, two-sided).

    effect: the second sample's share of its values beyond, less the first's.
    """
    n, m = len(first), len(second)
    if not n or not m:
        raise ValueError("a sample is empty")
    limit = np.quantile(np.concatenate([first, second]), q)
    x, y = int((first > limit).sum()), int((second > limit).sum())
    below, above = hypergeometric_tails(y, n + m, x + y, m)
    least_y, most_y = max(0, x + y - n), min(x + y, m)
    least = min(
        hypergeometric_tails(least_y, n + m, x + y, m)[0], hypergeometric_tails(most_y, n + m, x + y, m)[1]
    )
    return Difference(min(1.0, 2 * min(below, above)), y / m - x / n, min(1.0, 2 * least))


def hypergeometric_tails(k: int, total: int, marked: int, drawn: int) -> tuple[float, float]:
    """(P(X <= k), P(X >= k)) of X marked ones among `drawn` of `total`, of which `marked` are marked."""
    lowest, highest = max(0, drawn + marked - total), min(marked, drawn)
    logs = [
        _log_choose(marked, i) + _log_choose(total - marked, drawn - i) - _log_choose(total, drawn)
        for i in range(lowest, highest + 1)
    ]
    masses = [math.exp(value) for value in logs]
    place = k - lowest
    return min(1.0, math.fsum(masses[: place + 1])), min(1.0, math.fsum(masses[max(0, place) :]))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
