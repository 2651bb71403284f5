"""`aic100` with its tools, real or emulated: results, figures, and every way in which they can fail."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import topfive
from topfive import targets
from topfive.cli import app
from topfive.errors import CompileError, OptionError, RunError, TopfiveError
from topfive.pipeline import resolve_card
from topfive.suite.golden_check import GoldenCheck
from topfive.suite.pictures import Pictures
from topfive.targets.aic100 import device, toolchain
from topfive.targets.aic100.compiling import clip_weights, named_as_exported, seeded_input
from topfive.targets.aic100.target import Aic100Target
from topfive.targets.aic100.toolchain import SIMULATED
from topfive.targets.base import Artifact, DeviceFigures

from aic100_tools import (
    EMULATORS,
    MODEL,
    MOTIF,
    QUICK,
    REAL,
    SMALL,
    Emulated,
    build,
    emulated,
    gone,
    installed,
    pictures,
)

pytestmark = pytest.mark.aic100


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    """The tools, well and free."""
    return installed(tmp_path, monkeypatch)


@pytest.fixture
def artifact(cache: Path) -> Artifact:
    return build(cache)


def assert_same(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    """Emulated tools compute what the twin computes; a device may differ by a little."""
    if REAL:
        assert np.abs(found - wanted).max() <= 0.02 * np.abs(wanted).max()
    else:
        assert np.array_equal(found, wanted)


# Results


@pytest.mark.parametrize("count", [1, 4, 6])
def test_results_are_those_of_the_twin(cache: Path, artifact: Artifact, count: int) -> None:
    twin = topfive.build(MODEL, target="aic100_sim", quant="force_float16", cache=cache)
    batch = pictures(count)
    with topfive.open(artifact) as runner, topfive.open(twin) as other:
        found = runner.run(batch)
        assert found.shape == (count, 100)
        assert_same(found, other.run(batch))


@pytest.mark.parametrize("way", ["json", "file"])
def test_both_ways_to_name_an_input(cache: Path, way: str) -> None:
    with topfive.open(build(cache, input=way)) as runner, topfive.open(build(cache)) as other:
        assert np.array_equal(runner.run(pictures(2)), other.run(pictures(2)))


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 3, 64, 63), np.float32),
        np.zeros((0, 3, 64, 64), np.float32),
        np.zeros((1, 3, 64, 64), np.float64),
    ],
    ids=["size", "none", "dtype"],
)
def test_other_inputs_are_refused(artifact: Artifact, batch: NDArray[np.float32]) -> None:
    with topfive.open(artifact) as runner, pytest.raises(RunError, match="the input wants float32"):
        runner.run(batch)


def test_nothing_stays_of_a_run_that_succeeds(artifact: Artifact, tmp_path: Path) -> None:
    with topfive.open(artifact) as runner:
        runner.run(pictures(1))
    assert list((tmp_path / "temporary").iterdir()) == []


# What is built


def test_the_layout_of_an_artifact(artifact: Artifact) -> None:
    files = {path.relative_to(artifact.path).as_posix() for path in artifact.path.rglob("*")}
    assert files >= {
        "model/model.onnx",
        "inputFiles/input_img_4x3x64x64.raw",
        "inputFiles/aic_batch_io.json",
        "list_4x3x64x64.txt",
        f"compiled-bin-fp16-{MOTIF}/programqpc.bin",
        f"outputFiles/fp16-{MOTIF}",
        f"commands-{MOTIF}.txt",
    }
    raw = np.fromfile(artifact.path / "inputFiles" / "input_img_4x3x64x64.raw", "<f4")
    assert np.array_equal(raw.reshape(4, 3, 64, 64), seeded_input((4, 3, 64, 64)))
    commands = (artifact.path / f"commands-{MOTIF}.txt").read_text(encoding="utf-8").split("\n\n")
    assert commands[0] == f"rm -rf compiled-bin-fp16-{MOTIF}"
    assert commands[1] == artifact.meta["command"]
    assert commands[2].endswith("-S 2 -d 0 --aic-batch-json-input ./inputFiles/aic_batch_io.json")
    assert artifact.meta["input"]["shape"] == [4, 3, 64, 64]
    assert artifact.meta["output_shape"] == [4, 100]


def test_the_model_is_named_as_it_would_be_exported(artifact: Artifact) -> None:
    model = onnx.load(artifact.path / "model" / "model.onnx")
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, made.name) == ("input", "output")
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in (given, made)] == ["batch_size"] * 2


def test_what_is_emulated_says_so(artifact: Artifact) -> None:
    target = targets.get("aic100")
    expected = "" if REAL else SIMULATED
    assert target.simulation() == artifact.meta["simulated"] == expected
    listed = json.loads(CliRunner().invoke(app, ["targets", "--json"], catch_exceptions=False).stdout)
    (row,) = [row for row in listed if row["name"] == "aic100"]
    assert (row["simulated"], row["runs_here"]) == (expected, True)
    if not REAL:
        assert all("topfive's emulated" in said for said in artifact.meta["tools"].values())


def test_options_that_only_run_are_no_part_of_the_key(cache: Path, artifact: Artifact) -> None:
    other = build(cache, time="3", input="file", max_wait="7")
    assert other.path == artifact.path
    assert other.key == artifact.key
    assert other.options == {**SMALL, "time": "3", "input": "file", "max-wait": "7"}
    with topfive.open(other) as runner:
        assert runner.artifact.options == other.options
    # From its folder it has only the options that it was built with.
    with topfive.open(other.path) as runner:
        assert runner.artifact.options == SMALL
    assert build(cache, instances="1").path != artifact.path


def test_run_only_never_compiles(cache: Path, artifact: Artifact) -> None:
    assert build(cache, run_only="yes").path == artifact.path
    with pytest.raises(CompileError, match=f"nothing is compiled for {MODEL} with these options"):
        build(cache, run_only="yes", ols="4")


def test_a_table_decides_and_is_part_of_the_key(cache: Path, tmp_path: Path) -> None:
    lut = tmp_path / "lut_cv_classifiers.csv"
    header = (
        "MODEL_NAME,TASK,BATCH_SIZE,IMAGE_SIZE,CORES,INSTANCES,OLS,MOS,EXTRA,SET_SIZE,"
        "PRECISION,OBJECTIVE,THPS,LATENCY\r\n"
    )
    row = f'{MODEL},,3,96,1,2,4,"1,2", -multicast-weights,5,fp16,best-throughput,100,300\r\n'
    lut.write_text(f"{header},,,,\r\n{row}", encoding="utf-8-sig")
    options = {"lut": str(lut)}
    found = topfive.build(MODEL, target="aic100", quant="force_float16", cache=cache, options=options)
    stored = found.meta["configuration"]
    assert (stored["batch_size"], stored["mos"], stored["image_size"]) == (3, "1,2", 64)
    assert stored["notes"] == ["the table's row is for size 96, the model takes 3x64x64"]
    assert found.meta["command"].endswith("-stats-batchsize=3 -multicast-weights -mos=1,2")
    lut.write_text(f"{header}{row.replace(',3,96,', ',2,64,')}", encoding="utf-8-sig")
    other = topfive.build(MODEL, target="aic100", quant="force_float16", cache=cache, options=options)
    assert other.meta["configuration"]["batch_size"] == 2
    lut.write_text("nothing", encoding="utf-8")
    with pytest.raises(OptionError, match=r"lut_cv_classifiers.csv, line 1: lacks the columns"):
        topfive.build(MODEL, target="aic100", quant="force_float16", cache=cache, options=options)


@pytest.mark.slow
def test_an_opset_is_converted_to(cache: Path) -> None:
    batch = pictures(2)
    with topfive.open(build(cache)) as runner:
        wanted = runner.run(batch)
    for opset in (13, 14):
        found = build(cache, opset=str(opset))
        model = onnx.load(found.path / "model" / "model.onnx")
        assert [imported.version for imported in model.opset_import] == [opset]
        with topfive.open(found) as runner:
            assert_same(runner.run(batch), wanted)
    with pytest.raises(CompileError, match="cannot be converted to opset 99"):
        build(cache, opset="99")


def test_an_image_size_must_be_the_model_s(cache: Path, artifact: Artifact) -> None:
    with pytest.raises(CompileError, match="takes pictures of 3x64x64: --option image-size=224"):
        build(cache, image_size="224")
    assert build(cache, image_size="64").meta["configuration"] == {
        **artifact.meta["configuration"],
        "origins": {**artifact.meta["configuration"]["origins"], "image-size": "option"},
    }


@pytest.mark.parametrize(
    ("cores", "instances", "words"),
    [("8", "2", "8 cores x 2 instances are 16 NSPs, but the device has 14"), ("14", "14", "196 NSPs")],
    ids=["card", "any"],
)
def test_more_nsps_than_there_are(cache: Path, cores: str, instances: str, words: str) -> None:
    with pytest.raises(CompileError, match=words):
        build(cache, cores=cores, instances=instances)


@emulated
def test_a_machine_that_only_compiles(cache: Path, tools: Emulated) -> None:
    tools.told(failure="query_failure")
    assert build(cache, ols="3").meta["program_sha256"]
    with pytest.raises(CompileError, match="but an AI 100 has 16"):
        build(cache, cores="9", instances="2")


def one_node(batch: int | str, weight: float = 2.0, given: str = "x", made: str = "y") -> onnx.ModelProto:
    scale = numpy_helper.from_array(np.array([weight, 3.0], np.float32), "w")
    flat = numpy_helper.from_array(np.array([0, -1], np.int64), "shape")
    nodes = [
        helper.make_node("Reshape", [given, "shape"], ["output"], name="flatten"),
        helper.make_node("MatMul", ["output", "matrix"], ["scaled"], name="product"),
        helper.make_node("Mul", ["scaled", "w"], [made], name="scale"),
    ]
    matrix = numpy_helper.from_array(np.ones((12, 2), np.float32), "matrix")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, [batch, 3, 2, 2])],
        [helper.make_tensor_value_info(made, TensorProto.FLOAT, [batch, 2])],
        [scale, flat, matrix],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("batch", [2, "N"])
@pytest.mark.parametrize("given", ["x", "input", "output.x"])
def test_names_do_not_change_results(batch: int | str, given: str) -> None:
    model = one_node(batch, given=given)
    renamed = named_as_exported(model)
    onnx.checker.check_model(renamed, full_check=True)
    assert renamed.graph.input[0].name == "input"
    assert renamed.graph.output[0].name == "output"
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 2), np.float32)
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
        for m in (model, renamed)
    )
    assert np.array_equal(before.run(None, {given: x})[0], after.run(None, {"input": x})[0])


def test_weights_beyond_float16_are_clipped_and_counted(tmp_path: Path) -> None:
    model, clipped = clip_weights(one_node(1, weight=-1e6))
    assert clipped == {"w": 1}
    (weights,) = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w"]
    assert weights.tolist() == [-65504.0, 3.0]
    made = Aic100Target().configured(SMALL).compile(one_node("N", weight=1e6), "force_float16", tmp_path)
    assert made["clipped_weights"] == {"w": 1}
    stored = onnx.load(tmp_path / "model" / "model.onnx")
    (weights,) = [numpy_helper.to_array(t) for t in stored.graph.initializer if t.name == "w"]
    assert weights.max() == 65504.0


def test_a_fixed_batch_is_taken_or_refused(tmp_path: Path) -> None:
    target = Aic100Target().configured({"cores": "1", "instances": "1"})
    made = target.compile(one_node(2), "force_float16", tmp_path)
    assert made["configuration"]["batch_size"] == 2
    assert made["configuration"]["notes"] == ["the model's batch size is fixed at 2"]
    assert (made["symbols"], made["input"]["shape"]) == ({}, [2, 3, 2, 2])
    with pytest.raises(CompileError, match="batch size is fixed at 2: --option batch-size=4"):
        target.configured(SMALL).compile(one_node(2), "force_float16", tmp_path / "other")


@pytest.mark.parametrize("name", ["qaic-exec", "qaic-compile"])
@emulated
def test_either_compiler_is_taken(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in (name, "qaic-runner", "qaic-util"):
        (folder / tool).symlink_to(EMULATORS / tool)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    found = build(cache, ols="5")
    assert found.meta["command"].startswith(f"{folder}/{name} -m=./model/model.onnx")
    assert found.meta["tools"]["compiler"].startswith(f"{name}, topfive's emulated {name}")


# Compilers that fail


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("compile_failure", ["qaic-exec failed with exit status 1", "does not fit the memory of an NSP"]),
        ("compile_no_program", ["made no programqpc.bin, but exits with status 0", "Generated binary"]),
        ("compile_silent", ["does not say 'Generated binary is present at'", "Compile started"]),
        ("compile_killed", ["died of signal 9 (SIGKILL)", "Compiling model"]),
    ],
)
@emulated
def test_a_compiler_that_fails(cache: Path, tools: Emulated, failure: str, words: list[str]) -> None:
    tools.told(failure=failure)
    with pytest.raises(CompileError) as caught:
        build(cache, ols="7")
    text = str(caught.value)
    assert all(word in text for word in words)
    assert "-aic-num-cores=2 -ols=7 -convert-to-fp16" in text
    assert "--option ols=7" in caught.value.repeat_command
    kept = kept_folder(text)
    assert (kept / "compile.stdout.txt").is_file()
    assert (kept / "model" / "model.onnx").is_file()
    shutil.rmtree(kept)
    # Nothing of it is taken for a program later.
    tools.told()
    assert build(cache, ols="7").meta["program_sha256"]
    shutil.rmtree(build(cache, ols="7").path)


def kept_folder(text: str) -> Path:
    (line,) = [line for line in text.splitlines() if line.startswith("working directory kept: ")]
    return Path(line.removeprefix("working directory kept: "))


@emulated
def test_a_compiler_that_hangs_is_killed(cache: Path, tools: Emulated, tmp_path: Path) -> None:
    tools.told(failure="compile_hang", children=str(tmp_path / "pids"))
    with pytest.raises(CompileError, match="did not end within 2 s and was killed") as caught:
        build(cache, ols="8", compile_limit="2")
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text(encoding="utf-8").split())
    shutil.rmtree(kept_folder(str(caught.value)))


# Runs that fail


RUN_FAILURES = {
    "busy_at_run": ["failed with exit status 1", "Failed to initialize QAIC runner"],
    "exit_code": ["failed with exit status 3", "InferenceCnt"],
    "run_killed": ["died of signal 9 (SIGKILL)"],
    "no_statistics": ["printed 0 lines that begin with InferenceCnt", "---- Stats ----"],
    "two_statistics": ["printed 2 lines that begin with InferenceCnt"],
    "garbled_statistics": ["not of the documented form", " us BatchSize"],
    "garbage": ["printed 0 lines that begin with InferenceCnt", "!\"#$%&'()*+,-./0123456789"],
    "inconsistent_rate": ["contradicts itself", "Inf/Sec, its counts"],
    "other_batch": ["ran batches of 5, but the model is compiled for 4"],
    "truncated_output": ["output-activation-0-inf-0.bin has 1596 bytes, not 1600"],
    "missing_output": ["wrote no output-activation-0-inf-0.bin"],
}
MEASURING_FAILURES = {
    "missing_latency": ["wrote 1 files aic-profiling-program-*-latency.txt, not one for each of 2 instances"],
    "empty_latency": ["latency.txt has no inference"],
    "garbled_latency": ["line 6: 'N/A' is no time in microseconds"],
    "nan_output": ["the device's output holds NaN or infinity"],
    "wrong_output": ["the device's output is not float32's", "--option tolerance="],
    "wrong_instance": ["instance 1 of 2: the device's output is not float32's"],
}


@pytest.mark.parametrize("failure", RUN_FAILURES)
@emulated
def test_a_run_that_fails(artifact: Artifact, tools: Emulated, failure: str) -> None:
    with topfive.open(artifact) as runner:
        tools.told(failure=failure)
        with pytest.raises(RunError) as caught:
            runner.run(pictures(2))
        assert_explained(caught.value, RUN_FAILURES[failure])
        # The next run takes nothing from it.
        tools.told()
        assert runner.run(pictures(1)).shape == (1, 100)


@pytest.mark.parametrize("failure", ["exit_code", "garbage", "inconsistent_rate", *MEASURING_FAILURES])
@emulated
def test_a_measurement_that_fails(artifact: Artifact, tools: Emulated, failure: str) -> None:
    with topfive.open(artifact) as runner:
        tools.told(failure=failure)
        with pytest.raises(RunError) as caught:
            runner.device_figures()
    assert_explained(caught.value, {**RUN_FAILURES, **MEASURING_FAILURES}[failure])


def assert_explained(error: RunError, words: list[str]) -> None:
    """The words, the command, where all is kept, and how to repeat it."""
    text = str(error)
    assert all(word in text for word in words), text
    assert "qaic-runner -t ./compiled-bin-fp16-" in text
    assert text.startswith(f"run of {MODEL} for aic100, force_float16: ")
    kept = kept_folder(text)
    assert (kept / f"commands-{MOTIF}.txt").is_file()
    assert (kept / "run.stdout.txt").is_file()
    shutil.rmtree(kept)


@emulated
def test_a_run_that_hangs_is_killed(cache: Path, tools: Emulated, tmp_path: Path) -> None:
    with topfive.open(build(cache, run_limit="2")) as runner:
        tools.told(failure="run_hang", children=str(tmp_path / "pids"))
        with pytest.raises(RunError, match="did not end within 2 s and was killed") as caught:
            runner.run(pictures(1))
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text(encoding="utf-8").split())
    shutil.rmtree(kept_folder(str(caught.value)))


def test_a_program_that_is_not_the_compiled_one(cache: Path, tmp_path: Path, artifact: Artifact) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact.path, copy)
    program = copy / f"compiled-bin-fp16-{MOTIF}" / "programqpc.bin"
    program.write_bytes(program.read_bytes() + b"x")
    with pytest.raises(RunError, match=r"programqpc\.bin is not what was compiled: build the model again"):
        topfive.open(copy)
    program.unlink()
    with pytest.raises(RunError, match=r"programqpc.bin is missing"):
        topfive.open(copy)


@emulated
def test_an_artifact_of_other_tools(artifact: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact.path, copy)
    stored = json.loads((copy / "artifact.json").read_text(encoding="utf-8"))
    stored["meta"]["simulated"] = ""
    (copy / "artifact.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(
        RunError, match="compiled with the real tools, but qaic-runner is now that of emulated"
    ):
        topfive.open(copy)


# The device


def shorter_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "POLL_SECONDS", 0.01)


@emulated
def test_a_busy_device_is_waited_for(
    artifact: Artifact, tools: Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter_polls(monkeypatch)
    tools.told(nsp_free=[0, 1, 2])
    with topfive.open(artifact) as runner:
        # Two NSPs are enough for results, not for a measurement.
        assert tools.queries == 3
        tools.told(nsp_free=[2, 14], temperature=[41.5, 80.0, 65.0])
        assert isinstance(runner.device_figures(), DeviceFigures)
        assert tools.queries == 3


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"nsp_free": 0}, "is not free after 0 s: 0 of 14 NSPs are free"),
        ({"status": "Error"}, "is not ready: its status is Error"),
        ({"failure": "query_failure"}, "qaic-util failed with exit status 1"),
        ({"failure": "query_garbled"}, "qaic-util says the nsp total of device 0 0 times, not once"),
        ({"devices": [1, 2]}, "qaic-util shows no AI 100 of number 0"),
    ],
    ids=["busy", "error", "failure", "garbled", "absent"],
)
@emulated
def test_a_device_that_is_not_ready(
    cache: Path, artifact: Artifact, tools: Emulated, state: Mapping[str, object], words: str
) -> None:
    tools.told(**state)
    with pytest.raises(RunError, match=words) as caught:
        topfive.open(build(cache, max_wait="0"))
    assert caught.value.target == "aic100"


@emulated
def test_a_hot_device_is_measured_when_it_is_cool(cache: Path, tools: Emulated) -> None:
    tools.told(temperature=99.0)
    with topfive.open(build(cache, max_wait="0")) as runner:
        assert runner.run(pictures(1)).shape == (1, 100)
        with pytest.raises(RunError, match="it has 99 degrees Celsius, more than 65"):
            runner.device_figures()


@emulated
def test_a_query_that_hangs_is_killed(
    artifact: Artifact, tools: Emulated, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(toolchain, "QUERY_SECONDS", 2.0)
    tools.told(failure="query_hang", children=str(tmp_path / "pids"))
    with pytest.raises(RunError, match="qaic-util did not end within 2 s and was killed"):
        topfive.open(artifact)
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text(encoding="utf-8").split())


@emulated
def test_another_device(cache: Path, tools: Emulated) -> None:
    tools.told(devices=[0, 5])
    with topfive.open(build(cache, device="5")) as runner:
        assert runner.run(pictures(1)).shape == (1, 100)
        assert runner.describe()["device"]["qid"] == 5


@emulated
def test_options_of_the_environment(cache: Path, tools: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    tools.told(devices=[6])
    monkeypatch.setenv("TOPFIVE_AIC100_DEVICE", "6")
    monkeypatch.setenv("TOPFIVE_AIC100_MAX_WAIT", "0")
    artifact = build(cache)
    assert artifact.options == {**SMALL, **QUICK}
    with topfive.open(artifact) as runner:
        assert runner.describe()["device"]["qid"] == 6
    monkeypatch.setenv("TOPFIVE_AIC100_DEVICE", "9")
    with pytest.raises(OptionError, match="TOPFIVE_AIC100_DEVICE cannot be '9'"):
        topfive.open(artifact)
    assert "TOPFIVE_AIC100_DEVICE" in targets.get("aic100").probe()


@emulated
def test_tools_are_run_as_root_where_asked(cache: Path, tools: Emulated, tmp_path: Path) -> None:
    log = tmp_path / "log"
    sudo = tmp_path / "as-root"
    sudo.write_text(f'#!/bin/sh\necho "$@" >>{log}\nexec "$@"\n', encoding="utf-8")
    sudo.chmod(0o755)
    with topfive.open(build(cache, sudo=str(sudo))) as runner:
        runner.run(pictures(1))
        tools.told(failure="exit_code")
        with pytest.raises(RunError, match="qaic-runner failed with exit status 3"):
            runner.run(pictures(1))
    ran = [Path(line.split()[0]).name for line in log.read_text(encoding="utf-8").splitlines()]
    assert ran == ["qaic-util", "qaic-runner", "qaic-runner"]


# What is missing


@emulated
def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    reason = targets.get("aic100").probe()
    assert all(tool in reason for tool in ("qaic-exec or qaic-compile", "qaic-runner", "qaic-util", "SDK"))
    for tool in ("qaic-exec", "qaic-runner"):
        (folder / tool).symlink_to(EMULATORS / tool)
    assert targets.get("aic100").probe() == (
        "qaic-util is not in PATH or /opt/qti-aic/tools: install the Cloud AI Platform SDK"
    )
    (folder / "qaic-exec").unlink()
    with pytest.raises(CompileError, match="qaic-exec or qaic-compile is not in PATH"):
        build(cache, ols="9")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"devices": []}, ["no device: qaic-util shows no AI 100 of number 0"]),
        ({"failure": "query_failure"}, ["no device: qaic-util failed", "Permission denied"]),
        ({"failure": "query_garbled"}, ["no device: qaic-util says the nsp total"]),
    ],
    ids=["none", "failure", "garbled"],
)
@emulated
def test_a_missing_device_is_named(tools: Emulated, state: Mapping[str, object], words: list[str]) -> None:
    tools.told(**state)
    assert all(word in targets.get("aic100").probe() for word in words)


def test_other_quant_modes_are_refused(cache: Path) -> None:
    with pytest.raises(CompileError, match="aic100 runs what `-convert-to-fp16` makes"):
        topfive.build(MODEL, target="aic100", quant="int8", cache=cache)


# Measuring


def test_what_the_tool_measures(cache: Path, tmp_path: Path) -> None:
    artifact = build(cache, work=str(tmp_path / "work"))
    with topfive.open(artifact) as runner:
        figures = runner.device_figures()
    assert figures is not None
    stats = figures.details["statistics"]
    assert figures.batch == 4
    assert figures.inferences == stats["inferences"] > 0
    assert figures.images_per_s == pytest.approx(stats["inferences"] * 4e6 / stats["microseconds"], rel=1e-3)
    assert 0 < figures.p50 <= figures.p90 <= figures.p95 <= figures.p99
    assert figures.details["agreement"]["relative"] < 0.02
    assert figures.details["latency_column"] == "totalRoundtripTimeUs"
    (folder,) = (tmp_path / "work").iterdir()
    assert figures.details["folder"] == str(folder)
    # It stays whole when the artifact goes.
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    outputs = folder / "outputFiles" / f"fp16-{MOTIF}"
    assert {path.name for path in outputs.iterdir()} == {
        "output-activation-0-inf-0.bin",
        "output-activation-1-inf-0.bin",
        "aic-profiling-program-0-latency.txt",
        "aic-profiling-program-1-latency.txt",
    }


@pytest.mark.slow
def test_the_commands_repeat_a_measurement_by_hand(cache: Path, tmp_path: Path) -> None:
    with topfive.open(build(cache, work=str(tmp_path))) as runner:
        runner.device_figures()
    (folder,) = tmp_path.glob(f"{MODEL}-*")
    output = folder / "outputFiles" / f"fp16-{MOTIF}" / "output-activation-0-inf-0.bin"
    before = output.read_bytes()
    output.unlink()
    commands = (folder / f"commands-{MOTIF}.txt").read_text(encoding="utf-8")
    subprocess.run(["sh", "-e", "-c", commands], cwd=folder, check=True, timeout=120, capture_output=True)
    # Compiled again, beside the artifact, which is left alone.
    assert not (folder / f"compiled-bin-fp16-{MOTIF}").is_symlink()
    assert output.read_bytes() == before
    with topfive.open(build(cache)) as runner:
        runner.run(pictures(1))


@emulated
def test_two_measurements_share_nothing(cache: Path, tools: Emulated, tmp_path: Path) -> None:
    with topfive.open(build(cache, work=str(tmp_path))) as runner:
        runner.device_figures()
        tools.told(failure="missing_output")
        with pytest.raises(RunError, match=r"wrote no output-activation-0-inf-0.bin"):
            runner.device_figures()
    assert len(list(tmp_path.glob(f"{MODEL}-*"))) == 2


@emulated
def test_what_is_odd_is_said(cache: Path, tools: Emulated) -> None:
    with topfive.open(build(cache)) as runner:
        tools.told(failure="slow_latency", temperature=None)
        figures = runner.device_figures()
        assert figures is not None
        little, silent = figures.warnings
        assert "Little's law" in little
        assert silent == "the device does not say its temperature"
        tools.told(failure="cut_latency")
        figures = runner.device_figures()
        assert figures is not None
        assert any("there are latencies of 2 inferences" in warning for warning in figures.warnings)
        tools.told(failure="ends_early")
        figures = runner.device_figures()
        assert figures is not None
        assert any("1 s were asked for" in warning for warning in figures.warnings)
        tools.told(failure="unnamed_latency")
        figures = runner.device_figures()
        assert figures is not None
        assert figures.details["latency_column"] == "Execution Total Time in us"
        assert "there is no totalRoundtripTimeUs" in figures.details["summary"]["latency"]


def test_the_measure_command(cache: Path) -> None:
    options = [f"--option={name}={value}" for name, value in {**SMALL, **QUICK}.items()]
    command = ["measure", MODEL, "--target", "aic100", "--quant", "force_float16", *options]
    command += ["--artifact-cache", str(cache)]
    text = CliRunner().invoke(app, command, catch_exceptions=False).stdout
    assert text.startswith(f"{MODEL} aic100 force_float16, batch 4\n")
    assert (f"SIMULATED: {SIMULATED}" in text) == (not REAL)
    assert "qaic-runner -t ./compiled-bin-fp16-" in text
    found = json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
    assert found["images_per_s"] > 0
    assert found["simulated"] == ("" if REAL else SIMULATED)
    assert (found["model"], found["target"], found["quant"]) == (MODEL, "aic100", "force_float16")
    assert found["options"].items() >= SMALL.items()


@emulated
def test_a_measurement_that_fails_says_how_to_repeat_it(cache: Path, tools: Emulated) -> None:
    options = {**SMALL, **QUICK, "extra": "-multicast-weights -use-producer-dma=1"}
    flags = [f"--option={name}={value}" for name, value in options.items()]
    command = ["measure", MODEL, "--target", "aic100", "--quant", "force_float16", *flags]
    tools.told(failure="nan_output")
    result = CliRunner().invoke(app, [*command, "--artifact-cache", str(cache)])
    assert isinstance(result.exception, RunError)
    shown = result.exception.repeat_command
    assert shown.startswith(
        f"topfive measure {MODEL} --target aic100 --quant force_float16 --option batch-size=4"
    )
    words = shlex.split(shown)
    assert "extra=-multicast-weights -use-producer-dma=1" in words
    again = CliRunner().invoke(app, [*words[1:], "--artifact-cache", str(cache)])
    assert isinstance(again.exception, RunError)
    assert again.exception.message == result.exception.message


def test_measuring_where_there_is_no_tool(cache: Path) -> None:
    command = [
        "measure",
        MODEL,
        "--target",
        "cpu",
        "--quant",
        "force_float32",
        "--artifact-cache",
        str(cache),
    ]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, TopfiveError)
    assert "target cpu has no tool of its own" in str(result.exception)


# The suite


@emulated
def test_no_golden_of_a_device_is_made_with_emulated_tools(cache: Path, tmp_path: Path) -> None:
    check = GoldenCheck(resolve_card(MODEL), tmp_path, True, "", lambda **_: None, cache)
    shown = Pictures(resolve_card(MODEL), 1, 1)
    with topfive.open(build(cache)) as runner:
        with pytest.raises(RunError, match="no golden is made with emulated tools"):
            check.check(runner, shown)
        with pytest.raises(RunError, match=r"\.json is missing: make it on a device; here are emulated"):
            replace(check, updating=False).check(runner, shown)
    assert list(tmp_path.glob("**/*.json")) == [tmp_path / "emulated-device.json"]


SPEED_TESTS = """
import pytest
@pytest.mark.latency
def test_latency(runner, pictures, batch, measure):
    measure(runner, pictures, batch)
