"""`topfive doctor`: errors of kernels and of a model, and advice; also on an emulated processor."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topfive.cards import fixtures_root
from topfive.cli import main
from topfive.hazard import KernelFinding, ModelFinding, advice, measure_kernels
from topfive.sessions import PROBE_CONVS, native_kernels_are_exact
from topfive.suite.environment import cpu_governors

QEMU = shutil.which("qemu-x86_64")
NAMES = [name for name, *_ in PROBE_CONVS]
Command = Callable[..., Any]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `topfive doctor ARGUMENTS`: (exit code, stdout, stderr)."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["topfive", "doctor", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_kernels_that_are_exact_here_make_no_wrong_output() -> None:
    found = measure_kernels()
    assert [finding.kernel for finding in found] == NAMES
    for finding in found:
        assert finding.uint8_weights == 0, "these kernels are exact everywhere"
        assert 0 <= finding.default <= 1
    if native_kernels_are_exact():
        assert all(finding.default == finding.precise == 0 for finding in found)


def test_the_probe_sees_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """One code wrong in a result of a kernel is one wrong output of its share."""
    import topfive.hazard as hazard

    real = hazard.open_session

    class Faulty:
        def __init__(self, session: Any) -> None:
            self.session = session

        def run(self, *arguments: Any) -> list[np.ndarray]:
            (result,) = self.session.run(*arguments)
            result = result.copy()
            result.flat[0] ^= 1
            return [result]

    def opened(data: bytes, **settings: Any) -> Any:
        session = real(data, **settings)
        return session if settings["precise"] else Faulty(session)

    monkeypatch.setattr(hazard, "open_session", opened)
    for finding, (_, x, w, _) in zip(measure_kernels(), PROBE_CONVS, strict=True):
        pixels = (x[2] - w[2] + 1) * (x[3] - w[3] + 1) * w[0]
        assert finding.uint8_weights == pytest.approx(1 / pixels)
        if native_kernels_are_exact():
            assert (finding.default, finding.precise) == (pytest.approx(1 / pixels), 0)


EXACT = KernelFinding("general", 0.0, 0.0, 0.0)
WRONG = KernelFinding("pointwise", 0.9, 0.0, 0.0)
STUBBORN = KernelFinding("grouped", 0.5, 0.1, 0.0)
UNTOUCHED = ModelFinding("net", "int8", 8, 0.0, 0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("kernels", "model", "said", "unsaid"),
    [
        ([EXACT], None, "exact on this processor", "lose sums"),
        ([EXACT, WRONG], None, "1 of 2 default kernels lose sums", "exact on this processor"),
        ([WRONG], None, "session.x64quantprecision", "did not run into it"),
        ([WRONG, STUBBORN], None, "uint8, 128 higher", "session.x64quantprecision"),
        ([WRONG], UNTOUCHED, "net did not run into it on these 8 pictures", "exact on this processor"),
    ],
    ids=["exact", "some", "option", "option_fails", "model_untouched"],
)
def test_the_advice_follows_the_measurement(
    kernels: list[KernelFinding], model: ModelFinding | None, said: str, unsaid: str
) -> None:
    text = " ".join(advice(kernels, model))
    assert said in text
    assert unsaid not in text


def test_the_command_prints_machine_kernels_and_advice(command: Command) -> None:
    code, out, _ = command()
    assert code == 0
    assert all(name in out for name in NAMES)
    assert "processor: " in out
    assert "onnxruntime" in out
    assert ("exact on this processor" in out) == native_kernels_are_exact()


def test_a_model_on_named_pictures(command: Command, tmp_path: Path) -> None:
    folder = fixtures_root() / "pictures" / "pocket100" / "val"
    pictures = sorted(folder.rglob("*.JPEG"))[:3]
    options = [part for picture in pictures for part in ("-i", picture)]
    code, out, _ = command("-m", "pocket_resnet", *options, "--artifact-cache", tmp_path, "--json")
    assert code == 0
    said = json.loads(out)
    assert said["model"]["pictures"] == 3
    assert said["model"]["quant"] == "int8"
    if native_kernels_are_exact():
        assert said["model"]["outputs"] == said["model"]["codes"] == said["model"]["top1"] == 0
    assert {"cpu_features", "cpu_governors", "threads", "versions"} == set(said["machine"])
    code, out, _ = command("-m", "pocket_resnet", "--count", 2, "--artifact-cache", tmp_path)
    assert code == 0
    assert "pocket_resnet, int8, 2 pictures" in out


@pytest.mark.parametrize("arguments", [("-m", "pocket_resent"), ("-m", "pocket_resnet", "-i", "absent.jpg")])
def test_bad_input_is_one_message(command: Command, arguments: tuple[str, ...], tmp_path: Path) -> None:
    code, _, err = command(*arguments, "--artifact-cache", tmp_path)
    assert code == 2
    assert "Traceback" not in err
    assert ("did you mean pocket_resnet" in err) or ("absent.jpg" in err)


def test_governors_are_read_where_there_are_any(tmp_path: Path) -> None:
    assert cpu_governors(tmp_path) == ()
    for number, governor in enumerate(("powersave", "performance", "powersave")):
        place = tmp_path / f"cpu{number}" / "cpufreq"
        place.mkdir(parents=True)
        (place / "scaling_governor").write_text(f"{governor}\n")
    assert cpu_governors(tmp_path) == ("performance", "powersave")


@pytest.mark.realdata
def test_tiny_darknet_shows_the_hazard_where_the_processor_has_it(command: Command, tmp_path: Path) -> None:
    """On AVX2 without VNNI it loses 12 points of top-1; with VNNI nothing changes, and the test says so."""
    code, out, _ = command("-m", "tiny_darknet", "--count", 6, "--artifact-cache", tmp_path, "--json")
    assert code == 0
    said = json.loads(out)
    assert said["model"]["pictures"] == 6
    if native_kernels_are_exact():
        assert said["model"]["outputs"] == said["model"]["codes"] == 0
        assert "exact on this processor" in said["advice"][0]
        print("this processor's kernels are exact: tiny_darknet is not affected")
    else:
        assert said["model"]["codes"] > 0.01
        assert said["model"]["outputs"] > 0.01
        assert "lose sums" in said["advice"][0]


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed (Debian: qemu-user)")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulated processor is an x86")
def test_on_a_processor_without_vnni(tmp_path: Path) -> None:
    """An emulated Haswell: kernels saturate, the option and uint8 weights are exact, a model changes."""
    arguments = ["doctor", "-m", "pocket_resnet", "--count", "3", "--artifact-cache", str(tmp_path), "--json"]
    command = [str(QEMU), "-cpu", "Haswell", sys.executable, "-m", "topfive", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    kernels = {kernel["kernel"]: kernel for kernel in said["kernels"]}
    assert kernels["general"]["default"] > 0.5
    assert all(kernel["uint8_weights"] == 0 for kernel in kernels.values())
    assert said["model"]["codes"] > 0
    assert said["model"]["outputs"] > 0
    assert "lose sums" in said["advice"][0]
