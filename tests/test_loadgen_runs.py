"""Real runs of LoadGen on a tiny network, and what becomes of runs that break."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brightness import CROPS, LABELS, brightness, crops_of
from topfive.loadgen import (
    SCENARIOS,
    Accuracy,
    Plan,
    Run,
    ScenarioError,
    run_scenario,
    unavailable_reason,
)
from topfive.loadgen.runs import read_top5
from topfive.loadgen.tree import add_to_tree
from topfive.targets.base import Artifact

needs_loadgen = pytest.mark.skipif(find_spec("mlperf_loadgen") is None, reason=unavailable_reason())


def _run(plan: Plan, artifact: Artifact, folder: Path, **changed: object) -> Run:
    arguments = {"crops": CROPS, "labels": LABELS, "time_limit": None, **changed}
    return run_scenario(
        plan,
        artifact,
        arguments["crops"],  # type: ignore[arg-type]
        arguments["labels"],  # type: ignore[arg-type]
        profile="torchvision",
        background=False,
        folder=folder,
        threads=1,
        time_limit=arguments["time_limit"],  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return brightness(tmp_path_factory.mktemp("network"))


@needs_loadgen
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_accuracy_is_exact_in_every_scenario(scenario: str, artifact: Artifact, tmp_path: Path) -> None:
    labels = [*LABELS[:-1], 0]  # one answer is wrong
    found = _run(Plan(scenario, "accuracy"), artifact, tmp_path / "run", labels=labels)
    assert found.accuracy is not None
    assert found.accuracy.line == "accuracy=95.833%, good=23, total=24"
    assert found.top5 is not None
    assert found.top5.tolist() == [[bright, 1 - bright, -1, -1, -1] for bright in LABELS]
    tree = add_to_tree(tmp_path / "tree", "system", "brightness", found)
    lines = (tree / "accuracy.txt").read_text().splitlines()
    assert lines[0] == found.accuracy.line
    assert len(lines[1].removeprefix("hash=")) == 64
    with pytest.raises(ScenarioError, match="exists"):
        add_to_tree(tmp_path / "tree", "system", "brightness", found)


@needs_loadgen
@pytest.mark.parametrize("scenario", ["SingleStream", "Offline"])
def test_a_short_performance_run_has_a_verdict(scenario: str, artifact: Artifact, tmp_path: Path) -> None:
    found = _run(Plan(scenario, seconds=0.2), artifact, tmp_path / "run")
    result = found.performance
    assert result is not None
    assert result.detail["effective_scenario"] == scenario
    assert result.detail["effective_min_duration_ms"] == 200
    assert (result.metric > 0, result.samples_per_second > 0) == (True, True)
    assert result.percentiles["50.00"] <= result.percentiles["99.90"]
    assert (
        not (found.folder / "mlperf_log_trace.json").exists()
        or not (found.folder / "mlperf_log_trace.json").read_bytes()
    )


@needs_loadgen
def test_figures_are_loadgens_and_count_samples(artifact: Artifact, tmp_path: Path) -> None:
    # So short that the least number of queries decides, on a fast machine too.
    found = _run(Plan("MultiStream", seconds=0.001), artifact, tmp_path / "run")
    result = found.performance
    assert result is not None
    text = (found.folder / "mlperf_log_summary.txt").read_text()
    summary = dict(
        re.split(r"\s*:\s*", line.strip(), maxsplit=1) for line in text.splitlines() if ": " in line
    )
    assert result.queries == 662
    assert result.percentiles["99.00"] == float(summary["99.00 percentile latency (ns)"])
    assert result.metric == float(summary["* Early stopping 99.0th percentile estimate"])
    assert result.samples_per_second == pytest.approx(8e9 / float(summary["Mean latency (ns)"]))


@needs_loadgen
def test_a_model_with_softmax_needs_no_change(tmp_path: Path) -> None:
    found = _run(Plan("Offline", "accuracy", batch=5), brightness(tmp_path, softmax=True), tmp_path / "run")
    assert found.accuracy is not None
    assert found.accuracy.line == "accuracy=100.000%, good=24, total=24"
    assert (found.folder / "stderr.txt").read_text() == ""


@needs_loadgen
def test_an_impossible_rate_is_invalid_with_loadgens_advice(artifact: Artifact, tmp_path: Path) -> None:
    plan = Plan("Server", qps=2000.0, max_latency=1e-6, count=100, seconds=0.05)
    found = _run(plan, artifact, tmp_path / "run")
    assert not found.valid
    assert found.performance is not None
    assert any("Reduce target QPS" in line for line in found.performance.advice)


@needs_loadgen
def test_an_audit_config_in_the_current_folder_has_no_effect(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "audit.config").write_text("*.*.performance_issue_same = 1\n")
    monkeypatch.chdir(tmp_path)
    found = _run(Plan("Offline", seconds=0.1), artifact, tmp_path / "run")
    assert found.performance is not None
    assert found.performance.detail["effective_performance_issue_same"] is False


@needs_loadgen
def test_overrides_reach_loadgen(artifact: Artifact, tmp_path: Path) -> None:
    plan = Plan("SingleStream", seconds=0.1, overrides={"qsl_rng_seed": 77.0, "min_query_count": 70.0})
    found = _run(plan, artifact, tmp_path / "run")
    assert found.performance is not None
    assert found.performance.detail["effective_qsl_rng_seed"] == 77
    assert found.performance.queries >= 70


@needs_loadgen
def test_submission_has_the_official_durations_and_seeds(artifact: Artifact, tmp_path: Path) -> None:
    plan = Plan("SingleStream", submission=True, seconds=0.2, count=64)
    found = _run(plan, artifact, tmp_path / "run")
    assert found.performance is not None
    assert found.performance.detail["effective_qsl_rng_seed"] > 1_000_000
    assert Plan("SingleStream", submission=True).least_seconds == 600


def run_with_white(plan: Plan, tmp_path: Path, white: str, **more: Any) -> Run:
    """A run whose last picture is white, at which the model does what it is told."""
    crops = np.concatenate([CROPS, crops_of([255])])
    model = brightness(tmp_path, white=white)
    return _run(plan, model, tmp_path / "run", crops=crops, labels=[*LABELS, 1], **more)


@needs_loadgen
def test_a_model_that_fails_in_the_middle_is_an_error_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="the model failed while LoadGen ran") as caught:
        run_with_white(Plan("Offline", "accuracy", batch=1), tmp_path, "fail")
    assert "Gather" in caught.value.details


@needs_loadgen
def test_a_query_that_is_never_answered_is_killed(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="took longer than its time limit and was killed"):
        run_with_white(Plan("SingleStream", "accuracy"), tmp_path, "hang", time_limit=8.0)


@needs_loadgen
def test_the_watchdog_kills_a_run_that_hangs_without_being_given_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topfive.loadgen.runs.START_SECONDS", 8.0)
    with pytest.raises(ScenarioError, match="took longer than its time limit and was killed"):
        run_with_white(Plan("Offline", "accuracy", batch=1), tmp_path, "hang")


DIES = """
import os, pathlib, signal, threading, time
def watch():
    while not pathlib.Path("mlperf_log_detail.txt").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGSEGV)
