"""A results tree in the shape of an MLPerf submission: <system>/<benchmark>/<Scenario>/..."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from topfive.loadgen.plan import ScenarioError
from topfive.loadgen.runs import Run

__all__ = ["add_to_tree"]

LOGS = ("mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json")


def add_to_tree(root: Path, system: str, benchmark: str, run: Run) -> Path:
    """Copy a run's logs to accuracy/ or performance/run_1/ of its scenario; the folder they are in.

    accuracy.txt is the accuracy script's line, then `hash=` and the SHA-256 of the accuracy log, as MLPerf's
    truncation tool writes it. Raises ScenarioError if the place is taken.
    """
    place = root / system / benchmark / run.plan.scenario
    place = place / "accuracy" if run.accuracy else place / "performance" / "run_1"
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        raise ScenarioError(f"{place} exists: give another --tree or remove it") from None
    for name in LOGS:
        shutil.copyfile(run.folder / name, place / name)
    if run.accuracy:
        digest = hashlib.sha256((place / LOGS[2]).read_bytes()).hexdigest()
        text = f"{run.accuracy.line}\nhash={digest}\n"
        (place / "accuracy.txt").write_text(text, encoding="utf-8")
    return place
