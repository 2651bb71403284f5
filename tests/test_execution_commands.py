"""-x, -O, --explain, -d and -s of `topfive run`, --option of `build`, and `topfive gemmini diff`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import topfive
from topfive.cards import fixtures_root
from topfive.cli import app
from topfive.errors import CompileError, OptionError, RunError, TopfiveError
from topfive.sessions import log_level, session_options
from topfive.targets.gemmini.execution import plan
from topfive.targets.gemmini.target import INT8_FILE

import random_int8

PICTURE = fixtures_root() / "pictures" / "pocket100" / "val" / "ILSVRC2012_val_00000001.JPEG"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TOPFIVE_CACHE", str(cache))

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)

    return run


def run_pocket(command: Any, model: str, *arguments: object) -> Result:
    result: Result = command("run", "-m", model, "-i", PICTURE, *arguments)
    return result


@pytest.mark.parametrize("flags", [["-x", "0"], ["-O", "99"], ["-x", "2", "-O", "0"]], ids=" ".join)
def test_x_and_o_choose_gemmini(flags: list[str], command: Any) -> None:
    found = json.loads(run_pocket(command, "pocket_resnet", *flags, "--json").stdout)
    assert (found["target"], found["quant"]) == ("gemmini_sim", "int8")
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    assert found["options"] == {"execution": given.get("-x", "2"), "optimization": given.get("-O", "1")}
    as_it_comes = json.loads(run_pocket(command, "pocket_resnet", "--target", "gemmini_sim", "--json").stdout)
    assert as_it_comes["options"] == {}
    assert found["images"][0]["top5"] == as_it_comes["images"][0]["top5"]


def test_without_x_and_o_nothing_changes(command: Any) -> None:
    found = json.loads(run_pocket(command, "pocket_fire", "--json").stdout)
    assert (found["target"], found["quant"]) == ("cpu", "force_float32")


def test_a_quantised_model_is_taken_as_it_is(command: Any, cache: Path, tmp_path: Path) -> None:
    artifact = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=cache)
    file = tmp_path / "quantised.onnx"
    file.write_bytes((artifact.path / INT8_FILE).read_bytes())
    result = run_pocket(command, str(file), "-p", "pocket64", "-x", "1", "-O", "0", "--json")
    found = json.loads(result.stdout)
    assert (found["target"], found["quant"], result.exit_code) == ("gemmini_sim", "as_is", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-x", "0", "--target", "cpu"], "-x 0 chooses how Gemmini computes, which target cpu does not do"),
        (["-O", "99", "--target", "cpu"], "-O 99 chooses"),
        (["-x", "3"], "'execution' of target gemmini_sim cannot be '3': choose 0, 1, 2"),
        (["-O", "3"], "choose 0, 1, 2, 99"),
        (["-x", "0", "--option", "execution=2"], "-x 0 and --option execution=2 differ"),
        (["--option", "heat=high"], "target cpu has no option 'heat'"),
        (["--explain"], "--explain tells what Gemmini runs and what the CPU: target cpu has no such plan"),
    ],
    ids=["x_cpu", "O_cpu", "x_value", "O_value", "twice", "option", "explain"],
)
def test_options_that_do_not_fit(arguments: list[str], words: str, command: Any) -> None:
    with pytest.raises(OptionError) as caught:
        run_pocket(command, "pocket_fire", *arguments)
    assert words in caught.value.message


def test_output_stationary_is_refused_before_anything_runs(command: Any) -> None:
    with pytest.raises(CompileError) as caught:
        run_pocket(command, "pocket_resnet", "-x", "1", "-O", "0")
    assert "-x 1 -O 0" in caught.value.message
    assert "QLinearAdd" in caught.value.message
    assert "no output-stationary form" in caught.value.message


def test_a_net_without_residual_adds_runs_output_stationary(command: Any) -> None:
    """The imagenet runner's own example: GoogLeNet, -x 1 -O 0."""
    model = "light_inception_v1"
    result = command("build", model, "--target", "gemmini_sim", "--quant", "int8", "--option", "execution=1",
                     "--option", "optimization=0", "--json")  # fmt: skip
    meta = json.loads(result.stdout)["meta"]
    found = meta["execution_plan"]
    assert (found["dataflow"], found["refusals"]) == ("os", [])
    convs = [n for n in found["nodes"] if n["op_type"] == "QLinearConv"]
    assert len(convs) == 57
    assert {n["provider"] for n in convs} == {"Systolic"}
    assert set(meta["modelled_cycles"]) == {"1", "4", "8"}


