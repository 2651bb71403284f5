"""`pytest --trace-dir DIR`: one trace of each model x target x quant mode that a session runs."""

from __future__ import annotations

from pathlib import Path

from topfive import targets
from topfive.suite.measuring import device_lock
from topfive.suite.selection import Case
from topfive.suite.state import Suite

__all__ = ["trace_case", "trace_path"]


def trace_path(folder: Path, case: Case) -> Path:
    """Where the trace of a case lies below the folder."""
    return folder / f"{case.model}-{case.target}-{case.quant}.json"


def trace_case(suite: Suite, case: Case, folder: Path, command: str) -> None:
    """Trace the case's first picture, alone on its device; nothing if the session has done so.

    command: what repeats the test that the case is from. Raises TraceError, and what building, opening and
    running raise.
    """
    from topfive.trace.recording import recorded

    out = trace_path(folder, case)
    if out in suite.traced:
        return
    suite.traced.add(out)
    runner = suite.workshop.runner(case.model, case.target, case.quant)
    pictures = suite.workshop.pictures(case.model, suite.most_pictures(case.target))
    fixed = runner.artifact.meta["input"]["shape"][0]
    batch = pictures.batch(fixed if isinstance(fixed, int) else 1)
    about = {"command": command, "pictures": [shown.file for shown in pictures.shown[: len(batch)]]}
    folder.mkdir(parents=True, exist_ok=True)
    with device_lock(suite.cache, targets.get(case.target)), recorded(runner, out, about) as runs:
        runs.run(batch)
