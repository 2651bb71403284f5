"""`gemmini_spike` on whole models, bit for bit against `gemmini_sim`, and what happens when it breaks.

Without spike the programs run on a stand-in (simulators.py): the same executables, the same command line.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import topfive
from topfive import targets
from topfive.cards import find_card, load_cards
from topfive.errors import CompileError, OptionError, RunError
from topfive.images import load_profile, preprocess_batch
from topfive.images.folders import list_images
from topfive.targets.base import Artifact
from topfive.targets.gemmini.reference import mismatches
from topfive.targets.gemmini.target import INT8_FILE
from topfive.targets.gemmini_qemu import toolchain
from topfive.targets.gemmini_qemu.program import Program
from topfive.targets.gemmini_spike import spike
from topfive.targets.gemmini_spike.kit import kit

from simulators import REAL, STAND_IN, differences, emulated, simulated, use_simulator

BUNDLED = ["pocket_fire", "pocket_mobilenet", "pocket_resnet", "pocket_vit"]
FLOAT_ISLANDS = {"pocket_vit"}
TOLERANCE = 1e-4
TARGET = targets.get("gemmini_spike")


@pytest.fixture(autouse=True)
def _simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    use_simulator(monkeypatch)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def pictures(model: str, count: int) -> np.ndarray:
    card = find_card(model, load_cards())
    paths = [image.path for image in list_images(card.pictures_folder())[:count]]
    return preprocess_batch(paths, load_profile(card.input.profile), card.input.size)


def build(model: str, dataflow: str, cache: Path, quant: str = "int8") -> Artifact:
    options = {"dataflow": dataflow}
    return topfive.build(model, target="gemmini_spike", quant=quant, cache=cache, options=options)


def compare(model: str, dataflow: str, quant: str, batch: np.ndarray, cache: Path) -> Artifact:
    """Every int8 tensor of the program: exact ones the simulator's bits, all of them their layer's."""
    twin = topfive.build(model, target="gemmini_sim", quant=quant, cache=cache)
    artifact = build(model, dataflow, cache, quant)
    with topfive.open(twin) as wanted, topfive.open(artifact, threads=1) as program:
        expected, seen = wanted.tensors(batch), program.tensors(batch)
        last = wanted.exact_outputs(batch)
        scores, scores_seen = wanted.run(batch), seen[onnx_outputs(artifact)[0]]
    for name, codes in last.items():
        np.testing.assert_array_equal(seen[name], codes, err_msg=name, strict=True)
    int8 = onnx.load(artifact.path / INT8_FILE)
    made = {name for node in int8.graph.node for name in node.output}
    assert made <= set(seen)
    assert sum(seen[name].dtype == np.int8 for name in made) >= 20
    assert [str(m) for m in mismatches(int8, seen, batch)] == []
    # Behind sums of floats, whose last bit is the machine's, a code may differ: the layers above may not.
    if model not in FLOAT_ISLANDS:
        for name in made & set(expected):
            if seen[name].dtype == np.int8:
                np.testing.assert_array_equal(seen[name], expected[name], err_msg=name, strict=True)
    tolerance = TOLERANCE * np.abs(scores).max()
    np.testing.assert_allclose(scores_seen, scores, rtol=TOLERANCE, atol=tolerance)
    return artifact


def onnx_outputs(artifact: Artifact) -> list[str]:
    layout = json.loads((artifact.path / "layout.json").read_text())
    return [output["name"] for output in layout["outputs"]]


def count(artifact: Artifact, batch: np.ndarray, counts: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Layers whose instructions are not the predicted ones."""
    monkeypatch.setenv("TOPFIVE_GEMMINI_COUNTS", str(counts))
    with topfive.open(artifact, threads=1) as runner:
        runner.run(batch)
    return differences(counts, artifact.meta["gemmini_layers"], len(batch))


# What shows nothing that others do not show runs with the slow tests.
SLOW = {(model, "os", "int8") for model in BUNDLED if model != "pocket_fire"}
SLOW.add(("pocket_mobilenet", "ws", "int8"))
CASES = [
    *((model, dataflow, "int8") for model in BUNDLED for dataflow in ("ws", "os")),
    *(("pocket_mobilenet", dataflow, "int8_dw") for dataflow in ("ws", "os")),
]