@pytest.mark.throughput
def test_throughput(runner, pictures, batch, measure):
    measure(runner, pictures, batch)
"""


@pytest.mark.slow
def test_the_suite_shows_what_the_device_s_tool_measured(
    pytester: pytest.Pytester, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPFIVE_AIC100_TIME", "1")
    for variable in ("CI", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(variable, raising=False)
    (pytester.path / "bench").mkdir()
    (pytester.path / "bench" / "test_fast.py").write_text(SPEED_TESTS, encoding="utf-8")
    (pytester.path / "pytest.ini").write_text("[pytest]\nstrict = true\n", encoding="utf-8")
    out = pytester.path / "table.csv"
    saved = pytester.path / "saved.json"
    done = pytester.runpytest_subprocess(
        "-p",
        "no:cacheprovider",
        *("--targets", "aic100", "--models", MODEL, "--artifact-cache", str(cache)),
        *("--topfive-csv", str(out), "--benchmark-json", str(saved)),
    )
    done.assert_outcomes(passed=2)
    ids = {row["name"]: row for row in json.loads(saved.read_text(encoding="utf-8"))["benchmarks"]}
    assert set(ids) == {
        f"test_latency[{MODEL}-aic100-force_float16-b1]",
        f"test_throughput[{MODEL}-aic100-force_float16-b14]",
    }
    if not REAL:
        done.stdout.fnmatch_lines([f"*aic100 is simulated: {SIMULATED}"])
    for row in ids.values():
        info = row["extra_info"]
        own = info["device_figures"]
        assert info["images_per_s"] == own["images_per_s"] == own["details"]["statistics"]["images_per_s"]
        assert info["p50"] == own["p50"]
        assert info["simulated"] == ("" if REAL else SIMULATED)
    table = out.read_text(encoding="utf-8")
    assert all(str(row["extra_info"]["images_per_s"])[:6] in table for row in ids.values())
