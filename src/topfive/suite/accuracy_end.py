"""Accuracy tests seen from the process that reports: progress, lost workers, merging, the table."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from topfive.errors import TopfiveError
from topfive.report.accuracy import accuracy_notes, accuracy_table
from topfive.suite.accuracy import SHARD_ID, accuracy_asked
from topfive.suite.environment import machine
from topfive.suite.state import Suite
from topfive.sweep.compare import Summary
from topfive.sweep.engine import TRIES
from topfive.sweep.finish import finish_sweeps
from topfive.sweep.progress import Progress
from topfive.sweep.state import SweepState, forget_sweeps, held

__all__ = ["AccuracyGatherer"]


class AccuracyGatherer:
    """Hooks of the process that reports: the only one, or xdist's controller."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.locks = ExitStack()
        self.folders: dict[Path, str] = {}
        self.progress: Progress | None = None
        self.crashes: dict[str, int] = {}
        self.summaries: list[Summary] = []
        self.lines: list[str] = []
        self.problem = ""
        self.merged = False

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Refuse what cannot be swept; hold the sweeps, and forget them if --restart asks for it."""
        config = session.config
        if not accuracy_asked(config) or not self.suite.wanted:
            return
        accuracy = self.suite.accuracy
        try:
            accuracy.items(1)
            if config.getoption("collectonly"):
                return
            names = [(case.model, case.target, case.quant) for case in accuracy.cases]
            self.locks.enter_context(held(self.suite.cache, names, accuracy.imagenet or ""))
            if config.getoption("restart"):
                for name in names:
                    card = self.suite.selection.cards[name[0]]
                    if not card.missing_reason():
                        forget_sweeps(self.suite.cache, [name], accuracy.listing(card).root)
        except TopfiveError as error:
            raise pytest.UsageError(str(error)) from error

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        """A worker was lost in a shard: run the shard again elsewhere, up to three tries."""
        if not SHARD_ID.search(crashitem):
            return
        self.crashes[crashitem] = self.crashes.get(crashitem, 0) + 1
        if self.crashes[crashitem] < TRIES:
            sched.mark_test_pending(crashitem)
            report.outcome = "rerun"  # type: ignore[assignment]

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """How a shard that is run again is shown."""
        return ("rerun", "R", "RERUN") if report.outcome == "rerun" else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a shard found and say how far it is; under xdist these are the workers' reports."""
        found = getattr(report, "topfive_shard", None)
        if found is None:
            return
        self.folders[Path(found["folder"])] = found["model"]
        if self.progress is None:
            every = float(self.suite.config.getoption("sweep_progress"))
            self.progress = Progress({}, self._say, every=every)
        self.progress.expect(found["case"], found["total"])
        self.progress.add(found["case"], found["pictures"], found["right1"], new=found["new"])
        self.progress.tell()

    def _say(self, line: str) -> None:
        reporter: Any = self.suite.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and reporter.verbosity >= 0:
            reporter.ensure_newline()
            reporter.write_line(line)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep the records of what is finished; a failed comparison makes the run fail."""
        self.merge()
        if self.problem or any(summary.failed for summary in self.summaries):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def merge(self) -> None:
        """Merge the sweeps that are finished and keep their records, once."""
        if self.merged:
            return
        self.merged = True
        config = self.suite.config
        try:
            states = [(model, SweepState.read(folder)) for folder, model in self.folders.items()]
            states.sort(key=lambda pair: pair[1].plan.case)
            whole = [(m, state) for m, state in states if len(state.done()) == state.plan.shards]
            for _, state in states:
                if (done := len(state.done())) < state.plan.shards:
                    self.lines.append(
                        f"{state.plan.case}: {done} of {state.plan.shards} shards are done; the same command "
                        "runs the rest"
                    )
            self.summaries = finish_sweeps(
                [(self.suite.selection.cards[model], state) for model, state in whole],
                self.suite.records,
                machine=machine(),
                command=shlex.join(["pytest", *map(str, config.invocation_params.args)]),
            )
        except TopfiveError as error:
            self.problem = str(error)
        finally:
            self.locks.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if not (self.summaries or self.lines or self.problem):
            return
        terminalreporter.ensure_newline()
        terminalreporter.section("topfive accuracy")
        if self.summaries:
            colour = bool(terminalreporter.hasmarkup)
            terminalreporter.write_line(accuracy_table(self.summaries, colour=colour))
            for note in accuracy_notes(self.summaries):
                terminalreporter.write_line(note)
        left_out = self.suite.accuracy.left_out
        for line in [*self.lines, *(f"left out: {reason}" for reason in left_out.values())]:
            terminalreporter.write_line(line)
        if self.problem:
            terminalreporter.write_line(self.problem, red=True)