def test_modelled_cycles_follow_the_mode(cache: Path) -> None:
    cycles = {}
    for execution, optimization in (("0", "99"), ("1", "0"), ("2", "0"), ("2", "99")):
        artifact = topfive.build(
            "pocket_fire",
            target="gemmini_sim",
            quant="int8",
            cache=cache,
            options={"execution": execution, "optimization": optimization},
        )
        cycles[execution, optimization] = artifact.meta["modelled_cycles"]
    assert cycles["0", "99"] == {}
    assert len({json.dumps(found) for found in cycles.values()}) == 4
    assert {found["1"]["ideal"] for found in cycles.values() if found} == {cycles["2", "0"]["1"]["ideal"]}


def test_explain_names_layers_fusions_and_transposes(command: Any) -> None:
    lines = run_pocket(command, "pocket_resnet", "-x", "2", "-O", "99", "--explain").stdout.splitlines()
    assert lines[0] == "-x 2 (weight stationary) -O 99"
    stem = next(line for line in lines if line.startswith("stem.Conv "))
    assert stem.split()[1:3] == ["QLinearConv", "Systolic"]
    assert stem.endswith("LoopConv WS with ReLU with max pool while storing")
    assert any(line.startswith("pool.MaxPool ") and line.endswith("fused into stem.Conv") for line in lines)
    assert sum(line.split()[-1] == "ReorderToNHWC" for line in lines[2:-7]) == 1
    (counts,) = [line for line in lines if " on Systolic, " in line]
    assert counts.startswith("18 nodes on Systolic, 12 fused into them, 5 on the CPU; 1 ReorderTo")
    assert lines[-6] == "Element count 100. Top 5 classes:"


def test_explain_of_build_without_options_says_which_mode_it_is_like(command: Any) -> None:
    build = ("build", "pocket_fire", "--target", "gemmini_sim", "--quant", "int8")
    lines = command(*build, "--explain").stdout.splitlines()
    assert lines[0] == "no -x and -O given; as -x 2 (weight stationary) -O 99"
    assert any("ignore it with -x and -O" in line and "mixed.pool.MaxPool" in line for line in lines)
    assert Path(lines[-1]).is_dir()
    stored = json.loads(command(*build, "--explain", "--json").stdout)["meta"]["execution_plan"]
    assert stored["chosen"] is False
    assert stored["reorders"] == {"ReorderToNHWC": 7, "ReorderToNCHW": 13}


def test_what_is_stored_is_the_plan(cache: Path, command: Any) -> None:
    options = {"execution": "0", "optimization": "2"}
    build = {"target": "gemmini_sim", "quant": "int8", "cache": cache, "options": options}
    artifact = topfive.build("pocket_fire", **build)
    found = plan(onnx.load(artifact.path / INT8_FILE), "0", "2")
    stored = {**json.loads(json.dumps(found.described())), "chosen": True}
    assert json.loads(json.dumps(artifact.meta["execution_plan"])) == stored
    arguments = ("-x", "0", "-O", "2", "--explain", "--json")
    assert json.loads(run_pocket(command, "pocket_fire", *arguments).stdout)["execution_plan"] == stored


def test_save_model_writes_what_runs(command: Any, tmp_path: Path) -> None:
    out = tmp_path / "saved.onnx"
    flags = ("-x", "0", "-O", "99", "-s", out, "--json")
    found = json.loads(run_pocket(command, "pocket_fire", *flags).stdout)
    saved = onnx.load(out)
    said = {prop.key: prop.value for prop in saved.metadata_props}
    assert (said["topfive.execution"], said["topfive.optimization"]) == ("0", "99")
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 64, 64]
    assert found["target"] == "gemmini_sim"


def test_save_model_to_nowhere(command: Any, tmp_path: Path) -> None:
    with pytest.raises(TopfiveError, match="cannot be written"):
        run_pocket(command, "pocket_fire", "-s", tmp_path / "no" / "folder.onnx")


def test_save_model_of_a_target_without_one(cache: Path, tmp_path: Path) -> None:
    from topfive.commands.explain import save_model

    artifact = topfive.build("pocket_fire", target="cpu", quant="int8", cache=cache)
    empty = tmp_path / "artifact"
    empty.mkdir()
    moved = type(artifact)(empty, artifact.key, artifact.model, "elsewhere", "int8", artifact.meta)
    with pytest.raises(RunError, match="elsewhere runs no ONNX model"):
        save_model(moved, tmp_path / "x.onnx")


