"""`mlu370` with MagicMind, real or emulated: results, figures, and every way in which they can fail."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import topfive
from topfive import targets
from topfive.errors import CompileError, OptionError, RunError
from topfive.records.magicmind_gate import accuracy_verdict, throughput_verdict
from topfive.targets import tools as tools_module
from topfive.targets.base import Artifact
from topfive.targets.mlu370 import library
from topfive.targets.mlu370.configuration import build_configuration
from topfive.targets.mlu370.options import OPTIONS
from topfive.targets.mlu370.runner import measure_command

from vendor_tools import Emulated, pictures

pytestmark = pytest.mark.mlu370
MODEL = "pocket_fire"
QUICK = {"iterations": "20", "run_limit": "60"}
REAL = not library.missing() and not library.emulated()
emulated = pytest.mark.skipif(REAL, reason="real tools are installed, which cannot be told to fail")
MODES = ("force_float32", "force_float16", "qint8_mixed_float16")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    monkeypatch.setattr(tools_module, "GRACE_SECONDS", 0.2)
    found = Emulated("mlu370", ("magicmind",), monkeypatch, real=REAL)
    yield found
    found.forget()


def build(cache: Path, quant: str = "force_float32", **options: str) -> Artifact:
    return topfive.build(MODEL, target="mlu370", quant=quant, cache=cache, options={**QUICK, **options})


# Results


@pytest.mark.parametrize("quant", MODES)
def test_a_device_s_outputs_are_those_of_its_twin(quant: str, cache: Path) -> None:
    """Also the int8 mode, whose ranges MagicMind finds itself on the card's pictures."""
    batch = pictures(MODEL, 4)
    twin = topfive.build(MODEL, target="mlu370_sim", quant=quant, cache=cache)
    with topfive.open(build(cache, quant)) as device, topfive.open(twin, threads=1) as simulated:
        found, wanted = device.run(batch), simulated.run(batch)
        describes = device.describe()
    assert found.dtype == np.float32
    assert describes["kernels"] == "MagicMind"
    tolerance = 0.05 if REAL else 1e-5
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max(), rtol=0)
    assert (found.argmax(1) == wanted.argmax(1)).all()


@emulated
def test_weight_granularity_reaches_the_compiler(cache: Path) -> None:
    batch = pictures(MODEL, 2)
    for granularity in ("per_tensor", "per_axis"):
        twin = topfive.build(
            MODEL,
            target="mlu370_sim",
            quant=MODES[2],
            cache=cache,
            options={"weight_quant_granularity": granularity},
        )
        artifact = build(cache, MODES[2], weight_quant_granularity=granularity)
        with topfive.open(artifact) as device, topfive.open(twin, threads=1) as simulated:
            np.testing.assert_array_equal(device.run(batch), simulated.run(batch))


@emulated
def test_the_calibration_algorithm_reaches_the_calibrator(cache: Path) -> None:
    batch = pictures(MODEL, 1)
    with (
        topfive.open(build(cache, MODES[2])) as one,
        topfive.open(build(cache, MODES[2], calibration_algo="eqnm")) as other,
    ):
        assert not np.array_equal(one.run(batch), other.run(batch))


def test_any_batch_size_in_dim_range_gives_the_same(cache: Path) -> None:
    batch = pictures(MODEL, 8)
    with topfive.open(build(cache)) as runner:
        whole = runner.run(batch)
        for size in (1, 4):
            np.testing.assert_allclose(runner.run(batch[:size]), whole[:size], atol=1e-4)
        with pytest.raises(RunError, match=r"batch size 65 is outside dim_range 1 to 64"):
            runner.run(np.zeros((65, *batch.shape[1:]), np.float32))
        with pytest.raises(RunError, match="wants float32"):
            runner.run(batch.astype(np.float64))


def test_a_fixed_model_takes_its_batch_size_only(cache: Path) -> None:
    artifact = build(cache, shape_mutable="false", batch_size="4")
    assert artifact.meta["input"]["shape"][0] == 4
    with topfive.open(artifact) as runner:
        assert runner.run(pictures(MODEL, 4)).shape[0] == 4
        with pytest.raises(RunError, match=r"\[4, 3"):
            runner.run(pictures(MODEL, 3))
    steps = [json.loads(s) for s in json.loads((artifact.path / "build_config.json").read_text())]
    assert {"graph_shape_mutable": False} in steps
    assert not any("dim_range" in step for step in steps)
    assert targets.get("mlu370").configured({"shape_mutable": "false", "batch_size": "8"}).batches() == (8,)
    assert targets.get("mlu370").batches() == (1,)
    assert targets.get("mlu370").tuned("throughput") == {"batch_size": "8"}


