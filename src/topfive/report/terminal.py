"""The table at the end of a run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from topfive.loadgen import is_stream
from topfive.report.columns import (
    BUSY_MARK,
    COLUMNS,
    FEW_ROUNDS_MARK,
    MODELLED_MARK,
    SIMULATED_MARK,
    Column,
)
from topfive.suite.contention import DISTURBED
from topfive.suite.measuring import FEW_ROUNDS
from topfive.suite.results import LoadGenRow, Row, simulated_targets

__all__ = ["as_text", "footnotes", "render", "render_loadgen"]

STYLES = {
    **{"exact": "green", "drift": "yellow", "fail": "bold red", "error": "bold red"},
    **{"VALID": "green", "INVALID": "bold red"},
}
LOADGEN_COLUMNS = ("model", "target", "quant mode", "LoadGen run", "verdict", "figure", "", "queries")
# What LoadGen's figure of a scenario is.
LOADGEN_FIGURES = {
    "singlestream": "ms, 90th percentile",
    "multistream": "ms, 99th percentile of a query",
    "server": "samples/s completed",
    "offline": "samples/s",
}
UNBOUNDED = 10_000
GENTLE_SERVER = "server: a gentle rate, not the highest that is held: `topfive scenario --mode find-peak`"
"""Tests ask whether Server's queries are answered in time, on machines that do other work, too."""


def render(rows: Sequence[Row], *, colour: bool = False, columns: Sequence[Column] = COLUMNS) -> str:
    """The table as text: a line a row whatever the width of the terminal, ASCII only, colours on request."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    shown = [
        column
        for column in columns
        if column.title and not (column.optional and all(column.value(row) is None for row in rows))
    ]
    for column in shown:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in rows:
        cells = [column.cell(row) for column in shown]
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells))
    return as_text(table, colour=colour)


def render_loadgen(rows: Sequence[LoadGenRow], *, colour: bool = False) -> str:
    """The runs of LoadGen as text like `render`: its verdict and figure of each, or the accuracy."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for title in LOADGEN_COLUMNS:
        right = title in ("figure", "queries")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        target = row.target + (SIMULATED_MARK if row.simulated else "")
        cells = (row.model, target, row.quant, str(row.run["key"]), *_loadgen_cells(row.run))
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells))
    lines = [as_text(table, colour=colour)]
    if any(row.run["key"] == "performance-server" for row in rows):
        lines.append(GENTLE_SERVER)
    return "\n".join(lines)


def _loadgen_cells(run: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Verdict, figure, what the figure is, queries."""
    if "accuracy" in run:
        return "-", f"{100 * run['accuracy']:.2f}", "% top-1", str(run["total"])
    what = LOADGEN_FIGURES[str(run["key"]).rpartition("-")[2]]
    figure = f"{1e3 * run['metric']:.3f}" if is_stream(run["key"]) else f"{run['metric']:.1f}"
    return "VALID" if run["valid"] else "INVALID", figure, what, str(run["queries"])


def as_text(table: Table, *, colour: bool = False) -> str:
    """A table as lines of text of any width, ASCII only, without blanks at their ends."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=UNBOUNDED,
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
        highlight=False,
        legacy_windows=False,
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def footnotes(rows: Sequence[Row], *, native_kernels_differ: bool = False) -> list[str]:
    """What a reader must know about these rows, a line each."""
    notes = [
        f"{SIMULATED_MARK} {target} is simulated: {what}"
        for target, what in sorted(simulated_targets(rows).items())
    ]
    busiest = max((row.values.get("others", 0.0) for row in rows), default=0.0)
    if busiest >= DISTURBED:
        notes.append(
            f"{BUSY_MARK} measured while other processes took up to {busiest:.1f} processors: times of a "
            "busy machine; `topfive pair` compares two builds on one"
        )
    if any(0 < row.values.get("rounds", 0) < FEW_ROUNDS for row in rows):
        notes.append(f"{FEW_ROUNDS_MARK} p99 of fewer than {FEW_ROUNDS} rounds: hardly more than the maximum")
    if any("modelled_estimate" in row.values for row in rows):
        notes.append(
            f"{MODELLED_MARK} millions of modelled cycles of the default Gemmini for the batch, calibrated "
            "on one published point / with the bus at full speed: not measured, not cycle-accurate"
        )
    if native_kernels_differ:
        notes.append(
            "cpu: ONNX Runtime's native int8 kernels saturate on this processor: --cpu-kernels native gives "
            "other results than exact"
        )
    return notes
