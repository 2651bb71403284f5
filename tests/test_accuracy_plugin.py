"""`pytest -m accuracy`: which shards there are, what is said at the end, and what makes the run fail."""

from __future__ import annotations

import json

# Imported here for pytest inside pytest, which forgets modules that it was the first to load: native ones
# cannot be loaded twice.
import onnx  # noqa: F401
import onnxruntime  # noqa: F401
import PIL.Image  # noqa: F401
import pytest

import topfive.pipeline  # noqa: F401
from topfive.datasets.cards import CARD_FILE
from topfive.images import procedural

from sweeps import REPOSITORY

SETTINGS = 'accuracy.models = ["pocket_fire", "pocket_mobilenet"]\n'
ONE = ("--models", "pocket_fire", "--targets", "cpu", "--quant", "int8")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("accuracy_cache")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """24 drawn pictures."""
    folder = tmp_path_factory.mktemp("drawn")
    procedural.write_flat(folder, 24, split="accuracy tests")
    return folder


@pytest.fixture
def session(pytester, monkeypatch, cache, tmp_path):
    """A function that runs pytest on a suite with the accuracy test."""
    monkeypatch.setenv("TOPFIVE_CACHE", str(cache))
    monkeypatch.setenv("TOPFIVE_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("TOPFIVE_DATASETS", str(tmp_path / "registry"))
    for variable in (
        "CI",
        "TOPFIVE_CARDS",
        "PYTEST_ADDOPTS",
        "PYTEST_XDIST_WORKER",
        "PYTEST_XDIST_WORKER_COUNT",
    ):
        monkeypatch.delenv(variable, raising=False)
    test = (REPOSITORY / "bench/test_accuracy.py").read_text()
    for name, text in (
        ("pytest.ini", "[pytest]\nstrict = true\naddopts = -ra\n"),
        ("bench/suite.toml", SETTINGS),
        ("bench/test_sweeping.py", test),
        ("bench/test_other.py", "def test_other():\n    pass\n"),
    ):
        place = pytester.path / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)

    def run(*arguments, subprocess=False):
        start = pytester.runpytest_subprocess if subprocess else pytester.runpytest_inprocess
        return start("-p", "no:cacheprovider", *map(str, arguments))

    return run


def ids(result):
    return [line for line in result.outlines if "::" in line]


def test_sweeps_run_only_when_asked_for(session, drawn):
    assert ids(session("--collect-only", "-q")) == ["bench/test_other.py::test_other"]
    asked = ids(session("--collect-only", "-q", "-m", "accuracy", *ONE, "--shards", "3"))
    assert asked == [
        f"bench/test_sweeping.py::test_accuracy[pocket_fire-cpu-int8-shard0{n}of03]" for n in range(3)
    ]
    asked = ids(session("--collect-only", "-q", *ONE, "--imagenet", drawn, "--shards", "2"))
    assert len(asked) == 3
    assert ids(session("--collect-only", "-q", "-m", "not accuracy", *ONE)) == [
        "bench/test_other.py::test_other"
    ]


def test_the_marker_works_out_of_the_box(session):
    result = session("-m", "accuracy", *ONE, "--count", 40)
    assert result.ret == 0
    result.assert_outcomes(passed=8, deselected=1)
    text = result.stdout.str()
    assert "topfive accuracy" in text
    result.stdout.re_match_lines([r"pocket_fire +cpu +int8 +40 +\d+\.\d\d .*"])
    assert "40/40 images" in text
    assert "published: pocket_fire on 2,000 unseen generated pictures" in text


def test_a_second_run_is_compared_with_the_first(session, drawn, tmp_path):
    for quant in ("int8", "force_float32"):
        arguments = ("-m", "accuracy", *ONE[:4], "--quant", quant, "--imagenet", drawn, "--shards", 2)
        assert session(*arguments).ret == 0
    result = session("-m", "accuracy", *ONE, "--imagenet", drawn, "--shards", 4)
    (row,) = [line.split() for line in result.outlines if line.startswith("pocket_fire")]
    assert row[3] == "24"
    assert row[row.index("0/0") + 1] == "1"
    assert row[8] != "-"  # agreement with the float32 of the run between
    assert len(list((tmp_path / "records/sweeps/pocket_fire/cpu-int8").iterdir())) == 2