@pytest.mark.parametrize(("batch", "most"), [("65", "64"), ("9", "8"), ("128", "64")])
def test_a_batch_size_outside_dim_range_is_refused(batch: str, most: str, cache: Path) -> None:
    with pytest.raises(CompileError, match=rf"batch size {batch} is outside dim_range 1 to {most}"):
        build(cache, batch_size=batch, dim_range_max=most)


def test_names_since_1_4_are_those_of_0_13(cache: Path) -> None:
    mlu = targets.get("mlu370")
    later = mlu.configured({"dynamic_shape": "false", "cluster_num": "8", "batch": "4"})
    earlier = mlu.configured({"shape_mutable": "false", "archs": "X4", "batch_size": "4"})
    assert later.settings == earlier.settings
    assert mlu.configured({"dynamic_shape": "true", "cluster_num": "6,8"}).settings == {}
    with pytest.raises(OptionError, match="dynamic_shape and shape_mutable"):
        mlu.configured({"dynamic_shape": "true", "shape_mutable": "false"})
    with pytest.raises(OptionError, match="cluster_num"):
        mlu.configured({"cluster_num": "7"})
    assert build(cache, dynamic_shape="false").key == build(cache, shape_mutable="false").key


def test_the_configuration_is_the_sample_s() -> None:
    """Literals of gen_model.py at the seed's version."""
    defaults = {name: option.default for name, option in OPTIONS.items()}
    found = [json.loads(step) for step in build_configuration(MODES[2], defaults, (3, 224, 224))]
    assert found == [
        {"archs": [{"mtp_372": [6, 8]}]},
        {"opt_config": {"type64to32_conversion": True}},
        {"opt_config": {"conv_scale_fold": True}},
        {"convert_input_layout": {"0": {"src": "NCHW", "dst": "NHWC"}}},
        {"graph_shape_mutable": True},
        {"dim_range": {"0": {"min": [1, 3, 224, 224], "max": [64, 3, 224, 224]}}},
        {"precision_config": {"precision_mode": "qint8_mixed_float16"}},
        {"precision_config": {"activation_quant_algo": "symmetric"}},
        {"precision_config": {"weight_quant_granularity": "per_tensor"}},
    ]
    chosen = {**defaults, "archs": "X4", "toolchain_path": "/opt/gcc"}
    steps = [json.loads(step) for step in build_configuration(MODES[0], chosen, (3, 224, 224))]
    assert steps[0] == {"archs": [{"mtp_372": [8]}]}
    assert {"cross_compile_toolchain_path": "/opt/gcc"} in steps


@emulated
def test_rows_say_that_the_tools_are_emulated(cache: Path) -> None:
    assert build(cache).meta["simulated"] == library.SIMULATED
    assert targets.get("mlu370").simulation() == library.SIMULATED
    assert targets.get("mlu370").versions()["magicmind"] == "0.13.0 (emulated)"


def test_without_tools_the_reason_names_them(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    artifact = build(cache)
    monkeypatch.setattr(library, "find_mm_run", lambda: None)
    monkeypatch.setattr(library, "is_installed", lambda name: False)
    reason = targets.get("mlu370").probe()
    assert re.search(r"package magicmind is not installed.*mm_run is not in PATH", reason)
    with pytest.raises(RunError, match="package magicmind is not installed"):
        topfive.open(artifact)
    with pytest.raises(CompileError, match="package magicmind is not installed"):
        build(cache, batch_size="3")


# Failures of the library


@emulated
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("parse", r"Parser\.parse failed: INVALID_ARGUMENT"),
        ("set_dimension", r"ITensor\.set_dimension failed"),
        ("config", r"BuilderConfig\.parse_from_string\(.*mtp_372.*failed"),
        ("calibrate", r"Calibrator\.calibrate failed: INTERNAL"),
        ("no-device", r"finds 0 devices: there is no device 0"),
        ("active", r"Device\.active failed"),
        ("build", r"Builder\.build_model returned nothing"),
        ("serialize", r"Model\.serialize_to_file failed"),
        ("serialize-nothing", r"serialize_to_file is ok but wrote no"),
        ("die:build", r"exit status 77 and no answer"),
    ],
)
def test_each_failing_call_of_a_build_is_named(step: str, words: str, cache: Path, tools: Emulated) -> None:
    tools.fails(step)
    with pytest.raises(CompileError, match=words) as caught:
        build(cache, MODES[2], dim_range_max="63")
    assert "topfive build pocket_fire --target mlu370" in str(caught.value)
    tools.works()


