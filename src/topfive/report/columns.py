"""The columns of the session's table. To add one, add a Column: terminal and CSV follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from topfive.suite.contention import DISTURBED
from topfive.suite.measuring import FEW_ROUNDS
from topfive.suite.results import Row

__all__ = ["BUSY_MARK", "COLUMNS", "FEW_ROUNDS_MARK", "MODELLED_MARK", "SIMULATED_MARK", "Column"]

BUSY_MARK = "!"
FEW_ROUNDS_MARK = "*"
SIMULATED_MARK = "~"
MODELLED_MARK = "^"


@dataclass(frozen=True)
class Column:
    """One column: its CSV name, its raw value, and how the terminal shows it (title "" = CSV only).

    optional: the terminal leaves it out when no row has a value.
    """

    name: str
    value: Callable[[Row], Any]
    title: str = ""
    show: Callable[[Row, Any], str] = lambda _, value: str(value)
    right: bool = False
    optional: bool = False

    def cell(self, row: Row) -> str:
        """The text of a terminal cell; a dash where there is nothing."""
        value = self.value(row)
        return "-" if value is None or value == "" else self.show(row, value)


def _found(name: str) -> Callable[[Row], Any]:
    return lambda row: row.values.get(name)


def _target(row: Row, name: str) -> str:
    return name + (SIMULATED_MARK if row.values.get("simulated") else "")


def _percent(_: Row, fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _milliseconds(_: Row, seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def _p50(row: Row, seconds: float) -> str:
    return _milliseconds(row, seconds) + (BUSY_MARK if row.values.get("others", 0) >= DISTURBED else "")


def _p99(row: Row, seconds: float) -> str:
    return _milliseconds(row, seconds) + (FEW_ROUNDS_MARK if row.values.get("rounds", 0) < FEW_ROUNDS else "")


def _rate(_: Row, value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _megacycles(row: Row, estimate: int) -> str:
    """The calibrated estimate, then the bound with the bus at full speed."""
    return f"{estimate / 1e6:.3f}/{row.values['modelled_bus'] / 1e6:.3f}{MODELLED_MARK}"


COLUMNS = (
    Column("model", lambda row: row.model, "model"),
    Column("target", lambda row: row.target, "target", _target),
    Column("quant", lambda row: row.quant, "quant mode"),
    Column("batch", lambda row: row.batch, "batch", right=True),
    Column("golden", _found("golden"), "golden"),
    Column("top1", _found("top1"), "top-1", _percent, right=True),
    Column("p50_s", _found("p50"), "p50 ms", _p50, right=True),
    Column("p90_s", _found("p90"), "p90 ms", _milliseconds, right=True),
    Column("p99_s", _found("p99"), "p99 ms", _p99, right=True),
    Column("images_per_s", _found("images_per_s"), "img/s", _rate, right=True),
    Column("rounds", _found("rounds"), "rounds", right=True),
    Column(
        "modelled_cycles_estimate",
        _found("modelled_estimate"),
        "Mcycles",
        _megacycles,
        right=True,
        optional=True,
    ),
    Column("modelled_cycles_bus", _found("modelled_bus")),
    Column("preprocess_s", _found("preprocess_s")),
    Column("other_processes", _found("others")),
    Column("artifact", _found("artifact")),
    Column("threads", _found("threads")),
    Column("kernels", _found("kernels")),
    Column("simulated", _found("simulated")),
)
