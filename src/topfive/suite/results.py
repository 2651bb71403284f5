"""Gathering what the tests of a session found, from this process or from xdist workers, into rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LoadGenRow", "Results", "Row", "simulated_targets"]

SECOND = {
    "throughput": ("p50", "p90", "p99", "rounds", "images_per_s", "others"),
    "scenario": ("top1", "pictures"),
}
"""What a kind of test leaves as another one found it."""


@dataclass
class Row:
    """One model, target, quant mode and batch; fields that no test filled are absent from `values`.

    values: golden (verdict), top1 (fraction), p50 p90 p99 (seconds), images_per_s, rounds, artifact, threads,
    kernels, preprocess_s, simulated, others (processors that other processes took meanwhile).
    """

    model: str
    target: str
    quant: str
    batch: int | None
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadGenRow:
    """One run of LoadGen: its case, whether that is simulated, the run as `loadgen.described` gives it."""

    model: str
    target: str
    quant: str
    simulated: bool
    run: Mapping[str, Any]


class Results:
    """Rows by case, in the order of the first test of each; runs of LoadGen one by one."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str, int | None], Row] = {}
        self.loadgen: list[LoadGenRow] = []
        self.notes: list[str] = []

    def add(self, found: Mapping[str, Any]) -> None:
        """Take what one test found: the case, its kind, and values.

        At batch 1 both kinds of benchmark measure: the row shows the latency test's run, which has more
        rounds, so that its figures belong together. LoadGen's accuracy, of fewer pictures, does not replace
        the golden pictures'.
        """
        case = (found["model"], found["target"], found["quant"], found.get("batch"))
        row = self._rows.setdefault(case, Row(*case))
        kind, values = found["kind"], dict(found["values"])
        if note := values.pop("note", ""):
            self.notes.append(note)
        if run := values.pop("loadgen", None):
            simulated = bool(values.get("simulated"))
            self.loadgen.append(LoadGenRow(row.model, row.target, row.quant, simulated, run))
        for name, value in values.items():
            if name not in row.values or name not in SECOND.get(kind, ()):
                row.values[name] = value

    def rows(self) -> list[Row]:
        """The rows, batches together; a golden's findings stand in every row of its case."""
        whole = {(r.model, r.target, r.quant): r.values for r in self._rows.values() if r.batch is None}
        measured = [r for r in self._rows.values() if r.batch is not None]
        covered = {(r.model, r.target, r.quant) for r in measured}
        alone = [r for r in self._rows.values() if r.batch is None and _names(r) not in covered]
        merged = [
            Row(r.model, r.target, r.quant, r.batch, {**whole.get(_names(r), {}), **r.values})
            for r in measured
        ]
        return sorted([*merged, *alone], key=lambda r: (r.target, r.model, r.quant, r.batch or 0))


def _names(row: Row) -> tuple[str, str, str]:
    return row.model, row.target, row.quant


def simulated_targets(rows: Iterable[Row]) -> dict[str, str]:
    """Target -> what is simulated about it, for the targets of these rows."""
    return {r.target: r.values["simulated"] for r in rows if r.values.get("simulated")}
