"""How far long work has come: a bar on a terminal, a line now and then elsewhere. On standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["CountedProgress", "StageProgress"]

LINES = 10
STAGES = ("fetch", "optimize", "calibrate", "quantize", "compile")


class _Bar:
    """A context that holds a bar, drawn from the first `_draw` on and gone at the end."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _draw(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(what, total=total)
            self._bar.start()
        self._bar.update(self._task, description=what, completed=done, total=total)


class CountedProgress(_Bar):
    """A context whose `show(done, total)` draws; nothing is drawn before the first call.

    what: the word before the numbers. Lines, elsewhere than on a terminal: about ten, the last at the end.
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self._said = 0

    def show(self, done: int, total: int) -> None:
        """`done` of `total` are done; the total may grow."""
        if sys.stderr.isatty():
            self._draw(self._what, done, total)
        elif done * LINES // total > self._said * LINES // total or done < self._said or done == total:
            sys.stderr.write(f"{self._what}: {done} of {total}\n")
            sys.stderr.flush()
            self._said = done


class StageProgress(_Bar):
    """A context that takes the line before each stage of a build, as `topfive.build` gives it.

    On a terminal it is a bar over the stages, which stages from the cache pass over; elsewhere it is lines.
    """

    def __call__(self, line: str) -> None:
        """Show that a stage begins: "MODEL TARGET QUANT: STAGE"."""
        stage = line.rpartition(": ")[2]
        if sys.stderr.isatty() and stage in STAGES:
            self._draw(line, STAGES.index(stage), len(STAGES))
        else:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
