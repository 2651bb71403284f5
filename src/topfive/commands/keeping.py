"""Writing the records of commands."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topfive.records import new_record, records_folder, write_record
from topfive.records.marks import given_tags, repeated
from topfive.suite.environment import commit_of, machine
from topfive.suite.provenance import built_from
from topfive.targets.base import Artifact

__all__ = ["keep_record", "scenario_tests"]


def keep_record(
    kind: str, tests: Sequence[Mapping[str, Any]], records: Path | None, tags: Sequence[str] = (), **more: Any
) -> Path:
    """Write the record of the command that runs, made now, and say on standard error where it is."""
    root = records_folder(records)
    argv = ["topfive", *sys.argv[1:]]
    record = new_record(
        kind,
        command=shlex.join(argv),
        argv=argv,
        tags=given_tags(tags),
        machine=machine(),
        commit=commit_of(Path.cwd()),
        tests=list(tests),
        repeats=repeated(),
        **more,
    )
    path = write_record(root, record)
    sys.stderr.write(f"record: {path}\n")
    return path


def scenario_tests(
    artifact: Artifact, rows: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """LoadGen runs, as `topfive scenario --json` describes them, as the tests of a record.

    answers: of each run, the packed answers of an accuracy run, or {}.
    """
    case = artifact.case
    return [
        {
            "test": f"scenario {'-'.join(case.values())} {row['key']}",
            "kind": "scenario",
            "outcome": "passed" if row["valid"] and row.get("passes", True) else "failed",
            "case": case,
            "built": built_from(artifact),
            "values": _values(row),
            "loadgen": dict(row),
            **({"answers": dict(found)} if found else {}),
        }
        for row, found in zip(rows, answers, strict=True)
    ]


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that are compared, named as the table of `pytest -m scenario` names them."""
    if "accuracy" in row:
        return {"top1": row["accuracy"], "pictures": row["total"]}
    name = str(row["key"]).partition("-")[2].replace("-", "")
    return {f"loadgen_{name}": row["metric"], f"loadgen_{name}_queries": row["queries"]}
