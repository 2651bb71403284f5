"""`topfive scales`, and the calibration options of `topfive calibrate` and `topfive.build`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

import topfive
from topfive.cards import find_card, fixtures_root, load_cards
from topfive.cli import app
from topfive.errors import CalibrateError, CardError, ImageError, TopfiveError, UnknownNameError
from topfive.quantize.ranges import read_ranges, write_ranges
from topfive.quantize.scales import parse_cache, read_table, write_cache

NAME = "pocket_fire"
TABLE = fixtures_root() / "calibration" / f"{NAME}.json"
SIZE = 72


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One artifact cache for the module: the model is optimised once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten pictures, one of them damaged, and two lists."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(9):
        Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(folder / f"p{i}.png")
    (folder / "p9.png").write_bytes((folder / "p0.png").read_bytes()[:200])
    (tmp_path / "good.txt").write_text("".join(f"p{i}.png\t{i}\n" for i in (4, 0, 2)))
    (tmp_path / "bad.txt").write_text("p1.png\np9.png\np3.png\n")
    return folder


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def calibrated(cache: Path, *options: object) -> dict:
    return json.loads(invoke("calibrate", NAME, "--artifact-cache", cache, "--json", *options))


def test_every_form_of_one_calibration_says_the_same(cache: Path, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("t.json", "t.cache", "t.onnx")]
    exports = [part for place in places for part in ("--export", place)]
    said = calibrated(cache, "--method", "entropy", "--symmetric", "--count", 12, "--seed", 1, *exports)
    assert said["exports"] == [str(place) for place in places]
    assert (said["method"], said["symmetric"], said["pictures"]) == ("entropy", True, 12)
    assert len(said["list"]) == 12
    for place in places[1:]:
        assert invoke("scales", "diff", places[0], place).startswith("51 tensors in both, 0 beyond")
    assert places[1].read_text().startswith("TRT-8601-EntropyCalibration2\ninput: ")
    # Through the Q/DQ model and back, the cache's bytes return.
    invoke("scales", "convert", places[2], tmp_path / "back.json")
    invoke("scales", "convert", places[1], tmp_path / "q.onnx", "--model", NAME, "--artifact-cache", cache)
    invoke("scales", "convert", tmp_path / "q.onnx", tmp_path / "back.cache")
    assert (tmp_path / "back.cache").read_bytes() == places[1].read_bytes()
    assert read_ranges(tmp_path / "back.json").ranges == read_ranges(places[0]).ranges


def test_a_cache_is_imported_exported_and_used(cache: Path, tmp_path: Path) -> None:
    table = read_ranges(TABLE)
    source, again = tmp_path / "a.cache", tmp_path / "b.cache"
    text = write_cache(table, header="0 3ff0000000000000 3fefffb8b26394fb").decode().upper()
    lines = text.splitlines()
    names = write_cache(table).decode().splitlines()
    # Digits in capitals, and no newline at the end: forms that must survive.
    mixed = [
        a.rpartition(":")[0] + ":" + b.rpartition(":")[2] for a, b in zip(names[1:], lines[1:], strict=True)
    ]
    source.write_text("\n".join(["0 3ff0000000000000 3fefffb8b26394fb", *mixed]))
    model = tmp_path / "q.onnx"
    said = calibrated(cache, "--import", source, "--export", again, "--output-model", model)
    assert again.read_bytes() == source.read_bytes()
    assert said["imported"][0] == "a.cache"
    assert said["quantile"] == 0.999966
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    bound = max(map(abs, table.ranges["input"]))
    assert scales["input_quantized.scale"] == np.float32(bound / 127)


def test_a_cache_of_another_model_is_refused_unless_partial(cache: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.cache"
    data = write_cache(read_ranges(TABLE)) + b"(Unnamed Layer* 9) [Shuffle]_output: 0\nfire1.Concat.outs: 1\n"
    foreign.write_bytes(data)
    options = ("--import", foreign, "--export", tmp_path / "t.json")
    with pytest.raises(CalibrateError, match="2 of its 53 tensors are not in pocket_fire") as error:
        calibrated(cache, *options)
    assert "fire1.Concat.outs   (nearest: fire1.Concat.out" in error.value.details
    said = calibrated(cache, *options, "--partial")
    assert said["left_out"] == ["(Unnamed Layer* 9) [Shuffle]_output", "fire1.Concat.outs"]
    assert len(read_ranges(tmp_path / "t.json").ranges) == 51


def test_a_list_and_a_draw_choose_the_pictures(cache: Path, pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    options = ("--dataset", pictures, "--output", table)
    said = calibrated(cache, *options, "--cal-map", tmp_path / "good.txt")
    assert [name for name, _ in said["list"]] == ["p4.png", "p0.png", "p2.png"]
    assert read_ranges(table).provenance["list"] == said["list"]
    draws = [
        [name for name, _ in calibrated(cache, *options, "--skip-bad", "--count", 4, "--seed", seed)["list"]]
        for seed in (5, 5, 6)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert all(len(set(draw)) == 4 for draw in draws)


def test_a_damaged_picture_is_named_or_left_out(cache: Path, pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    options = ("--dataset", pictures, "--output", table, "--cal-map", tmp_path / "bad.txt")
    with pytest.raises(ImageError, match=r"p9\.png.*\(calibration picture 2 of 3\); --skip-bad"):
        calibrated(cache, *options)
    assert not table.exists()
    said = calibrated(cache, *options, "--skip-bad")
    assert said["pictures"] == 2
    assert [Path(name).name for name in said["skipped"]] == ["p9.png"]


def test_a_list_of_missing_pictures_is_refused(cache: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("p0.png\nx.png\ny.png\n")
    options = ("--dataset", pictures, "--output", tmp_path / "t.json", "--cal-map", tmp_path / "gone.txt")
    with pytest.raises(ImageError, match=r"gone\.txt, line 2: .*x\.png and 1 more of 3 missing"):
        calibrated(cache, *options)


def test_calibration_pictures_among_the_validation_pictures_are_said(
    cache: Path, pictures: Path, tmp_path: Path
) -> None:
    validation = tmp_path / "validation"
    validation.mkdir()
    shutil.copy(pictures / "p4.png", validation / "another_name.png")
    result = CliRunner().invoke(
        app,
        [
            *("calibrate", NAME, "--artifact-cache", str(cache), "--dataset", str(pictures)),
            *("--cal-map", str(tmp_path / "good.txt"), "--output", str(tmp_path / "t.json")),
            *("--validation", str(validation)),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert "1 calibration pictures are also in" in result.stderr
    assert "p4.png" in result.stderr


def test_another_method_needs_a_place_of_its_own(cache: Path) -> None:
    with pytest.raises(CardError, match="--output or --export"):
        calibrated(cache, "--method", "mse")
    with pytest.raises(UnknownNameError, match="did you mean entropy"):
        calibrated(cache, "--method", "entropi", "--export", "x.json")
    with pytest.raises(CalibrateError, match="suffix"):
        calibrated(cache, "--export", "x.table")
    with pytest.raises(CardError, match="--seed draws as many as --count says"):
        calibrated(cache, "--dataset", "x", "--seed", 3)


def test_the_method_is_part_of_the_artifact(cache: Path) -> None:
    build = {"target": "cpu", "quant": "int8", "cache": cache}
    keys = {
        name: topfive.build(NAME, **build, calibration=name).key for name in ("", "minmax", "entropy", "mse")
    }
    assert keys[""] == keys["minmax"] == topfive.build(NAME, **build).key
    assert len(set(keys.values())) == 3
    with pytest.raises(UnknownNameError, match="calibration method"):
        topfive.build(NAME, **build, calibration="max")
    options = ("--target", "cpu", "--quant", "int8", "--artifact-cache", cache, "--json")
    assert json.loads(invoke("build", NAME, *options, "--calibration", "mse"))["key"] == keys["mse"]


@pytest.fixture
def own_card(tmp_path: Path) -> Path:
    """A copy of the bundled card whose table is a copy too."""
    folder = tmp_path / "cards"
    folder.mkdir()
    text = find_card(NAME, load_cards()).path.read_text()
    text = text.replace(f'name = "{NAME}"', 'name = "mine"').replace('kind = "bundled"', 'kind = "file"')
    text = text.replace(f"models/{NAME}.onnx", str(fixtures_root() / "models" / f"{NAME}.onnx"))
    text = text.replace(f"calibration/{NAME}.json", "mine.json")
    (folder / "mine.toml").write_text(text)
    shutil.copy(TABLE, folder / "mine.json")
    return folder


@pytest.mark.parametrize("key", ['method = "entropy"', "symmetric = true"], ids=["method", "symmetric"])
def test_a_table_of_another_method_than_the_cards_is_refused(own_card: Path, cache: Path, key: str) -> None:
    card = own_card / "mine.toml"
    card.write_text(card.read_text().replace('table = "mine.json"', f'table = "mine.json"\n{key}'))
    with pytest.raises(CalibrateError, match=r"calibrated by 'minmax', not as the card says.*calibrate mine"):
        topfive.build("mine", target="cpu", quant="int8", cards=[own_card], cache=cache)
    before = (own_card / "mine.json").read_bytes()
    options = ("--cards", own_card, "--artifact-cache", cache, "--json")
    assert json.loads(invoke("calibrate", "mine", *options))["written"]
    assert (own_card / "mine.json").read_bytes() != before
    assert topfive.build("mine", target="cpu", quant="int8", cards=[own_card], cache=cache).key


def test_a_card_can_name_a_list_and_a_seed(
    own_card: Path, cache: Path, pictures: Path, tmp_path: Path
) -> None:
    card = own_card / "mine.toml"
    text = card.read_text()
    head, _, _ = text.partition("[calibration]")
    lines = ["[calibration]", f'set = "folder:{pictures}"', "count = 2", f'map = "{tmp_path / "good.txt"}"']
    card.write_text(head + "\n".join([*lines, "seed = 3", ""]))
    out = tmp_path / "t.json"
    options = ("--cards", own_card, "--artifact-cache", cache, "--json", "--output", out)
    said = json.loads(invoke("calibrate", "mine", *options))
    assert len(said["list"]) == 2
    assert {name for name, _ in said["list"]} < {"p4.png", "p0.png", "p2.png"}


def test_show_prints_what_a_cache_holds(tmp_path: Path) -> None:
    place = tmp_path / "c.cache"
    place.write_text(
        "0 3ff0000000000000 3fefffb8b26394fb\n335: 3d418306\n(Unnamed Layer* 4) [Shuffle]_output: 0"
    )
    text = invoke("scales", "show", place)
    assert "header: 0 3ff0000000000000 3fefffb8b26394fb" in text
    assert "quantile: 0.999966" in text
    assert "3d418306  335" in text
    assert "1 scales are zero" in text
    said = json.loads(invoke("scales", "show", place, "--json"))
    assert said["tensors"]["335"]["high"] == pytest.approx(6.0, rel=1e-6)
    assert said["zero"] == ["(Unnamed Layer* 4) [Shuffle]_output"]


def test_diff_sorts_by_ratio_and_exits_with_one(tmp_path: Path) -> None:
    left, right = tmp_path / "l.cache", tmp_path / "r.cache"
    left.write_text("TRT-8601-EntropyCalibration2\na: 3f800000\nb: 3f800000\nc: 3f800000\nx: 1\n")
    right.write_text("TRT-8601-MinMaxCalibration\na: 3f800001\nb: 40000000\nc: 3f800000\ny: 1\n")
    lines = invoke("scales", "diff", left, right, code=1).splitlines()
    assert lines[0] == "3 tensors in both, 2 beyond a tolerance of 0"
    assert [line.split()[-1] for line in lines[2:4]] == ["b", "a"]
    assert lines[4:] == [f"only in {left}: 1 tensors", "  x", f"only in {right}: 1 tensors", "  y"]
    said = json.loads(invoke("scales", "diff", left, right, "--tolerance", 0.1, "--json", code=1))
    assert [row["tensor"] for row in said["beyond"]] == ["b"]
    assert (said["only_left"], said["only_right"]) == (["x"], ["y"])
    assert json.loads(invoke("scales", "diff", left, left, "--json"))["equal"]


def test_convert_gives_a_cache_the_header_that_is_asked_for(tmp_path: Path) -> None:
    write_ranges(read_ranges(TABLE), tmp_path / "t.json")
    out = tmp_path / "t.cache"
    invoke("scales", "convert", tmp_path / "t.json", out)
    assert out.read_text().startswith("TRT-8601-MinMaxCalibration\n")
    invoke("scales", "convert", tmp_path / "t.json", out, "--tensorrt", "10.3.0")
    assert out.read_text().startswith("TRT-100300-MinMaxCalibration\n")
    invoke("scales", "convert", tmp_path / "t.json", out, "--header", "TRT-7203-EntropyCalibration2")
    assert parse_cache(out.read_bytes(), "c").method == "entropy"
    with pytest.raises(TopfiveError, match="three numbers"):
        invoke("scales", "convert", tmp_path / "t.json", out, "--tensorrt", "10")
    assert read_table(out).ranges.keys() == read_ranges(TABLE).ranges.keys()
