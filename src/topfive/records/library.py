"""Finding records: all of a folder, by filters, or one by a reference."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from topfive.errors import OptionError, RecordError
from topfive.records.entries import cases_of
from topfive.records.envelope import KINDS, read_record

__all__ = ["Filter", "Found", "find_record", "list_records"]

ISO_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?")
LATEST = re.compile(r"latest(?::(?P<kind>\w+))?(?:~(?P<back>\d+))?")


@dataclass(frozen=True)
class Found:
    """A record's file and its content."""

    path: Path
    record: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its name, unique in its folder."""
        return str(self.record["id"])

    @property
    def created(self) -> str:
        """When, UTC, ISO 8601."""
        return str(self.record["created"])

    @property
    def kind(self) -> str:
        """session, scenario, sweep or pair."""
        return str(self.record["kind"])

    @cached_property
    def cases(self) -> list[tuple[str, str, str]]:
        """Model, target and quant mode of what is in it, sorted, each once."""
        return cases_of(self.record)


@dataclass(frozen=True)
class Filter:
    """Which records: all conditions hold. model, target: globs; since, until: the start of an ISO date."""

    kind: str = ""
    tags: tuple[str, ...] = ()
    model: str = ""
    target: str = ""
    since: str = ""
    until: str = ""

    def __post_init__(self) -> None:
        """Raise OptionError for a kind that is none and for a date that is none: nothing would be found."""
        if self.kind and self.kind not in KINDS:
            raise OptionError(f"--kind {self.kind!r}: a record is a {', a '.join(KINDS)}")
        for name in ("since", "until"):
            value: str = getattr(self, name)
            if value and not ISO_DATE.fullmatch(value):
                raise OptionError(f"--{name} {value!r} is not a date, as 2026-11-01 or 2026-11-01T12:00")

    def takes(self, found: Found) -> bool:
        """Whether a record fulfils it."""
        day = found.created
        if (self.since and day < self.since) or (self.until and day[: len(self.until)] > self.until):
            return False
        if (self.kind and found.kind != self.kind) or not set(self.tags) <= set(found.record["tags"]):
            return False
        if not (self.model or self.target):
            return True
        return any(
            fnmatchcase(model, self.model or "*") and fnmatchcase(target, self.target or "*")
            for model, target, _ in found.cases
        )


def list_records(root: Path, wanted: Filter | None = None, damaged: list[str] | None = None) -> list[Found]:
    """The records under a folder, the oldest first. What cannot be read goes to `damaged`.

    Without such a list a damaged record raises RecordError.
    """
    found = [one for one in _all(root, damaged) if wanted is None or wanted.takes(one)]
    return sorted(found, key=lambda one: (one.created, one.id))


def _all(root: Path, damaged: list[str] | None) -> Iterator[Found]:
    for path in sorted(root.rglob("*.json")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        try:
            yield Found(path, read_record(path))
        except RecordError as error:
            if damaged is None:
                raise
            damaged.append(error.message)


def find_record(root: Path, reference: str, *, kind: str = "", other_than: Sequence[str] = ()) -> Found:
    """The record that a reference names: a file, an id, the start of one, `latest`, `latest~1`.

    `latest:sweep` is the newest of a kind; kind: which one where the reference does not say. other_than: ids
    that `latest` passes over. Raises RecordError when there is none or more than one.
    """
    if match := LATEST.fullmatch(reference):
        return _latest(root, match, kind, other_than)
    path = Path(reference)
    if path.suffix == ".json" and (path.is_file() or "/" in reference):
        return Found(path, read_record(path))
    paths = [p for p in sorted(root.rglob("*.json")) if p.stem.startswith(reference)]
    exact = [p for p in paths if p.stem == reference]
    if len(exact or paths) == 1:
        (path,) = exact or paths
        return Found(path, read_record(path))
    if paths:
        raise RecordError(
            f"{reference!r} begins {len(paths)} records of {root}, for example {paths[0].stem} and "
            f"{paths[1].stem}: write more of it, or the file"
        )
    raise RecordError(f"no record {reference!r} in {root}: see `topfive records list`")


def _latest(root: Path, match: re.Match[str], kind: str, other_than: Sequence[str]) -> Found:
    wanted, back = match["kind"] or kind, int(match["back"] or 0)
    if wanted and wanted not in KINDS:
        raise RecordError(f"{match.string}: a record is a {', a '.join(KINDS)}, none is a {wanted!r}")
    found = [one for one in list_records(root, Filter(kind=wanted), []) if one.id not in other_than]
    if back >= len(found):
        what = f"{wanted} records" if wanted else "records"
        raise RecordError(f"{match.string}: there are {len(found)} {what} in {root}")
    return found[-1 - back]