if pathlib.Path("job.json").exists():
    threading.Thread(target=watch, daemon=True).start()
"""


@needs_loadgen
def test_a_process_that_crashes_in_a_run_is_an_error(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ScenarioError, match="died of signal 11"):
        _run(Plan("SingleStream", seconds=60.0), artifact, tmp_path / "run")


@pytest.mark.parametrize("kept", ["other", "absent", "broken"])
def test_answers_that_are_not_those_of_the_log_are_refused(kept: str, tmp_path: Path) -> None:
    if kept == "broken":
        (tmp_path / "top5.npy").write_bytes(b"not an array")
    elif kept == "other":
        np.save(tmp_path / "top5.npy", np.array([[1, 0, 2, 3, 4]] * 2, np.int32))
    message = "right for 2 pictures, the model's answers for 1" if kept == "other" else "cannot be read"
    with pytest.raises(ScenarioError, match=message):
        read_top5(tmp_path, [1, 0], Accuracy(2, 2))


def test_logs_of_another_run_are_not_overwritten(tmp_path: Path, artifact: Artifact) -> None:
    if find_spec("mlperf_loadgen") is None:
        pytest.skip(unavailable_reason())
    with pytest.raises(ScenarioError, match="exists: LoadGen would overwrite"):
        _run(Plan("Offline"), artifact, tmp_path)


def test_without_loadgen_the_extra_is_named(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topfive.loadgen.runs.find_spec", lambda _: None)
    with pytest.raises(ScenarioError, match=r"pip install 'topfive\[loadgen\]'"):
        _run(Plan("Offline"), artifact, tmp_path / "run")


@needs_loadgen
def test_an_artifact_that_cannot_be_opened_shows_why(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="exit status 1") as caught:
        _run(Plan("Offline"), replace(artifact, path=tmp_path / "absent"), tmp_path / "run")
    assert "absent" in caught.value.details
