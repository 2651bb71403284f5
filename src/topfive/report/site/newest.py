"""What a case shows: of each figure the newest, and the run that it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from topfive.golden import Golden
from topfive.report.site.content import NO_ROUNDS, Case, Content, Figures, LoadGenRun, Run, golden_basis

__all__ = ["Accuracy", "CaseView", "Measured", "Moment", "case_views", "marked"]

COMMITTED = "committed"
"""The verdict of a case with a golden file that no run in the report has compared."""


def marked(target: str, simulations: Mapping[str, str]) -> str:
    """A target's name, with the mark of what is simulated. simulations: what is, by target."""
    return f"{target}~" if simulations.get(target) else target


@dataclass(frozen=True)
class Accuracy:
    """top1, top5: fractions of so many pictures. basis: which ones; others' top-1 is no match for it."""

    top1: float
    top5: float | None
    pictures: int | None
    basis: str
    run: Run | None


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
    simulations: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Target, marked if it is simulated, and quant mode."""
        return f"{marked(self.case[1], {self.case[1]: self.simulated})} {self.case[2]}"

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
    def accuracies(self) -> list[Accuracy]:
        """The newest top-1 of each kind: of a sweep, of the golden pictures, of a run of LoadGen."""
        found: dict[int, Accuracy] = {}
        for run, figures in self.found:
            top1, pictures = figures.number("top1"), figures.number("pictures")
            if top1 is not None:
                rank = 2 if figures.loadgen is not None else 0 if "top5" in figures.values else 1
                count = None if pictures is None else int(pictures)
                found[rank] = Accuracy(top1, figures.number("top5"), count, figures.basis, run)
        if self.golden is not None and self.golden.top1 is not None:
            names = [image.sha256[:16] for image in self.golden.images]
            stored = Accuracy(self.golden.top1, None, len(names), golden_basis(names), None)
            found.setdefault(1, stored)
        return [found[rank] for rank in sorted(found)]

    @property
    def accuracy(self) -> Accuracy | None:
        """The top-1 to show: of a sweep if there is one, else of the golden pictures, else of LoadGen."""
        return self.accuracies[0] if self.accuracies else None

    @cached_property
    def measured(self) -> list[Measured]:
        """The newest measurement at each batch, the smallest batch first."""
        best: dict[int, Measured] = {}
        for run, figures in self.found:
            if figures.batch is not None and figures.number("p50") is not None:
                chosen = self._timed[run.id, figures.batch]
                best[figures.batch] = Measured(figures.batch, run, chosen.values, chosen.seconds)
        return [best[batch] for batch in sorted(best)]

    @cached_property
    def _timed(self) -> dict[tuple[str, int], Figures]:
        """What a run measured at a batch: the latency test before a throughput test, as in a session's table.

        Of several of one kind that of most rounds.
        """
        best: dict[tuple[str, int], Figures] = {}
        for run, figures in self.found:
            if figures.batch is None or figures.number("p50") is None:
                continue
            before = best.get((run.id, figures.batch))
            if before is None or _precedence(figures) > _precedence(before):
                best[run.id, figures.batch] = figures
        return best

    @cached_property
    def simulated(self) -> str:
        """What is simulated about it, "" for a device or the processor itself."""
        value, _ = self.newest("simulated")
        return str(value or self.simulations.get(self.case[1], ""))

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
        """p50 at a batch in every run like the newest one, the oldest first.

        Alike are runs on the same machine, with as many threads and the same kernels.
        """
        moments = dict[str, tuple[Moment, tuple[Any, ...]]]()
        for run, _ in self.found:
            figures = self._timed.get((run.id, batch))
            p50 = figures.number("p50") if figures is not None else None
            if figures is not None and p50 is not None and p50 > 0:
                alike = (run.host, figures.values.get("threads"), figures.values.get("kernels"))
                moments[run.id] = Moment(run, p50), alike
        last = next(reversed(moments.values()), None)
        return [moment for moment, alike in moments.values() if last is not None and alike == last[1]]


def _precedence(figures: Figures) -> tuple[bool, float]:
    return figures.kind == "latency", figures.number("rounds") or 0.0


def case_views(content: Content, simulations: Mapping[str, str]) -> list[CaseView]:
    """A view of each case, sorted. simulations: what is simulated or emulated, by target."""
    found: dict[Case, list[tuple[Run, Figures]]] = {case: [] for case in content.cases()}
    for run in content.runs:
        for figures in run.figures:
            found[figures.case].append((run, figures))
    return [CaseView(case, content.goldens.get(case), seen, simulations) for case, seen in found.items()]
