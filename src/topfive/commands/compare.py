"""`topfive compare` and `topfive repeat`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topfive.commands import print_json
from topfive.errors import RecordError
from topfive.files import write_whole
from topfive.records import Found, find_record, list_records, records_folder
from topfive.records.comparison import compare_records
from topfive.records.gates import DEFAULT_GATES, parse_gates
from topfive.records.marks import REPEATS
from topfive.report.comparison import comparison_json, comparison_markdown, comparison_table

__all__ = ["Asked", "compare", "repeat"]

PYTEST = "pytest"
MEASURING = ("scenario", "harness", "sweep", "pair")
"""Commands of topfive that leave records: a record is data, and must not make another one run."""
ERRORS = 2
"""The descriptor of standard error: what the repeated run prints does not mix with the comparison."""
ONCE = ("--logs",)
"""Options whose value may exist only once: a repeated run makes its own."""


@dataclass(frozen=True)
class Asked:
    """How to compare, and what to write."""

    gates: str | None
    other_machine: bool
    other_model: bool
    everything: bool
    markdown: Path | None
    records: Path | None
    as_json: bool


def compare(base: str, new: str, asked: Asked) -> bool:
    """Compare two records and print what changed; whether no gate failed.

    Raises RecordError, OptionError and UnknownNameError for references and gates that do not exist.
    """
    parse_gates(asked.gates or DEFAULT_GATES)
    root = records_folder(asked.records)
    after = find_record(root, new)
    before = find_record(root, base, kind=after.kind)
    return _judge(before, after, asked)


def _judge(before: Found, after: Found, asked: Asked, **more: Any) -> bool:
    found = compare_records(
        before.record,
        after.record,
        parse_gates(asked.gates or DEFAULT_GATES),
        other_machine=asked.other_machine,
        other_model=asked.other_model,
    )
    if asked.markdown is not None:
        write_whole(asked.markdown, comparison_markdown(found).encode(), RecordError)
    if asked.as_json:
        print_json({**comparison_json(found), **more})
    else:
        table = comparison_table(found, everything=asked.everything, colour=sys.stdout.isatty())
        sys.stdout.write(table + "\n")
    return not found.failed


def repeat(reference: str, asked: Asked) -> bool:
    """Run what made a record again, from the project's folder, and compare; whether no gate failed.

    Raises RecordError for a record that keeps no command, or when the run leaves no record.
    """
    root = records_folder(asked.records)
    before = find_record(root, reference)
    command = _command(before.record)
    known = {one.id for one in list_records(root, damaged=[])}
    sys.stderr.write(f"{before.record['command']}\n")
    environment = {**os.environ, REPEATS: before.id, "TOPFIVE_RECORDS": str(root.resolve())}
    folder = _project(root) / str(before.record.get("folder", "."))
    done = subprocess.run(
        command, cwd=folder if folder.is_dir() else None, env=environment, stdout=ERRORS, check=False
    )
    made = [
        one
        for one in list_records(root, damaged=[])
        if one.id not in known
        and one.record.get("repeats") == before.id
        and (one.kind, one.cases) == (before.kind, before.cases)
    ]
    if not made:
        raise RecordError(
            f"{before.record['command']} ended with exit code {done.returncode} and left no record in {root}"
        )
    return _judge(before, made[-1], asked, exit_code=done.returncode) and done.returncode in (0, 1)


def _command(record: Mapping[str, Any]) -> list[str]:
    """The interpreter's command for a record's own, without options that cannot be given twice."""
    argv = [str(word) for word in record.get("argv") or ()]
    if argv[:1] != [PYTEST] and not (argv[:1] == ["topfive"] and argv[1:2] and argv[1] in MEASURING):
        raise RecordError(
            f"record {record['id']} keeps no command that can be repeated: {record['command']!r}"
        )
    kept, skipped = [], False
    for word in argv[1:]:
        if skipped or word in ONCE:
            skipped = word in ONCE and not skipped
            continue
        if not word.startswith(tuple(f"{name}=" for name in ONCE)):
            kept.append(word)
    return [sys.executable, "-m", argv[0], *kept]


def _project(root: Path) -> Path:
    """The folder whose records these are: that of `.topfive/records`, else the current one."""
    place = root.resolve()
    return place.parent.parent if place.parts[-2:] == (".topfive", "records") else Path.cwd()