@simulated
@pytest.mark.parametrize(
    ("model", "dataflow", "quant"),
    [
        pytest.param(*case, id="-".join(case), marks=[pytest.mark.slow] if case in SLOW else [])
        for case in CASES
    ],
)
def test_every_int8_tensor_is_the_simulators(
    model: str, dataflow: str, quant: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = pictures(model, 2 if model == "pocket_fire" else 1)
    artifact = compare(model, dataflow, quant, batch, cache)
    if not REAL:
        assert count(artifact, batch, tmp_path / "counts", monkeypatch) == []


@simulated
@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("quant", ["int8", "int8_dw"])
@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_mobilenet_is_the_simulators(
    dataflow: str, quant: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "mobilenet_v2_tf2ptq"
    batch = pictures(model, 1)
    artifact = compare(model, dataflow, quant, batch, cache)
    if not REAL:
        assert count(artifact, batch, tmp_path / "counts", monkeypatch) == []


@emulated
def test_the_simulators_rounding_makes_the_same_bits(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libgemmini's ROUND_NEAR_EVEN differs from the hardware next to powers of two."""
    batch = pictures("pocket_resnet", 1)
    with topfive.open(build("pocket_resnet", "ws", cache), threads=1) as runner:
        hardware = runner.tensors(batch)
        monkeypatch.setenv("TOPFIVE_GEMMINI_ROUNDING", "simulator")
        simulator = runner.tensors(batch)
    for name, value in hardware.items():
        np.testing.assert_array_equal(simulator[name], value, err_msg=name)


@pytest.fixture(scope="module")
def fire(cache: Path) -> Artifact:
    return build("pocket_fire", "ws", cache)


@simulated
def test_what_an_artifact_tells(fire: Artifact, cache: Path) -> None:
    assert fire.options == {}
    assert build("pocket_fire", "os", cache).options == {"dataflow": "os"}
    layers, total = fire.meta["gemmini_layers"], fire.meta["gemmini_instructions"]
    assert {"preload", "mvin", "mvin2", "mvin3", "mvout", "config_ex", "config_ld", "config_st"} < set(total)
    for kind, number in total.items():
        assert number == sum(layer["instructions"].get(kind, 0) for layer in layers)
    assert all(" 'stem" not in layer["layer"] or "QLinearConv" in layer["layer"] for layer in layers)
    with topfive.open(fire) as runner:
        description = runner.describe()
    assert description["gemmini_instructions_per_image"] == sum(total.values()) - total["fence"]
    if not REAL:
        assert "not spike" in description["simulator"]
    assert "-static" in fire.meta["command"]
    assert "-march=rv64gc" in fire.meta["command"]


@simulated
def test_an_already_quantised_model_runs_as_it_is(fire: Artifact, cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "quantised.onnx"
    shutil.copyfile(fire.path / INT8_FILE, file)
    artifact = topfive.build(file, target="gemmini_spike", quant="as_is", cache=cache)
    batch = pictures("pocket_fire", 1)
    with topfive.open(artifact) as again, topfive.open(fire) as first:
        np.testing.assert_array_equal(again.run(batch), first.run(batch))


@simulated
def test_the_command_makes_the_same_program_again(fire: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "artifact"
    shutil.copytree(fire.path, copy)
    (copy / toolchain.PROGRAM).unlink()
    subprocess.run(shlex.split(fire.meta["command"]), cwd=copy, check=True)
    assert (copy / toolchain.PROGRAM).read_bytes() == (fire.path / toolchain.PROGRAM).read_bytes()


DISASSEMBLER = "riscv64-linux-gnu-objdump"
# config, mvin2, mvin, mvout, the computes, preload, flush, mvin3: no loops, whose fields are narrow.
EXPLICIT = {0, 1, 2, 3, 4, 5, 6, 7, 14}


@simulated
@pytest.mark.skipif(shutil.which(DISASSEMBLER) is None, reason=f"{DISASSEMBLER} is not installed")
def test_the_program_holds_explicit_instructions_only(fire: Artifact) -> None:
    command = [DISASSEMBLER, "-d", "--section=.text", str(fire.path / toolchain.PROGRAM)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = [int(word, 16) for word in re.findall(r"^\s+[0-9a-f]+:\s+([0-9a-f]{8})\s", listing, re.MULTILINE)]
    issued = [word for word in words if word & 0x7F == 0x7B]
    assert {word >> 25 for word in issued} == EXPLICIT
    assert {(word >> 12 & 7, word >> 7 & 31) for word in issued} == {(3, 0)}
    assert len(issued) >= 20
    assert 0x0FF0000F in words


# A proxy kernel stops at a call that it lacks. What the C library does before is the same in every program.
CALLS = {"openat", "read", "write", "exit_group"}


@emulated
def test_the_program_makes_four_system_calls(fire: Artifact, tmp_path: Path) -> None:
    (tmp_path / "input.bin").write_bytes(bytes(3 * 64 * 64 * 4))
    machine = next(path for name in ("qemu-riscv64", "qemu-riscv64-static") if (path := shutil.which(name)))
    wrapper = tmp_path / "bin" / "qemu-riscv64"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {machine} -strace "$@"\n')
    wrapper.chmod(0o755)
    command = [str(STAND_IN / "spike"), *spike.OPTIONS, str(fire.path / toolchain.PROGRAM)]
    command += [str(tmp_path / "input.bin"), str(tmp_path / "output.bin")]
    search = f"{wrapper.parent}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": search}, check=True)
    calls = re.findall(r"^\d+ (\w+\(.*)", done.stderr, re.MULTILINE)
    opened = next(n for n, call in enumerate(calls) if call.startswith("openat") and "input.bin" in call)
    names = {call.partition("(")[0] for call in calls[opened:]}
    # What the handler of Gemmini's instructions itself does.
    assert names - {"rt_sigreturn"} == CALLS


# What breaks


def scripts(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """A PATH that holds nothing but these shell scripts."""
    folder.mkdir()
    for name, body in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("present", "parts"),
    [
        (
            {},
            ["apt-get install gcc-riscv64-linux-gnu", "spike with the extension 'gemmini' is not installed"],
        ),
        ({"spike": ""}, ["apt-get install gcc-riscv64-linux-gnu"]),
        ({"riscv64_linux_gnu_gcc": ""}, ["build riscv-isa-sim, ucb-bar/libgemmini and riscv-pk"]),
    ],
    ids=["both", "compiler", "spike"],
)
def test_the_probe_names_what_is_missing(
    present: dict[str, str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts(tmp_path / "bin", monkeypatch, **present)
    assert all(part in TARGET.probe() for part in parts)


COMPILER = shutil.which(toolchain.COMPILER)


@simulated
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo \"couldn't find extension 'gemmini'\" >&2; exit 255", "couldn't find extension 'gemmini'"),
        ("echo 'could not open pk; did you misspell it?' >&2; exit 255", "could not open pk"),
        ("exit 0", "its last line is missing"),
        ("kill -11 $$", "died of signal 11"),
    ],
    ids=["extension", "kernel", "silent", "crash"],
)
def test_the_probe_says_what_spike_said(
    body: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "spike").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "spike").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{Path(str(COMPILER)).parent}:/usr/bin:/bin")
    found = TARGET.probe()
    assert found.startswith("spike does not run a program with Gemmini's instructions: ")
    assert reason in found


@simulated
def test_the_probe_runs_a_program() -> None:
    assert TARGET.probe() == ""


EMPTY = Program("int topfive_main(void) { return 0; }", b"data", {})


def test_a_failing_compiler_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "echo 'cc1: out of memory' >&2; exit 4"
    scripts(tmp_path / "bin", monkeypatch, riscv64_linux_gnu_gcc=body)
    with pytest.raises(CompileError, match="exit status 4") as caught:
        toolchain.build(EMPTY, tmp_path, kit("ws"))
    assert "cc1: out of memory" in caught.value.details
    assert "$ riscv64-linux-gnu-gcc -O2 -static" in caught.value.details


def test_a_compiler_without_a_c_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        "echo 'stdint.h:26:10: fatal error: bits/libc-header-start.h: No such file or directory' >&2; exit 1"
    )
    scripts(tmp_path / "bin", monkeypatch, riscv64_linux_gnu_gcc=body)
    with pytest.raises(CompileError, match="no C library: apt-get install libc6-dev-riscv64-cross"):
        toolchain.build(EMPTY, tmp_path, kit("ws"))
    assert "no C library" in TARGET.probe()


OPENED = "int f = topfive_open_output(v[2]); (void)f; char b[9]; (void)b; (void)c;"


@simulated
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("*(volatile int *)8 = 1; topfive_say_done(1);", "died of signal 11|exit status"),
        ("return 7;", "exit status 7"),
        ("return 0;", "its last line is missing"),
        ("topfive_say_done(3);", "it counts 3 images"),
        ("topfive_say_done(1);", "output is truncated: 0 bytes"),
        ('topfive_fail("no luck");', "exit status 3"),
        ('for (;;) asm volatile("");', r"did not end within 3 s"),
    ],
    ids=["segfault", "status", "silent", "miscounted", "nothing", "own_error", "endless"],
)
def test_a_broken_program_is_no_result(
    body: str, message: str, fire: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "artifact"
    shutil.copytree(fire.path, broken)
    main = f"int topfive_main(int c, char **v) {{ {OPENED} {body} return 0; }}"
    text = f'#include "topfive.h"\nconst int8_t topfive_zeros[1];\n{main}\n'
    whole = kit("ws")
    few = tuple(path for path in whole.sources if path.name in spike.CHECK_FILES)
    toolchain.build(Program(text, b"data", {}), broken, replace(whole, sources=few))
    monkeypatch.setenv("TOPFIVE_SPIKE_SECONDS", "3" if "asm" in body else "60")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runner = TARGET.open(replace(fire, path=broken), threads=1)
    with pytest.raises(RunError, match=message) as caught:
        runner.run(pictures("pocket_fire", 1))
    kept = Path(caught.value.details.rpartition("input kept in ")[2])
    assert (kept / "input.bin").stat().st_size == 3 * 64 * 64 * 4
    assert str(broken) in caught.value.details
    if "truncated" not in message:
        assert "spike --extension=gemmini pk -p " in caught.value.details
    assert "Gemmini extension configured" not in caught.value.details
    if "luck" in body:
        assert "topfive program: no luck" in caught.value.details


@emulated
def test_a_misuse_of_gemmini_is_told(fire: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fence that is missing: the executable with its fences taken out, which spike would not notice."""
    broken = tmp_path / "artifact"
    shutil.copytree(fire.path, broken)
    program = broken / toolchain.PROGRAM
    content = program.read_bytes()
    assert content.count(bytes.fromhex("0f00f00f")) > 3
    program.write_bytes(content.replace(bytes.fromhex("0f00f00f"), bytes.fromhex("13000000")))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runner = TARGET.open(replace(fire, path=broken), threads=1)
    with pytest.raises(RunError, match="exit status 70") as caught:
        runner.run(pictures("pocket_fire", 1))
    assert "with no fence between" in caught.value.details


@simulated
def test_a_simulator_that_disappears_is_named(
    fire: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runner = TARGET.open(fire, threads=1)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RunError, match="spike with the extension 'gemmini' is not installed"):
        runner.run(pictures("pocket_fire", 1))


def test_modes_and_dataflows_that_it_has_not_are_refused() -> None:
    assert "int8 build" in TARGET.refuses("force_float32")
    assert TARGET.refuses("as_is") == TARGET.refuses("int8_dw") == ""
    with pytest.raises(OptionError, match="choose ws, os"):
        TARGET.configured({"dataflow": "rs"})


def test_the_time_limit_follows_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spike.time_limit({"preload": 10**6}, 2) == 60 + 2 * (120 + 200)
    monkeypatch.setenv("TOPFIVE_SPIKE_SECONDS", "7")
    assert spike.time_limit({"preload": 10**6}, 2) == 7
