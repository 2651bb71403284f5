"""From the shards of a sweep to its record: nothing twice, nothing lost."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from topfive.errors import SweepError
from topfive.records.sweep_record import SweepRecord
from topfive.sweep.plan import Plan, counted, shard_range
from topfive.sweep.shards import ShardResult
from topfive.sweep.state import SweepState

__all__ = ["join_shards", "make_record", "merge_sweep", "wall_seconds"]


def merge_sweep(state: SweepState, *, machine: Mapping[str, Any], command: str) -> SweepRecord:
    """The record of a finished sweep. machine: what has to be known of it.

    Raises SweepError for shards that are missing, twice there, damaged, or not of the pictures of the plan.
    """
    missing = sorted(set(range(state.plan.shards)) - state.done())
    if missing:
        raise SweepError(
            f"the sweep of {state.plan.case} lacks {len(missing)} of {state.plan.shards} shards (the first "
            f"is {missing[0]}): run the same command again"
        )
    results = [state.result(number) for number in range(state.plan.shards)]
    return make_record(state.plan, state.id, results, machine=machine, command=command)


def join_shards(plan: Plan, results: Sequence[ShardResult]) -> dict[str, Any]:
    """The arrays of all pictures in order. Raises SweepError for duplicates, gaps and pictures of none."""
    by_number: dict[int, ShardResult] = {}
    for result in results:
        if result.number in by_number:
            raise SweepError(f"the sweep of {plan.case} has shard {result.number} twice: remove one")
        by_number[result.number] = result
    gaps = sorted(set(range(plan.shards)) ^ by_number.keys())
    if gaps:
        raise SweepError(
            f"the sweep of {plan.case} does not fit its plan of {plan.shards} shards: see {gaps[0]}"
        )
    for number, result in by_number.items():
        if len(result.indices) != len(shard_range(plan.pictures, plan.shards, number)):
            raise SweepError(
                f"shard {number} of {plan.case} has {counted(len(result.indices), 'picture')}, not its share"
            )
    ordered = [by_number[number] for number in range(plan.shards)]
    joined = {
        name: np.concatenate([getattr(result, name) for result in ordered])
        for name in ("indices", "labels", "top5", "sha256")
    }
    steps = np.diff(joined["indices"])
    if (steps <= 0).any():
        twice = int(joined["indices"][1:][steps <= 0][0])
        raise SweepError(f"the sweep of {plan.case} has picture {twice} twice or out of order")
    return joined


def make_record(
    plan: Plan, identity: str, results: Sequence[ShardResult], *, machine: Mapping[str, Any], command: str
) -> SweepRecord:
    """The record of all shards of a plan. Raises SweepError as `join_shards` does."""
    joined = join_shards(plan, results)
    abouts = [result.about for result in results]
    seconds: dict[str, float] = {}
    for result in results:
        for name, value in result.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    ended = max(float(about["ended"]) for about in abouts)
    return SweepRecord(
        id=identity,
        created=datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds"),
        plan=plan.to_json(),
        indices=joined["indices"],
        labels=joined["labels"],
        top5=joined["top5"],
        digests=np.ascontiguousarray(joined["sha256"][:, :8]).view("<i8").reshape(-1),
        contents_sha256=hashlib.sha256(joined["sha256"].tobytes()).hexdigest(),
        timing={
            "wall": wall_seconds(abouts),
            **{name: round(value, 6) for name, value in sorted(seconds.items())},
            "workers": len({(about["host"], about["process"]) for about in abouts}),
            "peak_bytes": max(int(about["peak_bytes"]) for about in abouts),
        },
        machine={**machine, "runner": dict(abouts[0]["runner"])},
        command=command,
    )


def wall_seconds(abouts: Sequence[Mapping[str, Any]]) -> float:
    """Time in which at least one shard ran: the pause between a kill and the next start does not count.

    Where several cases ran in one pass, each has its share of the pass's time.
    """
    total, end = 0.0, float("-inf")
    spans = sorted((float(about["started"]), float(about["ended"])) for about in abouts)
    for started, ended in spans:
        total += max(0.0, ended - max(started, end))
        end = max(end, ended)
    busy = sum(ended - started for started, ended in spans)
    own = sum((float(about["ended"]) - float(about["started"])) * float(about["share"]) for about in abouts)
    return total * own / busy if busy else 0.0
