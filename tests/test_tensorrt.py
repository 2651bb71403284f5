"""`tensorrt` with TensorRT and cuda-python or trtexec, real or emulated, and ONNX Runtime's GPU providers."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import topfive
from topfive import targets
from topfive.errors import CompileError, RunError
from topfive.quantize.scales import parse_cache
from topfive.targets import tools as tools_module
from topfive.targets.base import Artifact
from topfive.targets.tensorrt import library

from vendor_tools import Emulated, pictures

pytestmark = pytest.mark.tensorrt
MODEL = "pocket_fire"
QUICK = {"time": "0", "warm_up": "0", "run_limit": "60"}
REAL = not library.missing(library.API) and not library.emulated()
emulated = pytest.mark.skipif(REAL, reason="real tools are installed, which cannot be told to fail")
MODES = ("force_float32", "force_float16", "int8")
VERSIONS = ("10.13.3.9", "11.4.0.106")
WAYS = (library.API, library.TRTEXEC)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    monkeypatch.setattr(tools_module, "GRACE_SECONDS", 0.2)
    found = Emulated("tensorrt", ("tensorrt", "cuda", "emulated_version"), monkeypatch, real=REAL)
    yield found
    found.forget()


def build(cache: Path, quant: str = "force_float32", **options: str) -> Artifact:
    return topfive.build(MODEL, target="tensorrt", quant=quant, cache=cache, options={**QUICK, **options})


# Results


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("quant", MODES)
def test_a_gpu_s_outputs_are_those_of_its_twin(
    quant: str, version: str, cache: Path, tools: Emulated
) -> None:
    """10.x by flags and a calibration cache, 11.x by a typed or Q/DQ model."""
    tools.told(TOPFIVE_EMULATED_TENSORRT=version)
    batch = pictures(MODEL, 4)
    twin = topfive.build(MODEL, target="tensorrt_sim", quant=quant, cache=cache)
    artifact = build(cache, quant)
    with topfive.open(artifact) as gpu, topfive.open(twin, threads=1) as simulated:
        found, wanted = gpu.run(batch), simulated.run(batch)
        figures = gpu.device_figures()
        assert gpu.describe()["kernels"] == "TensorRT"
    # 11's float16 is a typed model that runs in ONNX Runtime's float16 here.
    tolerance = 0.05 if REAL else 2e-3 if quant == "force_float16" else 0
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max(), rtol=0)
    assert figures is not None
    assert figures.inferences >= 10
    assert 0 < figures.p50 <= figures.p90 <= figures.p95 <= figures.p99
    assert "CUDA events" in figures.details["timed by"]


@emulated
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("quant", ["force_float16", "int8"])
def test_trtexec_is_a_second_way(quant: str, version: str, cache: Path, tools: Emulated) -> None:
    tools.told(TOPFIVE_EMULATED_TENSORRT=version)
    batch = pictures(MODEL, 2)
    by_tool = build(cache, quant, way=library.TRTEXEC, batch_size="2")
    with topfive.open(build(cache, quant)) as one, topfive.open(by_tool) as other:
        wanted, found = one.run(batch), other.run(batch)
        figures = other.device_figures()
    # Its output has six digits.
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)
    assert figures is not None
    assert figures.batch == 2
    assert figures.images_per_s == pytest.approx(2 * figures.details["queries_per_s"])
    assert "unstable" in figures.warnings[0]
    command = by_tool.meta["tensorrt"]["command"]
    assert "--minShapes=input:1x3x64x64 --optShapes=input:2x3x64x64 --maxShapes=input:64x3x64x64" in command
    flags = {"force_float16": "--fp16", "int8": "--int8 --calib=calibration.cache"}[quant]
    assert (flags in command) == version.startswith("10")


@emulated
def test_implicit_and_explicit_int8_are_the_same_here(cache: Path) -> None:
    batch = pictures(MODEL, 2)
    implicit, explicit = (build(cache, "int8", quantisation=name) for name in ("cache", "qdq"))
    assert implicit.key != explicit.key
    with topfive.open(implicit) as one, topfive.open(explicit) as other:
        np.testing.assert_array_equal(one.run(batch), other.run(batch))
    content = (implicit.path / "calibration.cache").read_bytes()
    assert content.startswith(b"TRT-101303-MinMaxCalibration\n")
    assert len(parse_cache(content, "cache").ranges) > 10


def test_tensorrt_11_takes_no_calibration_cache(cache: Path, tools: Emulated) -> None:
    tools.told(TOPFIVE_EMULATED_TENSORRT=VERSIONS[1])
    if REAL and not library.find_version(library.API).startswith("11"):
        pytest.skip("TensorRT 10 is installed")
    with pytest.raises(CompileError, match="choose --option quantisation=qdq"):
        build(cache, "int8", quantisation="cache")


@emulated
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("select", "shape"), [("top2", (2, 2)), ("argmax", (2,))])
def test_selected_classes_are_int64_either_way(
    select: str, shape: tuple[int, ...], way: str, cache: Path
) -> None:
    batch = pictures(MODEL, 2)
    with topfive.open(build(cache, "int8")) as runner:
        wanted = np.argsort(-runner.run(batch), axis=1, kind="stable")[:, :2]
    selecting = topfive.build(
        MODEL, target="tensorrt", quant="int8", cache=cache, select=select, options={**QUICK, "way": way}
    )
    with topfive.open(selecting) as runner:
        found = runner.run(batch)
    assert (found.dtype, found.shape) == (np.int64, shape)
    np.testing.assert_array_equal(found.reshape(2, -1), wanted[:, : found.reshape(2, -1).shape[1]])


def test_batch_sizes_of_the_profile(cache: Path) -> None:
    batch = pictures(MODEL, 4)
    with topfive.open(build(cache, max_batch="4")) as runner:
        whole = runner.run(batch)
        for size in (1, 3, 4):
            np.testing.assert_allclose(runner.run(batch[:size]), whole[:size], atol=1e-4)
        with pytest.raises(RunError, match=r"batch size 5 is outside the engine's 1 to 4"):
            runner.run(np.zeros((5, *batch.shape[1:]), np.float32))
    with pytest.raises(CompileError, match=r"batch size 8 is beyond max_batch 4"):
        build(cache, max_batch="4", batch_size="8")


# What an engine is bound to


@emulated
@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (
            "TOPFIVE_EMULATED_GPU",
            "Other GPU, 580.10, 9.0",
            "name Emulated GPU; here is name Other GPU",
        ),
        ("TOPFIVE_EMULATED_GPU", "Emulated GPU, 581.2, 9.0", "built for driver 580.10; here is driver 581.2"),
        ("TOPFIVE_EMULATED_TENSORRT", VERSIONS[1], "built for tensorrt 10.13.3.9; here is tensorrt 11.4"),
    ],
    ids=["gpu", "driver", "version"],
)
def test_an_engine_runs_only_where_it_was_built(
    variable: str, value: str, words: str, cache: Path, tools: Emulated
) -> None:
    artifact = build(cache)
    before = targets.get("tensorrt").versions()
    tools.told(**{variable: value})
    with pytest.raises(RunError, match=words):
        topfive.open(artifact)
    assert targets.get("tensorrt").versions() != before
    again = build(cache)
    assert again.key != artifact.key
    with topfive.open(again) as runner:
        runner.run(pictures(MODEL, 1))


@emulated
@pytest.mark.parametrize("way", WAYS)
def test_an_engine_is_built_on_the_gpu_that_is_asked_for(way: str, cache: Path, tools: Emulated) -> None:
    tools.told(TOPFIVE_EMULATED_SECOND_GPU="Smaller GPU, 580.10, 8.6")
    options = {"way": way, "max_batch": "31"}
    second = build(cache, device="1", **options)
    assert second.meta["tensorrt"]["name"] == "Smaller GPU"
    batch = pictures(MODEL, 1)
    with topfive.open(second) as runner, topfive.open(build(cache, **options)) as first:
        np.testing.assert_array_equal(runner.run(batch), first.run(batch))
    second.meta["options"] = {"way": way}
    with pytest.raises(RunError, match=r"built for name Smaller GPU, capability 8\.6; here is name Emulated"):
        topfive.open(second)


@emulated
@pytest.mark.parametrize("way", WAYS)
def test_cuda_may_count_gpus_otherwise_than_nvidia_smi(
    way: str, cache: Path, tools: Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's order is by speed unless it is told."""
    tools.told(TOPFIVE_EMULATED_SECOND_GPU="Faster GPU, 580.10, 10.0")
    words = {
        library.API: r"CUDA's device 0 is Faster GPU 10\.0, nvidia-smi's is Emulated GPU 9\.0: set CUDA_D",
        library.TRTEXEC: "trtexec used Faster GPU, not Emulated GPU: set CUDA_DEVICE_ORDER=PCI_BUS_ID",
    }[way]
    options = {"way": way, "max_batch": "30"}
    with pytest.raises(CompileError, match=words):
        build(cache, **options)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    artifact = build(cache, **options)
    topfive.open(artifact).close()
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    # trtexec finds out itself that the engine is another GPU's.
    words = words if way == library.API else "trtexec failed with exit status 1"
    with pytest.raises(RunError, match=words), topfive.open(artifact) as runner:
        runner.device_figures()


