"""Running one plan in a process of its own, with a watchdog, and judging what it left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.loadgen.logs import Accuracy, LoadGenResult, read_accuracy, read_detail, read_result
from topfive.loadgen.plan import (
    CROPS,
    JOB,
    OUTCOME,
    TOP5,
    Plan,
    ScenarioError,
    as_json,
    command_key,
    is_stream,
)
from topfive.targets.base import Artifact

__all__ = ["Run", "described", "read_top5", "run_scenario", "unavailable_reason"]

START_SECONDS = 120.0
PATIENCE = 3.0
"""The watchdog waits START_SECONDS for the first call, then so many times what the process says that its
measurement or LoadGen's run will take, and START_SECONDS on top."""


@dataclass(frozen=True)
class Run:
    """One finished run: `performance` or `accuracy` is there; `folder` keeps LoadGen's logs."""

    plan: Plan
    folder: Path
    performance: LoadGenResult | None
    accuracy: Accuracy | None
    latency: float
    """Median seconds of one call, measured before the run."""
    top5: NDArray[np.int32] | None = field(default=None, compare=False)
    """[samples, 5] of an accuracy run: the five best classes of each, as `best_classes` gives them."""

    @property
    def key(self) -> str:
        """performance-offline ..."""
        return command_key(self.plan.scenario, self.plan.mode)

    @property
    def valid(self) -> bool:
        """LoadGen's verdict; an accuracy run that ended is valid."""
        return self.performance is None or self.performance.valid


def unavailable_reason() -> str:
    """Why LoadGen cannot run here, or ""."""
    if find_spec("mlperf_loadgen") is None:
        return "LoadGen is not installed: pip install 'topfive[loadgen]'"
    return ""


def run_scenario(
    plan: Plan,
    artifact: Artifact,
    crops: NDArray[np.uint8],
    labels: Sequence[int],
    *,
    profile: str,
    background: bool,
    folder: Path,
    threads: int | None = None,
    time_limit: float | None = None,
) -> Run:
    """Run LoadGen on an artifact and read what it found.

    crops: uint8 [N, H, W, 3] of the N samples (see images.crop_uint8); labels: class of each, without the
    background class. folder: new, keeps the logs. time_limit: seconds of the whole process, None for a guess
    from the plan. Raises ScenarioError when LoadGen is absent, hangs, crashes, or answers are missing; a run
    that LoadGen calls INVALID is a result.
    """
    reason = unavailable_reason()
    if reason:
        raise ScenarioError(reason)
    _fresh(folder)
    samples = len(crops) if plan.mode != "accuracy" or plan.count is None else min(plan.count, len(crops))
    fixed = artifact.meta["input"]["shape"][0]
    np.save(folder / CROPS, crops[:samples])
    job = {
        "plan": as_json(plan),
        "artifact": str(artifact.path),
        "profile": profile,
        "background": background,
        "threads": threads,
        "batch": fixed if isinstance(fixed, int) else None,
    }
    (folder / JOB).write_text(json.dumps(job, indent=1), encoding="utf-8")
    latency = _watched(folder, time_limit)
    (folder / CROPS).unlink()
    if plan.mode == "accuracy":
        _refuse_errors(folder)
        accuracy = read_accuracy(folder, list(labels)[:samples])
        return Run(plan, folder, None, accuracy, latency, read_top5(folder, labels[:samples], accuracy))
    return Run(plan, folder, read_result(folder, plan.scenario), None, latency)


def described(run: Run, tries: int) -> dict[str, Any]:
    """A run as JSON-able values; times in seconds."""
    row: dict[str, Any] = {"key": run.key, "logs": str(run.folder), "valid": run.valid, "tries": tries}
    if run.accuracy:
        row |= {"accuracy": run.accuracy.fraction, "right": run.accuracy.right, "total": run.accuracy.total}
        return row
    found = run.performance
    assert found is not None
    return row | {
        "metric": found.metric / 1e9 if is_stream(run.key) else found.metric,
        "metric_name": found.metric_name,
        "queries": found.queries,
        "samples_per_query": int(found.detail.get("generated_samples_per_query", 1)),
        "samples_per_second": found.samples_per_second,
        "percentiles_s": {name: value / 1e9 for name, value in found.percentiles.items()},
        "advice": list(found.advice),
        "errors": list(found.errors),
    }


def read_top5(folder: Path, labels: Sequence[int], accuracy: Accuracy) -> NDArray[np.int32]:
    """The five best classes of each sample, int32 [N, 5], as the child kept them.

    Raises ScenarioError when they cannot be read, or are not right as often as LoadGen's log is.
    """
    try:
        found: NDArray[np.int32] = np.load(folder / TOP5, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{folder / TOP5} cannot be read: {error}") from error
    right = int((found[:, 0] == np.asarray(labels)).sum())
    if right != accuracy.right:
        raise ScenarioError(
            f"{folder}: LoadGen's log is right for {accuracy.right} pictures, the model's answers for {right}"
        )
    return found


def _fresh(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ScenarioError(f"{folder} exists: LoadGen would overwrite the logs of another run") from None
    except OSError as error:
        raise ScenarioError(f"{folder} cannot be made: {error.strerror or error}") from error


def _refuse_errors(folder: Path) -> None:
    _, errors, _ = read_detail(folder)
    if errors:
        raise ScenarioError(f"LoadGen logged errors, see {folder}", details="\n".join(errors))


def _watched(folder: Path, time_limit: float | None) -> float:
    """Run the child to its end; the median seconds of one call. Its output is kept in the folder."""
    command = [sys.executable, "-m", "topfive.loadgen.child", str(folder.resolve())]
    out_path, error_path = folder / "stdout.txt", folder / "stderr.txt"
    with out_path.open("wb") as out, error_path.open("wb") as error:
        process = subprocess.Popen(
            command, stdout=out, stderr=error, cwd=folder, start_new_session=True, stdin=subprocess.DEVNULL
        )
        try:
            status = _wait(process, folder, time_limit)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    outcome = _outcome(folder)
    if outcome.get("failure"):
        raise ScenarioError(
            f"the model failed while LoadGen ran, see {folder}", details=str(outcome["failure"]).strip()
        )
    if status is None:
        raise ScenarioError(
            f"LoadGen's process took longer than its time limit and was killed: a query was never answered, "
            f"or raise the limit (logs: {folder})",
            details=_tail(error_path),
        )
    if status or not outcome.get("ended"):
        ended = f"died of signal {-status}" if status < 0 else f"ended with exit status {status}"
        raise ScenarioError(f"LoadGen's process {ended} (logs: {folder})", details=_tail(error_path))
    return float(outcome["latency"])


def _wait(process: subprocess.Popen[bytes], folder: Path, time_limit: float | None) -> int | None:
    """The exit status, or None when the time is over; the process says how long what it does will take."""
    start = time.monotonic()
    limit = START_SECONDS if time_limit is None else time_limit
    announced, final = 0.0, time_limit is not None
    while True:
        waited = time.monotonic() - start
        if waited >= limit:
            return None
        try:
            return process.wait(timeout=min(0.5, limit - waited))
        except subprocess.TimeoutExpired:
            pass
        if final:
            continue
        outcome = _outcome(folder)
        if (expected := float(outcome.get("expected", 0.0))) != announced:
            announced, final = expected, "latency" in outcome
            limit = time.monotonic() - start + START_SECONDS + PATIENCE * expected


def _outcome(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _tail(path: Path, lines: int = 20) -> str:
    text = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(text[-lines:])
