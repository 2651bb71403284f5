"""Picture folders: the layouts of ImageNet, their labels and order, and what is wrong with bad ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from topfive.errors import ImageError
from topfive.images import LabelledImage, list_images


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def found(root: Path, **options) -> list[tuple[str, int | None]]:
    images = list_images(root, **options)
    for image in images:
        assert image.path == root / image.name
        assert image.path.is_file()
    return [(image.name, image.label) for image in images]


@pytest.mark.parametrize("map_name", ["val_map.txt", "val.txt"])
@pytest.mark.parametrize(
    "text",
    ["b.JPEG\t65\na.JPEG\t970\n", "b.JPEG 65\na.JPEG 970", "\ufeffb.JPEG   65\r\n\r\na.JPEG\t 970 \r\n"],
    ids=["tabs", "blanks", "windows"],
)
def test_a_map_gives_order_and_labels(tmp_path, map_name, text):
    make(tmp_path, "a.JPEG", "b.JPEG", "unlisted.JPEG")
    (tmp_path / map_name).write_bytes(text.encode())
    assert found(tmp_path) == [("b.JPEG", 65), ("a.JPEG", 970)]
    assert list_images(str(tmp_path))[0] == LabelledImage(tmp_path / "b.JPEG", "b.JPEG", 65)


def test_a_map_may_have_names_with_blanks_and_folders_and_no_labels(tmp_path):
    make(tmp_path, "my cat.jpg", "sub/dog.jpg")
    (tmp_path / "val_map.txt").write_text("my cat.jpg\t3\nsub/dog.jpg\t5\n")
    assert found(tmp_path) == [("my cat.jpg", 3), ("sub/dog.jpg", 5)]
    (tmp_path / "val_map.txt").write_text("sub/dog.jpg\n")
    assert found(tmp_path) == [("sub/dog.jpg", None)]


def test_val_map_goes_before_val(tmp_path):
    make(tmp_path, "a.jpg")
    (tmp_path / "val.txt").write_text("a.jpg 1\n")
    (tmp_path / "val_map.txt").write_text("a.jpg 2\n")
    assert found(tmp_path) == [("a.jpg", 2)]


def test_a_map_beside_the_folder_counts_only_if_it_names_its_files(tmp_path):
    make(tmp_path, "images/a.jpg", "images/b.jpg", "other/c.jpg")
    (tmp_path / "val_map.txt").write_text("b.jpg 7\na.jpg 4\n")
    assert found(tmp_path / "images") == [("b.jpg", 7), ("a.jpg", 4)]
    assert found(tmp_path / "other") == [("c.jpg", None)]


def test_class_folders_are_labelled_by_their_sorted_position(tmp_path):
    make(tmp_path, "n02/z.JPEG", "n02/a.JPEG", "n01/q.png", "n03/notes.txt", "n04/b.jpg", ".hidden/x.jpg")
    assert found(tmp_path) == [("n01/q.png", 0), ("n02/a.JPEG", 1), ("n02/z.JPEG", 1), ("n04/b.jpg", 3)]


def test_class_folders_named_by_numbers_are_their_labels(tmp_path):
    make(tmp_path, "10/1.jpg", "9/2.jpg", "207/3.jpg")
    assert found(tmp_path) == [("9/2.jpg", 9), ("10/1.jpg", 10), ("207/3.jpg", 207)]


def test_classes_give_the_labels_of_folders(tmp_path):
    make(tmp_path, "n02/a.jpg", "n01/b.jpg")
    assert found(tmp_path, classes=["n03", "n02", "n01"]) == [("n02/a.jpg", 1), ("n01/b.jpg", 2)]
    with pytest.raises(ImageError, match="n02: is not one of the 1 classes"):
        list_images(tmp_path, classes=["n01"])


def test_a_plain_folder_has_no_labels(tmp_path):
    make(tmp_path, "b.JPG", "a.webp", ".c.jpg", "readme.md", "empty/nothing.txt")
    assert found(tmp_path) == [("a.webp", None), ("b.JPG", None)]


@pytest.mark.parametrize(
    ("names", "lines", "message"),
    [
        pytest.param(
            ["a.jpg"], "a.jpg 1\nb.jpg 2\n", r"val_map\.txt, line 2: .*b\.jpg is missing", id="missing"
        ),
        pytest.param(["a.jpg"], "a.jpg 1\n\na.jpg 2\n", "line 3: 'a.jpg' was named on line 1", id="twice"),
        pytest.param(["a.jpg"], "a.jpg one\n", "line 1: 'one' is not a class index", id="word"),
        pytest.param(["a.jpg"], "a.jpg -1\n", "line 1: '-1' is not a class index", id="negative"),
        pytest.param(["a.jpg"], "a.jpg 1.5\n", "line 1: '1.5' is not a class index", id="fraction"),
        pytest.param(
            ["a.jpg", "b.jpg"], "a.jpg 1\nb.jpg\n", "with and lines without a class index", id="mixed"
        ),
        pytest.param(["a.jpg"], "../a.jpg 1\n", "'../a.jpg' is outside the folder", id="outside"),
        pytest.param(["a.jpg"], "/a.jpg 1\n", "'/a.jpg' is outside the folder", id="absolute"),
        pytest.param(["a.jpg"], "\n", "has no pictures", id="blank"),
    ],
)
def test_a_wrong_map_is_named_with_its_line(tmp_path, names, lines, message):
    make(tmp_path, *names)
    (tmp_path / "val_map.txt").write_text(lines)
    with pytest.raises(ImageError, match=message):
        list_images(tmp_path)


def test_a_map_that_is_not_text(tmp_path):
    make(tmp_path, "a.jpg")
    (tmp_path / "val_map.txt").write_bytes(b"a.jpg \xff\xfe\n")
    with pytest.raises(ImageError, match=r"val_map\.txt: is not UTF-8 text \(byte 6\)"):
        list_images(tmp_path)


def test_folders_without_pictures(tmp_path):
    with pytest.raises(ImageError, match="has no pictures"):
        list_images(tmp_path)
    make(tmp_path, "n01/readme.txt", "notes.md")
    with pytest.raises(ImageError, match="has no pictures"):
        list_images(tmp_path)
    with pytest.raises(ImageError, match=r"none: no such folder"):
        list_images(tmp_path / "none")
    with pytest.raises(ImageError, match=r"notes\.md: is not a folder"):
        list_images(tmp_path / "notes.md")


def test_pictures_and_class_folders_together_are_refused(tmp_path):
    make(tmp_path, "n01/a.jpg", "b.jpg")
    with pytest.raises(ImageError, match=r"has pictures \(b\.jpg\) and class folders \(n01\)"):
        list_images(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_named(tmp_path):
    make(tmp_path, "n01/a.jpg")
    (tmp_path / "n01").chmod(0)
    try:
        with pytest.raises(ImageError, match="n01: cannot be read"):
            list_images(tmp_path)
    finally:
        (tmp_path / "n01").chmod(0o755)
