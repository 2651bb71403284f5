"""`--topfive-compare`: the session against a stored record, as one more test at its end."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from topfive.errors import RecordError, TopfiveError
from topfive.files import write_whole
from topfive.records import find_record, records_folder
from topfive.records.comparison import RecordComparison, compare_records
from topfive.records.gates import DEFAULT_GATES, parse_gates
from topfive.report.comparison import comparison_json, comparison_markdown, comparison_table, failure_text
from topfive.suite.recording import Recorder
from topfive.suite.state import Suite

__all__ = ["Comparer"]

NAME = "topfive-compare"


class Comparer:
    """Hooks of the process that reports, registered when --topfive-compare is given.

    The comparison is reported as a test of its own, so that it counts, and stands in junit XML: no test item
    makes it, because options such as --benchmark-only would skip that.
    """

    def __init__(self, suite: Suite, recorder: Recorder) -> None:
        self.suite, self.recorder = suite, recorder
        option = suite.config.getoption
        self.reference = str(option("topfive_compare"))
        self.gates = DEFAULT_GATES if option("topfive_gate") is None else str(option("topfive_gate"))
        self.found: RecordComparison | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Refuse a reference or a gate that does not exist before anything runs."""
        config = self.suite.config
        root = self.suite.records or records_folder(config.getoption("records"), config.rootpath)
        try:
            self.limits = parse_gates(self.gates)
            self.base = find_record(root, self.reference, kind="session")
        except TopfiveError as error:
            raise pytest.UsageError(f"--topfive-compare {self.reference}: {error}") from error

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """After the last test, compare, and report that as a test."""
        result = yield
        if not session.config.getoption("collectonly"):
            self._report(session, self._compare())
        return result

    def _compare(self) -> str:
        """Why the comparison fails, or ""."""
        option = self.suite.config.getoption
        try:
            record = self.recorder.made()
            if record is None:
                raise RecordError("this session ran no test of a case: there is nothing to compare")
            self.found = compare_records(
                self.base.record,
                {**record, "id": "this run"},
                self.limits,
                other_machine=bool(option("other_machine")),
                other_model=bool(option("other_model")),
            )
            if (path := option("topfive_markdown")) is not None:
                write_whole(path, comparison_markdown(self.found).encode(), RecordError)
        except TopfiveError as error:
            return str(error)
        failures = comparison_json(self.found)["failures"]
        self.recorder.compared = {"base": self.base.id, "gates": self.gates, "failures": failures}
        return failure_text(self.found) if self.found.failed else ""

    def _report(self, session: pytest.Session, problem: str) -> None:
        hook = session.config.hook
        nodeid = f"{NAME}[{self.reference}]"
        location = (NAME, None, nodeid)
        hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
        for when in ("setup", "call", "teardown"):
            failed = bool(problem) and when == "call"
            fields: dict[str, Any] = {"keywords": {NAME: 1}, "sections": [], "duration": 0.0}
            report = pytest.TestReport(
                nodeid,
                location,
                outcome="failed" if failed else "passed",
                when=when,
                longrepr=problem if failed else None,
                **fields,
            )
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if self.found is None:
            return
        terminalreporter.ensure_newline()
        terminalreporter.section(f"topfive: compared with {self.base.id}")
        terminalreporter.write_line(comparison_table(self.found, colour=bool(terminalreporter.hasmarkup)))
