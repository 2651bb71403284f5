"""LoadGen: plans, settings, confs, logs and pictures."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.cards import load_cards
from topfive.datasets import DatasetCard, register_dataset
from topfive.errors import ImageError, TopfiveError, UnknownNameError
from topfive.images import procedural
from topfive.loadgen import (
    SCENARIOS,
    Plan,
    Run,
    ScenarioError,
    asked_runs,
    command_key,
    parse_command_key,
    read_accuracy,
    read_result,
    read_user_conf,
    unavailable_reason,
)
from topfive.loadgen.plan import LEAST_QUERIES, SHORT_QUERIES
from topfive.loadgen.samples import sample_set
from topfive.loadgen.search import TRIES, until_valid
from topfive.loadgen.settings import expected_seconds
from topfive.loadgen.settings import test_settings as settings_of
from topfive.loadgen.user_conf import KEYS

needs_loadgen = pytest.mark.skipif(find_spec("mlperf_loadgen") is None, reason=unavailable_reason())


# Plans


def test_short_runs_ask_for_enough_queries() -> None:
    assert LEAST_QUERIES == {"SingleStream": 64, "MultiStream": 662, "Server": 459, "Offline": 1}
    assert all(SHORT_QUERIES[scenario] >= LEAST_QUERIES[scenario] for scenario in SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("mode", ["performance", "accuracy"])
def test_command_keys_are_those_of_ck(scenario: str, mode: str) -> None:
    assert command_key(scenario, mode) == f"{mode}-{scenario.lower()}"
    assert parse_command_key(command_key(scenario, mode)) == (scenario, mode)


def test_what_a_command_line_asks_for() -> None:
    assert asked_runs(["all"], "accuracy") == [(scenario, "accuracy") for scenario in SCENARIOS]
    assert asked_runs(["offline", "performance_server"], "accuracy") == [
        ("Offline", "accuracy"),
        ("Server", "performance"),
    ]
    with pytest.raises(UnknownNameError, match="Offline"):
        asked_runs(["Ofline"], "accuracy")
    with pytest.raises(UnknownNameError, match="performance-offline"):
        asked_runs(["performance-ofline"], "accuracy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scenario": "Ofline"}, "Offline"),
        ({"scenario": "Server", "mode": "peak"}, "find-peak"),
        ({"scenario": "Offline", "mode": "find-peak"}, "Server only"),
        ({"scenario": "Offline", "qps": 0.0}, "qps must be positive"),
        ({"scenario": "Offline", "max_latency": -1.0}, "max-latency must be positive"),
    ],
    ids=["scenario", "mode", "find-peak", "qps", "latency"],
)
def test_plans_that_mean_nothing(values: dict[str, object], message: str) -> None:
    with pytest.raises(TopfiveError, match=message):
        Plan(**values)  # type: ignore[arg-type]


def test_a_server_rate_is_halved_until_it_holds() -> None:
    rates = []

    def run(plan: Plan, number: int) -> Run:
        rates.append(plan.qps)
        return _result(plan, valid=number == 3, rate=plan.qps or 80.0)

    found, tries = until_valid(Plan("Server"), run)
    assert (found.valid, tries, rates) == (True, 3, [None, 40.0, 20.0])


@pytest.mark.parametrize(
    "plan",
    [Plan("Server", qps=5.0), Plan("Offline"), Plan("Server", overrides={"server_target_qps": 1.0})],
    ids=["asked rate", "offline", "user.conf"],
)
def test_only_a_free_server_rate_is_tried_again(plan: Plan) -> None:
    assert until_valid(plan, lambda p, _: _result(p, valid=False, rate=1.0))[1] == 1
    assert until_valid(Plan("Server"), lambda p, _: _result(p, valid=False, rate=1.0))[1] == TRIES


def _result(plan: Plan, *, valid: bool, rate: float) -> Run:
    from topfive.loadgen import LoadGenResult

    detail = {"requested_server_target_qps": rate}
    found = LoadGenResult(valid, plan.scenario, "x", 1.0, 1, {}, 1.0, (), (), detail)
    return Run(plan, Path(), found, None, 0.001)


@needs_loadgen
@pytest.mark.parametrize(
    ("plan", "seconds"),
    [
        (Plan("Server", qps=2.0, count=330), 165.0),
        (Plan("Server", "accuracy", qps=1.0), 500.0),
        (Plan("Server", qps=1000.0, seconds=10.0), 500.0),
        (Plan("Offline", qps=1000.0, seconds=10.0), 550.0),
        (Plan("Offline", overrides={"min_query_count": 24576}), 1228.8),
        (Plan("SingleStream", overrides={"min_duration_ms": 600_000}), 600.0),
        (Plan("MultiStream"), 264.8),
        (Plan("Offline", "accuracy"), 25.0),
    ],
    ids=["rate", "accuracy at a rate", "overload", "expectation", "count", "duration", "streams", "accuracy"],
)
def test_the_watchdog_knows_how_long_a_run_may_take(plan: Plan, seconds: float, tmp_path: Path) -> None:
    import mlperf_loadgen

    values = settings_of(mlperf_loadgen, plan, latency=0.05, slowest=0.06, batch_rate=25.0, folder=tmp_path)
    assert expected_seconds(plan, values, latency=0.05, samples=500) == pytest.approx(seconds)


@needs_loadgen
def test_a_gentle_server_has_a_low_rate_and_a_long_limit_unless_they_are_asked_for(tmp_path: Path) -> None:
    import mlperf_loadgen

    def server(latency: float, **asked: float) -> tuple[float, float]:
        found = settings_of(
            mlperf_loadgen,
            Plan("Server", gentle=True, **asked),  # type: ignore[arg-type]
            latency=latency,
            slowest=latency,
            batch_rate=1 / latency,
            folder=tmp_path,
        )
        return found.server_target_qps, found.server_target_latency_ns / 1e9

    assert server(0.001) == (40.0, 0.5)
    assert server(1.0) == (0.3, 10.0)
    assert server(0.001, qps=200.0, max_latency=0.1) == (200.0, 0.1)


# user.conf

CONF = """# official form
*.SingleStream.target_latency = 10
*.Server.target_latency = 15
resnet50.Server.target_latency = 20
*.*.min_duration = 1000   # milliseconds
resnet50.*.min_duration = 2000
*.Server.min_duration = 3000
*.Offline.target_qps = 1.5
other.Server.target_qps = 99
"""


@pytest.mark.parametrize(
    ("model", "scenario", "wanted"),
    [
        ("resnet50", "Server", {"server_target_latency_ns": 20e6, "min_duration_ms": 3000}),
        ("vgg", "Server", {"server_target_latency_ns": 15e6, "min_duration_ms": 3000}),
        ("resnet50", "Offline", {"offline_expected_qps": 1.5, "min_duration_ms": 2000}),
        ("vgg", "SingleStream", {"single_stream_expected_latency_ns": 10e6, "min_duration_ms": 1000}),
    ],
    ids=["model and scenario", "scenario", "model", "any"],
)
def test_the_most_specific_line_of_a_conf_wins(
    model: str, scenario: str, wanted: dict[str, float], tmp_path: Path
) -> None:
    path = tmp_path / "user.conf"
    path.write_text(CONF)
    assert read_user_conf(path, model, scenario) == wanted


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("*.Server.target_latncy = 3", "1: unknown key 'target_latncy': did you mean 'target_latency'"),
        ("*.Servr.target_latency = 3", "unknown scenario 'Servr': did you mean 'Server'"),
        ("*.Server.target_qps: 3", "is not of the form"),
        ("Server.target_qps = 3", "is not of the form"),
        ("*.Server.target_qps = many", "'many' is not a number"),
        ("*.SingleStream.target_qps = 3", "target_qps does not apply to SingleStream"),
        ("*.Server.target_qps = -3", "target_qps must be a number that is not negative, not -3"),
        ("*.Server.target_qps = inf", "target_qps must be a number that is not negative, not inf"),
        ("*.*.min_duration = nan", "min_duration must be a whole number that is not negative, not nan"),
        ("*.*.min_query_count = 1.5", "min_query_count must be a whole number that is not negative, not 1.5"),
        ("*.*.min_duration = 5\n\n*.*.min_duration = 5", r"3: \*\.\*\.min_duration is in line 1, too"),
        ("resnet.*.min_duration = 5", r"has lines for resnet only, none for resnet50 or \*"),
    ],
    ids=[
        "key",
        "scenario",
        "colon",
        "two parts",
        "number",
        "not here",
        "negative",
        "infinite",
        "not a number",
        "fraction",
        "twice",
        "other model",
    ],
)
def test_a_conf_with_a_mistake_is_refused(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "user.conf"
    path.write_text(line + "\n")
    with pytest.raises(ScenarioError, match=message):
        read_user_conf(path, "resnet50", "Server")


def test_a_conf_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"absent\.conf cannot be read"):
        read_user_conf(tmp_path / "absent.conf", "resnet50", "Server")


def test_seeds_of_a_conf_keep_all_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "user.conf"
    path.write_text("*.*.qsl_rng_seed = 1780908523862526355\n*.Server.target_qps = 1e2\n")
    assert read_user_conf(path, "any", "Server") == {
        "qsl_rng_seed": 1780908523862526355,
        "server_target_qps": 100.0,
    }


@needs_loadgen
def test_every_key_of_a_conf_is_a_setting_of_loadgen() -> None:
    import mlperf_loadgen

    settings = mlperf_loadgen.TestSettings()
    for places in KEYS.values():
        for field, _ in places.values():
            assert hasattr(settings, field), field


# Logs


def _accuracy(folder: Path, entries: list[tuple[int, str]]) -> Path:
    rows = [{"seq_id": n, "qsl_idx": index, "data": data} for n, (index, data) in enumerate(entries)]
    (folder / "mlperf_log_accuracy.json").write_text(json.dumps(rows))
    return folder


def _hex(label: int) -> str:
    return struct.pack("<f", label).hex().upper()


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=30))
def test_accuracy_counts_each_sample_once(pairs: list[tuple[int, int]]) -> None:
    import tempfile

    labels = [label for label, _ in pairs]
    with tempfile.TemporaryDirectory() as folder:
        entries = [(index, _hex(answer)) for index, (_, answer) in enumerate(pairs)]
        found = read_accuracy(_accuracy(Path(folder), entries + entries[:1]), labels)
    assert (found.right, found.total) == (sum(a == b for a, b in pairs), len(pairs))
    assert found.line.startswith(f"accuracy={100 * found.right / found.total:.3f}%, good={found.right}, ")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([(0, _hex(1)), (1, "")], "the answer to sample 1 is '', not one float32"),
        ([(0, "0000C07F")], "the answer to sample 0 is '0000C07F', not one float32"),
        ([(0, "not hex!")], "the answer to sample 0 is 'not hex!', not one float32"),
        ([(0, _hex(1))], "1 of 2 samples were never answered, the first is 1"),
        ([(0, _hex(1)), (2, _hex(1))], "sample 2 is not one of the 2"),
    ],
    ids=["empty", "not a number", "not hexadecimal", "missing", "beyond"],
)
def test_an_accuracy_log_that_lacks_answers(
    entries: list[tuple[int, str]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ScenarioError, match=message):
        read_accuracy(_accuracy(tmp_path, entries), [1, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "is not a list"), ('[{"qsl_idx": 0}]', "is not an answer"), ("[", "cannot be read")],
    ids=["no list", "no data", "cut off"],
)
def test_a_broken_accuracy_log_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mlperf_log_accuracy.json").write_text(text)
    with pytest.raises(ScenarioError, match=message):
        read_accuracy(tmp_path, [1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "left no readable"),
        ("", "has no result"),
        (":::MLLOG {broken\n", "txt:1 is not a line of LoadGen's"),
        (':::MLLOG {"key": "a"}\n', "txt:1 is not a line of LoadGen's"),
    ],
    ids=["absent", "stopped", "broken", "short"],
)
def test_a_log_that_says_nothing(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "mlperf_log_detail.txt").write_text(text)
    with pytest.raises(ScenarioError, match=message):
        read_result(tmp_path, "Offline")


# Pictures


def test_samples_of_a_folder_and_of_a_registered_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPFIVE_DATASETS", str(tmp_path / "registry"))
    folder = tmp_path / "drawn"
    procedural.write_flat(folder, 4, split="scenario")
    # The registered set counts its classes from 1, from a label file elsewhere.
    lines = [line.split() for line in (folder / "val_map.txt").read_text().splitlines()]
    moved = tmp_path / "labels.txt"
    moved.write_text("".join(f"{name} {int(label) + 1}\n" for name, label in lines))
    register_dataset(DatasetCard("mine", folder=str(folder), map=str(moved), first_label=1))
    card = load_cards()["pocket_fire"]
    plain, named = sample_set(card, dataset=str(folder)), sample_set(card, dataset="mine", count=3)
    assert plain.labels == tuple(int(label) for _, label in lines)
    assert named.labels == plain.labels[:3]
    assert (named.crops == plain.crops[:3]).all()
    for name, digest in zip(plain.names, plain.digests, strict=True):
        whole = hashlib.sha256((folder / name).read_bytes()).digest()
        assert int(digest).to_bytes(8, "little", signed=True) == whole[:8]
    with pytest.raises(ScenarioError, match="is a URL"):
        sample_set(card, dataset=f"file://{folder}")
    with pytest.raises(UnknownNameError, match="mine"):
        sample_set(card, dataset="nine")


def test_a_missing_picture_is_an_error_and_shifts_no_label(tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    procedural.write_flat(folder, 4, split="scenario")
    first = (folder / "val_map.txt").read_text().split()[0]
    (folder / first).unlink()
    with pytest.raises(ImageError, match=re.escape(first)):
        sample_set(load_cards()["pocket_fire"], dataset=str(folder))


def test_a_class_that_the_model_lacks_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    procedural.write_flat(folder, 2, split="scenario")
    names = [line.split()[0] for line in (folder / "val_map.txt").read_text().splitlines()]
    (folder / "val_map.txt").write_text(f"{names[0]} 3\n{names[1]} 100\n")
    with pytest.raises(ScenarioError, match="class 100 is not one of the 100 of pocket_fire"):
        sample_set(load_cards()["pocket_fire"], dataset=str(folder))


def test_a_changed_picture_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    procedural.write_flat(folder, 2, split="scenario")
    card = load_cards()["pocket_fire"]
    before = sample_set(card, dataset=str(folder))
    names = sorted(path.name for path in folder.glob("*") if path.name != "val_map.txt")
    (folder / names[0]).write_bytes((folder / names[1]).read_bytes())
    after = sample_set(card, dataset=str(folder))
    changed = [not np.array_equal(a, b) for a, b in zip(before.crops, after.crops, strict=True)]
    assert sorted(changed) == [False, True]
    assert (before.digests != after.digests).tolist() == changed
