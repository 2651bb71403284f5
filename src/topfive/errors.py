"""Every error that topfive raises on purpose.

A message's first line says what was wrong, where, and what to do; `details` follow on later lines.
The command line and the pytest plugin print these without a traceback and exit with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from shlex import quote

__all__ = [
    "CacheError",
    "CalibrateError",
    "CardError",
    "CompileError",
    "FetchError",
    "GoldenError",
    "ImageError",
    "OptimizeError",
    "OptionError",
    "QuantizeError",
    "RecordError",
    "RunError",
    "StageError",
    "SweepError",
    "TopfiveError",
    "TraceError",
    "UnknownNameError",
]


class TopfiveError(Exception):
    """Base of all errors that are the input's or the environment's fault, not a bug of topfive."""

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.message}\n{self.details}" if self.details else self.message


class CardError(TopfiveError):
    """A model card, preprocessing profile, label file or picture set is malformed."""


class ImageError(TopfiveError):
    """An image or an image folder cannot be read; the message names the file."""


class CacheError(TopfiveError):
    """The artifact cache cannot be read or written."""


class GoldenError(TopfiveError):
    """A golden file is missing, malformed, or does not fit the pictures."""


class SweepError(TopfiveError):
    """An accuracy sweep cannot start, go on or be merged; the message names the sweep and the shard."""


class RecordError(TopfiveError):
    """A stored record cannot be read or written; the message names the file."""


class TraceError(TopfiveError):
    """A trace file cannot be read or written, or is not one; the message names the file."""


class UnknownNameError(TopfiveError):
    """A model, target, quant mode or profile that does not exist; names the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}: {hint}")
        self.kind, self.name = kind, name


class OptionError(TopfiveError):
    """An option that a target does not have, or a value that the option does not take."""


class StageError(TopfiveError):
    """A stage of the pipeline failed for one model, target and quant mode.

    The place is filled in by the pipeline (topfive.build), so that stage functions need not know it.
    """

    stage = "?"

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message, details=details)
        self.model = self.target = self.quant = ""
        self.options: Mapping[str, str] = {}
        # The command that repeats it, and what else it is told.
        self.command = "build"
        self.flags = ""

    def located(
        self, model: str, target: str, quant: str, options: Mapping[str, str] | None = None
    ) -> StageError:
        """Add the place to the error, once: the innermost caller that knows it wins."""
        if not self.model:
            self.model, self.target, self.quant = model, target, quant
            self.options = dict(options or {})
        return self

    @property
    def repeat_command(self) -> str:
        """The shell command that repeats this stage outside pytest."""
        chosen = [f"--option {quote(f'{name}={value}')}" for name, value in sorted(self.options.items())]
        place = (quote(self.model), f"--target {self.target}", f"--quant {self.quant}")
        return " ".join(("topfive", self.command, *place, *chosen)) + self.flags

    def __str__(self) -> str:
        if not self.model:
            return f"{self.stage}: {super().__str__()}"
        where = f"{self.stage} of {self.model} for {self.target}, {self.quant}"
        return f"{where}: {super().__str__()}\nrepeat with: {self.repeat_command}"


class FetchError(StageError):
    """The ONNX file that a card names cannot be had, or is not a classifier topfive can run."""

    stage = "fetch"


class OptimizeError(StageError):
    """The float graph cannot be converted or folded."""

    stage = "optimize"


class CalibrateError(StageError):
    """Activation ranges cannot be found."""

    stage = "calibrate"


class QuantizeError(StageError):
    """The graph cannot be rewritten to the quant mode."""

    stage = "quantize"


class CompileError(StageError):
    """The quantised graph cannot be lowered to the target."""

    stage = "compile"


class RunError(StageError):
    """A compiled artifact fails when it runs."""

    stage = "run"
