"""`topfive calibrate` and committed range tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import topfive
from topfive.cards import find_card, fixtures_root, load_cards
from topfive.cli import app
from topfive.errors import CalibrateError, CardError

BUNDLED = ["pocket_fire", "pocket_mobilenet", "pocket_resnet", "pocket_vit"]


@pytest.fixture
def own_card(tmp_path: Path) -> Path:
    """A copy of a bundled card in a folder of its own, with a table beside it."""
    folder = tmp_path / "cards"
    folder.mkdir()
    text = find_card("pocket_fire", load_cards()).path.read_text()
    text = text.replace('name = "pocket_fire"', 'name = "mine"').replace('kind = "bundled"', 'kind = "file"')
    text = text.replace("models/pocket_fire.onnx", str(fixtures_root() / "models" / "pocket_fire.onnx"))
    text = text.replace("calibration/pocket_fire.json", "mine.json").replace(
        "count = 100\ntable", "count = 6\ntable"
    )
    (folder / "mine.toml").write_text(text)
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_is_written_where_the_card_says_and_used(own_card: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = ("--cards", own_card, "--artifact-cache", cache)
    assert "mine.json: written" in run("calibrate", "mine", *options)
    assert "mine.json: unchanged" in run("calibrate", "mine", *options)
    build = {"target": "cpu", "quant": "int8", "cards": [own_card], "cache": cache}
    before = topfive.build("mine", **build).key
    table = own_card / "mine.json"
    stored = json.loads(table.read_text())
    tensor = next(name for name in stored["ranges"] if name.endswith("Conv.out"))
    stored["ranges"][tensor] = [(-50.0).hex(), (50.0).hex()]
    table.write_text(json.dumps(stored))
    assert topfive.build("mine", **build).key != before


def test_a_table_of_other_weights_is_refused(own_card: Path, tmp_path: Path) -> None:
    shutil.copy(fixtures_root() / "calibration" / "pocket_resnet.json", own_card / "mine.json")
    with pytest.raises(CalibrateError, match=r"another version of the model.*topfive calibrate mine"):
        topfive.build("mine", target="cpu", quant="int8", cards=[own_card], cache=tmp_path / "cache")


def test_without_a_table_on_the_card_an_output_is_needed(own_card: Path, tmp_path: Path) -> None:
    card = own_card / "mine.toml"
    card.write_text(card.read_text().replace('table = "mine.json"', ""))
    options = ("mine", "--cards", own_card, "--artifact-cache", tmp_path / "cache")
    with pytest.raises(CardError, match="--output"):
        run("calibrate", *options)
    assert "written" in run("calibrate", *options, "-o", tmp_path / "other" / "ranges.json")


@pytest.mark.parametrize("model", BUNDLED)
def test_committed_tables_are_of_the_committed_models(model: str) -> None:
    card = find_card(model, load_cards())
    table = card.calibration_table()
    assert table is not None
    assert json.loads(table.read_text())["provenance"]["model"] == card.source.sha256