@pytest.mark.parametrize("way", WAYS)
def test_an_engine_that_is_not_the_compiled_one_is_refused(way: str, cache: Path) -> None:
    if reason := library.missing(way):
        pytest.skip(reason)
    artifact, other = (build(cache, way=way, max_batch=most) for most in ("61", "60"))
    engine = artifact.path / "engine.plan"
    engine.write_bytes((other.path / "engine.plan").read_bytes())
    with pytest.raises(RunError, match=r"engine\.plan is not what was compiled: build the model again"):
        topfive.open(artifact)
    engine.unlink()
    with pytest.raises(RunError, match=r"engine\.plan is missing: build the model again"):
        topfive.open(artifact)


@emulated
def test_tensorrt_s_own_refusal_is_shown(cache: Path, tools: Emulated) -> None:
    """An engine of another version whose record was changed to say otherwise."""
    artifact = build(cache)
    tools.told(TOPFIVE_EMULATED_TENSORRT=VERSIONS[1])
    artifact.meta["tensorrt"]["tensorrt"] = VERSIONS[1]
    with pytest.raises(RunError, match="cannot read the engine") as caught:
        topfive.open(artifact)
    assert "not compatible with this version" in caught.value.details


@emulated
def test_rows_say_that_the_tools_are_emulated(cache: Path) -> None:
    assert build(cache).meta["simulated"] == library.SIMULATED
    assert targets.get("tensorrt").simulation() == library.SIMULATED


