"""The record of a pytest session: every test of a case, its raw rounds, and what it was built from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topfive.errors import TopfiveError
from topfive.records import new_record, write_record
from topfive.records.arrays import pack_array
from topfive.records.marks import given_tags, repeated
from topfive.suite.accuracy import ACCURACY
from topfive.suite.accuracy_end import AccuracyGatherer
from topfive.suite.environment import commit_of, machine
from topfive.suite.state import Suite

__all__ = ["Recorder"]


class Recorder:
    """Hooks of the process that reports: the only one, or xdist's controller."""

    def __init__(self, suite: Suite, accuracy: AccuracyGatherer) -> None:
        self.suite, self.accuracy = suite, accuracy
        self.tests: dict[str, dict[str, Any]] = {}
        self.compared: dict[str, Any] = {}
        self.machine = machine()
        self.line = ""
        self.problem = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test of a case; shards of sweeps are recorded as the sweep that they make."""
        case: Mapping[str, Any] | None = getattr(report, "topfive_case", None)
        if case is None or case["kind"] == ACCURACY:
            return
        found: Mapping[str, Any] = getattr(report, "topfive", {})
        values = dict(found.get("values", {}))
        built = values.pop("built", {})
        packed = {name: values.pop(name) for name in ("loadgen", "answers") if name in values}
        self.tests[report.nodeid] = {
            "test": report.nodeid,
            "kind": case["kind"],
            "outcome": _outcome(report),
            "reason": _reason(report),
            "seconds": report.duration,
            "case": {name: case[name] for name in ("model", "target", "quant", "batch")},
            "built": built,
            "values": {name: value for name, value in values.items() if value not in (None, "")},
            **{name: found for name, found in packed.items() if found},
        }

    def made(self) -> dict[str, Any] | None:
        """The sealed record of what has been found by now; None if no test was of a case."""
        self.accuracy.merge()
        sweeps = [{"sweep": summary.record.to_json()} for summary in self.accuracy.summaries]
        if not self.tests and not sweeps:
            return None
        config = self.suite.config
        arguments = [str(argument) for argument in config.invocation_params.args]
        return new_record(
            "session",
            command=shlex.join(["pytest", *arguments]),
            argv=["pytest", *arguments],
            folder=_relative(Path(config.invocation_params.dir), config.rootpath),
            tags=given_tags(config.getoption("topfive_tags") or ()),
            machine=self.machine,
            commit=commit_of(config.rootpath),
            tests=[*self._with_rounds().values(), *sweeps],
            compared=self.compared,
            repeats=repeated(),
        )

    def _with_rounds(self) -> dict[str, dict[str, Any]]:
        """The tests, those that pytest-benchmark measured with its raw rounds and settings."""
        found = dict(self.tests)
        session: Any = getattr(self.suite.config, "_benchmarksession", None)
        for bench in session.benchmarks if session is not None else ():
            if bench.has_error or not bench.stats.data:
                continue
            test = found.get(
                bench.fullname, {"test": bench.fullname, "kind": "benchmark", "outcome": "passed"}
            )
            seconds = np.asarray(bench.stats.data, np.float64)
            found[bench.fullname] = {
                **test,
                "rounds": pack_array(seconds),
                "iterations": bench.iterations,
                "percentiles": _percentiles(seconds),
                "options": {name: str(value) for name, value in bench.options.items()},
            }
        return found

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the record; one that cannot be written makes the run fail."""
        root = self.suite.records
        if root is None or session.config.getoption("collectonly"):
            return
        try:
            record = self.made()
            if record is not None:
                path = write_record(root, record)
                self.line = f"record: {_relative(path, session.config.rootpath)}"
        except TopfiveError as error:
            self.problem = str(error)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where the record is."""
        if self.line and terminalreporter.verbosity >= 0:
            terminalreporter.ensure_newline()
            terminalreporter.write_line(self.line)
        if self.problem:
            terminalreporter.write_line(self.problem, red=True)


def _outcome(report: pytest.TestReport) -> str:
    if report.skipped:
        return "xfailed" if hasattr(report, "wasxfail") else "skipped"
    return str(report.outcome)


def _reason(report: pytest.TestReport) -> str:
    """Why a test was skipped or failed: its first line."""
    if report.passed:
        return ""
    longrepr: Any = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr or "")
    return text.strip().partition("\n")[0][:500]


def _percentiles(seconds: Any) -> dict[str, float]:
    quantiles = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
    return {name: float(np.quantile(seconds, q)) for name, q in quantiles.items()}


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
