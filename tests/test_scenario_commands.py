"""`topfive scenario` and `topfive harness`: verdicts, exit codes, the results tree."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from topfive.images import procedural
from topfive.loadgen import unavailable_reason

from topfive_command import run_topfive

pytestmark = pytest.mark.skipif(find_spec("mlperf_loadgen") is None, reason=unavailable_reason())
MODEL, PICTURES = "pocket_resnet", 20
SHIFT = 50


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Options of every run here: one cache, no records, one thread."""
    cache = tmp_path_factory.mktemp("cache")
    return ("-m", MODEL, "--artifact-cache", cache, "--no-record", "--threads", 1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with their labels."""
    folder = tmp_path_factory.mktemp("drawn") / "pictures"
    procedural.write_flat(folder, PICTURES, split="harness")
    return folder


def test_an_invalid_run_shows_reason_and_advice_and_exits_with_1(
    plain: tuple[Any, ...], tmp_path: Path
) -> None:
    impossible = ("--qps", 3000, "--max-latency", 1e-6, "--count", 100, "--time", 0.05)
    code, shown, _ = run_topfive(
        "scenario", *plain, "--scenario", "performance-server", *impossible, "--logs", tmp_path / "logs"
    )
    assert code == 1
    assert "performance-server: INVALID" in shown
    assert "* Reduce target QPS" in shown
    assert (tmp_path / "logs" / "performance-Server" / "mlperf_log_detail.txt").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scenario", "performance-ofline"), "performance-offline"),
        (("--scenario", "Ofline"), "Offline"),
        (("--scenario", "Offline", "--mode", "find-peak"), "Server only"),
        (("--scenario", "Offline", "--user-conf", "absent.conf"), "absent.conf cannot be read"),
        (("--scenario", "Offline", "--imagenet", "nowhere"), "nowhere"),
        (("--scenario", "Offline", "--qps", "-1"), "qps must be positive"),
    ],
    ids=["command key", "scenario", "find-peak", "conf", "pictures", "rate"],
)
def test_what_cannot_be_run_exits_with_2(
    arguments: tuple[str, ...], message: str, plain: tuple[Any, ...], tmp_path: Path
) -> None:
    code, _, error = run_topfive("scenario", *plain, *arguments, "--logs", tmp_path / "logs")
    assert code == 2
    assert message in error
    assert not (tmp_path / "logs").exists()


def test_a_count_that_the_set_does_not_have_is_said(
    plain: tuple[Any, ...], drawn: Path, tmp_path: Path
) -> None:
    asked = ("--scenario", "accuracy-offline", "--count", 500, "--imagenet", drawn)
    code, shown, error = run_topfive("scenario", *plain, *asked, "--logs", tmp_path / "logs")
    assert code == 0
    assert f"500 samples asked for, {drawn} has {PICTURES}: all of them are run" in error
    assert shown.endswith(f", total={PICTURES}\n")


def test_an_offline_run_says_how_many_samples_its_query_has(plain: tuple[Any, ...], tmp_path: Path) -> None:
    asked = ("--scenario", "Offline", "--time", 0.05)
    _, shown, _ = run_topfive("scenario", *plain, *asked, "--logs", tmp_path / "logs")
    assert re.search(r"1 query of \d+ samples\n", shown)


def test_a_harness_judges_accuracy_against_the_same_model_in_float32(
    plain: tuple[Any, ...], tmp_path: Path
) -> None:
    asked = ("--target", "gemmini_sim", "--quant", "int8", "--samples", PICTURES, "--time", 0.1)
    code, shown, _ = run_topfive(
        "harness", *plain, *asked, "--tree", tmp_path / "tree", "--logs", tmp_path / "logs", "--json"
    )
    found = json.loads(shown)
    accuracy, performance = found["runs"]
    assert (code, found["good"], performance["valid"]) == (0, True, True)
    assert accuracy["reference_source"] == "cpu:force_float32 on the same samples"
    assert accuracy["accuracy"] >= 0.99 * accuracy["reference"]
    place = tmp_path / "tree" / "gemmini_sim-int8" / MODEL / "Offline"
    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == {
        *(f"accuracy/mlperf_log_{name}" for name in ("summary.txt", "detail.txt", "accuracy.json")),
        *(f"performance/run_1/mlperf_log_{name}" for name in ("summary.txt", "detail.txt", "accuracy.json")),
        "accuracy/accuracy.txt",
    }
    line = (place / "accuracy" / "accuracy.txt").read_text().splitlines()[0]
    assert line.endswith(f"good={accuracy['right']}, total={PICTURES}")


def test_a_harness_fails_below_99_percent_of_the_published_accuracy(
    plain: tuple[Any, ...], drawn: Path, tmp_path: Path
) -> None:
    rows = [line.split() for line in (drawn / "val_map.txt").read_text().splitlines()]
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for name, _ in rows:
        (wrong / name).write_bytes((drawn / name).read_bytes())
    lines = [f"{name} {(int(label) + SHIFT) % 100}\n" for name, label in rows]
    (wrong / "val_map.txt").write_text("".join(lines))
    code, shown, _ = run_topfive(
        "harness", *plain, "--imagenet", wrong, "--time", 0.1, "--logs", tmp_path / "logs"
    )
    assert code == 1
    assert f"total={PICTURES} < 99% of 96.700% (published: " in shown
    assert shown.endswith(f"{MODEL}: FAILED\n")


def test_the_current_folders_audit_config_has_no_effect(
    plain: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "audit.config").write_text(
        "*.*.mode = 2\n*.*.performance_issue_same = 1\n*.*.min_query_count = 9\n*.*.max_query_count = 9\n"
    )
    monkeypatch.chdir(tmp_path)
    code, shown, _ = run_topfive(
        "scenario", *plain, "--scenario", "SingleStream", "--time", 0.1, "--count", 70, "--json"
    )
    (run,) = json.loads(shown)["runs"]
    assert code == 0
    assert run["queries"] >= 70
    detail = (tmp_path / run["logs"] / "mlperf_log_detail.txt").read_text()
    assert '"effective_performance_issue_same", "value": false' in detail


@pytest.mark.slow
def test_loadgen_searches_the_peak(plain: tuple[Any, ...], tmp_path: Path) -> None:
    asked = ("--scenario", "Server", "--mode", "find-peak", "--qps", 10, "--count", 20, "--time", 0.05)
    code, shown, _ = run_topfive("scenario", *plain, *asked, "--logs", tmp_path / "logs", "--json")
    (run,) = json.loads(shown)["runs"]
    assert code == (0 if run["valid"] else 1)
    assert run["metric"] > 0
    assert run["key"] == "find-peak-server"
