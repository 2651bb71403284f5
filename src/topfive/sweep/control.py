"""One command's sweeps: cases over the same pictures go through them in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from topfive.cards import Card
from topfive.datasets import Listing
from topfive.images.packed import refuse_without_room
from topfive.sweep.engine import Failure, Finished, Outcome, Task, pending_tasks
from topfive.sweep.evaluate import CaseRun, Evaluator, Job
from topfive.sweep.plan import BATCH, make_plan
from topfive.sweep.progress import Progress
from topfive.sweep.shards import ShardResult
from topfive.sweep.state import SweepState
from topfive.targets.base import Artifact

__all__ = ["Case", "Choices", "Engine", "Pass", "begin", "run_passes"]

Engine = Callable[[Job, Mapping[int, SweepState], Sequence[Task], Finished], Outcome]
"""Runs tasks of a job and keeps their results."""


@dataclass(frozen=True)
class Case:
    """A compiled model and the pictures that it is to run. target: as the case names it, for a variant."""

    card: Card
    artifact: Artifact
    listing: Listing
    target: str = ""

    @property
    def names(self) -> tuple[str, str, str]:
        """Model, target, quant mode."""
        return self.artifact.model, self.target or self.artifact.target, self.artifact.quant


@dataclass(frozen=True)
class Choices:
    """What a command may choose.

    packed: whether crops are kept. remote: whether pictures are decoded on other machines, with caches of
    their own. versions: of libraries that decide bits.
    """

    cache: Path
    shards: int | None = None
    batch: int = BATCH
    threads: int = 1
    packed: bool = True
    remote: bool = False
    versions: tuple[tuple[str, str], ...] = ()


@dataclass
class Pass:
    """Cases over one list: their sweeps on disk, and what could not be run."""

    cases: list[Case]
    states: list[SweepState]
    job: Job
    failures: list[Failure] = field(default_factory=list)

    def finished(self) -> list[tuple[Card, SweepState]]:
        """The cases whose shards are all done."""
        pairs = zip(self.cases, self.states, strict=True)
        return [(case.card, state) for case, state in pairs if len(state.done()) == state.plan.shards]


def begin(cases: Sequence[Case], choices: Choices) -> list[Pass]:
    """The sweeps of these cases, new or gone on with; the caller holds them (`state.held`).

    Raises SweepError, CacheError or ImageError before anything runs: labels that do not fit a model, a data
    set that changed, no room for the packed pictures.
    """
    passes = []
    for group in _by_listing(cases):
        states = [_begin(case, choices) for case in group]
        storage = group[0].listing.storage()
        for state in states:
            state.check_pictures(sorted(state.done()), group[0].listing, storage)
        passes.append(Pass(group, states, _job(group, states, choices)))
    if choices.packed and not choices.remote:
        refuse_without_room(choices.cache, sum(_room(one.job) for one in passes))
    return passes


def run_passes(
    passes: Sequence[Pass], engine: Engine, say: Callable[[str], None], *, every: float = 5.0
) -> None:
    """Run every shard that is not done. say: takes lines of progress, at most one in `every` seconds."""
    names = {state.plan.case: state.plan.pictures for one in passes for state in one.states}
    progress = Progress(names, say, every=every)
    for one in passes:
        _run_pass(one, engine, progress)


def _by_listing(cases: Sequence[Case]) -> list[list[Case]]:
    groups: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        listing = case.listing
        groups.setdefault((listing.root, listing.labels_from, listing.sha256()), []).append(case)
    return list(groups.values())


def _begin(case: Case, choices: Choices) -> SweepState:
    plan = make_plan(
        case.card,
        case.artifact,
        case.listing,
        shards=choices.shards,
        batch=choices.batch,
        versions=choices.versions,
        target=case.target,
    )
    return SweepState.open(choices.cache, plan, case.listing)


def _job(cases: Sequence[Case], states: Sequence[SweepState], choices: Choices) -> Job:
    pairs = zip(cases, states, strict=True)
    runs = tuple(CaseRun(state.plan, state.id, case.artifact.path) for case, state in pairs)
    return Job(cases[0].listing, runs, choices.cache if choices.packed else None, choices.threads)


def _room(job: Job) -> int:
    with Evaluator(job) as evaluator:
        return evaluator.missing_bytes()


def _run_pass(one: Pass, engine: Engine, progress: Progress) -> None:
    states = dict(enumerate(one.states))
    for state in one.states:
        for number in sorted(state.done()):
            found = state.result(number)
            progress.add(state.plan.case, len(found.indices), found.right1, new=False)
    by_id = {state.id: state.plan.case for state in one.states}

    def finished(results: Sequence[ShardResult]) -> None:
        for result in results:
            progress.add(by_id[result.plan], len(result.indices), result.right1)
        progress.tell()

    tasks = pending_tasks(one.job, states)
    if tasks:
        one.failures = engine(one.job, states, tasks, finished).failures
