"""The drawn picture set: determinism, independence of order, both layouts, and what the classes promise."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from topfive.errors import ImageError
from topfive.images import procedural

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SEEDS = st.integers(min_value=-(2**70), max_value=2**70)
SPLITS = st.text(max_size=12)
INDICES = st.integers(min_value=0, max_value=2**40)


def pixels(seed: int, split: str, index: int) -> bytes:
    return procedural.draw(seed, split, index)[0].tobytes()


def test_there_are_100_different_labels_of_three_words():
    names = procedural.labels()
    assert len(names) == len(set(names)) == procedural.CLASSES == 100
    assert {len(name.split()) for name in names} == {3}
    assert "red striped star" in names


def test_sorted_class_folders_are_in_class_order():
    folders = procedural.class_folders()
    assert folders == sorted(folders)
    assert len(set(folders)) == 100
    words = [folder.split("_", 1)[1].replace("_", " ") for folder in folders]
    assert words == procedural.labels()


@settings(deadline=None, max_examples=15)
@given(seed=SEEDS, split=SPLITS, index=INDICES)
def test_a_picture_depends_on_seed_split_and_index_only(seed: int, split: str, index: int):
    first = procedural.encoded(seed, split, index)
    procedural.draw(seed, split, index + 1)
    assert procedural.encoded(seed, split, index) == first


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, split=SPLITS, index=INDICES)
def test_every_picture_is_rgb_within_the_sizes(seed: int, split: str, index: int):
    image, label = procedural.draw(seed, split, index)
    assert image.mode == "RGB"
    assert 72 <= min(image.size) <= 120
    assert max(image.size) <= 160
    assert 0 <= label < 100
    assert label == procedural.label_of(seed, split, index)


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, split=SPLITS, block=st.integers(min_value=0, max_value=2**30))
def test_every_block_of_100_has_each_class_once(seed: int, split: str, block: int):
    found = [procedural.label_of(seed, split, 100 * block + place) for place in range(100)]
    assert sorted(found) == list(range(100))


def test_classes_come_shuffled_and_differently_in_every_block():
    blocks = [[procedural.label_of(0, "val", 100 * b + k) for k in range(100)] for b in range(3)]
    assert blocks[0] != sorted(blocks[0])
    assert len({tuple(block) for block in blocks}) == 3


def test_order_of_drawing_does_not_matter():
    forwards = [pixels(3, "val", index) for index in range(12)]
    backwards = [pixels(3, "val", index) for index in reversed(range(12))]
    assert forwards == backwards[::-1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "train", 0), (0, "val", 0)),
        ((0, "train", 0), (1, "train", 0)),
        ((0, "train", 0), (0, "train", 1)),
        ((1, "1", 1), (11, "", 1)),
        ((2**32, "val", 0), (0, "val", 1)),
        ((0, "jpeg", 0), (0, "order", 0)),
    ],
    ids=["splits", "seeds", "indices", "joined-digits", "wide-seed", "purpose-names"],
)
def test_streams_differ(one: tuple[int, str, int], other: tuple[int, str, int]):
    assert pixels(*one) != pixels(*other)


def test_no_picture_comes_twice_in_or_across_splits():
    hashes = {
        pixels(0, split, index) for split in ("train", "val", "test", "calibration") for index in range(25)
    }
    assert len(hashes) == 100


def test_sizes_aspects_and_compression_vary():
    sizes, lengths = [], []
    for index in range(60):
        data, _ = procedural.encoded(0, "val", index)
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"
            sizes.append(image.size)
            lengths.append(len(data) / (image.width * image.height))
    assert len(set(sizes)) > 40
    assert any(w > 1.2 * h for w, h in sizes)
    assert any(h > 1.2 * w for w, h in sizes)
    assert max(lengths) > 2 * min(lengths)


def test_the_figure_has_the_colour_that_its_label_names():
    # Plain figures only: the median of the middle pixels is then the figure's paint under some light.
    names = procedural.labels()
    strongest = {"red": (0,), "yellow": (0, 1), "green": (1,), "blue": (2,)}
    right = wrong = 0
    for index in range(200):
        image, label = procedural.draw(0, "colour", index)
        colour, texture, _ = names[label].split()
        if texture != "plain" or colour not in strongest:
            continue
        w, h = image.size
        middle = np.asarray(image.crop((w // 2 - 6, h // 2 - 6, w // 2 + 6, h // 2 + 6)), dtype=float)
        paint = np.median(middle.reshape(-1, 3), axis=0)
        inside = [paint[c] for c in strongest[colour]]
        outside = [paint[c] for c in range(3) if c not in strongest[colour]]
        if min(inside) > max(outside):
            right += 1
        else:
            wrong += 1
    assert right > 9 * wrong


def test_both_layouts_hold_the_same_bytes(tmp_path: Path):
    listing = procedural.write_flat(tmp_path / "flat", 30, seed=5, split="layout")
    files = procedural.write_class_folders(tmp_path / "folders", 30, seed=5, split="layout")
    lines = [line.split("\t") for line in listing.read_text().splitlines()]
    assert [name for name, _ in lines] == [f"ILSVRC2012_val_{k:08d}.JPEG" for k in range(1, 31)]
    for (name, label), file in zip(lines, files, strict=True):
        assert file.name == name
        assert file.parent.name == procedural.class_folders()[int(label)]
        assert file.read_bytes() == (tmp_path / "flat" / name).read_bytes()
    assert len(list((tmp_path / "folders").iterdir())) == 100
    assert len(list((tmp_path / "folders").rglob("*.JPEG"))) == 30


def test_two_workers_write_what_one_does(tmp_path: Path):
    for workers in (1, 2):
        procedural.write_flat(tmp_path / str(workers), 8, workers=workers)
    one, two = (sorted((tmp_path / str(workers)).iterdir()) for workers in (1, 2))
    assert [file.name for file in one] == [file.name for file in two]
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]


def test_a_longer_set_starts_with_the_shorter(tmp_path: Path):
    short = procedural.write_flat(tmp_path / "short", 3).read_text()
    long = procedural.write_flat(tmp_path / "long", 5).read_text()
    assert long.startswith(short)


def test_another_process_draws_the_same(tmp_path: Path):
    code = (
        "import hashlib; from topfive.images import procedural as p;"
        "print(hashlib.sha256(b''.join(p.encoded(7, 'x', k)[0] for k in range(5))).hexdigest())"
    )
    source = Path(procedural.__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(source), "PYTHONHASHSEED": "12345"},
        cwd=tmp_path,
    )
    here = hashlib.sha256(b"".join(procedural.encoded(7, "x", k)[0] for k in range(5))).hexdigest()
    assert found.stdout.strip() == here


def test_a_failed_write_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full_disk(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(ImageError, match=r"ILSVRC2012_val_00000001\.JPEG: No space left"):
        procedural.write_flat(tmp_path / "out", 2)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_image_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ImageError, match="cannot make the picture folder"):
        procedural.write_flat(tmp_path / "file", 1)


@pytest.mark.parametrize(
    "write", [procedural.write_flat, procedural.write_class_folders], ids=["flat", "folders"]
)
@pytest.mark.parametrize("count", [0, -1], ids=["none", "negative"])
def test_an_empty_set_is_refused(write, count: int, tmp_path: Path):
    with pytest.raises(ValueError, match="at least one picture"):
        write(tmp_path / "out", count)
    assert not (tmp_path / "out").exists()


def test_a_negative_index_is_refused():
    with pytest.raises(ValueError, match="must be 0 or more"):
        procedural.draw(0, "val", -1)


def test_encode_follows_quality():
    image, _ = procedural.draw(0, "val", 0)
    assert len(procedural.encode(image, quality=50)) < len(procedural.encode(image, quality=90))
    assert procedural.encode(image).startswith(b"\xff\xd8")


def test_the_committed_labels_are_the_generators():
    assert (FIXTURES / "labels" / "pocket100.txt").read_text().splitlines() == procedural.labels()


@pytest.mark.parametrize("index", [0, 73, 199], ids=["first", "middle", "last"])
def test_the_committed_pictures_are_the_generators(index: int):
    """Decoded and compared loosely, because another JPEG library may code the same picture otherwise."""
    folder = FIXTURES / "pictures" / "pocket100" / "val"
    name, label = (folder / "val_map.txt").read_text().splitlines()[index].split("\t")
    data, expected = procedural.encoded(0, "val", index)
    assert int(label) == expected
    with Image.open(folder / name) as committed, Image.open(io.BytesIO(data)) as drawn:
        assert committed.size == drawn.size
        difference = np.abs(np.asarray(committed, dtype=int) - np.asarray(drawn, dtype=int))
    assert difference.mean() < 1.0


def test_the_committed_calibration_pictures_are_one_a_class():
    folder = FIXTURES / "pictures" / "pocket100" / "calibration"
    assert sorted(entry.name for entry in folder.iterdir()) == procedural.class_folders()
    assert all(len(list(entry.glob("*.JPEG"))) == 1 for entry in folder.iterdir())
