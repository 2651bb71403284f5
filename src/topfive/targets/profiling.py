"""When each node of a model ran: what a runner's profiler tells, in whole microseconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topfive.targets.base import Array, Runner

__all__ = ["NodeTime", "Profile", "Profiler", "RunTime", "Span"]


@dataclass(frozen=True)
class Span:
    """Something named that took from `start` for `duration` microseconds."""

    name: str
    start: int
    duration: int

    @property
    def end(self) -> int:
        """When it ended."""
        return self.start + self.duration


@dataclass(frozen=True)
class NodeTime(Span):
    """One kernel. `op`: what ran; `node`: its place among the compiled model's nodes, None if the runtime
    added it; `facts`: sizes in bytes and shapes as the runtime tells them.
    """

    op: str = ""
    node: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunTime:
    """One batch: the spans around it, outermost first, and its nodes in running order."""

    around: tuple[Span, ...]
    nodes: tuple[NodeTime, ...] = ()


@dataclass(frozen=True)
class Profile:
    """What was noted: the spans of opening the model, then every run, on one clock."""

    session: tuple[Span, ...]
    runs: tuple[RunTime, ...]


class Profiler:
    """Runs batches and notes how long each took; this one knows nothing of nodes."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._start = time.perf_counter_ns()
        self._runs: list[RunTime] = []

    def run(self, batch: Array) -> Array:
        """Run one batch as `Runner.run` does."""
        before = time.perf_counter_ns()
        output = self._runner.run(batch)
        after = time.perf_counter_ns()
        span = Span("model_run", (before - self._start) // 1000, (after - before) // 1000)
        self._runs.append(RunTime((span,)))
        return output

    def finish(self) -> Profile:
        """Stop noting and give what was noted; to be called once."""
        return Profile((), tuple(self._runs))

    def close(self) -> None:
        """Give back what the profiler holds; `finish` does it too."""
