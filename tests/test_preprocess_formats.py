"""`topfive preprocess --profile`: the formats of the MLPerf TensorRT harness, and stale files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from topfive.cli import app
from topfive.errors import CardError, ImageError, TopfiveError
from topfive.images import load_profile
from topfive.images.preprocessed import MANIFEST, write_preprocessed

NAMES = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in range(1, 5)]
SCALE = np.float32(struct.unpack("!f", bytes.fromhex("3caa5293"))[0])
INSIDE = Path("imagenet", "ResNet50")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """build/data/imagenet with four pictures, and data_maps/imagenet beside it."""
    random = np.random.default_rng(0)
    folder = tmp_path / "data" / "imagenet"
    folder.mkdir(parents=True)
    for i, name in enumerate(NAMES):
        pixels = random.integers(0, 256, (230 + 10 * i, 260, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name, quality=90)
    maps = tmp_path / "data_maps" / "imagenet"
    maps.mkdir(parents=True)
    (maps / "val_map.txt").write_text("".join(f"{name}\t{65 + i}\n" for i, name in enumerate(NAMES[:3])))
    (maps / "cal_map.txt").write_text(f"{NAMES[3]}\n{NAMES[1]}\t14\n")
    return tmp_path


def run(data: Path, *options: object) -> list[dict]:
    command = ["preprocess", "--input", data / "data", "--output", data / "out", "--data-maps"]
    command += [data / "data_maps", "--profile", "alibaba_202_176", "--json", *options]
    result = CliRunner().invoke(app, [str(part) for part in command], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def stored(data: Path, name: str, kind: str) -> np.ndarray:
    return np.load(data / "out" / INSIDE / kind / f"{name}.npy")


def expected(path: Path) -> np.ndarray:
    """The harness's fp32, written out: Pillow, shorter side 202, centre 176, torch constants."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(202 * width / short), int(202 * height / short)), Image.Resampling.BILINEAR)
    left, top = (round((side - 176) / 2.0) for side in image.size)
    x = np.asarray(image.crop((left, top, left + 176, top + 176)), np.float32) / np.float32(255)
    x = (x - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    return x.transpose(2, 0, 1)


def test_each_format_holds_what_the_harness_writes(data: Path) -> None:
    run(data, "--formats", "fp32,int8_linear,int8_chw4")
    for name in NAMES[:3]:
        fp32 = stored(data, name, "fp32")
        assert fp32.dtype == np.float32
        assert np.array_equal(fp32, expected(data / "data" / "imagenet" / name))
        # astype(int8) drops the fraction.
        linear = np.clip(fp32 / SCALE, -127, 127).astype(np.int8)
        assert np.array_equal(stored(data, name, "int8_linear"), linear)
        nhw4 = np.moveaxis(np.pad(linear, ((0, 1), (0, 0), (0, 0))), -3, -1)
        found = stored(data, name, "int8_chw4")
        assert found.shape == (176, 176, 4)
        assert found.dtype == np.int8
        assert np.array_equal(found, nhw4)
    assert np.array_equal(stored(data, NAMES[3], "fp32"), expected(data / "data" / "imagenet" / NAMES[3]))


def test_truncation_is_not_rounding(data: Path) -> None:
    run(data, "--formats", "int8_linear", "--val-only")
    fp32 = expected(data / "data" / "imagenet" / NAMES[0])
    rounded = np.rint(np.clip(fp32 / SCALE, -127, 127)).astype(np.int8)
    assert (stored(data, NAMES[0], "int8_linear") != rounded).mean() > 0.3


def test_the_defaults_are_int8_chw4_and_fp32_for_calibration(data: Path) -> None:
    said = run(data)
    assert [(row["set"], Path(row["folder"]).name, row["made"]) for row in said] == [
        ("validation", "int8_chw4", 3),
        ("calibration", "fp32", 2),
    ]
    found = sorted(p.relative_to(data / "out" / INSIDE).as_posix() for p in (data / "out").rglob("*.npy"))
    assert found == sorted(
        [f"int8_chw4/{name}.npy" for name in NAMES[:3]] + [f"fp32/{NAMES[i]}.npy" for i in (1, 3)]
    )


@pytest.mark.parametrize(("option", "sets"), [("--val-only", "validation"), ("--cal-only", "calibration")])
def test_one_set_can_be_made_alone(data: Path, option: str, sets: str) -> None:
    assert {row["set"] for row in run(data, option)} == {sets}


def test_files_that_the_manifest_knows_are_used_again(data: Path) -> None:
    run(data)
    before = {p: p.stat().st_mtime_ns for p in (data / "out").rglob("*.npy")}
    assert [(row["made"], row["reused"]) for row in run(data)] == [(0, 3), (0, 2)]
    assert {p: p.stat().st_mtime_ns for p in (data / "out").rglob("*.npy")} == before
    assert [row["made"] for row in run(data, "--overwrite")] == [3, 2]


def change_picture(data: Path) -> None:
    Image.new("RGB", (300, 240), (9, 90, 200)).save(data / "data" / "imagenet" / NAMES[0])


def change_tensor(data: Path) -> None:
    place = data / "out" / INSIDE / "int8_chw4" / f"{NAMES[0]}.npy"
    place.write_bytes(place.read_bytes()[:-1] + b"\x07")


def cut_tensor(data: Path) -> None:
    place = data / "out" / INSIDE / "int8_chw4" / f"{NAMES[0]}.npy"
    place.write_bytes(place.read_bytes()[:100])


def edit_manifest(data: Path, **changes: object) -> None:
    place = data / "out" / INSIDE / "int8_chw4" / MANIFEST
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))


