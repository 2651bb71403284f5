"""The results in a record, of whatever kind, as tests that can be compared with those of another record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from topfive.errors import RecordError
from topfive.records.answers import Answers
from topfive.records.arrays import unpack_array
from topfive.records.sweep_record import SweepRecord

__all__ = ["Entry", "cases_of", "entries_of"]

NO_ROUNDS: npt.NDArray[np.float64] = np.empty(0)


@dataclass(frozen=True)
class Entry:
    """One test: its stable name, outcome, case, and what it found.

    outcome: passed, failed, skipped or xfailed. case: model, target, quant, batch, or {}. values: as in the
    session's table, with cycles, bits and the like. built: what was built from what.
    """

    test: str
    outcome: str
    case: Mapping[str, Any]
    values: Mapping[str, Any]
    built: Mapping[str, Any]
    stored: Mapping[str, Any] = field(default_factory=dict)
    sweep: SweepRecord | None = None

    @cached_property
    def rounds(self) -> npt.NDArray[np.float64]:
        """Seconds of each measured call, in the order in which they were made; empty without any."""
        packed = self.stored.get("rounds")
        return NO_ROUNDS if packed is None else unpack_array(packed)

    @cached_property
    def answers(self) -> Answers | None:
        """What LoadGen's accuracy run was answered, picture by picture; None for another test."""
        packed = self.stored.get("answers")
        return None if packed is None else Answers.from_json(packed)

    @property
    def ran(self) -> bool:
        """Whether it came to a result."""
        return self.outcome in ("passed", "failed")

    @property
    def source(self) -> str:
        """SHA-256 of the model file, "" where it is not known."""
        return str(self.built.get("source_sha256") or "")


def entries_of(record: Mapping[str, Any]) -> dict[str, Entry]:
    """Every test of a record by its name. Raises RecordError for a content that does not fit its schema."""
    try:
        return {entry.test: entry for entry in _entries(record)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"record {record.get('id')} does not fit its schema: {error!r}") from error


def _entries(record: Mapping[str, Any]) -> Iterator[Entry]:
    if "sweep" in record:
        yield _sweep_entry(SweepRecord.from_json(record["sweep"]))
    for stored in record["tests"]:
        if "sweep" in stored:
            yield _sweep_entry(SweepRecord.from_json(stored["sweep"]))
            continue
        yield Entry(
            test=str(stored["test"]),
            outcome=str(stored["outcome"]),
            case=dict(stored.get("case") or {}),
            values=dict(stored.get("values") or {}),
            built=dict(stored.get("built") or {}),
            stored=stored,
        )


def _sweep_entry(sweep: SweepRecord) -> Entry:
    model, target, quant = sweep.case
    return Entry(
        test=f"accuracy {model}-{target}-{quant} {sweep.plan['dataset']}",
        outcome="passed",
        case={"model": model, "target": target, "quant": quant},
        values={"images_per_s_sweep": sweep.images_per_s},
        built={"key": sweep.plan.get("artifact"), "source_sha256": sweep.plan.get("source_sha256")},
        sweep=sweep,
    )


def cases_of(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Model, target and quant mode of all that is in a record, without unpacking any of it."""
    cases = [stored.get("case") for stored in record["tests"]]
    if "sweep" in record:
        cases.append(record["sweep"]["plan"])
    cases += [stored["sweep"]["plan"] for stored in record["tests"] if "sweep" in stored]
    return sorted({(str(c["model"]), str(c["target"]), str(c["quant"])) for c in cases if c})
