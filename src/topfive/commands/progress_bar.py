"""How far long work has come: a bar on a terminal, a line now and then elsewhere. On standard error."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["CountedProgress"]

LINES = 10


class CountedProgress:
    """A context whose `show(done, total)` draws; nothing is drawn before the first call.

    what: the word before the numbers. Lines, elsewhere than on a terminal: about ten, the last at the end.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._said = 0

    def __enter__(self) -> CountedProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """`done` of `total` are done; the total may grow."""
        if sys.stderr.isatty():
            self._draw(done, total)
        elif done * LINES // total > self._said * LINES // total or done < self._said or done == total:
            sys.stderr.write(f"{self._what}: {done} of {total}\n")
            sys.stderr.flush()
            self._said = done

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
