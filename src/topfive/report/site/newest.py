"""What a case shows: of each figure the newest, and the run that it is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from topfive.golden import Golden
from topfive.report.site.content import NO_ROUNDS, Case, Content, Figures, LoadGenRun, Run

__all__ = ["CaseView", "Measured", "Moment", "case_views"]

COMMITTED = "committed"
"""The verdict of a case with a golden file that no run in the report has compared."""


@dataclass(frozen=True)
class Measured:
    """The newest measurement of a case at one batch. seconds: raw rounds, or none."""

    batch: int
    run: Run
    values: Mapping[str, Any]
    seconds: npt.NDArray[np.float64] = field(default_factory=lambda: NO_ROUNDS, compare=False)

    def number(self, name: str) -> float | None:
        """A figure of it, None without."""
        value = self.values.get(name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class Moment:
    """A measurement of a history: seconds (p50) in a run."""

    run: Run
    p50: float


@dataclass(frozen=True)
class CaseView:
    """One case over all runs."""

    case: Case
    golden: Golden | None
    found: Sequence[tuple[Run, Figures]]

    @property
    def label(self) -> str:
        """Target and quant mode."""
        return f"{self.case[1]} {self.case[2]}"

    def newest(self, name: str) -> tuple[Any, Run | None]:
        """The newest value of a name and its run; (None, None) if no run has one."""
        for run, figures in reversed(self.found):
            value = figures.values.get(name)
            if value not in (None, ""):
                return value, run
        return None, None

    @cached_property
    def verdict(self) -> str:
        """The newest golden verdict; "committed" for a file that no run compared, "" without a file."""
        value, _ = self.newest("golden")
        return str(value or (COMMITTED if self.golden else ""))

    @cached_property
    def accuracy(self) -> tuple[float | None, int | None, Run | None]:
        """Top-1 as a fraction, of how many pictures, and the run; the newest sweep goes before fixtures."""
        for wanted in (True, False):
            for run, figures in reversed(self.found):
                top1 = figures.number("top1")
                if top1 is not None and (not wanted or "top5" in figures.values):
                    pictures = figures.number("pictures")
                    return top1, None if pictures is None else int(pictures), run
        if self.golden is not None and self.golden.top1 is not None:
            return self.golden.top1, len(self.golden.images), None
        return None, None, None

    @cached_property
    def measured(self) -> list[Measured]:
        """The newest measurement at each batch, the smallest batch first.

        Of several in a run (a latency and a throughput test at batch 1) that of most rounds.
        """
        best: dict[int, Measured] = {}
        for run, figures in self.found:
            if figures.batch is None or figures.number("p50") is None:
                continue
            before = best.get(figures.batch)
            same_run = before is not None and before.run.id == run.id
            if before and same_run and (before.number("rounds") or 0) > (figures.number("rounds") or 0):
                continue
            best[figures.batch] = Measured(figures.batch, run, figures.values, figures.seconds)
        return [best[batch] for batch in sorted(best)]

    @cached_property
    def simulated(self) -> str:
        """What is simulated about it, "" for a device or the processor itself."""
        value, _ = self.newest("simulated")
        return str(value or "")

    def cycles(self, figure: str) -> int | None:
        """Modelled cycles of one picture, "estimate" or "bus": of the newest run, else of the golden."""
        for _, figures in reversed(self.found):
            if figures.batch in (None, 1) and figures.number(f"modelled_{figure}") is not None:
                return int(figures.values[f"modelled_{figure}"])
        stored = self.golden.modelled_cycles.get("1", {}) if self.golden else {}
        return stored.get(figure)

    @property
    def loadgen(self) -> list[tuple[LoadGenRun, Run]]:
        """The newest LoadGen run of each command key, sorted by it."""
        newest = {f.loadgen.key: (f.loadgen, run) for run, f in self.found if f.loadgen is not None}
        return [newest[key] for key in sorted(newest)]

    @property
    def last_run(self) -> Run | None:
        """The newest run that is about it."""
        return self.found[-1][0] if self.found else None

    def history(self, batch: int) -> list[Moment]:
        """p50 at a batch in every run on the machine of the newest one, the oldest first."""
        moments = list(self._moments(batch))
        return [moment for moment in moments if moment.run.host == moments[-1].run.host]

    def _moments(self, batch: int) -> Iterator[Moment]:
        last: dict[str, Moment] = {}
        rounds: dict[str, float] = {}
        for run, figures in self.found:
            p50, count = figures.number("p50"), figures.number("rounds") or 0
            if figures.batch == batch and p50 is not None and p50 > 0 and count >= rounds.get(run.id, 0):
                last[run.id], rounds[run.id] = Moment(run, p50), count
        yield from last.values()


def case_views(content: Content) -> list[CaseView]:
    """A view of each case, sorted."""
    found: dict[Case, list[tuple[Run, Figures]]] = {case: [] for case in content.cases()}
    for run in content.runs:
        for figures in run.figures:
            found[figures.case].append((run, figures))
    return [CaseView(case, content.goldens.get(case), seen) for case, seen in found.items()]
