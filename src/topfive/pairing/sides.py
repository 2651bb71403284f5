"""What a pair is made of: an artifact opened here, or one opened by another interpreter."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import topfive
from topfive.case_text import FORM as CASE_FORM
from topfive.case_text import parse_case
from topfive.errors import OptionError, RunError
from topfive.targets.base import Artifact, Runner, read_artifact

__all__ = ["HelperSide", "RunnerSide", "Side", "Timed", "helper_of", "input_of", "open_side"]

WORKER = Path(__file__).with_name("worker.py")
FORM = f"{CASE_FORM}, an artifact's folder, or PYTHON@FOLDER"
PATIENCE = 600.0
"""Seconds that a helper may take to open its artifact or to answer."""


class Timed(NamedTuple):
    """Seconds of each of some calls: on the clock, and of processor time of all the process's threads."""

    wall: list[float]
    cpu: list[float]


class Side(ABC):
    """One of two that take turns."""

    name: str

    @abstractmethod
    def calls(self, count: int) -> Timed:
        """Make so many calls; the seconds of each. Raises RunError."""

    def renew(self) -> None:
        """Open it anew: where its memory lies changes its speed by a percent or two."""

    def about(self) -> dict[str, Any]:
        """What runs, for the record."""
        return {"name": self.name}

    def close(self) -> None:
        """Give back what it holds."""


class RunnerSide(Side):
    """An open runner of this process."""

    def __init__(self, name: str, runner: Runner, batch: NDArray[Any]) -> None:
        self.name, self.runner, self.batch = name, runner, batch
        self._ready()

    def _ready(self) -> None:
        self.runner.run(self.batch)
        self._infer = self.runner.callable()

    def renew(self) -> None:
        """Close the runner and open its artifact again."""
        threads = self.runner.threads
        self.runner.close()
        self.runner = topfive.open(self.runner.artifact, threads=threads)
        self._ready()

    def calls(self, count: int) -> Timed:
        """Call the model."""
        infer, batch, clock, processor = self._infer, self.batch, time.perf_counter, time.process_time
        timed = Timed([], [])
        for _ in range(count):
            spent = processor()
            start = clock()
            infer(batch)
            timed.wall.append(clock() - start)
            timed.cpu.append(processor() - spent)
        return timed

    def about(self) -> dict[str, Any]:
        """The artifact and the runner."""
        return {"name": self.name, "runner": self.runner.describe()}

    def close(self) -> None:
        """Close the runner."""
        self.runner.close()


class HelperSide(Side):
    """An artifact opened by another interpreter, for instance that of another checkout's environment.

    Times are taken in that process: what passes between the two is not in them.
    """

    def __init__(
        self, name: str, python: str, artifact: Path, batch: NDArray[Any], threads: int | None
    ) -> None:
        self.name = name
        self._folder = Path(tempfile.mkdtemp(prefix="topfive-pair-"))
        data = self._folder / "batch.npy"
        np.save(data, batch)
        self._command = [python, str(WORKER), str(artifact.resolve()), str(data), str(threads or "")]
        self._errors = (self._folder / "stderr.txt").open("wb")
        self._start()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except OSError as error:
            self._errors.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise RunError(f"{self._command[0]} cannot be started: {error.strerror or error}") from error
        self._about = self._answer()

    def renew(self) -> None:
        """End the process and start another."""
        self._end()
        self._start()

    def calls(self, count: int) -> Timed:
        """Have the other process call the model."""
        try:
            _pipe(self._process.stdin).write(f"{count}\n")
            _pipe(self._process.stdin).flush()
        except OSError:
            raise self._died() from None
        wall, cpu = self._answer()
        return Timed([float(second) for second in wall], [float(second) for second in cpu])

    def about(self) -> dict[str, Any]:
        """Which topfive runs it."""
        return {"name": self.name, "helper": self._about}

    def _answer(self) -> Any:
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise self._died()
        return json.loads(line)

    def _died(self) -> RunError:
        status = self._process.wait(timeout=PATIENCE)
        text = (self._folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").strip()
        last = text.splitlines()[-1] if text else "it printed nothing"
        self.close()
        return RunError(f"the process of {self.name} ended with exit status {status}: {last}", details=text)

    def close(self) -> None:
        """End the process and remove its files."""
        self._end()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RunError("the other process has no pipe")
    return pipe


def input_of(artifact: Artifact, batch: int) -> NDArray[Any]:
    """Numbers of an artifact's input shape and dtype, the same each time; a fixed batch size wins.

    The time of a convolutional network hardly depends on its input, so these are not pictures.
    """
    wanted = artifact.meta["input"]
    shape = [side if isinstance(side, int) else batch for side in wanted["shape"][:1]]
    shape += [side if isinstance(side, int) else 1 for side in wanted["shape"][1:]]
    dtype = np.dtype(wanted["dtype"])
    values = np.random.default_rng(0).random(math.prod(shape)).reshape(shape)
    if dtype.kind in "iu":
        return np.asarray(values * 255 - (128 if dtype.kind == "i" else 0)).astype(dtype)
    return values.astype(dtype)


def open_side(
    text: str,
    *,
    batch: int,
    threads: int | None,
    cards: Sequence[Path] = (),
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
    helper: bool = False,
) -> tuple[Side, Artifact]:
    """Open one side as the command line names it; see FORM. Raises OptionError for another form.

    helper: open it in a process of its own in any case. When one side is in a helper the other must be too:
    waking a process costs each of its turns a few percent.
    """
    python, folder = helper_of(text)
    if python:
        artifact = read_artifact(folder)
    elif Path(text).is_dir():
        artifact = read_artifact(Path(text))
    else:
        artifact = _built(text, cards, cache, progress)
    if python or helper:
        command = python or sys.executable
        return HelperSide(text, command, artifact.path, input_of(artifact, batch), threads), artifact
    return RunnerSide(text, topfive.open(artifact, threads=threads), input_of(artifact, batch)), artifact


def helper_of(text: str) -> tuple[str, Path]:
    """The interpreter and the folder of PYTHON@FOLDER; ("", ...) for another form."""
    python, _, folder = text.rpartition("@")
    return (python, Path(folder)) if python and Path(folder).is_dir() else ("", Path(text))


def _built(
    text: str, cards: Sequence[Path], cache: Path | None, progress: Callable[[str], None] | None
) -> Artifact:
    case = parse_case(text)
    if case is None:
        raise OptionError(f"{text!r} is not {FORM}")
    return topfive.build(
        case.model,
        target=case.target,
        quant=case.quant,
        options=case.options,
        cards=cards,
        cache=cache,
        progress=progress,
    )
