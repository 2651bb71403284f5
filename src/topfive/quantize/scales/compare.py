"""Two scale tables beside each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

from topfive.quantize.ranges import RangeTable
from topfive.quantize.scales.tensorrt_cache import scale_of

__all__ = ["Comparison", "Difference", "compare_tables"]

Ends = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """One tensor of two tables. ratio: the larger symmetric scale over the smaller (1 or more).

    shift: how far an end moved, as a part of the larger bound; 0 unless both ranges are asymmetric.
    """

    tensor: str
    left: Ends
    right: Ends
    ratio: float
    shift: float


@dataclass(frozen=True)
class Comparison:
    """rows: of all tensors that both tables have, largest ratio first, then largest shift, then by name."""

    rows: tuple[Difference, ...]
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]

    def beyond(self, tolerance: float) -> list[Difference]:
        """The rows whose ratio is more than 1 + tolerance, or whose shift is more than tolerance."""
        return [row for row in self.rows if row.ratio > 1 + tolerance or row.shift > tolerance]

    def equal(self, tolerance: float) -> bool:
        """Whether both tables have the same tensors and none is beyond the tolerance."""
        return not (self.beyond(tolerance) or self.only_left or self.only_right)


def compare_tables(left: RangeTable, right: RangeTable) -> Comparison:
    """Compare the scales of two tables, tensor by tensor."""
    rows = [_difference(n, left.ranges[n], right.ranges[n]) for n in left.ranges if n in right.ranges]
    rows.sort(key=lambda row: (-row.ratio, -row.shift, row.tensor))
    return Comparison(
        tuple(rows),
        tuple(sorted(set(left.ranges) - set(right.ranges))),
        tuple(sorted(set(right.ranges) - set(left.ranges))),
    )


def _difference(tensor: str, left: Ends, right: Ends) -> Difference:
    small, large = sorted(float(scale_of(*ends)) for ends in (left, right))
    ratio = 1.0 if small == large else large / small if small else math.inf
    shift = 0.0
    if all(low != -high for low, high in (left, right)):
        bound = max(map(abs, (*left, *right)))
        shift = max(abs(a - b) for a, b in zip(left, right, strict=True)) / bound
    return Difference(tensor, left, right, ratio, shift)
