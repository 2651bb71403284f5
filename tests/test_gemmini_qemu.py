"""`gemmini_qemu` on whole models, bit for bit against `gemmini_sim`, and what happens when it breaks."""

from __future__ import annotations

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
from topfive.targets.gemmini_qemu import emulator, instructions, toolchain
from topfive.targets.gemmini_qemu.program import Program

BUNDLED = ["pocket_fire", "pocket_mobilenet", "pocket_resnet", "pocket_vit"]
REAL = ["mobilenet_v2_tf2ptq", "squeezenet10_deepcomp"]
FLOAT_ISLANDS = {"pocket_vit"}
TOLERANCE = 1e-4
TARGET = targets.get("gemmini_qemu")
emulated = pytest.mark.skipif(bool(TARGET.probe()), reason=TARGET.probe())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def pictures(model: str, count: int) -> np.ndarray:
    card = find_card(model, load_cards())
    paths = [image.path for image in list_images(card.pictures_folder())[:count]]
    return preprocess_batch(paths, load_profile(card.input.profile), card.input.size)


def compare(model: str, batch: np.ndarray, cache: Path, quant: str = "int8") -> None:
    """Every int8 tensor of the program: exact ones the simulator's bits, all of them their layer's."""
    twin = topfive.build(model, target="gemmini_sim", quant=quant, cache=cache)
    artifact = topfive.build(model, target="gemmini_qemu", quant=quant, cache=cache)
    with topfive.open(twin) as simulated, topfive.open(artifact, threads=1) as program:
        wanted, seen = simulated.tensors(batch), program.tensors(batch)
        last = simulated.exact_outputs(batch)
        for name, codes in program.exact_outputs(batch).items():
            np.testing.assert_array_equal(codes, last.pop(name), strict=True)
        assert last == {}
        logits, expected = program.run(batch), simulated.run(batch)
    int8 = onnx.load(artifact.path / INT8_FILE)
    made = {name for node in int8.graph.node for name in node.output}
    assert made <= set(seen)
    assert sum(seen[name].dtype == np.int8 for name in made) >= 20
    assert [str(m) for m in mismatches(int8, seen, batch)] == []
    # Behind sums of floats, whose last bit is the machine's, a code may differ: the layers above may not.
    if model not in FLOAT_ISLANDS:
        for name in made & set(wanted):
            if seen[name].dtype == np.int8:
                np.testing.assert_array_equal(seen[name], wanted[name], err_msg=name, strict=True)
    np.testing.assert_allclose(logits, expected, rtol=TOLERANCE, atol=TOLERANCE * np.abs(expected).max())


@emulated
@pytest.mark.parametrize("model", BUNDLED)
def test_every_int8_tensor_is_the_simulators(model: str, cache: Path) -> None:
    compare(model, pictures(model, 2), cache)


@emulated
def test_scales_of_channels_are_the_simulators(cache: Path) -> None:
    compare("pocket_mobilenet", pictures("pocket_mobilenet", 1), cache, "int8_dw")


@emulated
@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("model", REAL)
def test_real_networks_are_the_simulators(model: str, cache: Path) -> None:
    compare(model, pictures(model, 1), cache)


@pytest.fixture(scope="module")
def fire(cache: Path) -> Artifact:
    return topfive.build("pocket_fire", target="gemmini_qemu", quant="int8", cache=cache)


@emulated
def test_threads_share_a_batch(fire: Artifact) -> None:
    batch = pictures("pocket_fire", 5)
    with topfive.open(fire, threads=1) as one, topfive.open(fire, threads=3) as three:
        np.testing.assert_array_equal(one.run(batch), three.run(batch))


