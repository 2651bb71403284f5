"""Exports of a sweep, read back as the tools they are for read them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.datasets import Picture
from topfive.errors import SweepError
from topfive.sweep.exports import FORMATS, export_sweep, write_csv, write_magicmind, write_mlperf

from sweeps import PLAN, listing, magicmind_accuracy, mlperf_accuracy, record

answers = st.lists(st.tuples(st.integers(-1, 9), st.integers(0, 9)), min_size=1, max_size=30)


@given(answers, st.sampled_from(["float32", "int32"]))
def test_mlperf_reads_the_same_accuracy(tmp_path_factory, pairs, dtype):
    bests, labels = zip(*pairs, strict=True)
    folder = tmp_path_factory.mktemp("mlperf")
    log, val_map = write_mlperf(folder, record(bests, labels), listing(labels), dtype=dtype)
    good = sum(best == label for best, label in pairs)
    assert mlperf_accuracy(log, val_map, dtype) == (good, len(pairs))


def test_mlperfs_log_in_bytes(tmp_path):
    log, val_map = write_mlperf(tmp_path, record([65, -1]), listing((65, 3)))
    assert json.loads(log.read_text()) == [
        {"seq_id": 0, "qsl_idx": 0, "data": "00008242"},
        {"seq_id": 1, "qsl_idx": 1, "data": "000080BF"},
    ]
    assert val_map.read_text() == "0.jpg\t65\n1.jpg\t3\n"


def test_a_missing_first_picture_does_not_move_mlperfs_lines(tmp_path):
    """The peer's own flow loses this: 76.6 % by one of its tools, 2.1 % by the other."""
    pictures = listing(tuple(range(10)))
    rest = replace(pictures, pictures=pictures.pictures[1:], missing=pictures.pictures[:1])
    now = record(list(range(1, 10)), list(range(1, 10)))
    now = replace(now, indices=now.indices + 1)
    log, val_map = write_mlperf(tmp_path, now, rest)
    assert mlperf_accuracy(log, val_map, "float32") == (9, 9)
    assert len(val_map.read_text().splitlines()) == 10


def test_names_with_blanks_are_refused_for_mlperf(tmp_path):
    pictures = replace(listing((1,)), pictures=(Picture(0, "my cat.jpg", 1),))
    with pytest.raises(SweepError, match="a name with blanks cannot be written for MLPerf"):
        write_mlperf(tmp_path, record([1]), pictures)


@given(answers)
def test_magicmind_reads_the_same_accuracy(tmp_path_factory, pairs):
    bests, labels = zip(*pairs, strict=True)
    folder = tmp_path_factory.mktemp("magicmind")
    now = record(bests, labels)
    write_magicmind(folder, now, listing(labels))
    top1, top5 = magicmind_accuracy(folder)
    assert (top1, top5) == (now.right1.mean(), now.right5.mean())
    assert (folder / "eval_result.txt").read_text() == f"top1 accuracy: {top1:f}\ntop5 accuracy: {top5:f}\n"


def test_magicminds_files_line_by_line(tmp_path):
    now = record([2, 7], [2, 3])
    write_magicmind(tmp_path, now, listing((2, 3)))
    assert (tmp_path / "eval_labels.txt").read_text() == "[0]: 2\n[1]: 3\n"
    assert (tmp_path / "eval_result_1.txt").read_text() == "[0]: 2\n[1]: 7\n"
    assert (tmp_path / "eval_result_5.txt").read_text().splitlines() == [
        "[0]: 2", "[0]: 20", "[0]: 21", "[0]: 22", "[0]: 23",
        "[1]: 7", "[1]: 20", "[1]: 21", "[1]: 22", "[1]: 23",
    ]  # fmt: skip
    assert (tmp_path / "eval_result.txt").read_text() == "top1 accuracy: 0.500000\ntop5 accuracy: 0.500000\n"


def test_magicminds_file_of_names(tmp_path):
    """Lines as infer_python prints them; without names there is no such file."""
    names = [f"c{number}, {number}" for number in range(24)]
    now = record([2, -1], [2, 3])
    files = export_sweep("magicmind", tmp_path, now, listing((2, 3)), names)
    (found,) = [path for path in files if path.name == "infer_result.txt"]
    assert found.read_text() == (
        "top5 result:\n0 [c2, 2]\n1 [c20, 20]\n2 [c21, 21]\n3 [c22, 22]\n4 [c23, 23]\n"
        "top5 result:\n0 [background or none]\n1 [c20, 20]\n2 [c21, 21]\n3 [c22, 22]\n4 [c23, 23]\n"
    )
    unnamed = export_sweep("magicmind", tmp_path / "unnamed", now, listing((2, 3)))
    assert "infer_result.txt" not in [path.name for path in unnamed]


def test_csv_has_a_line_a_picture(tmp_path):
    (path,) = write_csv(tmp_path, record([2, 7], [2, 3]), listing((2, 3)))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "index": "1", "name": "1.jpg", "label": "3", "top1": "7",
        "top2": "20", "top3": "21", "top4": "22", "top5": "23",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_each_case_has_a_folder_of_its_own(tmp_path, name):
    files = export_sweep(name, tmp_path, record([1]), listing((1,)))
    assert files
    assert all(path.is_file() and path.parent == tmp_path / PLAN.case for path in files)
    (tmp_path / "file").write_text("")
    with pytest.raises(SweepError, match="choose another folder with --out"):
        export_sweep(name, tmp_path / "file", record([1]), listing((1,)))
