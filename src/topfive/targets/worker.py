"""Calling a vendor's library in a process of its own: a crash or a hang there is an error here, in time.

`python -m topfive.targets.worker MODULE:FUNCTION JOB ANSWER` reads the JSON file JOB, calls the function with
it, and writes what it returns, or the StageError that it raises, as JSON to ANSWER.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topfive.errors import StageError
from topfive.targets.tools import ToolRun, run_tool

__all__ = ["call_apart"]


def call_apart(
    function: str, job: Mapping[str, Any], *, folder: Path, name: str, seconds: float, error: type[StageError]
) -> dict[str, Any]:
    """What "module:function" returns for a job, called in another process; both are JSON-able.

    folder: its working directory; the job, the answer and what it printed are kept there as `name`.*.
    seconds: its time limit, after which its whole process group is killed. Raises `error`: with the message
    of a StageError of the function, or when the process dies, hangs or answers nothing.
    """
    asked, answer = folder / f"{name}.job.json", folder / f"{name}.answer.json"
    asked.write_text(json.dumps(job, indent=1), encoding="utf-8")
    answer.unlink(missing_ok=True)
    run = run_tool(
        [sys.executable, "-m", "topfive.targets.worker", function, asked.name, answer.name],
        folder=folder,
        logs=folder,
        name=name,
        seconds=seconds,
        error=error,
        # The library must be the one that this process would import.
        environment={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
    )
    return _answered(answer, run, error)


def _answered(answer: Path, run: ToolRun, error: type[StageError]) -> dict[str, Any]:
    try:
        found = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise error(
            f"the process ended with exit status {run.status} and no answer", details=run.shown()
        ) from None
    if "failed" in found:
        raise error(
            found["failed"], details="\n".join(part for part in (found["details"], run.shown()) if part)
        )
    returned: dict[str, Any] = found["returned"]
    return returned


def _main(function: str, asked: str, answer: str) -> None:
    module, _, name = function.partition(":")
    job = json.loads(Path(asked).read_text(encoding="utf-8"))
    try:
        found: dict[str, Any] = {"returned": getattr(importlib.import_module(module), name)(job)}
    except StageError as failure:
        found = {"failed": failure.message, "details": failure.details}
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
