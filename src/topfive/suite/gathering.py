"""The end of a session: the table, the CSV, and what a benchmark comparison passed over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from topfive.errors import TopfiveError
from topfive.report.csv_table import write_csv
from topfive.report.terminal import footnotes, render, render_loadgen
from topfive.suite.results import Row
from topfive.suite.state import Suite

__all__ = ["Gatherer"]

LISTED = 5


class Gatherer:
    """Hooks of the process that reports: the only one, or xdist's controller."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.problem = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a test found; under xdist these are the workers' reports."""
        found = getattr(report, "topfive", None)
        if found is not None:
            self.suite.results.add(found)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the CSV; a file that cannot be written makes the run fail."""
        path = self.suite.config.getoption("topfive_csv")
        if path is None:
            return
        try:
            write_csv(self.suite.results.rows(), path)
        except TopfiveError as error:
            self.problem = str(error)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table in place of pytest-benchmark's, unless a comparison needs that one too."""
        rows = self.suite.results.rows()
        if not rows:
            return
        _quieten(self.suite.config)
        terminalreporter.ensure_newline()
        terminalreporter.section("topfive")
        colour = bool(terminalreporter.hasmarkup)
        terminalreporter.write_line(render(rows, colour=colour))
        if runs := self.suite.results.loadgen:
            terminalreporter.write_line("\n" + render_loadgen(runs, colour=colour))
        for note in footnotes(rows, native_kernels_differ=_native_kernels_differ(rows)):
            terminalreporter.write_line(note)
        for note in [*self.suite.results.notes, *_uncompared(self.suite.config)]:
            terminalreporter.write_line(note)
        if self.problem:
            terminalreporter.write_line(self.problem, red=True)


def _native_kernels_differ(rows: Iterable[Row]) -> bool:
    if not any(row.target == "cpu" and row.quant in ("int8", "as_is") for row in rows):
        return False
    from topfive.sessions import native_kernels_are_exact

    return not native_kernels_are_exact()


def _quieten(config: pytest.Config) -> None:
    """Hide pytest-benchmark's table when ours has all of it and nobody asked for theirs."""
    session: Any = getattr(config, "_benchmarksession", None)
    option = config.getoption
    asked = any(
        option(name, None) for name in ("benchmark_compare", "benchmark_columns", "benchmark_histogram")
    )
    if session is None or session.verbose or asked or option("benchmark_cprofile", None):
        return
    if all(bench.extra_info.get("artifact") for bench in session.benchmarks):
        session.quiet = True


def _uncompared(config: pytest.Config) -> list[str]:
    """pytest-benchmark compares by test id and passes over ids that only one of the runs has: say so."""
    session: Any = getattr(config, "_benchmarksession", None)
    if session is None or not session.compared_mapping:
        return []
    now = {bench.fullname for bench in session.benchmarks}
    notes = []
    for path, then in session.compared_mapping.items():
        for what, names in (
            ("only in this run", now - then.keys()),
            ("only in the saved run", then.keys() - now),
        ):
            if names:
                listed = ", ".join(sorted(names)[:LISTED]) + (", ..." if len(names) > LISTED else "")
                notes.append(f"not compared with {path}: {len(names)} benchmarks {what}: {listed}")
    return notes
