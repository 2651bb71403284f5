"""`topfive records`, `topfive export` and `topfive import`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from topfive.commands import print_json
from topfive.errors import RecordError
from topfive.records import Found, find_record, list_records, records_folder
from topfive.records.archive import export_records, import_records
from topfive.records.entries import Entry, entries_of
from topfive.records.library import Filter
from topfive.report.terminal import as_text

__all__ = ["bring_in", "list_all", "remove", "send_out", "show"]


def list_all(records: Path | None, wanted: Filter, *, as_json: bool) -> None:
    """Print the records that fulfil a filter, the oldest first; damaged files on standard error."""
    damaged: list[str] = []
    found = list_records(records_folder(records), wanted, damaged)
    if as_json:
        print_json({"records": [_summary(one) for one in found], "damaged": damaged})
    elif found:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        for title in ("id", "kind", "created", "tests", "models", "targets", "tags", "commit"):
            table.add_column(title, no_wrap=True)
        for one in found:
            table.add_row(*_row(_summary(one)))
        sys.stdout.write(as_text(table) + "\n")
    if not as_json:
        for line in damaged:
            sys.stderr.write(f"left out: {line}\n")


def _summary(found: Found) -> dict[str, Any]:
    record = found.record
    outcomes = [str(test.get("outcome", "passed")) for test in record["tests"]] or ["passed"]
    return {
        "id": found.id,
        "file": str(found.path),
        "kind": found.kind,
        "created": found.created,
        "command": record["command"],
        "tests": len(outcomes),
        "failed": outcomes.count("failed"),
        "models": sorted({model for model, _, _ in found.cases}),
        "targets": sorted({target for _, target, _ in found.cases}),
        "tags": record["tags"],
        "commit": str(record["commit"].get("id", "")),
        "host": record["machine"].get("host", ""),
    }


def _row(summary: dict[str, Any]) -> list[str]:
    failed = f" ({summary['failed']} failed)" if summary["failed"] else ""
    return [
        summary["id"],
        summary["kind"],
        summary["created"][:19],
        f"{summary['tests']}{failed}",
        _short(summary["models"]),
        _short(summary["targets"]),
        _short(summary["tags"]),
        summary["commit"][:10],
    ]


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" +{len(names) - 3}" if len(names) > 3 else "")


def show(reference: str, records: Path | None, *, as_json: bool) -> None:
    """Print one record: all of it as JSON, or what made it and its tests."""
    found = find_record(records_folder(records), reference)
    if as_json:
        print_json(found.record)
        return
    summary, machine = _summary(found), found.record["machine"]
    commit = found.record["commit"]
    lines = [
        f"id       {found.id}",
        f"kind     {found.kind}",
        f"created  {found.created}",
        f"command  {found.record['command']}",
        f"tags     {', '.join(summary['tags']) or '-'}",
        f"commit   {commit.get('id', '-')}{' with changes' if commit.get('dirty') else ''}",
        f"machine  {machine.get('cpu', '')}, {machine.get('processors', '?')} processors, load "
        f"{machine.get('load', '-')}, fingerprint {machine.get('fingerprint', '-')}",
        "versions " + ", ".join(f"{name} {v}" for name, v in machine.get("versions", {}).items()),
        "sha256   " + str(found.record["sha256"]),
    ]
    sys.stdout.write(
        "\n".join([*lines, *(_line(entry) for entry in entries_of(found.record).values())]) + "\n"
    )


def _line(entry: Entry) -> str:
    shown = [
        f"{name} {entry.values[name]}" for name in ("golden", "modelled_estimate") if name in entry.values
    ]
    if percentiles := entry.stored.get("percentiles"):
        shown += [f"{name} {1e3 * percentiles[name]:.4g} ms" for name in ("p50", "p99")]
        shown.append(f"{len(entry.rounds)} rounds")
    shown += [f"{name} {value}" for name, value in entry.values.items() if name.startswith("loadgen_")]
    if (answered := entry.sweep or entry.answers) is not None:
        right1, right5 = int(answered.right1.sum()), int(answered.right5.sum())
        shown.append(f"top-1 {right1}/{len(answered.labels)}, top-5 {right5}")
    return f"{entry.outcome:8} {entry.test}" + (f": {', '.join(shown)}" if shown else "")


def remove(references: Sequence[str], records: Path | None, *, as_json: bool) -> None:
    """Remove records. Raises RecordError, before any is removed, for one that is not there."""
    root = records_folder(records)
    found = list({one.path: one for one in (find_record(root, name) for name in references)}.values())
    outside = [one for one in found if not one.path.resolve().is_relative_to(root.resolve())]
    if outside:
        raise RecordError(f"{outside[0].path} is not in {root}: remove it yourself")
    for one in found:
        one.path.unlink(missing_ok=True)
    if as_json:
        print_json({"removed": [one.id for one in found]})
    else:
        sys.stdout.write("".join(f"removed {one.id}\n" for one in found))


def send_out(
    references: Sequence[str], out: Path, records: Path | None, wanted: Filter, *, as_json: bool
) -> None:
    """Write records as a zip file: those named, or without names those that fulfil the filter."""
    root = records_folder(records)
    if references:
        found = list({one.id: one for one in (find_record(root, name) for name in references)}.values())
    else:
        found = list_records(root, wanted)
    if not found:
        raise RecordError(f"no record of {root} is asked for: see `topfive records list`")
    count = export_records(found, root, out)
    if as_json:
        print_json({"file": str(out), "records": [one.id for one in found]})
    else:
        sys.stdout.write(f"{out}: {count} records\n")


def bring_in(archive: Path, records: Path | None, *, as_json: bool) -> None:
    """Take records out of a zip file."""
    root = records_folder(records)
    fresh, known = import_records(archive, root)
    if as_json:
        print_json({"imported": [path.stem for path in fresh], "known": known, "folder": str(root)})
    else:
        sys.stdout.write(f"{len(fresh)} records imported into {root}, {known} were there already\n")