STALE = {
    "another_picture": (change_picture, "is of another picture", 1),
    "a_changed_tensor": (change_tensor, "was changed", 1),
    "a_cut_tensor": (cut_tensor, "was changed", 1),
    "another_decoder": (lambda data: edit_manifest(data, decoder="pillow 0"), "another decoder", 3),
    "another_profile": (lambda data: edit_manifest(data, profile={}), "another profile", 3),
    "no_manifest": (
        lambda data: (data / "out" / INSIDE / "int8_chw4" / MANIFEST).unlink(),
        "is not in a manifest",
        3,
    ),
    "a_damaged_manifest": (
        lambda data: (data / "out" / INSIDE / "int8_chw4" / MANIFEST).write_text("{"),
        "has a damaged manifest",
        3,
    ),
    "an_unknown_file": (lambda data: edit_manifest(data, files={}), "is not in the manifest", 3),
}


@pytest.mark.parametrize("case", sorted(STALE))
def test_a_stale_file_is_made_again_and_said(data: Path, case: str) -> None:
    change, reason, count = STALE[case]
    run(data, "--val-only")
    change(data)
    (said,) = run(data, "--val-only")
    assert said["made"] == len(said["stale"]) == count
    assert all(reason in text for text in said["stale"].values())
    fp32 = expected(data / "data" / "imagenet" / NAMES[0])
    linear = np.clip(fp32 / SCALE, -127, 127).astype(np.int8)
    assert np.array_equal(stored(data, NAMES[0], "int8_chw4")[..., :3], linear.transpose(1, 2, 0))
    (again,) = run(data, "--val-only")
    assert again["made"] == 0
    assert not again["stale"]


def test_a_removed_file_is_made_again(data: Path) -> None:
    run(data, "--val-only")
    (data / "out" / INSIDE / "int8_chw4" / f"{NAMES[1]}.npy").unlink()
    (said,) = run(data, "--val-only")
    assert (said["made"], said["reused"], said["stale"]) == (1, 2, {})


def test_what_was_done_before_a_bad_picture_is_kept(data: Path) -> None:
    (data / "data" / "imagenet" / NAMES[2]).write_bytes(b"no picture")
    with pytest.raises(ImageError, match=NAMES[2]):
        run(data, "--val-only")
    Image.new("RGB", (300, 240)).save(data / "data" / "imagenet" / NAMES[2])
    (said,) = run(data, "--val-only")
    assert (said["made"], said["reused"]) == (1, 2)


def test_a_folder_keeps_what_another_list_put_there(data: Path) -> None:
    run(data, "--formats", "fp32")
    said = run(data, "--formats", "fp32")
    assert [(row["made"], row["reused"]) for row in said] == [(0, 3), (0, 2)]


def test_progress_counts_pictures(data: Path) -> None:
    folder = data / "data" / "imagenet"
    seen = []
    places = {data / "x": load_profile("alibaba_202_176"), data / "y": load_profile("alibaba_202_176_int8")}
    pictures = [(name, folder / name) for name in NAMES]
    made = write_preprocessed(pictures, places, progress=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [written.made for written in made] == [NAMES, NAMES]


BAD = {
    "format": (["--formats", "int4"], CardError, "'int4' is unknown: choose of fp32, int8_linear"),
    "both": (["--val-only", "--cal-only"], CardError, "leave nothing"),
    "crops": (["--lossy"], TopfiveError, "do not go with --profile"),
    "profile": (["--profile", "alibaba"], TopfiveError, "alibaba_202_176"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_options_are_refused(data: Path, case: str) -> None:
    options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        run(data, *options)


def test_a_missing_list_and_options_without_a_profile_are_named(data: Path) -> None:
    (data / "data_maps" / "imagenet" / "cal_map.txt").unlink()
    with pytest.raises(ImageError, match=r"cal_map\.txt: no such list"):
        run(data, "--cal-only")
    plain = ["preprocess", "--input", str(data / "data"), "--output", str(data / "o"), "--val-only"]
    with pytest.raises(TopfiveError, match="go with --profile"):
        CliRunner().invoke(app, plain, catch_exceptions=False)
