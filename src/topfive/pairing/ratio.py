"""How many times as long B takes as A, from turns that stood side by side, with a bootstrap interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from topfive.pairing.interleave import Slots

__all__ = ["CpuRatio", "Ratio", "cpu_ratio_of", "ratio_of"]

RESAMPLES = 500
BLOCK = 10
"""Rounds that are drawn together: what slows a machine lasts longer than one round."""
FEWEST_EPOCHS = 5
"""With fewer the interval says nothing of how much opening anew changes."""
CONFIDENCE = 0.99
Table = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ratio:
    """B over A.

    ratio: the median over turns side by side, the geometric mean of those in which A came first and those in
    which B did. low, high: its interval. of_medians: median of all turns of B over that of A, with
    medians_low and medians_high; a burst of load moves it more. median_a, median_b: seconds a call.
    """

    ratio: float
    low: float
    high: float
    of_medians: float
    medians_low: float
    medians_high: float
    median_a: float
    median_b: float
    rounds: int
    epochs: int
    calls: int

    @property
    def precision(self) -> float:
        """Half the interval's width, a fraction of the ratio."""
        return (self.high - self.low) / (2 * self.ratio)

    @property
    def verdict(self) -> str:
        """ "same" when the interval contains 1, else "B slower" or "B faster"."""
        if self.low <= 1 <= self.high:
            return "same"
        return "B slower" if self.ratio > 1 else "B faster"


@dataclass(frozen=True)
class CpuRatio:
    """B over A in processor time of the process that calls, all its threads: `Ratio`'s figures.

    Time in which other processes have the processor does not count, so load hardly moves it.
    """

    ratio: float
    low: float
    high: float
    median_a: float
    median_b: float


def ratio_of(slots: Slots, *, seed: int = 0) -> Ratio:
    """The ratio of a measurement and its interval of CONFIDENCE.

    The interval is of the percentile bootstrap (Efron 1979) in two stages: epochs are drawn, and from each
    drawn epoch blocks of BLOCK rounds (Künsch 1989).
    """
    a, b = slots.a, slots.b
    epochs, rows = _resamples(a.shape[0], a.shape[1], np.random.default_rng(seed))
    ratio, low, high = _side_by_side(a, b, epochs, rows)
    median_a, median_b = (
        np.median(times[epochs[:, :, None], rows].reshape(RESAMPLES, -1), axis=1) for times in (a, b)
    )
    medians_low, medians_high = _interval(median_b / median_a)
    return Ratio(
        ratio=ratio,
        low=low,
        high=high,
        of_medians=float(np.median(b) / np.median(a)),
        medians_low=medians_low,
        medians_high=medians_high,
        median_a=float(np.median(a)),
        median_b=float(np.median(b)),
        rounds=slots.rounds,
        epochs=a.shape[0],
        calls=slots.calls,
    )


def cpu_ratio_of(slots: Slots, *, seed: int = 0) -> CpuRatio | None:
    """The same of processor time; None where its clock is too coarse for some turn."""
    a, b = slots.cpu_a, slots.cpu_b
    if a.min() <= 0 or b.min() <= 0:
        return None
    drawn = _resamples(a.shape[0], a.shape[1], np.random.default_rng(seed))
    return CpuRatio(*_side_by_side(a, b, *drawn), float(np.median(a)), float(np.median(b)))


def _side_by_side(a: Table, b: Table, epochs: Places, rows: Places) -> tuple[float, float, float]:
    """The ratio of turns side by side, and its interval."""
    logs = np.log(b) - np.log(a)
    drawn = logs[epochs[:, :, None], rows].reshape(RESAMPLES, -1, 2)
    low, high = _interval(np.exp(np.median(drawn, axis=1).mean(axis=1)))
    return float(np.exp(np.median(logs.reshape(-1, 2), axis=0).mean())), low, high


def _interval(values: Table) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)


def _resamples(epochs: int, rounds: int, random: np.random.Generator) -> tuple[Places, Places]:
    """Drawn epochs, [RESAMPLES, epochs], and rounds in each, [RESAMPLES, epochs, rounds].

    Blocks begin anywhere in an epoch and wrap at its end.
    """
    chosen = random.integers(0, epochs, size=(RESAMPLES, epochs))
    block = max(1, min(BLOCK, rounds // 2))
    starts = random.integers(0, rounds, size=(RESAMPLES, epochs, -(-rounds // block)))
    rows = (starts[..., None] + np.arange(block)) % rounds
    return chosen, rows.reshape(RESAMPLES, epochs, -1)[:, :, :rounds]