def test_the_log_level_holds_inside_and_ends_outside() -> None:
    assert session_options(threads=1).log_severity_level == 3
    with log_level(0):
        assert session_options(threads=1).log_severity_level == 0
        with log_level(4):
            assert session_options(threads=1).log_severity_level == 4
        assert session_options(threads=1).log_severity_level == 0
    assert session_options(threads=1).log_severity_level == 3


@pytest.mark.parametrize(("level", "talks"), [("1", True), ("4", False)], ids=["info", "fatal"])
def test_debug_makes_onnxruntime_talk(level: str, talks: bool, cache: Path) -> None:
    """ONNX Runtime logs to the process's own standard error: a process of its own."""
    arguments = ["run", "-m", "pocket_fire", "-i", str(PICTURE), "-x", "2", "-d", level]
    done = subprocess.run(
        [sys.executable, "-m", "topfive", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TOPFIVE_CACHE": str(cache)},
    )
    assert ("onnxruntime" in done.stderr) is talks
    assert done.stdout.startswith("Element count 100.")


def test_a_batch_list_takes_the_modes_too(command: Any, tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "a.JPEG").write_bytes(PICTURE.read_bytes())
    batch = tmp_path / "batch.txt"
    batch.write_text(f"{folder / 'a.JPEG'}\n")
    result = command("run", "-m", "pocket_fire", "-i", batch, "-x", "1", "-O", "2", "--explain")
    assert result.stdout.startswith("-x 1 (output stationary) -O 2\n")
    assert result.stdout.splitlines()[-3] == "Finished batch"


# topfive gemmini diff


@pytest.fixture(scope="module")
def negative(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a model with a padded max pool over a negative map, a picture for it)."""
    folder = tmp_path_factory.mktemp("negative")
    picture = folder / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(picture)
    return random_int8.negative_pool_file(folder), picture


def gemmini_diff(command: Any, *arguments: object) -> Result:
    result: Result = command("gemmini", "diff", *arguments)
    return result


def test_modes_that_compute_the_same_are_equal(command: Any) -> None:
    result = gemmini_diff(command, "-m", "pocket_resnet", "--x", "0,2", "--O", "0,99", "-i", PICTURE)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"{mode} against -x 0 -O 0" for mode in ("-x 0 -O 99", "-x 2 -O 0", "-x 2 -O 99")
    ]
    assert all("int8 tensors are equal" in line for line in lines)


def test_modes_that_differ_say_where_and_why(command: Any, negative: tuple[Path, Path]) -> None:
    model, picture = negative
    arguments = ("-m", model, "-i", picture, "--O", "1,99", "--x", "0,2")
    result = gemmini_diff(command, *arguments)
    assert result.exit_code == 1
    assert "-x 0 -O 99 against -x 0 -O 1: 3 of 5 int8 tensors differ" in result.stdout
    assert "-x 2 -O 1 against -x 0 -O 1: all " in result.stdout
    lines = result.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("first "))
    assert lines[at].startswith("first p_quantized[0, 0, 0, 0]: 0 instead of -")
    assert lines[at + 1] == "  -x 0 -O 1: pool, CPU: max pools are fused at -O 99 only"
    assert lines[at + 2] == "  -x 0 -O 99: conv, Systolic: conv_cpu with max pool while storing"
    found = json.loads(gemmini_diff(command, *arguments, "--json").stdout)
    first, _, second = found["modes"]
    assert first["differences"][0]["tensor"] == "p_quantized"
    assert first["differences"] == second["differences"]
    assert [row["tensor"] for row in first["differences"]] == [
        "p_quantized",
        "f_quantized",
        "scores_quantized",
    ]
    assert first["output_max_difference"] > 0


@pytest.mark.parametrize(
    ("modes", "words"),
    [
        (["--x", "0"], "is one mode"),
        (["--x", "0,0"], "names a mode twice"),
        (["--x", "0,5"], "cannot be '5': choose 0, 1, 2"),
        (["--x", "0,"], "cannot be ''"),
        (["--O", "0,1,3"], "choose 0, 1, 2, 99"),
    ],
    ids=["one", "twice", "value", "empty", "level"],
)
def test_modes_that_are_none(modes: list[str], words: str, command: Any) -> None:
    with pytest.raises(OptionError) as caught:
        gemmini_diff(command, "-m", "pocket_fire", "-i", PICTURE, *modes)
    assert words in caught.value.message


def test_a_mode_that_the_runner_cannot_run_is_refused_with_its_reason(command: Any) -> None:
    with pytest.raises(CompileError, match="residual addition has no output-stationary form"):
        gemmini_diff(command, "-m", "pocket_resnet", "-i", PICTURE, "--x", "0,1")
