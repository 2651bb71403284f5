"""`ort_cuda` and `ort_tensorrt` with ONNX Runtime's CPU provider in place of theirs: all but the GPU."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import topfive
from topfive import targets
from topfive.errors import OptionError, RunError
from topfive.targets import tools as tools_module
from topfive.targets.apart import ApartSession
from topfive.targets.base import Artifact
from topfive.targets.device_session import DeviceSession
from topfive.targets.onnxruntime_apart import ProviderProfiler, ProviderRunner
from topfive.targets.onnxruntime_gpu import OrtCudaTarget, OrtTensorrtTarget

from vendor_tools import pictures

pytestmark = [pytest.mark.ort_cuda, pytest.mark.filterwarnings("ignore:Duplicate provider")]
MODEL = "pocket_fire"
PROCESSES = ("apart", "own")
ENDLESS = 1e15
"""A value in a picture that lets `endless` turn for ever."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools_module, "GRACE_SECONDS", 0.2)
    for kind in (OrtCudaTarget, OrtTensorrtTarget):
        monkeypatch.setattr(kind, "provider", "CPUExecutionProvider")


def build(
    cache: Path, model: str = MODEL, target: str = "ort_cuda", quant: str = "force_float32", **options: str
) -> Artifact:
    return topfive.build(model, target=target, quant=quant, cache=cache, options=options)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that loops as often as the largest value of its pictures says, in one call of ONNX Runtime."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on_"]), helper.make_node("Add", ["v", "one"], ["v_"])],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("on", TensorProto.BOOL, []),
            value("v", TensorProto.FLOAT, []),
        ],
        [value("on_", TensorProto.BOOL, []), value("v_", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "yes", "zero"], ["turned"], body=body),
        helper.make_node("GlobalAveragePool", ["x"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Add", ["flat", "turned"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [value("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [value("y", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path = tmp_path_factory.mktemp("endless") / "endless.onnx"
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
    ("target", "quant"),
    [
        ("ort_cuda", "force_float32"),
        ("ort_cuda", "force_float16"),
        ("ort_tensorrt", "force_float32"),
        ("ort_tensorrt", "int8"),
    ],
)
def test_outputs_are_those_of_the_compiled_model(target: str, quant: str, process: str, cache: Path) -> None:
    artifact = build(cache, target=target, quant=quant, process=process)
    plain = onnxruntime.InferenceSession(artifact.path / "model.onnx", providers=["CPUExecutionProvider"])
    with topfive.open(artifact, threads=1) as runner:
        for count in (1, 5, 2):
            batch = pictures(MODEL, count)
            (wanted,) = plain.run(None, {plain.get_inputs()[0].name: batch})
            np.testing.assert_allclose(runner.run(batch), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
            np.testing.assert_array_equal(runner.callable()(batch), runner.run(batch))
        with pytest.raises(RunError, match="wants float32"):
            runner.run(batch.astype(np.float64))
        assert runner.describe()["kernels"] == "CPUExecutionProvider"
        assert runner.describe()["threads"] == 1


@pytest.mark.parametrize("process", PROCESSES)
def test_several_tensors_of_one_batch(process: str, cache: Path, endless: str) -> None:
    """Of several types and shapes, a scalar among them; then the model's own output as before."""
    batch = np.random.default_rng(1).uniform(0, 2, (3, 3, 8, 8)).astype(np.float32)
    batch[0, 0, 0, 0] = 3.5
    with topfive.open(build(cache, endless, quant="as_is", process=process)) as runner:
        found = runner.tensors(batch)
        output = runner.run(batch)
    assert {name: (value.dtype, value.shape) for name, value in found.items()} == {
        "most": (np.float32, ()),
        "turns": (np.int64, ()),
        "turned": (np.float32, ()),
        "pool": (np.float32, (3, 3, 1, 1)),
        "flat": (np.float32, (3, 3)),
        "y": (np.float32, (3, 3)),
    }
    assert (found["most"], found["turns"], found["turned"]) == (np.float32(3.5), 3, 3.0)
    np.testing.assert_allclose(found["flat"], batch.mean((2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(found["y"], output)
    np.testing.assert_allclose(output, batch.mean((2, 3)) + 3, rtol=1e-5)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_profile_comes_from_the_other_process(process: str, cache: Path) -> None:
    with topfive.open(build(cache, process=process)) as runner:
        profiler = runner.profiler()
        batch = pictures(MODEL, 2)
        np.testing.assert_array_equal(profiler.run(batch), runner.run(batch))
        profiler.run(batch)
        profile = profiler.finish()
    assert len(profile.runs) == 2
    for run in profile.runs:
        assert "Conv" in {node.op for node in run.nodes}
        assert run.around[0].name == "model_run"
        for outer, inner in ((run.around[0], run.nodes[0]), (run.around[0], run.nodes[-1])):
            assert outer.start <= inner.start <= inner.end <= outer.end
    assert profile.session


def hurried(session: DeviceSession) -> None:
    """The time limit of what an open session is asked from now on; opening had the usual one."""
    assert isinstance(session, ApartSession)
    session._seconds = 1.5


def test_a_call_that_never_ends_is_killed(cache: Path, endless: str) -> None:
    """In ONNX Runtime's own code; the profiler's and the tensors' calls have the limit, too."""
    batch = np.full((2, 3, 8, 8), ENDLESS, np.float32)
    words = (
        "running a batch of 2 in ONNX Runtime's CPUExecutionProvider did not end within 1.5 s and was killed"
    )
    artifact = build(cache, endless, quant="as_is")
    with topfive.open(artifact) as runner:
        assert isinstance(runner, ProviderRunner)
        profiler = runner.profiler()
        assert isinstance(profiler, ProviderProfiler)
        hurried(runner._session)
        hurried(profiler._session)
        with pytest.raises(RunError, match=words) as caught:
            runner.run(batch)
        assert "--option run_limit=SECONDS allows more" in str(caught.value)
        assert "run of endless for ort_cuda, as_is" in str(caught.value)
        with pytest.raises(RunError, match="has ended since running a batch of 2: open the artifact again"):
            runner.run(batch)
        with pytest.raises(RunError, match=words):
            profiler.run(batch)
    with topfive.open(artifact) as runner:
        assert isinstance(runner, ProviderRunner)
        hurried(runner._session)
        with pytest.raises(RunError, match=r"a batch of 2 for every tensor .* did not end within 1\.5 s"):
            runner.tensors(batch)


def test_opening_that_never_ends_is_killed(cache: Path, endless: str) -> None:
    """A file that nobody writes: ONNX Runtime waits for it."""
    artifact = build(cache, endless, quant="as_is", run_limit="6")
    model = artifact.path / "model.onnx"
    kept = model.read_bytes()
    model.unlink()
    os.mkfifo(model)
    try:
        with pytest.raises(RunError, match=r"opening the model in .* did not end within 6 s and was killed"):
            topfive.open(artifact)
    finally:
        model.unlink()
        model.write_bytes(kept)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL], ids=["crash", "out-of-memory"])
def test_a_process_that_dies_in_a_call_is_an_error(number: signal.Signals, cache: Path, endless: str) -> None:
    runner = topfive.open(build(cache, endless, quant="as_is"))
    assert isinstance(runner, ProviderRunner)
    assert isinstance(runner._session, ApartSession)
    child = runner._session._process.pid

    def kill() -> None:
        time.sleep(0.5)
        os.kill(child, number)

    killer = threading.Thread(target=kill)
    killer.start()
    with (
        runner,
        pytest.raises(RunError, match=rf"died of signal {int(number)} \({number.name}\) while running"),
    ):
        runner.run(np.full((1, 3, 8, 8), ENDLESS, np.float32))
    killer.join()


@pytest.mark.parametrize("process", PROCESSES)
def test_a_failure_that_onnx_runtime_reports_leaves_the_session_open(
    process: str, cache: Path, endless: str
) -> None:
    with topfive.open(build(cache, endless, quant="as_is", process=process)) as runner:
        with pytest.raises(RunError, match="ONNX Runtime failed") as caught:
            runner.callable()(np.zeros((1, 4, 8), np.float32))
        assert "Got invalid dimensions" in caught.value.details or "Invalid rank" in caught.value.details
        assert runner.run(np.zeros((1, 3, 8, 8), np.float32)).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("process", PROCESSES)
def test_a_model_that_does_not_load_says_why(process: str, cache: Path) -> None:
    artifact = build(cache, process=process, target="ort_tensorrt")
    model = artifact.path / "model.onnx"
    kept = model.read_bytes()
    model.write_bytes(kept[: len(kept) // 2])
    try:
        with pytest.raises(RunError, match="ONNX Runtime cannot load the compiled model") as caught:
            topfive.open(artifact)
    finally:
        model.write_bytes(kept)
    assert "model.onnx" in caught.value.details


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_falling_back_to_the_cpu_is_an_error(
    process: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ONNX Runtime does when a provider's libraries do not load."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the provider is there")
    artifact = build(cache, process=process)
    monkeypatch.setattr(OrtCudaTarget, "provider", "CUDAExecutionProvider")
    monkeypatch.setattr(OrtCudaTarget, "probe", lambda self: "")
    with pytest.raises(RunError, match="ONNX Runtime did not start CUDAExecutionProvider: is there a GPU"):
        topfive.open(artifact)


def test_the_device_s_number_reaches_the_provider(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    real = onnxruntime.InferenceSession

    def noted(*arguments: Any, providers: Any, **named: Any) -> onnxruntime.InferenceSession:
        told.append(providers)
        return real(*arguments, providers=providers, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    artifact = build(cache, process="own", device="3")
    with topfive.open(artifact) as runner:
        assert runner.describe()["device"] == 3
    wanted = {"device_id": "3", "use_tf32": "0"}
    assert told[-1] == [("CPUExecutionProvider", wanted), "CPUExecutionProvider"]
    monkeypatch.setenv("TOPFIVE_ORT_TENSORRT_DEVICE", "5")
    flags = {"trt_fp16_enable": "0", "trt_int8_enable": "1"}
    tensorrt = targets.get("ort_tensorrt")
    assert isinstance(tensorrt, OrtTensorrtTarget)
    assert tensorrt.provider_options("int8") == {"device_id": "5", **flags}
    with pytest.raises(OptionError, match="option 'device' of target ort_cuda cannot be '8'"):
        build(cache, device="8")


def test_running_options_are_no_part_of_the_key(cache: Path) -> None:
    plain = build(cache)
    assert build(cache, device="2", process="own", run_limit="9").key == plain.key
