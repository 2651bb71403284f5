"""Where records are kept: one JSON file each, never written twice."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from topfive.errors import RecordError
from topfive.files import write_whole
from topfive.records.envelope import new_record, read_record
from topfive.records.marks import given_tags, repeated
from topfive.records.sweep_record import SweepRecord

__all__ = ["previous_sweep", "read_sweep", "records_folder", "sweeps_of", "write_record", "write_sweep"]

VARIABLE = "TOPFIVE_RECORDS"
PROJECT = (".topfive", ".git", "pytest.ini", "pyproject.toml")
"""What marks a project's folder."""


def records_folder(given: Path | None = None, start: Path | None = None) -> Path:
    """Where records are: the argument, else TOPFIVE_RECORDS, else `.topfive/records` of the project.

    The project is the nearest folder from `start` (default: the current one) upwards that has one of
    PROJECT; outside any project records are in `records` of the user's data folder.
    """
    if given is not None:
        return Path(given).expanduser()
    if named := os.environ.get(VARIABLE, ""):
        return Path(named).expanduser()
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if any((folder / name).exists() for name in PROJECT):
            return folder / ".topfive" / "records"
    return Path(platformdirs.user_data_dir("topfive")) / "records"


def write_record(root: Path, record: Mapping[str, Any], folder: str = "") -> Path:
    """Keep a sealed record under its id, whole or not at all. Raises RecordError."""
    path = root / folder / f"{record['id']}.json"
    data = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    write_whole(path, data, RecordError, "choose another place with --records, or --no-record")
    return path


def write_sweep(root: Path, record: SweepRecord) -> Path:
    """Keep a record of a sweep; the same one again replaces itself. Raises RecordError."""
    stamp = record.created.replace(":", "").replace("-", "")[:15]
    sealed = new_record(
        "sweep",
        created=record.created,
        identity=f"{stamp}-{record.id[:8]}",
        command=record.command,
        machine=record.machine,
        argv=shlex.split(record.command),
        tags=given_tags(),
        repeats=repeated(),
        sweep=record.to_json(),
    )
    return write_record(root, sealed, _folder(record.case))


def read_sweep(path: Path) -> SweepRecord:
    """Read a record of a sweep. Raises RecordError naming the file."""
    try:
        return SweepRecord.from_json(read_record(path)["sweep"])
    except (KeyError, ValueError) as error:
        raise RecordError(f"{path} is not a record of a sweep: {error}") from error


def sweeps_of(root: Path, case: tuple[str, str, str]) -> list[Path]:
    """The files of a case's records, the oldest first."""
    return sorted((root / _folder(case)).glob("*.json"))


def previous_sweep(
    root: Path, record: SweepRecord, case: tuple[str, str, str] | None = None
) -> SweepRecord | None:
    """The newest record of `case` (default: the record's own) on the same data set that is another one.

    Files that cannot be read are passed over with a warning: a new sweep must not fail for an old file.
    """
    for path in reversed(sweeps_of(root, case or record.case)):
        try:
            found = read_sweep(path)
        except RecordError as error:
            warnings.warn(f"passed over: {error.message}", stacklevel=2)
            continue
        same = (found.plan["dataset"], found.plan["root"]) == (record.plan["dataset"], record.plan["root"])
        if same and found.id != record.id:
            return found
    return None


def _folder(case: tuple[str, str, str]) -> str:
    model, target, quant = case
    return f"sweeps/{model}/{target}-{quant}"