def test_models_that_do_not_fit_the_set_are_left_out(session, tmp_path, drawn, pytester):
    folder = tmp_path / "set"
    folder.mkdir()
    for path in drawn.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / CARD_FILE).write_text('name = "thousand"\nclasses = 1000\n')
    result = session("-m", "accuracy", "--imagenet", folder, "--collect-only", "-q")
    assert "0 selected" in result.stdout.str() or "deselected" in result.stdout.str()
    result = session("-m", "accuracy", *ONE, "--imagenet", folder, "--shards", 2)
    assert result.ret == 1
    assert "pocket_fire has 100 classes, data set 'thousand' has 1000" in result.stdout.str()


def test_a_wrong_offset_fails_and_is_said(session, tmp_path, drawn):
    folder = tmp_path / "set"
    folder.mkdir()
    for path in drawn.glob("*.JPEG"):
        (folder / path.name).write_bytes(path.read_bytes())
    lines = [line.split() for line in (drawn / "val_map.txt").read_text().splitlines()]
    # Class 99 moves to 98, so that the list still fits the model: nothing but the accuracy shows the shift.
    shifted = [f"{name}\t{min(int(label), 98) + 1}\n" for name, label in lines]
    (folder / "val_map.txt").write_text("".join(shifted))
    result = session("-m", "accuracy", *ONE, "--imagenet", folder, "--shards", 2)
    assert result.ret == 1
    result.assert_outcomes(passed=2, deselected=1)
    assert (
        "labels -1: the list counts from 1 (--first-label 1), or the model has no background"
        in result.stdout.str()
    )


def test_a_missing_picture_is_named_and_may_be_allowed(session, tmp_path, drawn):
    folder = tmp_path / "set"
    folder.mkdir()
    for path in drawn.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "ILSVRC2012_val_00000001.JPEG").unlink()
    result = session("-m", "accuracy", *ONE, "--imagenet", folder)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the first is ILSVRC2012_val_00000001.JPEG (line 1)" in result.stderr.str()
    result = session("-m", "accuracy", *ONE, "--imagenet", folder, "--allow-missing", "--shards", 2)
    assert result.ret == 0
    assert (
        "1 picture of the list is missing and left out: ILSVRC2012_val_00000001.JPEG" in result.stdout.str()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--imagenet", "nowhere"), "--imagenet nowhere: no such folder: unknown data set or folder"),
        (("--shards", "0"), "is not a whole number of 1 or more"),
        (("--shards", "30", "--count", "20"), "30 shards of 20 pictures: choose 1 to 20"),
        (("--image-map", "x"), "no such file"),
    ],
    ids=["set", "shards", "more-shards", "map"],
)
def test_wrong_options(session, arguments, message):
    if "--image-map" in arguments:
        arguments = (*arguments, "--imagenet", ".")
        message = "x: cannot be read: No such file"
    result = session("-m", "accuracy", *ONE, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str() + result.stdout.str()


def test_a_registered_set_is_swept_by_name(session, drawn, tmp_path):
    from topfive.datasets import DatasetCard, register_dataset

    register_dataset(DatasetCard("mine", folder=str(drawn), classes=100))
    result = session("-m", "accuracy", *ONE, "--imagenet", "mine", "--shards", 2, "--count", 10)
    assert result.ret == 0
    (record,) = (tmp_path / "records/sweeps/pocket_fire/cpu-int8").iterdir()
    assert json.loads(record.read_text())["sweep"]["plan"]["dataset"] == "mine"


def test_a_part_of_the_shards_is_no_sweep(session, drawn, tmp_path):
    arguments = ("-m", "accuracy", *ONE, "--imagenet", drawn, "--shards", 4)
    result = session(*arguments, "-k", "shard02of04")
    assert result.ret == 0
    assert (
        "pocket_fire-cpu-int8: 1 of 4 shards are done; the same command runs the rest" in result.stdout.str()
    )
    assert not (tmp_path / "records/sweeps").exists()
    result = session(*arguments)
    result.assert_outcomes(passed=4, deselected=1)
    assert (tmp_path / "records/sweeps").exists()


@pytest.mark.slow
def test_progress_and_merging_under_xdist(session, drawn):
    parallel = ("-n", 2, "--dist", "worksteal", "--sweep-progress", 0)
    set_ = ("--imagenet", drawn, "--shards", 6)
    result = session("-m", "accuracy", *ONE, *set_, *parallel, subprocess=True)
    assert result.ret == 0
    result.assert_outcomes(passed=6)
    lines = [line for line in result.outlines if "images/s" in line]
    assert len(lines) == 6
    assert "24/24 images" in lines[-1]
    result.stdout.re_match_lines([r"pocket_fire +cpu +int8 +24 .*"])
