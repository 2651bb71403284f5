"""Which pictures a calibration runs over: lists, draws, and pictures that validation has too."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.errors import ImageError
from topfive.images.calibration_set import calibration_pictures, drawn, same_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "images"
    place.mkdir()
    for name in ("a.png", "b.png", "c d.png", "e.JPEG"):
        (place / name).write_bytes(name.encode())
    return place


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


MAPS = {
    "tabs": "b.png\t3\na.png\t1\n",
    "blanks": "b.png 3\na.png 1\n",
    "no_labels": "b.png\na.png\n",
    "some_labels": "b.png\na.png\t1\n",
    "windows_and_blank_lines": "b.png\t3\r\n\r\na.png\t1",
}


@pytest.mark.parametrize("case", sorted(MAPS))
@pytest.mark.parametrize("place", ["inside", "beside", "given"])
def test_a_list_gives_its_pictures_in_its_order(folder: Path, case: str, place: str) -> None:
    where = {"inside": folder, "beside": folder.parent, "given": folder.parent}[place]
    file = where / ("other.txt" if place == "given" else "cal_map.txt")
    file.write_bytes(MAPS[case].encode())
    given_map = file if place == "given" else None
    assert names(calibration_pictures(folder, given_map)) == ["b.png", "a.png"]


def test_without_a_list_all_pictures_count_sorted_by_path(folder: Path) -> None:
    assert names(calibration_pictures(folder)) == ["a.png", "b.png", "c d.png", "e.JPEG"]
    classes = folder.parent / "classes"
    for name in ("1/x.png", "0/y.png"):
        (classes / name).parent.mkdir(parents=True)
        (classes / name).write_bytes(b"")
    assert names(calibration_pictures(classes)) == ["y.png", "x.png"]


def test_a_list_of_other_pictures_beside_the_folder_is_left_alone(folder: Path) -> None:
    (folder.parent / "cal_map.txt").write_text("elsewhere.png\n")
    assert len(calibration_pictures(folder)) == 4


BAD = {
    "missing": ("a.png\nz.png\t1\ny.png\n", r"line 2: .*z\.png and 1 more of 3 missing"),
    "twice": ("a.png\nb.png\na.png\n", r"line 3: 'a\.png' was named on line 1"),
    "empty": ("\n\n", "the calibration set is empty"),
    "a_word_for_a_label": ("a.png\tcat\n", "line 1: 'cat' is not a class index"),
    "outside": ("../a.png\n", "outside the folder"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_lists_name_the_line(folder: Path, case: str) -> None:
    text, message = BAD[case]
    (folder / "cal_map.txt").write_text(text)
    with pytest.raises(ImageError, match=message):
        calibration_pictures(folder)


def test_missing_pictures_are_all_listed_up_to_ten(folder: Path) -> None:
    (folder / "cal_map.txt").write_text("".join(f"gone{i}.png\n" for i in range(30)))
    with pytest.raises(ImageError) as error:
        calibration_pictures(folder)
    assert "gone0.png and 29 more of 30 missing" in error.value.message
    assert error.value.details.count("gone") == 10


@pytest.mark.parametrize("what", ["folder", "map"])
def test_what_is_absent_is_named(folder: Path, what: str) -> None:
    absent = folder.parent / "absent"
    with pytest.raises(ImageError, match="absent"):
        calibration_pictures(*((absent, None) if what == "folder" else (folder, absent)))


paths = [Path(f"p{i:03}") for i in range(40)]


@given(st.integers(0, 40), st.integers(0, 2**32))
def test_a_draw_is_seeded_distinct_and_in_order(count: int, seed: int) -> None:
    chosen = drawn(paths, count, seed)
    assert len(set(chosen)) == count
    assert chosen == sorted(chosen) == drawn(paths, count, seed)


def test_a_draw_is_the_same_on_every_machine() -> None:
    assert names(drawn(paths, 4, 7)) == ["p003", "p009", "p020", "p025"]
    assert drawn(paths, 4, 7) != drawn(paths, 4, 8)
    with pytest.raises(ImageError, match="has 40 files; draw at most so many, not 41"):
        drawn(paths, 41, 0)


def test_pictures_are_the_same_by_content_not_by_name(tmp_path: Path) -> None:
    contents = {"c1": b"one", "c2": b"two", "c3": b"longer", "v1": b"two", "v2": b"six", "c3x": b"other!"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = same_pictures(
        [tmp_path / n for n in ("c1", "c2", "c3")], [tmp_path / n for n in ("v1", "v2", "c3x")]
    )
    assert [(a.name, b.name) for a, b in found] == [("c2", "v1")]


@given(
    st.lists(st.binary(max_size=3), max_size=6),
    st.lists(st.binary(max_size=3), max_size=6),
)
def test_every_shared_content_is_found(
    tmp_path_factory: pytest.TempPathFactory, left: list[bytes], right: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("same")
    sides = []
    for side, contents in (("l", left), ("r", right)):
        files = [folder / f"{side}{i}" for i in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        sides.append(files)
    found = {b for _, b in same_pictures(*sides)}
    assert found == {file for file, content in zip(sides[1], right, strict=True) if content in left}
