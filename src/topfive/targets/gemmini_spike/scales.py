"""Factors that the hardware and its simulator turn into the same codes.

The hardware rounds to nearest, ties to even. The simulator (ROUND_NEAR_EVEN of gemmini_params.h) forms x + 1
in float32 on the way: of x one ulp below a power of two it makes one too much. Which sums come to such an x
is known when the program is made. Where one does, a neighbouring factor often gives the right codes for all
sums in either arithmetic; where none does, the program requantises by itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["addend_factor", "largest_sum", "shown_by_simulator", "store_factor"]

LARGEST_CODE = 128
# One ulp below 1, 2, 4 ... 64; from 128 on, everything saturates.
DANGEROUS = np.ldexp(1 - 2.0**-24, np.arange(7))
NEIGHBOURS = 8
ALL_CODES = np.arange(-128, 128, dtype=np.int32)
# Beyond this a product saturates in either arithmetic.
SATURATES = 130
# With more sums than these, neighbours are not tried.
MOST_TRIED = 2**22


def shown_by_simulator(sums: NDArray[np.int32], factor: np.float32) -> NDArray[np.int64]:
    """Codes as libgemmini's ACC_SCALE and MVIN_SCALE make them of sums (or codes) and a factor."""
    x = sums.astype(np.float32) * factor
    whole = np.trunc(x)
    following = np.trunc(x + np.where(x < 0, np.float32(-1), np.float32(1)))
    rest = np.abs(x - whole)
    even = np.where(np.fmod(whole, 2) == 0, whole, following)
    rounded = np.where(rest < 0.5, whole, np.where(rest > 0.5, following, even))
    return _saturated(rounded)


def _saturated(rounded: NDArray[np.float32]) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = np.clip(rounded, -LARGEST_CODE, LARGEST_CODE - 1).astype(np.int64)
    return codes


def _codes(sums: NDArray[np.int32], factor: np.float32) -> NDArray[np.int64]:
    return _saturated(np.rint(sums.astype(np.float32) * factor))


def _neighbours(factor: np.float32) -> list[np.float32]:
    """Positive floats next to a factor, the nearest first."""
    found: list[np.float32] = []
    below = above = factor
    for _ in range(NEIGHBOURS // 2):
        below = np.nextafter(below, np.float32(0))
        above = np.nextafter(above, np.float32(np.inf))
        found += [below, above]
    return [f for f in found if 0 < f < np.inf]


def largest_sum(weights: NDArray[np.int8] | None, bias: NDArray[np.int32] | None, depth: int) -> int:
    """The largest magnitude of any sum, whatever the activations are.

    weights: [..., depth, columns], None if they are not known; bias: int32 of any shape.
    """
    offset = 0 if bias is None else int(np.abs(bias.astype(np.int64)).max(initial=0))
    if weights is None:
        return depth * LARGEST_CODE**2 + offset
    sums = np.abs(weights.reshape(-1, depth, weights.shape[-1]).astype(np.int64)).sum(axis=1)
    return int(sums.max(initial=0)) * LARGEST_CODE + offset


def _reaches(factor: np.float32, most: int) -> bool:
    """Whether a sum of magnitude up to `most` comes to a dangerous product."""
    for product in DANGEROUS:
        middle = float(product) / float(factor)
        spread = middle * 2.0**-22 + 2
        if middle - spread > most:
            continue
        sums = np.arange(int(middle - spread), int(middle + spread) + 1, dtype=np.int64)
        sums = sums[(sums > 0) & (sums <= most)].astype(np.int32)
        if (sums.astype(np.float32) * factor == np.float32(product)).any():
            return True
    return False


def store_factor(factor: np.float32, most: int) -> np.float32 | None:
    """A factor that makes the same codes of every sum up to `most` on the hardware and in the simulator.

    It is `factor` itself unless a sum comes to a dangerous product; None where no neighbour will do, or there
    are too many sums to try.
    """
    most = min(most, 2**31 - 1)
    if not _reaches(factor, most):
        return factor
    last = min(most, int(np.ceil(SATURATES / float(factor))))
    if last > MOST_TRIED:
        return None
    sums = np.arange(last + 1, dtype=np.int32)
    wanted = np.rint(sums.astype(np.float32) * factor)
    for other in _neighbours(factor):
        same = np.array_equal(np.rint(sums.astype(np.float32) * other), wanted)
        if same and not _reaches(other, most):
            return other
    return None


def addend_factor(factor: np.float32) -> np.float32 | None:
    """The same for an addend: its 256 codes are tried."""
    wanted = _codes(ALL_CODES, factor)
    for other in (factor, *_neighbours(factor)):
        made = (_codes(ALL_CODES, other), shown_by_simulator(ALL_CODES, other))
        if all(np.array_equal(codes, wanted) for codes in made):
            return other
    return None