@emulated
def test_what_is_missing_is_named(
    tools: Emulated, monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path
) -> None:
    artifact = build(cache)
    target = targets.get("tensorrt")
    assert target.probe() == ""
    tools.told(TOPFIVE_EMULATED_GPU="none")
    assert target.probe() == "there is no GPU 0: No devices were found"
    with pytest.raises(RunError, match="No devices were found"):
        topfive.open(artifact)
    with pytest.raises(CompileError, match="No devices were found"):
        build(cache, max_batch="3")
    tools.told(TOPFIVE_EMULATED_GPU="a GPU")
    assert "another form" in target.probe()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(library, "is_installed", lambda name: False)
    reason = target.probe()
    for words in ("package tensorrt is not installed", "package cuda is not", "nvidia-smi is not in PATH"):
        assert words in reason
    assert "trtexec is not in PATH" in target.configured({"way": "trtexec"}).probe()


@emulated
def test_a_probe_never_raises_nor_hangs(tools: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPFIVE_TENSORRT_DEVICE", "all")
    assert "TOPFIVE_TENSORRT_DEVICE cannot be 'all'" in targets.get("tensorrt").probe()
    monkeypatch.delenv("TOPFIVE_TENSORRT_DEVICE")
    monkeypatch.setattr(library, "SMI_SECONDS", 1.0)
    tools.told(TOPFIVE_EMULATED_GPU="hang")
    assert targets.get("tensorrt").probe() == (
        "nvidia-smi does not run: nvidia-smi did not end within 1 s and was killed"
    )


# Plugins


@emulated
def test_plugins_are_loaded_by_path_and_hash(cache: Path, tmp_path: Path) -> None:
    library_file = tmp_path / "libplugins.so"
    library_file.write_bytes(b"a plugin")
    digest = hashlib.sha256(b"a plugin").hexdigest()
    artifact = build(cache, plugins=f"{library_file}:{digest}")
    assert artifact.meta["tensorrt"]["plugins"] == [{"file": "libplugins.so", "sha256": digest}]
    library_file.unlink()
    with topfive.open(artifact) as runner:
        runner.run(pictures(MODEL, 1))
    (artifact.path / "libplugins.so").write_bytes(b"another plugin")
    with pytest.raises(RunError, match="is not the library of plugins"):
        topfive.open(artifact)


@emulated
@pytest.mark.parametrize(
    ("content", "digest", "words"),
    [
        (b"a plugin", "0" * 64, "is not the library that was meant"),
        (b"no library", hashlib.sha256(b"no library").hexdigest(), "cannot load the plugins"),
        (None, "0" * 64, "does not exist"),
    ],
    ids=["hash", "broken", "missing"],
)
def test_wrong_plugins_are_not_loaded(
    content: bytes | None, digest: str, words: str, cache: Path, tmp_path: Path
) -> None:
    path = tmp_path / "libplugins.so"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CompileError, match=words):
        build(cache, plugins=f"{path}:{digest}")