@emulated
def test_a_build_that_hangs_is_killed(cache: Path, tools: Emulated) -> None:
    tools.fails("hang:parse")
    with pytest.raises(CompileError, match="did not end within 6 s and was killed"):
        build(cache, dim_range_max="62", build_limit="6")


@emulated
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("deserialize", r"Model\.deserialize_from_file failed"),
        ("no-device", "there is no device 0"),
        ("active", r"Device\.active failed"),
        ("engine", r"create_i_engine returned nothing"),
        ("context", r"create_i_context returned nothing"),
        ("queue", r"create_queue returned nothing"),
        ("to", r"IRTTensor\.to failed"),
        ("enqueue", r"IContext\.enqueue failed: INTERNAL"),
        ("sync", r"Queue\.sync failed: INTERNAL"),
        ("nan", "NaN or infinity"),
    ],
)
def test_each_failing_call_of_a_run_is_named(step: str, words: str, cache: Path, tools: Emulated) -> None:
    artifact = build(cache)
    tools.fails(step)
    with pytest.raises(RunError, match=words), topfive.open(artifact) as runner:
        runner.run(pictures(MODEL, 1))
    tools.works()
    with topfive.open(artifact) as runner:
        runner.run(pictures(MODEL, 1))


@emulated
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("hang:deserialize", "opening the model in MagicMind did not end within 8 s and was killed"),
        ("hang:sync", "running a batch of 2 in MagicMind did not end within 8 s and was killed"),
        ("die:enqueue", "MagicMind's process exited with status 77 while running a batch of 2"),
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
    assert "run of pocket_fire for mlu370, force_float32" in str(caught.value)


def test_a_run_in_this_process_gives_the_same(cache: Path) -> None:
    batch = pictures(MODEL, 2)
    with topfive.open(build(cache)) as apart, topfive.open(build(cache, process="own")) as own:
        assert apart.artifact.key == own.artifact.key
        np.testing.assert_array_equal(apart.run(batch), own.run(batch))


