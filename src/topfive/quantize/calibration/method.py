"""The calibration methods by name, and their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from topfive.errors import CalibrateError, UnknownNameError

__all__ = ["METHODS", "Method"]

METHODS = ("minmax", "percentile", "entropy", "entropy_onnxruntime", "mse")
MOST_BINS = 8192
"""More would be finer than the histograms themselves."""
DEFAULT_BINS = {"percentile": 2048, "entropy": 2048, "entropy_onnxruntime": 128, "mse": 2048}
DEFAULT_LEVELS = {"entropy": 128, "entropy_onnxruntime": 128}


@dataclass(frozen=True)
class Method:
    """How a range is chosen; docs/calibration.md describes each.

    symmetric: the range is (-t, t). percentile: of values that stay inside, for "percentile" only. bins and
    levels: of the histogram that all but "minmax" look at, in the end (0: the method's own).
    Raises UnknownNameError for another name, CalibrateError for a parameter outside its bounds.
    """

    name: str = "minmax"
    symmetric: bool = False
    percentile: float = 99.99
    bins: int = 0
    levels: int = 0

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise UnknownNameError("calibration method", self.name, METHODS)
        if not 50 < self.percentile <= 100:
            raise CalibrateError(f"a percentile is more than 50 and at most 100, not {self.percentile}")
        for what, given, known in (
            ("bins", self.bins, DEFAULT_BINS),
            ("levels", self.levels, DEFAULT_LEVELS),
        ):
            if given and self.name not in known:
                raise CalibrateError(
                    f"calibration method {self.name!r} has no {what}; {' and '.join(known)} have"
                )
        bins, levels = self.histogram_bins, self.histogram_levels
        if bins and not max(levels, 16) <= bins <= MOST_BINS:
            raise CalibrateError(f"bins must be {max(levels, 16)} to {MOST_BINS}, not {bins}")
        if levels and levels < 2:
            raise CalibrateError(f"levels must be 2 or more, not {levels}")

    @property
    def histogram_bins(self) -> int:
        """Bins of the histogram that the method looks at; 0 if it looks at none."""
        return self.bins or DEFAULT_BINS.get(self.name, 0)

    @property
    def histogram_levels(self) -> int:
        """Levels that the bins are merged to; 0 if they are not."""
        return self.levels or DEFAULT_LEVELS.get(self.name, 0)

    def fields(self) -> dict[str, Any]:
        """What decides the method's result, as JSON-able values: for keys and provenance."""
        found: dict[str, Any] = {"method": self.name, "symmetric": self.symmetric}
        if self.name == "percentile":
            found["percentile"] = self.percentile
        if self.histogram_bins:
            found["bins"] = self.histogram_bins
        if self.histogram_levels:
            found["levels"] = self.histogram_levels
        return found