# Failures


@emulated
@pytest.mark.parametrize(
    ("step", "words", "said"),
    [
        ("parse", "cannot parse the model", "UNSUPPORTED_NODE"),
        ("profile", "refuses the batch sizes", ""),
        ("calibration-profile", "refuses the calibration profile", ""),
        ("build", "cannot build the engine", "Could not find any implementation"),
        ("busy", "cudaSetDevice failed: cudaErrorDevicesUnavailable", ""),
    ],
)
def test_each_failing_step_of_a_build_is_named(
    step: str, words: str, said: str, cache: Path, tools: Emulated
) -> None:
    tools.fails(step)
    with pytest.raises(CompileError, match=words) as caught:
        build(cache, "int8", quantisation="cache", max_batch="63")
    assert said in caught.value.details
    tools.works()


@emulated
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("deserialize", "cannot read the engine"),
        ("context", "makes no execution context"),
        ("shape", "refuses the input shape"),
        ("address", "refuses the buffer"),
        ("execute", "cannot run the engine"),
        ("busy", "cudaSetDevice failed: cudaErrorDevicesUnavailable"),
        ("memory", "cudaMalloc failed: cudaErrorMemoryAllocation"),
        ("synchronize", "cudaStreamSynchronize failed: cudaErrorLaunchFailure"),
        ("nan", "NaN or infinity"),
    ],
)
def test_each_failing_step_of_a_run_is_named(step: str, words: str, cache: Path, tools: Emulated) -> None:
    artifact = build(cache)
    tools.fails(step)
    with pytest.raises(RunError, match=words), topfive.open(artifact) as runner:
        runner.run(pictures(MODEL, 1))
    tools.works()


@emulated
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("hang:deserialize", "opening the model in TensorRT did not end within 8 s and was killed"),
        ("hang:execute", "running a batch of 2 in TensorRT did not end within 8 s and was killed"),
        ("die:execute", "TensorRT's process exited with status 77 while running a batch of 2"),
    ],
    ids=["opening", "running", "dying"],
)
def test_a_runtime_that_hangs_or_dies_is_an_error(
    step: str, words: str, cache: Path, tools: Emulated
) -> None:
    artifact = build(cache, run_limit="8" if step.startswith("hang") else "60")
    tools.fails(step)
    with pytest.raises(RunError, match=words) as caught, topfive.open(artifact) as runner:
        runner.run(pictures(MODEL, 2))
    assert "run of pocket_fire for tensorrt, force_float32" in str(caught.value)


@emulated
def test_a_measurement_that_hangs_is_killed(cache: Path, tools: Emulated) -> None:
    tools.fails("hang:execute")
    words = "measuring in TensorRT did not end within 8 s and was killed"
    with topfive.open(build(cache, run_limit="8")) as runner, pytest.raises(RunError, match=words):
        runner.device_figures()