@emulated
def test_an_already_quantised_model_runs_as_it_is(fire: Artifact, cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "quantised.onnx"
    shutil.copyfile(fire.path / INT8_FILE, file)
    artifact = topfive.build(file, target="gemmini_qemu", quant="as_is", cache=cache)
    batch = pictures("pocket_fire", 1)
    with topfive.open(artifact) as again, topfive.open(fire) as first:
        np.testing.assert_array_equal(again.run(batch), first.run(batch))


@emulated
def test_instructions_are_counted_without_noise(fire: Artifact) -> None:
    counted = fire.meta["instructions_per_image"]
    if isinstance(counted, str):
        pytest.skip(counted)
    program = fire.path / toolchain.PROGRAM
    with topfive.open(fire) as runner:
        description = runner.describe()
    layout = {"input": {"shape": [1, 3, 64, 64], "dtype": "float32"}, "products": 10**7}
    assert counted == instructions.per_image(program, layout) == description["instructions_per_image"]
    # Three products share a multiplication and an addition.
    assert 0.5 < counted / description["products_per_image"] < 4


@emulated
def test_the_program_needs_no_library_and_little_memory(fire: Artifact) -> None:
    with topfive.open(fire) as runner:
        memory = runner.describe()["activation_bytes"]
    int8 = onnx.load(fire.path / INT8_FILE)
    shapes = [
        info.type.tensor_type.shape.dim for info in onnx.shape_inference.infer_shapes(int8).graph.value_info
    ]
    together = sum(int(np.prod([d.dim_value or 1 for d in dims])) for dims in shapes)
    assert memory < together / 2
    assert "-nostdlib" in fire.meta["command"]


@emulated
def test_the_command_makes_the_same_program_again(fire: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "artifact"
    shutil.copytree(fire.path, copy)
    (copy / toolchain.PROGRAM).unlink()
    subprocess.run(shlex.split(fire.meta["command"]), cwd=copy, check=True)
    assert (copy / toolchain.PROGRAM).read_bytes() == (fire.path / toolchain.PROGRAM).read_bytes()


@emulated
def test_a_wrong_code_is_found_at_its_layer(fire: Artifact) -> None:
    """The comparison itself: one changed code in one tensor of the program names that layer."""
    batch = pictures("pocket_fire", 1)
    with topfive.open(fire) as runner:
        seen = runner.tensors(batch)
    int8 = onnx.load(fire.path / INT8_FILE)
    conv = [node for node in int8.graph.node if node.op_type == "QLinearConv"][4]
    seen[conv.output[0]].flat[7] ^= 1
    first = next(mismatches(int8, seen, batch))
    assert conv.name in first.node
    assert first.wrong == 1


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
    ("present", "missing"),
    [
        ({}, ["gcc-riscv64-linux-gnu", "qemu-user"]),
        ({"qemu_riscv64": ""}, ["gcc-riscv64-linux-gnu"]),
        ({"riscv64_linux_gnu_gcc": ""}, ["qemu-user"]),
        ({"riscv64_linux_gnu_gcc": "", "qemu_riscv64_static": ""}, []),
    ],
    ids=["both", "compiler", "emulator", "none"],
)
def test_the_probe_names_the_missing_packages(
    present: dict[str, str], missing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts(tmp_path / "bin", monkeypatch, **present)
    reason = targets.get("gemmini_qemu").probe()
    assert reason.partition("apt-get install ")[2].split() == missing


EMPTY = Program("int topfive_main(void) { return 0; }", b"data", {})


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts(tmp_path / "bin", monkeypatch)
    with pytest.raises(CompileError, match="apt-get install gcc-riscv64-linux-gnu"):
        toolchain.build(EMPTY, tmp_path)


def test_a_failing_compiler_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "echo 'cc1: out of memory' >&2; exit 4"
    scripts(tmp_path / "bin", monkeypatch, riscv64_linux_gnu_gcc=body)
    with pytest.raises(CompileError, match="exit status 4") as caught:
        toolchain.build(EMPTY, tmp_path)
    assert "cc1: out of memory" in caught.value.details
    assert "$ riscv64-linux-gnu-gcc -O3" in caught.value.details


def test_a_compiler_that_makes_nothing_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts(tmp_path / "bin", monkeypatch, riscv64_linux_gnu_gcc="exit 0")
    with pytest.raises(CompileError, match="exit status 0"):
        toolchain.build(EMPTY, tmp_path)


@emulated
def test_the_real_compilers_words_are_shown(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        toolchain.build(replace(EMPTY, text="int topfive_main(void) { return nothing; }"), tmp_path)
    assert "'nothing' undeclared" in str(caught.value).replace("‘", "'").replace("’", "'")


OPENED = "int f = topfive_open_output(v[2]); (void)f; char b[9]; (void)b; (void)c;"


@emulated
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("*(volatile int *)8 = 1; topfive_say_done(1);", "died of signal 11|exit status 139"),
        ("__builtin_trap();", "signal|exit status"),
        ("return 7;", "exit status 7"),
        ("return 0;", "its last line is missing"),
        ("topfive_say_done(3);", "it counts 3 images"),
        ("topfive_say_done(1);", "output is truncated: 0 bytes"),
        ("topfive_write(f, b, 9); topfive_say_done(1);", "output is truncated: 9 bytes"),
        ('topfive_fail("no luck");', "exit status 3"),
        ('for (;;) asm volatile("");', r"did not end within 1\.5 s"),
    ],
    ids=["segfault", "trap", "status", "silent", "miscounted", "nothing", "short", "own_error", "endless"],
)
def test_a_broken_program_is_no_result(
    body: str, message: str, fire: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "artifact"
    shutil.copytree(fire.path, broken)
    main = f"int topfive_main(int c, char **v) {{ {OPENED} {body} return 0; }}"
    text = f'#include "topfive.h"\nconst int8_t topfive_zeros[1];\n{main}\n'
    toolchain.build(Program(text, b"data", {}), broken)
    monkeypatch.setenv("TOPFIVE_QEMU_SECONDS", "1.5")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runner = TARGET.open(replace(fire, path=broken), threads=1)
    with pytest.raises(RunError, match=message) as caught:
        runner.run(pictures("pocket_fire", 1))
    kept = Path(caught.value.details.rpartition("input kept in ")[2])
    assert (kept / "input.bin").stat().st_size == 3 * 64 * 64 * 4
    assert str(broken) in caught.value.details
    if "truncated" not in message:
        assert "$ " in caught.value.details
        assert "qemu-riscv64" in caught.value.details
    if "luck" in body:
        assert "topfive program: no luck" in caught.value.details


@emulated
def test_an_input_that_ends_within_an_image_is_an_error(fire: Artifact, tmp_path: Path) -> None:
    (tmp_path / "short.bin").write_bytes(bytes(1000))
    arguments = [str(tmp_path / "short.bin"), str(tmp_path / "out.bin")]
    with pytest.raises(RunError) as caught:
        emulator.run_program(fire.path / toolchain.PROGRAM, arguments, 0, 20)
    assert "the input ends within an image" in caught.value.details


@emulated
def test_an_emulator_that_disappears_is_named(
    fire: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runner = TARGET.open(fire, threads=1)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RunError, match="apt-get install qemu-user"):
        runner.run(pictures("pocket_fire", 1))


@emulated
def test_a_damaged_layout_is_named(fire: Artifact, tmp_path: Path) -> None:
    (tmp_path / "layout.json").write_text("{")
    with pytest.raises(RunError, match=r"layout\.json"):
        TARGET.open(replace(fire, path=tmp_path))


def test_float_modes_are_refused() -> None:
    assert "int8 build" in TARGET.refuses("force_float32")
    assert TARGET.refuses("as_is") == ""


@pytest.mark.parametrize("given", ["abc", "0", "-1", "inf", "nan"])
@pytest.mark.parametrize("variable", ["TOPFIVE_QEMU_SECONDS", "TOPFIVE_SPIKE_SECONDS"])
def test_a_limit_that_is_no_time_is_refused(
    variable: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, given)
    with pytest.raises(OptionError, match=f"^{variable}={given} is no limit"):
        emulator.given_limit(variable)


def test_a_limit_that_is_given_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPFIVE_QEMU_SECONDS", "1.5")
    assert emulator.time_limit(10**9, 1) == 1.5
    monkeypatch.setenv("TOPFIVE_QEMU_SECONDS", "")
    assert emulator.time_limit(10**9, 1) == 110.0
