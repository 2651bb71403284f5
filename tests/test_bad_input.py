"""Bad input of the Gemmini commands, as a person meets it: exit code 2, one message, what was kept.

Batch lists and label folders are in test_runner_tools.py, programs that fail in test_gemmini_qemu.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from topfive import targets
from topfive.cards import fixtures_root
from topfive.images import list_images
from topfive.targets.gemmini.hardware import FOLDER

PICTURE = list_images(fixtures_root() / "pictures" / "pocket100" / "val")[0].path
emulated = pytest.mark.skipif(
    bool(targets.get("gemmini_qemu").probe()), reason=targets.get("gemmini_qemu").probe()
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def topfive(cache: Path, *arguments: object, code: int = 2, **environment: str) -> str:
    """Run the command in a process of its own and return what it said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "topfive", *map(str, arguments)],
        env={**os.environ, "TOPFIVE_CACHE": str(cache), "TOPFIVE_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def refused_model(path: Path) -> Path:
    """A classifier with a node of each kind that Gemmini cannot take, and one that it can."""
    random = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
        "u": np.array(7, np.int8),
        "each": np.full(4, 0.1, np.float32),
        "each_z": np.zeros(4, np.int8),
        **{
            f"w{n}": random.integers(-9, 9, (4, channels, 1, 1), np.int8)
            for n, channels in enumerate((3, 4, 4))
        },
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="entry"),
        helper.make_node("QLinearConv", ["q", "s", "z", "w0", "s", "z", "s", "z"], ["a"], name="fine"),
        helper.make_node(
            "QLinearConv", ["a", "s", "z", "w1", "each", "each_z", "s", "z"], ["b"], name="per_channel"
        ),
        helper.make_node("QLinearConv", ["b", "s", "z", "w2", "s", "z", "s", "u"], ["c"], name="shifted"),
        helper.make_node(
            "QLinearGlobalAveragePool", ["c", "s", "u", "s", "z"], ["g"], name="mean", domain="com.microsoft"
        ),
        helper.make_node("DequantizeLinear", ["g", "s", "z"], ["f"], name="exit"),
        helper.make_node("Flatten", ["f"], ["y"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 4))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize("command", ["build", "run", "cycles"])
def test_every_node_that_gemmini_cannot_take_is_listed_with_its_reason(
    command: str, tmp_path: Path, cache: Path
) -> None:
    model = refused_model(tmp_path / "foreign.onnx")
    arguments = {
        "build": ("build", model, "--target", "gemmini_sim", "--quant", "as_is"),
        "run": ("run", "-m", model, "--target", "gemmini_sim", "-i", PICTURE),
        "cycles": ("gemmini", "cycles", "-m", model, "--quant", "as_is"),
    }[command]
    said = topfive(cache, *arguments)
    assert "compile of foreign for gemmini_sim, as_is: 3 of 6 quantised nodes" in said
    for node, reason in {
        "QLinearConv 'per_channel'": "weights: per-channel scales (4 values); one scale a tensor is needed",
        "QLinearConv 'shifted'": "output: zero point 7; 0 is needed",
        "QLinearGlobalAveragePool 'mean'": "no int8 form of this operator on Gemmini",
    }.items():
        assert f"  {node}: {reason}" in said
    assert "'fine'" not in said
    assert "quant mode int8 instead" in said
    assert "repeat with: topfive build " in said


def hardware(folder: Path, old: str, new: str) -> Path:
    text = (FOLDER / "default.toml").read_text().replace('name = "default"', 'name = "mine"')
    assert old in text
    (folder / "mine.toml").write_text(text.replace(old, new))
    return folder / "mine.toml"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("banks = 4", "bank = 4", "unknown key 'bank': did you mean 'banks'?"),
        ("dim = 16", "dim = 0", "key 'dim' must be from 1 to 256, not 0"),
        ("dim = 16\n", "", "key 'dim' is missing"),
    ],
    ids=["unknown", "impossible", "missing"],
)
@pytest.mark.parametrize("command", ["cycles", "explore"])
def test_a_hardware_file_is_read_strictly(
    command: str, old: str, new: str, reason: str, tmp_path: Path, cache: Path
) -> None:
    path = hardware(tmp_path, old, new)
    said = topfive(cache, "gemmini", command, "-m", "pocket_fire", "--hardware", path)
    assert f"topfive: {path}: " in said
    assert reason in said


def test_an_unknown_hardware_names_the_nearest(cache: Path) -> None:
    said = topfive(cache, "gemmini", "cycles", "-m", "pocket_fire", "--hardware", "defualt")
    assert "unknown Gemmini hardware 'defualt': did you mean default?" in said


def tools(folder: Path, **programs: str) -> str:
    """A PATH that holds nothing but these shell scripts."""
    folder.mkdir()
    for name, body in programs.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    return str(folder)


def test_a_missing_toolchain_is_named_with_its_package(tmp_path: Path, cache: Path) -> None:
    arguments = ("build", "pocket_fire", "--target", "gemmini_qemu", "--quant", "int8")
    said = topfive(cache, *arguments, PATH=tools(tmp_path / "bin", qemu_riscv64="exit 0"))
    assert "riscv64-linux-gnu-gcc is not installed: apt-get install gcc-riscv64-linux-gnu" in said


def test_a_failing_toolchain_is_quoted(tmp_path: Path, cache: Path) -> None:
    body = "case $1 in --version) echo broken 1;; *) echo 'ld: no space left' >&2; exit 9;; esac"
    path = tools(tmp_path / "bin", riscv64_linux_gnu_gcc=body, qemu_riscv64="exit 0")
    said = topfive(cache, "build", "pocket_fire", "--target", "gemmini_qemu", "--quant", "int8", PATH=path)
    assert "riscv64-linux-gnu-gcc failed with exit status 9" in said
    assert "ld: no space left" in said
    assert "$ riscv64-linux-gnu-gcc " in said


@pytest.mark.slow
@emulated
@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        ({"TOPFIVE_QEMU_SECONDS": "0.01"}, "the program did not end within 0.01 s"),
        ({"qemu_riscv64": "kill -SEGV $$"}, "the emulator died of signal 11"),
    ],
    ids=["time_out", "crash"],
)
def test_a_run_under_qemu_that_fails_keeps_its_files_and_prints_the_command(
    breaks: dict[str, str], reason: str, tmp_path: Path, cache: Path
) -> None:
    topfive(cache, "build", "pocket_fire", "--target", "gemmini_qemu", "--quant", "int8", code=0)
    environment = {"TMPDIR": str(tmp_path)}
    if "qemu_riscv64" in breaks:
        folder = tools(tmp_path / "bin", **breaks)
        environment["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    else:
        environment |= breaks
    arguments = ("run", "-m", "pocket_fire", "--target", "gemmini_qemu", "--quant", "int8", "-i", PICTURE)
    said = topfive(cache, *arguments, **environment)
    assert f"run of pocket_fire for gemmini_qemu, int8: {reason}" in said
    kept = Path(said.partition("input kept in ")[2].splitlines()[0])
    assert (kept / "input.bin").stat().st_size == 3 * 64 * 64 * 4
    program = Path(said.partition("program and its sources: ")[2].splitlines()[0])
    assert (program / "program.c").is_file()
    command = next(line for line in said.splitlines() if line.startswith("$ "))
    assert "qemu-riscv64" in command
    assert str(kept / "input.bin") in command
