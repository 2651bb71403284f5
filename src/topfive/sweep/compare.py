"""A sweep's numbers beside others: the card's figure, float32, the record before, a list shifted by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from topfive.cards import Published
from topfive.records import SweepRecord
from topfive.sweep.statistics import Proportion, mcnemar

__all__ = ["Change", "Summary", "agreement", "change_since", "shift_that_fits", "summarise"]

SIGNIFICANT = 0.01
"""Two-sided mid-p below which fewer right answers than before count as worse."""
FAR = 0.5
"""Top-1 below this share of the published figure is far below it."""


@dataclass(frozen=True)
class Change:
    """A sweep beside an earlier one, on the pictures that are the same in both.

    paired: how many those are. lost, gained: top-1 right then and not now, and the reverse. moved: pictures
    whose best class changed, by their place in the list. probability: McNemar's mid-p.
    """

    before: SweepRecord
    paired: int
    lost: int
    gained: int
    moved: tuple[int, ...]
    probability: float

    @property
    def verdict(self) -> str:
        """ "same" bests, "changed" ones, or "worse": fewer are right, and that is no chance."""
        if not self.moved:
            return "same"
        return "worse" if self.lost > self.gained and self.probability < SIGNIFICANT else "changed"


@dataclass(frozen=True)
class Summary:
    """One finished sweep and all that is said about it.

    float32: share of pictures with the same best class as force_float32, None where that is not known. shift:
    what to add to the labels so that they fit, 0 if they do.
    """

    record: SweepRecord
    published: Published
    float32: float | None
    change: Change | None
    shift: int
    shifted_top1: float

    @property
    def top1(self) -> Proportion:
        """Pictures whose best class is their own."""
        return Proportion(int(self.record.right1.sum()), self.record.pictures)

    @property
    def top5(self) -> Proportion:
        """Pictures whose class is among the five best."""
        return Proportion(int(self.record.right5.sum()), self.record.pictures)

    @property
    def failed(self) -> bool:
        """Whether the comparison fails: significantly worse than before, or labels off by one."""
        return bool(self.shift) or (self.change is not None and self.change.verdict == "worse")


def summarise(
    record: SweepRecord, published: Published, *, before: SweepRecord | None, float32: SweepRecord | None
) -> Summary:
    """Put a record beside the published figure, the record before and that of float32, if there are any."""
    shift, shifted = shift_that_fits(record, published)
    change = change_since(before, record) if before is not None else None
    alike = agreement(float32, record) if float32 is not None else None
    return Summary(record, published, alike, change, shift, shifted)


def _common(first: SweepRecord, second: SweepRecord) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows of both records that are the same place in the list, the same file and the same label."""
    _, left, right = np.intersect1d(first.indices, second.indices, return_indices=True)
    same = (first.digests[left] == second.digests[right]) & (first.labels[left] == second.labels[right])
    return left[same], right[same]


def change_since(before: SweepRecord, now: SweepRecord) -> Change | None:
    """The change since an earlier record; None if no picture is the same."""
    left, right = _common(before, now)
    if not len(left):
        return None
    was, are = before.right1[left], now.right1[right]
    lost, gained = int((was & ~are).sum()), int((~was & are).sum())
    moved = before.top5[left, 0] != now.top5[right, 0]
    places = tuple(int(place) for place in now.indices[right][moved])
    return Change(before, len(left), lost, gained, places, mcnemar(lost, gained))


def agreement(float32: SweepRecord, record: SweepRecord) -> float | None:
    """Share of the common pictures whose best class is the same; None if there are none."""
    left, right = _common(float32, record)
    return float((float32.top5[left, 0] == record.top5[right, 0]).mean()) if len(left) else None


def shift_that_fits(record: SweepRecord, published: Published) -> tuple[int, float]:
    """(what to add to the labels, top-1 then): (0, top-1) unless the labels are off by one.

    They are when top-1 is far below the published figure (or, without one, below one in ten), and with the
    labels shifted by one it is more than twice as high and its interval lies above this one's.
    """
    top1 = Proportion(int(record.right1.sum()), record.pictures)
    far = published.top1 * FAR if published.top1 is not None else 0.1
    best, found = 0, top1
    if top1.fraction < far:
        for shift in (-1, 1):
            shifted = Proportion(int((record.top5[:, 0] == record.labels + shift).sum()), record.pictures)
            clear = shifted.interval()[0] > top1.interval()[1] and shifted.right > 2 * top1.right
            if clear and shifted.right > found.right:
                best, found = shift, shifted
    return best, found.fraction
