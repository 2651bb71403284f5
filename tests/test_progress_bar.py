"""Progress: a bar on a terminal, a few lines elsewhere, nothing before the first call."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.commands.progress_bar import STAGES, CountedProgress, StageProgress
from topfive.suite.expectations import STAGE_ERRORS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(total: int, calls: list[int] | None = None) -> list[str]:
    kept, sys.stderr = sys.stderr, io.StringIO()
    try:
        with CountedProgress("pictures") as counted:
            for done in calls if calls is not None else range(1, total + 1):
                counted.show(done, total)
        return sys.stderr.getvalue().splitlines()
    finally:
        sys.stderr = kept


@given(st.integers(1, 3000))
def test_elsewhere_about_ten_lines_are_written_the_last_at_the_end(total: int) -> None:
    found = lines(total)
    assert found[-1] == f"pictures: {total} of {total}"
    assert min(total, 10) <= len(found) <= 11
    assert len(set(found)) == len(found)


def test_nothing_is_written_before_the_first_call() -> None:
    assert lines(10, []) == []


def test_a_second_pass_goes_on_counting() -> None:
    assert lines(6, [1, 2, 3, 4, 5, 6])[-1] == "pictures: 6 of 6"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with CountedProgress("pictures") as counted:
        for done in range(1, 4):
            counted.show(done, 3)
    assert "3/3" in terminal.getvalue()
    assert "pictures" in terminal.getvalue()


def test_an_error_ends_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    counted = CountedProgress("pictures")

    def run() -> None:
        with counted:
            counted.show(1, 3)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        run()
    assert counted._bar is not None
    assert not counted._bar.live.is_started


def test_stages_are_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = [f"net[1] cpu int8: {stage}" for stage in ("optimize", "compile")]
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    with StageProgress() as shown:
        for line in begun:
            shown(line)
    assert plain.getvalue().splitlines() == begun
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with StageProgress() as shown:
        for line in begun:
            shown(line)
        shown("weights are converted")
    drawn = terminal.getvalue()
    assert "net[1] cpu int8: compile" in drawn
    assert "4/5" in drawn
    assert "weights are converted" in drawn


def test_the_stages_are_those_of_a_build() -> None:
    assert [stage for stage in STAGE_ERRORS if stage in STAGES] == list(STAGES)
