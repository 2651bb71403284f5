"""LoadGen: plans, confs and logs; real runs on a tiny network, and what becomes of runs that break."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import topfive
from topfive.cards import load_cards
from topfive.datasets import DatasetCard, register_dataset
from topfive.errors import TopfiveError, UnknownNameError
from topfive.images import procedural
from topfive.loadgen import (
    SCENARIOS,
    Accuracy,
    Plan,
    Run,
    ScenarioError,
    asked_runs,
    command_key,
    parse_command_key,
    read_accuracy,
    read_result,
    read_user_conf,
    run_scenario,
    unavailable_reason,
)
from topfive.loadgen.plan import LEAST_QUERIES, SHORT_QUERIES
from topfive.loadgen.runs import read_top5
from topfive.loadgen.samples import sample_set
from topfive.loadgen.search import TRIES, until_valid
from topfive.loadgen.tree import add_to_tree
from topfive.targets.base import Artifact

needs_loadgen = pytest.mark.skipif(find_spec("mlperf_loadgen") is None, reason=unavailable_reason())
SIDE = 8


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
    ],
    ids=["key", "scenario", "colon", "two parts", "number", "not here"],
)
def test_a_conf_with_a_mistake_is_refused(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "user.conf"
    path.write_text(line + "\n")
    with pytest.raises(ScenarioError, match=message):
        read_user_conf(path, "resnet50", "Server")


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
        ([(0, _hex(1))], "1 of 2 samples were never answered, the first is 1"),
        ([(0, _hex(1)), (2, _hex(1))], "sample 2 is not one of the 2"),
    ],
    ids=["empty", "missing", "beyond"],
)
def test_an_accuracy_log_that_lacks_answers(
    entries: list[tuple[int, str]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ScenarioError, match=message):
        read_accuracy(_accuracy(tmp_path, entries), [1, 1])


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


# Real runs


def _network(folder: Path, *, white: str = "") -> Artifact:
    """The class is 0 for dark pictures, 1 for bright ones; a white one fails or never ends, if asked."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
    ]
    constants = {"w": np.array([[-1.0, 1.0]] * 3, np.float32), "b": np.zeros(2, np.float32)}
    if white:
        constants |= {"limit": np.float32(2.2), "zero": np.int64(0), "yes": np.bool_(True)}
        constants |= {"huge": np.int64(2**61 if white == "hang" else 7)}
        nodes += [
            helper.make_node("ReduceMax", ["f"], ["m"], keepdims=0),
            helper.make_node("Greater", ["m", "limit"], ["g"]),
            helper.make_node("Where", ["g", "huge", "zero"], ["i"]),
        ]
        if white == "fail":
            nodes += [helper.make_node("Gather", ["f", "i"], ["h"], axis=1)]
        else:
            body = helper.make_graph(
                [
                    helper.make_node("Identity", ["c"], ["c2"]),
                    helper.make_node("Identity", ["v"], ["v2"]),
                ],
                "body",
                [
                    helper.make_tensor_value_info("n", TensorProto.INT64, []),
                    helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                    helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
                ],
                [
                    helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
                    helper.make_tensor_value_info("v2", TensorProto.FLOAT, None),
                ],
            )
            nodes += [helper.make_node("Loop", ["i", "yes", "f"], ["h"], body=body)]
        constants["none"] = np.float32(0)
        nodes += [
            helper.make_node("ReduceMax", ["h"], ["hm"], keepdims=0),
            helper.make_node("Mul", ["hm", "none"], ["hz"]),
            helper.make_node("Add", ["f", "hz"], ["f2"]),
        ]
    nodes.append(helper.make_node("Gemm", ["f2" if white else "f", "w", "b"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder.mkdir(exist_ok=True)
    path = folder / f"brightness_{white or 'plain'}.onnx"
    onnx.save(model, path)
    return topfive.build(path, target="cpu", quant="force_float32", cache=folder / "cache")


def _crops(bright: list[int]) -> np.ndarray:
    levels = np.array(bright, np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (len(bright), SIDE, SIDE, 3)).copy()


CROPS = _crops([0, 200, 10, 220, 30, 210, 20, 190] * 3)
LABELS = [0, 1] * 12


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
    return _network(tmp_path_factory.mktemp("network"))


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


@needs_loadgen
def test_a_model_that_fails_in_the_middle_is_an_error_with_its_words(tmp_path: Path) -> None:
    crops = np.concatenate([CROPS, _crops([255])])
    with pytest.raises(ScenarioError, match="the model failed while LoadGen ran") as caught:
        _run(
            Plan("Offline", "accuracy", batch=1),
            _network(tmp_path, white="fail"),
            tmp_path / "run",
            crops=crops,
            labels=[*LABELS, 1],
        )
    assert "Gather" in caught.value.details


@needs_loadgen
def test_a_query_that_is_never_answered_is_killed(tmp_path: Path) -> None:
    crops = np.concatenate([CROPS, _crops([255])])
    with pytest.raises(ScenarioError, match="took longer than its time limit and was killed"):
        _run(
            Plan("SingleStream", "accuracy"),
            _network(tmp_path, white="hang"),
            tmp_path / "run",
            crops=crops,
            labels=[*LABELS, 1],
            time_limit=8.0,
        )


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
