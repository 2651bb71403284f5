"""The command line, in process: exit codes, first lines, the seed's output, JSON."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import topfive
from topfive.cards import fixtures_root, load_cards
from topfive.cli import main
from topfive.commands.run import runner_text
from topfive.images import load_profile, preprocess
from topfive.targets.gemmini.target import INT8_FILE

PICTURE = "ILSVRC2012_val_00000001.JPEG"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("artifact_cache")


@pytest.fixture
def command(monkeypatch, capsys, cache):
    """Run `topfive ARGUMENTS`: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setenv("TOPFIVE_CACHE", str(cache))
        monkeypatch.delenv("TOPFIVE_CARDS", raising=False)
        monkeypatch.setattr(sys, "argv", ["topfive", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return run


def picture():
    return fixtures_root() / "pictures" / "pocket100" / "val" / PICTURE


def test_run_prints_the_seeds_form_with_the_best_last(command):
    code, out, _ = command("run", "-m", "pocket_fire", "-i", picture(), "-p", "pocket64")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "Element count 100. Top 5 classes:"
    assert len(lines) == 6
    assert all(re.fullmatch(r"-?\d+\.\d{6} \w+ \w+ \w+", line) for line in lines[1:])
    card = load_cards()["pocket_fire"]
    batch = preprocess(picture(), load_profile("pocket64"), (64, 64))[None]
    with topfive.open(topfive.build("pocket_fire", target="cpu", quant="force_float32")) as runner:
        best = topfive.top5(runner.run(batch), card.labels())
    assert lines[-1] == f"{best[0][2]:f} {best[0][1]}"
    scores = [float(line.split()[0]) for line in lines[1:]]
    assert scores == sorted(scores)


def test_runner_text_is_exact():
    best = [(208, "Labrador retriever", 0.961574), (205, "flat-coated", 0.01336), (7, "", 1e-9)]
    assert runner_text(1000, best) == (
        "Element count 1000. Top 3 classes:\n0.000000 7\n0.013360 flat-coated\n0.961574 Labrador retriever\n"
    )


def test_run_as_json_with_several_pictures(command):
    code, out, _ = command(
        "run",
        "-m",
        "pocket_fire",
        "-i",
        picture(),
        "-i",
        picture(),
        "--target",
        "gemmini_sim",
        "--quant",
        "int8",
        "--json",
    )
    found = json.loads(out)
    assert code == 0
    assert (found["target"], found["quant"], found["profile"]) == ("gemmini_sim", "int8", "pocket64")
    assert len(found["images"]) == 2
    assert found["images"][0]["top5"] == found["images"][1]["top5"]
    assert len(found["images"][0]["top5"]) == 5


def test_run_takes_an_onnx_file(command):
    model = fixtures_root() / "models" / "pocket_fire.onnx"
    code, out, _ = command("run", "-m", model, "-i", picture(), "-p", "pocket64")
    assert code == 0
    assert out.startswith("Element count 100. Top 5 classes:\n")


def test_build_prints_the_artifacts_folder_and_stages_go_to_stderr(command, cache):
    code, out, _ = command("build", "pocket_fire", "--target", "cpu", "--quant", "force_float16")
    assert code == 0
    assert topfive.open(out.strip()).artifact.quant == "force_float16"
    assert out.startswith(str(cache))
    code, out, err = command("build", "pocket_fire", "--target", "cpu", "--quant", "force_float16", "--json")
    assert code == 0
    assert err == ""
    assert json.loads(out)["meta"]["input"]["shape"][1:] == [3, 64, 64]


def test_targets(command):
    code, out, _ = command("targets")
    assert code == 0
    assert re.search(r"^cpu: runs here; force_float32, ", out, re.MULTILINE)
    assert re.search(r"^gemmini_sim: runs here; .*simulated: ", out, re.MULTILINE)
    code, out, _ = command("targets", "--json")
    assert {row["name"] for row in json.loads(out)} >= {"cpu", "gemmini_sim"}


def test_targets_that_cannot_run_say_why(command, monkeypatch):
    monkeypatch.setattr("topfive.targets.cpu.CpuTarget.probe", lambda self: "no such device")
    assert "cpu: cannot run here: no such device" in command("targets")[1]


def test_models_by_tag_and_by_name(command):
    code, out, _ = command("models", "--tags", "bundled", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["name"] for row in rows] == ["pocket_fire", "pocket_mobilenet", "pocket_resnet", "pocket_vit"]
    assert rows[0]["published"]["top1"] is None or rows[0]["published"]["top1"] > 0.5
    assert command("models", "light_*50")[1].startswith("light_resnet50 (light, residual, resnet, ")
    assert command("models", "--tags", "light,depthwise")[1].count("\n") == 1


BAD = {
    "model": (["run", "-m", "pocket_resnt", "-i", "x.jpg"], "unknown model 'pocket_resnt'", "pocket_resnet"),
    "target": (
        ["build", "pocket_fire", "--target", "gemini_sim", "--quant", "int8"],
        "unknown target",
        "gemmini_sim",
    ),
    "quant": (["build", "pocket_fire", "--target", "cpu", "--quant", "int9"], "unknown quant mode", "int8"),
    "profile": (["run", "-m", "pocket_fire", "-i", "x.jpg", "-p", "cafe2"], "unknown profile", "caffe2"),
    "refused": (
        ["build", "pocket_fire", "--target", "gemmini_sim", "--quant", "force_float32"],
        "int8 build",
        "",
    ),
    "no_picture": (["run", "-m", "pocket_fire", "-i", "nowhere.jpg"], "nowhere.jpg", ""),
    "no_file": (["build", "nowhere.onnx", "--target", "cpu", "--quant", "int8"], "nowhere.onnx", ""),
    "cards": (["models", "--cards", "nowhere"], "card folder nowhere does not exist", ""),
    "tag": (["models", "--tags", "bundeld"], "unknown tag 'bundeld'", "bundled"),
    "name": (["models", "pocket_resnt"], "unknown model 'pocket_resnt'", "pocket_resnet"),
    "layout": (
        ["run", "-m", "pocket_fire", "-i", "PICTURE", "-p", "mlperf_tflite"],
        "profile 'mlperf_tflite'",
        "",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_exit_code_2(command, case):
    arguments, words, nearest = BAD[case]
    code, out, err = command(*(str(picture()) if a == "PICTURE" else a for a in arguments))
    assert code == 2
    assert out == ""
    message = next(line for line in err.splitlines() if line.startswith("topfive: "))
    assert words in message
    assert nearest in message
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [["bild"], ["run"], ["build", "pocket_fire"], ["run", "--threads", "0"]], ids=" ".join
)
def test_bad_usage_is_exit_code_2(command, arguments):
    code, _, err = command(*arguments)
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("target", "quant"), [("cpu", "force_float32"), ("gemmini_sim", "int8")], ids=["float32", "int8"]
)
def test_build_without_a_quant_mode_takes_that_of_run(command, target, quant):
    code, out, _ = command("build", "pocket_fire", "--target", target, "--json")
    assert code == 0
    assert json.loads(out)["quant"] == quant


def test_build_without_a_quant_mode_takes_a_quantised_model_as_it_is(command, tmp_path):
    artifact = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=tmp_path / "cache")
    quantised = tmp_path / "quantised.onnx"
    shutil.copy(artifact.path / INT8_FILE, quantised)
    code, out, _ = command("build", quantised, "--target", "gemmini_sim", "--json")
    assert code == 0
    assert json.loads(out)["quant"] == "as_is"


def test_a_picture_that_is_none_leaves_nothing_half_printed(command, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "fine.png")
    code, _, err = command("run", "-m", "pocket_fire", "-i", broken)
    assert code == 2
    assert str(broken) in err


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "topfive", "targets", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)


def test_help_loads_no_runtime():
    code = (
        "import sys; sys.argv = ['topfive', '--help']\n"
        "from topfive.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'onnx', 'onnxruntime', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
