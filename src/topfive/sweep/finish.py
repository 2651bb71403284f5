"""The end of sweeps: merge, compare, keep the record, forget the shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topfive.cards import Card
from topfive.records import SweepRecord, previous_sweep, write_sweep
from topfive.sweep.compare import Summary, summarise
from topfive.sweep.merge import merge_sweep
from topfive.sweep.state import SweepState
from topfive.targets import plain_name

__all__ = ["FLOAT32", "finish_sweeps"]

FLOAT32 = ("cpu", "force_float32")
"""The target and quant mode that others' best classes are compared with; next best, the same target's."""


@dataclass(frozen=True)
class _Merged:
    card: Card
    state: SweepState
    record: SweepRecord
    before: SweepRecord | None


def finish_sweeps(
    done: Sequence[tuple[Card, SweepState]], records: Path | None, *, machine: Mapping[str, Any], command: str
) -> list[Summary]:
    """Merge sweeps whose shards are all there, write their records, and summarise them.

    records: their folder; None to write none, and to compare with none. The shards are removed after the
    record is on disk; killed in between, the same command writes the same record again. Raises SweepError for
    shards that do not fit together, RecordError.
    """
    merged = []
    for card, state in done:
        record = merge_sweep(state, machine=machine, command=command)
        before = None if records is None else previous_sweep(records, record)
        merged.append(_Merged(card, state, record, before))
    if records is not None:
        for one in merged:
            write_sweep(records, one.record)
    summaries = [
        summarise(one.record, one.card.published, before=one.before, float32=_float32(one, merged, records))
        for one in merged
    ]
    for one in merged:
        one.state.remove()
    return summaries


def _float32(one: _Merged, merged: Sequence[_Merged], records: Path | None) -> SweepRecord | None:
    """The sweep of the same model in float32, of this run or the newest before; None for itself."""
    model, target, _ = one.record.case
    for wanted in ((model, *FLOAT32), (model, plain_name(target), FLOAT32[1])):
        if one.record.case == wanted:
            return None
        for other in merged:
            if other.record.case == wanted and other.record.plan["root"] == one.record.plan["root"]:
                return other.record
        found = None if records is None else previous_sweep(records, one.record, wanted)
        if found is not None:
            return found
    return None
