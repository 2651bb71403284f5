"""Intervals of an accuracy, and whether two accuracies on the same pictures differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["Proportion", "mcnemar"]

CONFIDENCE = 0.95
EXACT_UP_TO = 1000
"""Discordant pairs up to which the binomial sum is one of whole numbers."""


@dataclass(frozen=True)
class Proportion:
    """`right` of `total` pictures."""

    right: int
    total: int

    @property
    def fraction(self) -> float:
        """The accuracy, 0 to 1."""
        return self.right / self.total

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Wilson's score interval (1927): all p with |right / total - p| <= z sqrt(p (1 - p) / total)."""
        n, p = self.total, self.fraction
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        centre = p + z * z / (2 * n)
        margin = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        low = 0.0 if self.right == 0 else max(0.0, (centre - margin) / scale)
        high = 1.0 if self.right == n else min(1.0, (centre + margin) / scale)
        return low, high


def mcnemar(lost: int, gained: int) -> float:
    """McNemar's exact test, two-sided, as a mid-p value (Fagerland, Lydersen, Laake 2013).

    lost, gained: pictures that only the one, only the other of two classifiers gets right. Under the null
    hypothesis the smaller count k is binomial with n = lost + gained and 1/2: the value is
    2 P(X <= k) - P(X = k), which is 1 for k = n/2 and when nothing differs.
    """
    n, k = lost + gained, min(lost, gained)
    if n == 0:
        return 1.0
    if n <= EXACT_UP_TO:
        count = 2 * sum(math.comb(n, i) for i in range(k)) + math.comb(n, k)
        return min(1.0, float(count / 2**n))
    # The same sum from its largest term down, each term's ratio to the next being i / (n - i + 1).
    last = math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
    term, below = 1.0, 0.0
    for i in range(k, 0, -1):
        term *= i / (n - i + 1)
        below += term
        if term < below * 1e-17:
            break
    return min(1.0, last * (2 * below + 1))