def test_options_of_the_environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that decide what is built are only taken as options: the key must show them."""
    monkeypatch.setenv("TOPFIVE_MLU370_DEVICE_ID", "7")
    monkeypatch.setenv("TOPFIVE_MLU370_DIM_RANGE_MAX", "0")
    artifact = build(cache)
    with pytest.raises(RunError, match="there is no device 7"):
        topfive.open(artifact)
    monkeypatch.setenv("TOPFIVE_MLU370_DEVICE_ID", "none")
    with pytest.raises(OptionError, match="TOPFIVE_MLU370_DEVICE_ID cannot be 'none': choose 0, 1"):
        topfive.open(artifact)


@emulated
def test_a_model_of_another_card_does_not_run(cache: Path, tools: Emulated) -> None:
    artifact = build(cache, archs="S4")
    tools.told(TOPFIVE_EMULATED_CLUSTERS="8")
    with pytest.raises(RunError, match="create_i_engine"):
        topfive.open(artifact)


def test_a_model_file_that_is_not_the_compiled_one_is_refused(cache: Path) -> None:
    artifact, other = build(cache, dim_range_max="61"), build(cache, dim_range_max="60")
    file = artifact.path / "magicmind_model"
    file.write_bytes((other.path / "magicmind_model").read_bytes())
    with pytest.raises(RunError, match="magicmind_model is not what was compiled: build the model again"):
        topfive.open(artifact)
    file.unlink()
    with pytest.raises(RunError, match="magicmind_model is missing: build the model again"):
        topfive.open(artifact)


# mm_run


@pytest.mark.parametrize("version", ["0.13.0", "1.7.0"])
@pytest.mark.parametrize("batch", ["1", "4", "8"])
def test_mm_run_measures_under_both_names_of_the_batch_size(
    version: str, batch: str, cache: Path, tools: Emulated
) -> None:
    tools.told(TOPFIVE_EMULATED_VERSION=version)
    with topfive.open(build(cache, batch_size=batch)) as runner:
        figures = runner.device_figures()
    assert figures is not None
    assert figures.batch == int(batch)
    assert figures.inferences >= 20
    assert 0 < figures.p50 <= figures.p90 <= figures.p95 <= figures.p99
    assert "without copies" in figures.warnings[0]
    if not REAL:
        flag = "--batch" if version == "0.13.0" else "--batch_size"
        assert f" {flag} {batch} --threads 1 --devices 0" in figures.details["command"]
        wall = figures.details["figures"]["Host Wall Time (s)"]
        assert figures.images_per_s == pytest.approx(figures.inferences * int(batch) / wall, rel=1e-4)


@emulated
@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("mm_run-exit", "mm_run failed with exit status 3"),
        ("mm_run-truncated", "lacks Enqueue Time"),
        ("mm_run-contradiction", "mm_run contradicts itself"),
        ("mm_run-garbage", "not of the documented form"),
        ("mm_run-percentiles", "not in order"),
        ("mm_run-hang", "did not end within 3 s and was killed"),
        ("deserialize", "mm_run failed with exit status 1"),
        ("active", "mm_run failed with exit status 1"),
        ("enqueue", "mm_run failed with exit status 1"),
    ],
)
def test_mm_run_s_failures_are_errors_never_figures(
    failure: str, words: str, cache: Path, tools: Emulated, tmp_path: Path
) -> None:
    limit = "3" if failure.endswith("hang") else "60"
    with topfive.open(build(cache, run_limit=limit, work=str(tmp_path))) as runner:
        tools.fails(failure)
        with pytest.raises(RunError, match=words) as caught:
            runner.device_figures()
    assert "--magicmind_model" in caught.value.details
    (kept,) = tmp_path.glob("mm_run-*/mm_run.command.txt")
    assert "mm_run --magicmind_model" in kept.read_text()


@emulated
def test_mm_run_on_another_card_is_an_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with topfive.open(build(cache, archs="S4,X4")) as runner:
        runner.artifact.meta["magicmind"]["clusters"] = [8]
        with pytest.raises(RunError, match="the device has 6 clusters, but the model was built for 8"):
            runner.device_figures()


@emulated
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--magicmind_model"],
        ["--magicmind_model", "m", "--batch_size", "1"],
        ["--magicmind_model", "m", "--iteration", "1"],
        ["--magicmind_model", "m", "--batch", "one"],
    ],
    ids=["missing", "no-value", "later-name", "abbreviated", "not-a-number"],
)
def test_the_emulated_mm_run_refuses_what_it_does_not_know(arguments: list[str], tools: Emulated) -> None:
    done = subprocess.run([tools.folder / "mm_run", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error:" in done.stderr


def test_the_command_is_perf_sh_s() -> None:
    found = measure_command("mm_run", "M", flag="--batch", batch=4, iterations=1000, device=0)
    wanted = "mm_run --magicmind_model M --iterations 1000 --batch 4 --threads 1 --devices 0"
    assert " ".join(found) == wanted


# The vendor's rule


@pytest.mark.parametrize(
    ("new", "old", "status"),
    [
        (95.0, 100.0, "pass"),
        (94.99, 100.0, "fail"),
        (105.0, 100.0, "pass"),
        (105.01, 100.0, "option"),
        (1947.97, 1947.97, "pass"),
    ],
)
def test_the_throughput_rule(new: float, old: float, status: str) -> None:
    verdict = throughput_verdict(new, old)
    assert (verdict.status, verdict.passed) == (status, status != "fail")
    assert verdict.ratio == new / old


def test_the_accuracy_rule_has_no_tolerance() -> None:
    assert accuracy_verdict((0.755756, 0.926927), (0.755756, 0.926927)).passed
    assert accuracy_verdict((0.76, 0.93), (0.755756, 0.926927)).passed
    assert not accuracy_verdict((0.755755, 0.93), (0.755756, 0.926927)).passed
    assert not accuracy_verdict((0.76, 0.926926), (0.755756, 0.926927)).passed
    for wrong in ((75.5, 92.6), (float("nan"), 0.5)):
        with pytest.raises(RunError, match="parts of 1"):
            accuracy_verdict(wrong, (0.7, 0.9))
    with pytest.raises(RunError, match="positive"):
        throughput_verdict(0.0, 100.0)