def test_a_run_in_this_process_gives_the_same(cache: Path) -> None:
    batch = pictures(MODEL, 2)
    with topfive.open(build(cache)) as apart, topfive.open(build(cache, process="own")) as own:
        assert apart.artifact.key == own.artifact.key
        np.testing.assert_array_equal(apart.run(batch), own.run(batch))
        figures = own.device_figures()
    assert figures is not None
    assert figures.inferences >= 10


@emulated
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("build", "trtexec failed with exit status 1"),
        ("trtexec-exit", "trtexec failed with exit status"),
        ("trtexec-hang", "did not end within 4 s and was killed"),
    ],
)
def test_a_failing_trtexec_builds_nothing(step: str, words: str, cache: Path, tools: Emulated) -> None:
    tools.fails(step)
    limit = "4" if step.endswith("hang") else "60"
    with pytest.raises(CompileError, match=words):
        build(cache, way=library.TRTEXEC, max_batch="62", build_limit=limit)


@emulated
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("trtexec-exit", "trtexec failed with exit status 4"),
        ("busy", "trtexec failed with exit status 1"),
        ("trtexec-failed", "trtexec failed with exit status 1"),
        ("trtexec-truncated", "does not say that it passed"),
        ("trtexec-contradiction", "trtexec contradicts itself"),
        ("trtexec-latency", "its parts add up"),
        ("trtexec-garbage", "Enqueue Time is not of the documented form"),
        ("trtexec-hang", "did not end within 4 s and was killed"),
    ],
)
def test_a_failing_trtexec_measures_nothing(
    step: str, words: str, cache: Path, tools: Emulated, tmp_path: Path
) -> None:
    limit = "4" if step.endswith("hang") else "60"
    artifact = build(cache, way=library.TRTEXEC, run_limit=limit, work=str(tmp_path))
    with topfive.open(artifact) as runner:
        tools.fails(step)
        with pytest.raises(RunError, match=words) as caught:
            runner.device_figures()
    assert "--loadEngine=" in caught.value.details
    assert list(tmp_path.glob("trtexec-measure-*/trtexec.stdout.txt"))


@emulated
def test_a_truncated_output_of_trtexec_is_an_error(cache: Path, tools: Emulated) -> None:
    with topfive.open(build(cache, way=library.TRTEXEC)) as runner:
        tools.fails("trtexec-output")
        with pytest.raises(RunError, match=r"output\.json is not what --exportOutput writes"):
            runner.run(pictures(MODEL, 1))


@emulated
@pytest.mark.parametrize(
    "arguments",
    [["--onnx=m", "--fast"], ["--onnx"], [], ["--onnx=m", "--loadEngine=e"], ["-onnx=m"]],
    ids=["unknown", "no-value", "nothing", "both", "one-dash"],
)
def test_the_emulated_trtexec_refuses_what_it_does_not_know(arguments: list[str], tools: Emulated) -> None:
    done = subprocess.run([tools.folder / "trtexec", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "&&&& FAILED TensorRT.trtexec" in done.stdout


# ONNX Runtime's providers


@pytest.mark.parametrize(
    ("target", "provider", "quants"),
    [
        ("ort_cuda", "CUDAExecutionProvider", ("force_float32", "force_float16", "as_is")),
        ("ort_tensorrt", "TensorrtExecutionProvider", MODES),
    ],
)
def test_onnxruntime_s_providers(target: str, provider: str, quants: tuple[str, ...], cache: Path) -> None:
    found = targets.get(target)
    assert found.quants == quants
    artifact = topfive.build(MODEL, target=target, quant="force_float32", cache=cache)
    if provider in onnxruntime.get_available_providers():
        twin = topfive.build(MODEL, target="cpu", quant="force_float32", cache=cache)
        batch = pictures(MODEL, 2)
        with topfive.open(artifact) as runner, topfive.open(twin) as cpu:
            np.testing.assert_allclose(runner.run(batch), cpu.run(batch), atol=1e-3)
        return
    assert f"no {provider}" in found.probe()
    assert "install onnxruntime-gpu" in found.probe()
    with pytest.raises(RunError, match=f"no {provider}"):
        topfive.open(artifact)
