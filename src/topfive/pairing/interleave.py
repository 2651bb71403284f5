"""Taking turns: A B B A, again and again."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from topfive.pairing.sides import Side

__all__ = ["Slots", "interleave"]

SHORTEST_TURN = 5e-4
"""Seconds; shorter calls are repeated within a turn, so that the clock weighs little."""
FEWEST_CALLS = 3
"""A turn of short calls counts as its fastest: interruptions and emptied caches only add to a call. Under
load the fastest of three spread 1.2 to 2 times less than their medians."""
WARMED_UP_TO = 0.02
"""Seconds; each turn of shorter calls begins with one that is not counted: it brings the caches back."""


FEWEST_ROUNDS = 20
"""Of an epoch."""


@dataclass(frozen=True)
class Slots:
    """Seconds a call, the fastest of each turn: `a` and `b` are [epochs, rounds, 2].

    The last axis is the turn: A B B A. Both sides are opened anew at the begin of each epoch. cpu_a, cpu_b:
    the same of processor seconds.
    """

    a: npt.NDArray[np.float64]
    b: npt.NDArray[np.float64]
    cpu_a: npt.NDArray[np.float64]
    cpu_b: npt.NDArray[np.float64]
    calls: int

    @property
    def rounds(self) -> int:
        """How often A B B A was run."""
        return int(self.a.shape[0] * self.a.shape[1])


def interleave(
    first: Side,
    second: Side,
    *,
    enough: Callable[[Slots], bool],
    rounds: int | None = None,
    calls: int | None = None,
) -> Slots:
    """Run epochs of A B B A until `enough` says so.

    rounds: of an epoch, None for FEWEST_ROUNDS or more, so that opening anew takes no longer than measuring.
    calls: a turn, None to find it. Over a round each side comes first and last, and after itself and the
    other, equally often, so that neither a drift of the machine nor what the other leaves in the caches
    favours one of them; the order in which they are opened changes from epoch to epoch.
    """
    longest, shortest = _seconds(first, second)
    uncounted = int(longest < WARMED_UP_TO)
    made = calls or max(FEWEST_CALLS if uncounted else 1, math.ceil(SHORTEST_TURN / shortest))
    opening = _renewed(first, second)
    turn = (made + uncounted) * (longest + shortest)
    count = rounds or max(FEWEST_ROUNDS, math.ceil(opening / (2 * turn)))
    epochs: list[list[list[tuple[float, float]]]] = []
    checked = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        while True:
            epochs.append([_round(first, second, made, uncounted) for _ in range(count)])
            # Ever more seldom, for `enough` takes its time too.
            if len(epochs) >= 1.25 * checked:
                checked = len(epochs)
                table = np.array(epochs, np.float64)
                firsts, seconds = table[:, :, [0, 3]], table[:, :, [1, 2]]
                slots = Slots(firsts[..., 0], seconds[..., 0], firsts[..., 1], seconds[..., 1], made)
                if enough(slots):
                    return slots
            _renewed(*((first, second) if len(epochs) % 2 else (second, first)))
            gc.collect()
    finally:
        if collecting:
            gc.enable()


def _round(first: Side, second: Side, calls: int, uncounted: int) -> list[tuple[float, float]]:
    found = [side.calls(uncounted + calls) for side in (first, second, second, first)]
    return [(min(timed.wall[uncounted:]), min(timed.cpu[uncounted:])) for timed in found]


def _renewed(*sides: Side) -> float:
    """Open sides anew, in this order; the seconds that it took."""
    start = time.perf_counter()
    for side in sides:
        side.renew()
    return time.perf_counter() - start


def _seconds(first: Side, second: Side) -> tuple[float, float]:
    """The median seconds of a call of the slower and of the faster."""
    medians = [max(1e-9, statistics.median(side.calls(5).wall)) for side in (first, second)]
    return max(medians), min(medians)
