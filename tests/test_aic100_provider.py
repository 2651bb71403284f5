"""`aic100` through ONNX Runtime's QAic provider: in a process apart, with time limits, never on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import topfive
from topfive import targets
from topfive.errors import OptionError, RunError
from topfive.pipeline import resolve_card
from topfive.suite.golden_check import GoldenCheck
from topfive.suite.pictures import Pictures
from topfive.targets.aic100 import probe
from topfive.targets.aic100.toolchain import SIMULATED, find_tools
from topfive.targets.base import Artifact

from aic100_tools import EMULATORS, MODEL, MOTIF, REAL, SMALL, Emulated, build, emulated, installed, pictures

pytestmark = pytest.mark.aic100
STAND_IN = EMULATORS / "qaic_onnxrt"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    """The tools, well and free; folders of runs where they can be counted."""
    return installed(tmp_path, monkeypatch)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime with the provider: the stand-in, for other processes, and its names for this one."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [probe.PROVIDER_NAME])


def opened(cache: Path, **options: str) -> Artifact:
    return build(cache, runtime="onnxruntime", **options)


@pytest.mark.parametrize("name", ["device_id", "aic_device_id"])
@pytest.mark.usefixtures("provider")
@emulated
def test_the_provider_is_a_second_way(cache: Path, tools: Emulated, tmp_path: Path, name: str) -> None:
    asked = tmp_path / "asked.json"
    tools.told(device_option=name, devices=[0, 3], asked=str(asked))
    artifact = opened(cache, device="3")
    twin = topfive.build(MODEL, target="aic100_sim", quant="force_float16", cache=cache)
    with topfive.open(artifact) as runner, topfive.open(twin) as other:
        assert np.array_equal(runner.run(pictures(5)), other.run(pictures(5)))
        assert runner.device_figures() is None
        assert runner.describe()["kernels"] == f"QAicExecutionProvider {MOTIF}"
    told = json.loads(asked.read_text(encoding="utf-8"))
    assert told["chosen"][name] == "3"
    found = told["settings"]
    assert found["aic-binary-dir"] == str(artifact.path / f"compiled-bin-fp16-{MOTIF}")
    assert (found["device-id"], found["batchsize"]) == (3, 4)
    # The settings file went with the runner.
    assert not Path(told["chosen"]["config"]).exists()
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.usefixtures("provider")
@emulated
def test_the_provider_compiles_where_there_is_no_compiler(
    cache: Path, tools: Emulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.told(asked=str(tmp_path / "asked.json"))
    monkeypatch.setenv("PATH", "/usr/bin")
    # Without emulated tools it is the provider alone that says so.
    monkeypatch.setattr(onnxruntime, "__doc__", "topfive's emulated onnxruntime")
    assert find_tools().compiler is None
    artifact = opened(cache, ols="10", extra="-multicast-weights")
    assert artifact.meta["simulated"] == SIMULATED
    with topfive.open(artifact) as runner:
        assert runner.run(pictures(1)).shape == (1, 100)
    found = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8"))["settings"]
    assert "aic-binary-dir" not in found
    assert found["multicast-weights"] is True
    assert found["onnx-define-symbol"] == "batch_size,4"


OPENING = {
    "provider_falls_back": "opened the model without QAicExecutionProvider",
    "provider_open": "QAicExecutionProvider cannot open the model",
    "provider_hang_open": "opening the model in QAicExecutionProvider did not end within 4 s and was killed: "
    "--option run-limit=SECONDS allows more",
}
RUNNING = {
    "provider_run": "QAicExecutionProvider failed",
    "provider_shape": r"QAicExecutionProvider gave \[4, 99\], not \[4, 100\]",
    "provider_dies": "QAicExecutionProvider's process died of signal 11 .SIGSEGV. while running a batch of 4",
    "provider_hang_run": "running a batch of 4 in QAicExecutionProvider did not end within 15 s and was",
}


@pytest.mark.parametrize("failure", OPENING)
@pytest.mark.usefixtures("provider")
@emulated
def test_a_provider_that_does_not_open(cache: Path, tools: Emulated, tmp_path: Path, failure: str) -> None:
    artifact = opened(cache, run_limit="4" if "hang" in failure else "60")
    tools.told(failure=failure)
    with pytest.raises(RunError, match=OPENING[failure]) as caught:
        topfive.open(artifact)
    assert (caught.value.model, caught.value.target) == (MODEL, "aic100")
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("failure", RUNNING)
@pytest.mark.usefixtures("provider")
@emulated
def test_a_provider_that_fails(cache: Path, tools: Emulated, tmp_path: Path, failure: str) -> None:
    artifact = opened(cache, run_limit="15" if "hang" in failure else "60")
    with topfive.open(artifact) as runner:
        assert runner.run(pictures(1)).shape == (1, 100)
        tools.told(failure=failure)
        with pytest.raises(RunError, match=RUNNING[failure]) as caught:
            runner.run(pictures(2))
        assert caught.value.model == MODEL
        tools.told()
        if failure in ("provider_dies", "provider_hang_run"):
            with pytest.raises(
                RunError, match="process has ended since running a batch of 4: open the artifact"
            ):
                runner.run(pictures(2))
        else:
            assert runner.run(pictures(2)).shape == (2, 100)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"device_option": "number"}, "Unknown provider option: device_id"),
        ({"devices": [1]}, "Failed to open device 0"),
    ],
    ids=["options", "device"],
)
@pytest.mark.usefixtures("provider")
@emulated
def test_what_the_provider_says_is_shown(
    cache: Path, tools: Emulated, state: Mapping[str, object], words: str
) -> None:
    tools.told(**state)
    with pytest.raises(RunError, match="cannot open the model") as caught:
        topfive.open(opened(cache))
    assert words in caught.value.details


@pytest.mark.usefixtures("provider")
@emulated
def test_a_program_that_was_not_compiled_for_it(cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(opened(cache).path, copy)
    program = copy / f"compiled-bin-fp16-{MOTIF}" / "programqpc.bin"
    program.write_bytes(b"another")
    with pytest.raises(RunError, match="is not what was compiled"):
        topfive.open(copy)


@emulated
def test_an_artifact_of_other_tools(cache: Path, monkeypatch: pytest.MonkeyPatch, provider: None) -> None:
    artifact = opened(cache)
    monkeypatch.setenv("PATH", "/usr/bin")
    with pytest.raises(RunError, match="but QAicExecutionProvider is now that of the real tools"):
        topfive.open(artifact)


def test_the_process_is_an_option_that_only_runs(cache: Path) -> None:
    assert opened(cache, process="own").path == opened(cache).path
    with pytest.raises(OptionError, match="process"):
        targets.get("aic100").configured({"process": "other"})


@pytest.mark.usefixtures("provider")
@emulated
def test_no_golden_is_made_with_an_emulated_provider(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(onnxruntime, "__doc__", "topfive's emulated onnxruntime")
    check = GoldenCheck(resolve_card(MODEL), tmp_path / "golden", True, "", lambda **_: None, cache)
    refused = pytest.raises(RunError, match="no golden is made with emulated tools")
    with topfive.open(opened(cache, ols="11")) as runner, refused:
        check.check(runner, Pictures(resolve_card(MODEL), 1, 1))
    assert not list(tmp_path.glob("golden/**/*.json"))


@emulated
@pytest.mark.parametrize("process", ["own", "apart"])
def test_by_hand(cache: Path, process: str) -> None:
    """As docs/aic100.md says; in topfive's own process and apart from it."""
    program = (
        "import os, sys, numpy, topfive\n"
        f"options = { ({**SMALL, 'runtime': 'onnxruntime', 'process': process})!r}\n"
        f"made = topfive.build({MODEL!r}, target='aic100', quant='force_float16', options=options, "
        f"cache={str(cache)!r})\n"
        "with topfive.open(made) as runner:\n"
        "    found = runner.run(numpy.ones((1, 3, 64, 64), numpy.float32))\n"
        "print(made.meta['simulated'], made.path, found.shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(STAND_IN)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(SIMULATED)
    assert done.stdout.endswith(" (1, 100)\n")


@pytest.mark.skipif(
    probe.PROVIDER_NAME in onnxruntime.get_available_providers(), reason="the provider is there"
)
def test_a_provider_that_is_not_there(cache: Path) -> None:
    with pytest.raises(RunError, match="has no QAicExecutionProvider: build it with"):
        topfive.open(opened(cache))
    configured = targets.get("aic100").configured({"runtime": "onnxruntime"})
    assert "QAicExecutionProvider" in configured.probe()
    assert REAL or configured.simulation() == SIMULATED
