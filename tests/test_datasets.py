"""Data sets: the forms in which ImageNet is met, the registry, and what is wrong with bad ones."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from topfive.datasets import DatasetCard, find_dataset, list_dataset, register_dataset, registered
from topfive.datasets.cards import CARD_FILE, read_card, registry_folder, write_card
from topfive.datasets.check import check_dataset
from topfive.datasets.detect import detect, guess_first_label
from topfive.datasets.storage import open_storage
from topfive.errors import CardError, ImageError, UnknownNameError


def jpeg(width=9, height=7, mode="RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, "JPEG")
    return stream.getvalue()


JPEG = jpeg()


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG)
    return root


def val(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def listed(place: Path | str, **options):
    return [(p.index, p.name, p.label) for p in list_dataset(find_dataset(str(place)), **options).pictures]


@pytest.fixture(autouse=True)
def registry(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("registry")
    monkeypatch.setenv("TOPFIVE_DATASETS", str(folder))
    return folder


# Forms


@pytest.mark.parametrize(
    "map_name",
    ["val/val_map.txt", "val/val.txt", "val/caffe_ilsvrc12/val.txt", "caffe_ilsvrc12/val.txt", "val.txt",
     "aux/val.txt", "val_map.txt", "val/ILSVRC2012_val.txt", "imagenet_1000.txt"],
)  # fmt: skip
def test_flat_folder_with_a_label_file(tmp_path, map_name):
    make(tmp_path, *(f"val/{val(n)}" for n in (1, 2, 3)))
    place = tmp_path / map_name
    place.parent.mkdir(exist_ok=True)
    place.write_text("".join(f"{val(n)} {label}\n" for n, label in ((1, 65), (2, 970), (3, 230))))
    listing = list_dataset(find_dataset(str(tmp_path / "val")))
    assert [(p.index, p.name, p.label) for p in listing.pictures] == [
        (0, val(1), 65),
        (1, val(2), 970),
        (2, val(3), 230),
    ]
    assert (listing.form, listing.labels_from, listing.listed) == ("map", str(place), 3)


def test_a_label_file_elsewhere_is_named_by_the_card(tmp_path):
    make(tmp_path, f"val/{val(1)}")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/mine.txt").write_text(f"{val(1)}\t7\n")
    card = DatasetCard("mine", folder=str(tmp_path / "val"), map=str(tmp_path / "labels/mine.txt"))
    assert [p.label for p in list_dataset(card).pictures] == [7]


def test_labels_that_count_from_1(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "val_map.txt").write_text("a.jpg 1\nb.jpg 1000\n")
    assert listed(tmp_path) == [(0, "a.jpg", 1), (1, "b.jpg", 1000)]
    card = DatasetCard("mine", folder=str(tmp_path), first_label=1)
    assert [p.label for p in list_dataset(card).pictures] == [0, 999]
    (tmp_path / "val_map.txt").write_text("a.jpg 0\nb.jpg 1000\n")
    with pytest.raises(ImageError, match=r"line 1: 'a\.jpg' has class 0, but data set 'mine' counts from 1"):
        list_dataset(card)


@pytest.mark.parametrize("name", ["synsets.txt", "synset_words.txt", "caffe_ilsvrc12/synset_words.txt"])
def test_wnid_folders_take_their_classes_from_a_list(tmp_path, name):
    make(tmp_path, "val/n01494475/x.JPEG", "val/n01440764/y.JPEG")
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    words = ["n01440764 tench, Tinca tinca", "n01443537 goldfish", "n01494475 hammerhead", ""]
    place.write_text("\n".join(line if "words" in name else line.split(" ")[0] for line in words))
    assert listed(tmp_path / "val") == [(0, "n01440764/y.JPEG", 0), (1, "n01494475/x.JPEG", 2)]
    listing = list_dataset(find_dataset(str(tmp_path / "val")))
    assert (listing.form, listing.classes) == ("class folders named by WNIDs", 3)


def test_all_1000_wnid_folders_need_no_list(tmp_path):
    wnids = [f"n{n:08d}" for n in range(5, 3005, 3)]
    make(tmp_path, f"{wnids[3]}/x.JPEG", f"{wnids[999]}/y.JPEG")
    for wnid in wnids:
        (tmp_path / wnid).mkdir(exist_ok=True)
    assert [label for _, _, label in listed(tmp_path)] == [3, 999]
    (tmp_path / wnids[0]).rmdir()
    with pytest.raises(ImageError, match=r"has 999 class folders .* of ImageNet's 1000.*--synsets"):
        listed(tmp_path)


def test_folders_named_by_numbers(tmp_path):
    make(tmp_path, "1/a.jpg", "10/b.jpg", "2/c.jpg")
    assert [label for _, _, label in listed(tmp_path)] == [1, 2, 10]
    counted = DatasetCard("mine", folder=str(tmp_path), first_label=1)
    assert [p.label for p in list_dataset(counted).pictures] == [0, 1, 9]
    make(tmp_path, "0/d.jpg")
    with pytest.raises(ImageError, match="counts classes from 1"):
        list_dataset(counted)


def test_the_reduced_set_is_the_first_500_of_the_list(tmp_path):
    make(tmp_path, *(val(n) for n in range(1, 501)))
    (tmp_path / "val.txt").write_text("".join(f"{val(n)} {n % 1000}\n" for n in range(1, 50_001)))
    listing = list_dataset(find_dataset(str(tmp_path)))
    assert (len(listing.pictures), listing.listed, listing.missing) == (500, 50_000, ())
    (tmp_path / val(17)).unlink()
    with pytest.raises(
        ImageError, match=r"49501 of the 50000 pictures .*the first is .*00000017.JPEG \(line 17\)"
    ):
        listed(tmp_path)
    assert len(listed(tmp_path, count=16)) == 16


def test_a_picture_set_without_labels(tmp_path):
    make(tmp_path, "a.jpg")
    with pytest.raises(ImageError, match=r"no labels: put a val_map\.txt"):
        listed(tmp_path)
    (tmp_path / "val_map.txt").write_text("a.jpg\n")
    with pytest.raises(ImageError, match=r"line 1: 'a\.jpg' has no class"):
        listed(tmp_path)


# Missing pictures


@given(st.sets(st.integers(0, 11), min_size=1, max_size=11), st.integers(1, 12))
def test_a_missing_picture_never_moves_the_others(tmp_path_factory, missing, count):
    root = tmp_path_factory.mktemp("set")
    make(root, *(val(n) for n in range(12) if n not in missing))
    (root / "val.txt").write_text("".join(f"{val(n)} {100 + n}\n" for n in range(12)))
    gone = sorted(n for n in missing if n < count)
    if gone:
        with pytest.raises(
            ImageError, match=rf"{len(gone)} of the {count} .*{val(gone[0])} \(line {gone[0] + 1}\)"
        ):
            listed(root, count=count)
    if len(gone) == count:
        return
    listing = list_dataset(find_dataset(str(root)), count=count, allow_missing=True)
    assert [p.index for p in listing.missing] == gone
    assert all(p.label == 100 + p.index and p.name == val(p.index) for p in listing.pictures)
    assert len(listing.pictures) + len(gone) == count


# Bad label files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a.jpg 1\n\nb.jpg 2\n", "line 2: is empty", id="empty-line"),
        pytest.param("\na.jpg 1\n", "line 1: is empty", id="empty-first-line"),
        pytest.param("a.jpg 1\nb.jpg 2\na.jpg 3\n", "line 3: 'a.jpg' was named on line 1", id="twice"),
        pytest.param("a.jpg 1\nb.jpg\n", "line 2: 'b.jpg' has no class", id="no-class"),
        pytest.param("a.jpg 1\nb.jpg x\n", "line 2: 'x' is not a class index", id="word"),
        pytest.param("", "has no lines", id="empty"),
        pytest.param("a.jpg 1\n../b.jpg 1\n", "line 2: .* is outside the folder", id="outside"),
    ],
)
def test_a_wrong_label_file_is_named_with_its_line(tmp_path, text, message):
    make(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "val_map.txt").write_text(text)
    with pytest.raises(ImageError, match=message):
        listed(tmp_path)


def test_empty_lines_at_the_end_mean_nothing(tmp_path):
    make(tmp_path, "a.jpg")
    (tmp_path / "val_map.txt").write_text("a.jpg 1\n\n \n")
    assert listed(tmp_path) == [(0, "a.jpg", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01440764\ntench\n", "line 2: 'tench' is not a WNID"),
        ("n01440764\nn01440764\n", "line 2: .* line 1"),
    ],
    ids=["word", "twice"],
)
def test_a_wrong_synsets_file(tmp_path, text, message):
    make(tmp_path, "val/n01440764/a.jpg")
    (tmp_path / "synsets.txt").write_text(text)
    with pytest.raises(ImageError, match=message):
        listed(tmp_path / "val")


# Cards and the registry


def test_a_folder_may_hold_its_own_card(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "labels.txt").write_text("a.jpg 1\nb.jpg 2\n")
    (tmp_path / CARD_FILE).write_text(
        'name = "mine"\nmap = "labels.txt"\nfirst_label = 1\nclasses = 2\nimages = 1\n'
    )
    listing = list_dataset(find_dataset(str(tmp_path)))
    assert (listing.name, listing.classes, len(listing.pictures), listing.listed) == ("mine", 2, 1, 2)
    assert listing.pictures[0].label == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\nfirst_label = 2\n', "'first_label' must be 0 or 1"),
        ('name = "a b"\n', "'name' must be letters"),
        ('name = "a"\nclasses = -1\n', "'classes' must be 0"),
        ('name = "a"\nmap = "m"\nsynsets = "s"\n', "has 'map' and 'synsets'"),
        ('name = "a"\nfolders = "x"\n', "unknown key 'folders'"),
    ],
    ids=["first_label", "name", "classes", "both", "key"],
)
def test_a_wrong_card(tmp_path, text, message):
    (tmp_path / "card.toml").write_text(text)
    with pytest.raises(CardError, match=message):
        read_card(tmp_path / "card.toml")


def test_registered_sets_are_found_by_name(tmp_path, monkeypatch):
    make(tmp_path, "odd $name/a.jpg")
    (tmp_path / "labels.txt").write_text("a.jpg 3\n")
    folder = tmp_path / "odd $name"
    card = DatasetCard("mine", folder=str(folder).replace("$", "$$"), map=str(tmp_path / "labels.txt"))
    register_dataset(card)
    monkeypatch.chdir("/")
    assert list(registered()) == ["mine"]
    assert find_dataset("mine").root == str(folder)
    assert listed("mine") == [(0, "a.jpg", 3)]
    with pytest.raises(UnknownNameError, match="unknown data set or folder 'mime': did you mean mine"):
        find_dataset("mime")
    with pytest.raises(CardError, match="no such folder of pictures"):
        find_dataset("no/such/folder")


names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)


@given(names, st.integers(0, 1), st.integers(0, 10**6), st.integers(0, 10**6))
def test_cards_are_read_as_they_were_written(tmp_path_factory, text, first_label, classes, images):
    path = tmp_path_factory.mktemp("cards") / "mine.toml"
    card = DatasetCard("mine", "x", text, "m", "", first_label, classes, images)
    write_card(card, path)
    assert vars(read_card(path)) == {**vars(card), "path": path}


def _register_often(number: int) -> None:
    for count in range(20):
        register_dataset(DatasetCard("shared", folder=f"/{number}/{count}"))
        assert read_card(registry_folder() / "shared.toml").name == "shared"


def test_the_registry_is_never_seen_half_written(registry):
    context = multiprocessing.get_context("fork")
    crowd = [context.Process(target=_register_often, args=(n,)) for n in range(3)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
    assert [process.exitcode for process in crowd] == [0, 0, 0]
    assert [path.name for path in registry.iterdir()] == ["shared.toml"]


# detect and check


def test_detect_finds_the_sets_below_a_folder(tmp_path):
    make(tmp_path, f"imagenet/val/{val(1)}", "folders/n01440764/a.JPEG", "folders/n01443537/b.JPEG")
    make(
        tmp_path,
        "numbers/0/a.jpg",
        "numbers/1/b.jpg",
        "photos/a.jpg",
        "other/deep/er/still/1/a.jpg",
        "loose/q.jpg",
    )
    (tmp_path / "imagenet/val/val.txt").write_text(f"{val(1)} 65\n")
    (tmp_path / "photos_map.txt").write_text("a.jpg 1\n")
    (tmp_path / "val_map.txt").write_text("photos.jpg 1\n")
    (tmp_path / "photos/val_map.txt").write_text("a.jpg 1\n")
    found = {Path(one.card.folder).name: one for one in detect(tmp_path)}
    assert sorted(found) == ["folders", "numbers", "photos", "val"]
    assert found["val"].listing.pictures[0].label == 65
    assert "of ImageNet's 1000" in found["folders"].problem
    assert detect(tmp_path, depth=0) == []
    with pytest.raises(ImageError, match="no such folder to search"):
        detect(tmp_path / "nowhere")


def test_detect_sees_the_reduced_set_and_labels_from_1(tmp_path):
    make(tmp_path, *(val(n) for n in range(1, 501)))
    lines = [f"{val(n)} {1000 if n == 3 else n % 1000 + 1}\n" for n in range(1, 1001)]
    (tmp_path / "val.txt").write_text("".join(lines))
    (found,) = detect(tmp_path)
    assert (found.card.images, found.card.first_label, found.listing.pictures[2].label) == (500, 1, 999)


def test_check_names_everything_that_is_wrong(tmp_path):
    make(tmp_path, *(f"{n}.jpg" for n in range(6)))
    (tmp_path / "1.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    (tmp_path / "3.jpg").write_bytes(b"")
    (tmp_path / "4.jpg").write_bytes(jpeg(mode="CMYK"))
    (tmp_path / "val_map.txt").write_text("".join(f"{n}.jpg {n}\n" for n in range(7)))
    checked = check_dataset(find_dataset(str(tmp_path)), threads=2)
    text = "\n".join(checked.problems)
    assert [problem.split(":")[0] for problem in checked.problems] == ["line 7", "1.jpg", "2.jpg", "3.jpg"]
    assert "6.jpg is missing" in text
    assert "not a picture" in text
    assert "empty (0 bytes)" in text


def test_check_sees_labels_that_count_from_1(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "val_map.txt").write_text("a.jpg 1\nb.jpg 1000\n")
    checked = check_dataset(find_dataset(str(tmp_path)))
    assert "--first-label 1" in checked.problems[0]
    assert guess_first_label(checked.listing) == 1


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    make(tmp_path, "a.jpg")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    (tmp_path / "b.png").write_bytes(bomb.getvalue())
    (tmp_path / "val_map.txt").write_text("a.jpg 0\nb.png 1\n")
    (problem,) = check_dataset(find_dataset(str(tmp_path))).problems
    assert "b.png: has more than 178,956,970 pixels" in problem


# URLs


def test_a_set_behind_a_url(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for number in (1, 2):
        files.pipe_file(f"/sets/mine/{val(number)}", JPEG)
    files.pipe_file("/sets/mine/val.txt", f"{val(1)} 4\n{val(2)} 5\n".encode())
    listing = list_dataset(find_dataset("memory://sets/mine"))
    assert [(p.name, p.label) for p in listing.pictures] == [(val(1), 4), (val(2), 5)]
    assert listing.storage().read(val(2)) == JPEG
    assert listing.storage().stamp(val(2)) is None
    with pytest.raises(ImageError, match=r"nothing\.jpg: cannot be read"):
        listing.storage().read("nothing.jpg")
    with pytest.raises(ImageError, match="cannot open it"):
        open_storage("nosuch://x")
    with pytest.raises(ImageError, match="give the label file with --map"):
        list_dataset(find_dataset("memory://sets/empty"))


# The command


@pytest.fixture
def command(capsys, monkeypatch):
    from topfive import cli

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["topfive", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def test_make_register_list_check(command, tmp_path):
    folder = tmp_path / "drawn"
    assert command("dataset", "make", folder, "--images", 6)[0] == 0
    code, out, _ = command("dataset", "register", "mine", folder, "--json")
    assert code == 0
    assert json.loads(out)["classes"] == 100
    assert [row["name"] for row in json.loads(command("dataset", "list", "--json")[1])] == ["mine"]
    assert command("dataset", "check", "mine")[:2] == (0, command("dataset", "check", "mine")[1])
    found = json.loads(command("dataset", "detect", "--search-dir", tmp_path, "--json")[1])
    assert [(row["folder"], row["pictures"]) for row in found] == [(str(folder), 6)]
    (folder / val(3)).unlink()
    code, out, _ = command("dataset", "check", "mine", "--json")
    assert code == 1
    assert json.loads(out)["problems"] == ["line 3: ILSVRC2012_val_00000003.JPEG is missing"]
    code, _, err = command("dataset", "make", folder, "--images", 6)
    assert (code, "is not an empty folder" in err) == (2, True)
    code, _, err = command("dataset", "register", "bad name", tmp_path)
    assert code == 2


def test_class_folders_are_made_with_all_their_classes(command, tmp_path):
    folder = tmp_path / "folders"
    assert command("dataset", "make", folder, "--images", 5, "--form", "folders")[0] == 0
    flat = tmp_path / "flat"
    assert command("dataset", "make", flat, "--images", 5)[0] == 0
    labels = {p.name.rpartition("/")[2]: p.label for p in list_dataset(find_dataset(str(folder))).pictures}
    assert labels == {p.name: p.label for p in list_dataset(find_dataset(str(flat))).pictures}
    assert len(list(folder.iterdir())) == 101


def test_large_lists_are_quick_to_read(tmp_path):
    """50,000 lines: one look at the folder, not one a file (this test is about being done at all)."""
    (tmp_path / "val.txt").write_text("".join(f"{val(n)} {n % 1000}\n" for n in range(1, 50_001)))
    make(tmp_path, val(1))
    listing = list_dataset(find_dataset(str(tmp_path)), allow_missing=True)
    assert (len(listing.missing), len(listing.pictures)) == (49_999, 1)
    assert np.all(np.diff([p.index for p in listing.missing]) == 1)
    assert os.fspath(tmp_path) in listing.root
