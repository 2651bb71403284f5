"""What engines share: the tasks of a job, how often a shard is tried, and what is told while they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from topfive.errors import TopfiveError
from topfive.sweep.evaluate import Job
from topfive.sweep.shards import ShardResult
from topfive.sweep.state import SweepState

__all__ = ["TRIES", "Failure", "Outcome", "Task", "error_text", "pending_tasks"]

TRIES = 3
"""A shard that fails so often, or ends its worker so often, is given up; the rest goes on."""
Finished = Callable[[Sequence[ShardResult]], None]
"""Called with the results of a shard, one a case, as soon as they are kept."""


@dataclass(frozen=True)
class Task:
    """One shard, for those cases of the job that lack it."""

    number: int
    cases: tuple[int, ...]


@dataclass(frozen=True)
class Failure:
    """A shard that was given up, and its last error."""

    number: int
    error: str


@dataclass
class Outcome:
    """What an engine did not finish, and how often workers were lost on the way."""

    failures: list[Failure] = field(default_factory=list)
    lost_workers: int = 0


def pending_tasks(job: Job, states: Mapping[int, SweepState]) -> list[Task]:
    """The shards that are still to be run, in order; states: by the case's position in the job."""
    done = {case: state.done() for case, state in states.items()}
    tasks = []
    for number in range(job.shards):
        cases = tuple(case for case in states if number not in done[case])
        if cases:
            tasks.append(Task(number, cases))
    return tasks


def error_text(error: Exception) -> str:
    """What a shard's error says: the message of topfive's own, type and message of others."""
    return str(error) if isinstance(error, TopfiveError) else f"{type(error).__name__}: {error}"
