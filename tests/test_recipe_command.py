"""`topfive calibrate --recipe`, `topfive build --recipe`, and the committed file that a build takes up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import topfive
from topfive.cards import fixtures_root
from topfive.cli import app
from topfive.errors import CalibrateError, CardError, TopfiveError
from topfive.quantize.adjustments import read_adjustments
from topfive.quantize.passes.recipe import recipes
from topfive.targets.gemmini.target import INT8_FILE

CARD = """
name = "mine"
description = "a copy of a bundled model"
tags = ["depthwise"]

[source]
kind = "file"
path = "mine.onnx"

[input]
size = [64, 64]
profile = "pocket64"

[output]
kind = "logits"
classes = 100

[pictures]
set = "pocket100"
count = 8

[calibration]
set = "pocket100"
count = 6
table = "tables/mine.json"
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a card of one's own; its cache is beside it."""
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "mine.toml").write_text(CARD, encoding="utf-8")
    shutil.copyfile(fixtures_root() / "models" / "pocket_mobilenet.onnx", folder / "mine.onnx")
    monkeypatch.setenv("TOPFIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOPFIVE_CARDS", str(folder))
    return folder


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def int8_bytes(quant: str, recipe: str = "") -> bytes:
    artifact = topfive.build("mine", target="gemmini_sim", quant=quant, recipe=recipe)
    return (artifact.path / INT8_FILE).read_bytes()


def test_a_build_takes_up_what_is_written_beside_the_table(mine: Path) -> None:
    plain = int8_bytes("int8")
    result = run("calibrate", "mine", "--recipe", "corrected", "--json")
    place = mine / "tables" / "mine.int8.json"
    said = json.loads(result.stdout)
    assert said["file"] == str(place)
    assert said["written"] is True
    assert said["passes"] == {"correct_bias": {"samples": 4000}}
    found = read_adjustments(place)
    assert found.recipe == "corrected"
    assert found.provenance["pictures"] == 6
    artifact = topfive.build("mine", target="gemmini_sim", quant="int8")
    assert artifact.meta["recipe"] == "corrected"
    changed = (artifact.path / INT8_FILE).read_bytes()
    assert changed != plain
    # The other mode and "plain" do not look at it; the recipe itself gives the same bits.
    assert int8_bytes("int8", "plain") == plain
    assert int8_bytes("int8", "corrected") == changed
    assert "recipe" not in topfive.build("mine", target="gemmini_sim", quant="int8_dw").meta
    assert json.loads(run("calibrate", "mine", "--recipe", "corrected", "--json").stdout)["written"] is False


def test_both_targets_take_the_same_codes(mine: Path) -> None:
    run("calibrate", "mine", "--recipe", "corrected", "--quant", "int8_dw")
    for target in ("cpu", "gemmini_sim"):
        assert topfive.build("mine", target=target, quant="int8_dw").meta["recipe"] == "corrected"


@pytest.mark.slow
def test_auto_says_what_it_chose_and_why(mine: Path) -> None:
    result = run("calibrate", "mine", "--recipe", "auto", "--output", mine / "chosen.json")
    assert "fitted on 3 pictures, judged on 3 others:" in result.stdout
    lines = [line for line in result.stdout.splitlines() if line.startswith("chosen: ")]
    starred = [line.split()[1:3] for line in result.stdout.splitlines() if line.startswith("* ")]
    found = read_adjustments(mine / "chosen.json")
    assert starred == [[found.mode, found.recipe]]
    chosen = found.provenance["chosen"]
    assert lines == [f"chosen: {chosen['reason']}"]
    tried = [recipe.name for recipe in recipes() if recipe.auto]
    wanted = {(mode, name) for mode in ("int8", "int8_dw") for name in tried}
    assert {(c["mode"], c["recipe"]) for c in chosen["candidates"]} == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "standart"], "unknown recipe 'standart'"),
        (["--recipe", "standard", "--quant", "int9"], "int9"),
        (["--recipe", "standard", "--method", "mse"], "only --quant and --output go with it"),
        (["--recipe", "nowhere.toml"], "nowhere.toml"),
        (["--quant", "int8_dw"], "--quant goes with --recipe"),
    ],
    ids=["recipe", "mode", "method", "file", "quant_alone"],
)
def test_wrong_usage(mine: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(TopfiveError, match=message):
        run("calibrate", "mine", *arguments)


def test_a_card_without_a_table_wants_a_place(mine: Path) -> None:
    text = CARD.replace('table = "tables/mine.json"\n', "")
    (mine / "mine.toml").write_text(text, encoding="utf-8")
    with pytest.raises(CardError, match="say where to write with --output"):
        run("calibrate", "mine", "--recipe", "corrected")


def test_files_of_another_model_or_mode_are_refused(mine: Path) -> None:
    run("calibrate", "mine", "--recipe", "corrected")
    place = mine / "tables" / "mine.int8.json"
    shutil.copyfile(place, place.with_name("mine.int8_dw.json"))
    with pytest.raises(CalibrateError, match="holds adjustments for quant mode int8: find them again"):
        int8_bytes("int8_dw")
    document = json.loads(place.read_text(encoding="utf-8"))
    document["provenance"]["model"] = "0" * 64
    place.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(CalibrateError, match=r"another version of the model: .*--recipe corrected"):
        int8_bytes("int8")
    place.write_text("{}", encoding="utf-8")
    with pytest.raises(CalibrateError, match="no file of quantisation parameters"):
        int8_bytes("int8")


def test_a_build_runs_a_recipe_but_cannot_choose_one(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        'name = "own"\ndescription = "mine"\n[equalize]\nobjective = "ranges"\n', encoding="utf-8"
    )
    recipe = tmp_path / "own.toml"
    result = run("build", "mine", "--target", "gemmini_sim", "--quant", "int8", "--recipe", recipe, "--json")
    assert json.loads(result.stdout)["meta"]["recipe"] == "own"
    with pytest.raises(CardError, match="calibrate mine --recipe auto"):
        int8_bytes("int8", "auto")
