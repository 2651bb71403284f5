"""The table, its footnotes, the CSV, percentiles, and how findings of several tests become rows."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.errors import TopfiveError
from topfive.report.columns import COLUMNS, Column
from topfive.report.csv_table import write_csv
from topfive.report.terminal import footnotes, render, render_loadgen
from topfive.suite.environment import cpu_features, library_versions
from topfive.suite.measuring import timing
from topfive.suite.results import Results, Row

SPEED = {"p50": 0.001, "p90": 0.002, "p99": 0.0031, "images_per_s": 1000.0, "rounds": 500}


def row(model="net", target="cpu", quant="int8", batch=1, **values):
    return Row(model, target, quant, batch, values)


def found(kind, batch=None, **values):
    return {"model": "net", "target": "cpu", "quant": "int8", "batch": batch, "kind": kind, "values": values}


def test_a_row_is_a_line_whatever_its_length():
    rows = [row(model="m" * 150, golden="exact", top1=0.985, **SPEED), row()]
    lines = render(rows).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == [
        *("m" * 150, "cpu", "int8", "1", "exact", "98.5", "1.000", "2.000", "3.100", "1000", "500")
    ]
    assert lines[2].split() == ["net", "cpu", "int8", "1", *["-"] * 7]


def test_the_longest_usual_row_fits_100_columns():
    values = {"golden": "exact", "top1": 1.0, "simulated": "x", **SPEED, "rounds": 10, "p99": 0.0331}
    text = render([row(model="pocket_mobilenet", target="gemmini_sim", quant="force_float32", **values)])
    assert max(map(len, text.splitlines())) <= 100


def test_plain_text_is_ascii_without_escapes_and_colour_is_on_request():
    rows = [row(golden="fail", simulated="x", **SPEED)]
    assert render(rows).isascii()
    assert "\x1b" not in render(rows)
    assert "\x1b" in render(rows, colour=True)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1))
def test_any_name_is_shown_as_it_is(name):
    # What looks like markup of rich is a name like any other.
    text = render([row(model=f"[{name}]x")])
    assert len(text.splitlines()) == 2


def test_percentile_of_few_rounds_is_marked_and_explained():
    few, many = row(**{**SPEED, "rounds": 99}), row(**{**SPEED, "rounds": 100})
    assert "3.100*" in render([few])
    assert "3.100*" not in render([many])
    assert any("fewer than 100" in note for note in footnotes([few]))
    assert footnotes([many]) == []
    assert footnotes([row()]) == []


def test_simulated_targets_say_so_in_the_row_and_below():
    rows = [row(target="gemmini_sim", simulated="the CPU's times"), row()]
    assert "gemmini_sim~" in render(rows)
    assert "cpu~" not in render(rows)
    assert footnotes(rows) == ["~ gemmini_sim is simulated: the CPU's times"]


def test_differing_native_kernels_are_said():
    assert footnotes([row()], native_kernels_differ=True)[0].startswith("cpu: ")


def test_a_column_is_added_in_one_place():
    cycles = Column("cycles", lambda r: r.values.get("cycles"), "Mcycles", lambda _, v: f"{v / 1e6:.1f}")
    lines = render([row(cycles=12_300_000), row()], columns=(*COLUMNS, cycles)).splitlines()
    assert lines[0].endswith("Mcycles")
    assert lines[1].endswith("12.3")
    assert lines[2].endswith("-")


# Rows


def test_a_golden_stands_in_every_row_of_its_case():
    results = Results()
    results.add(found("golden", golden="exact", top1=0.9))
    results.add(found("latency", 1, p50=1.0))
    results.add(found("throughput", 8, p50=8.0))
    assert [(r.batch, r.values) for r in results.rows()] == [
        (1, {"golden": "exact", "top1": 0.9, "p50": 1.0}),
        (8, {"golden": "exact", "top1": 0.9, "p50": 8.0}),
    ]


def test_a_golden_alone_is_a_row_without_batch():
    results = Results()
    results.add(found("golden", golden="drift", note="moved"))
    assert [(r.batch, r.values) for r in results.rows()] == [(None, {"golden": "drift"})]
    assert results.notes == ["moved"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["latency_first", "throughput_first"])
def test_at_batch_1_the_row_is_one_run_the_latency_tests(order):
    both = [
        found("latency", 1, p50=1.0, p90=1.0, p99=1.0, rounds=100, images_per_s=1.0),
        found("throughput", 1, p50=2.0, p90=2.0, p99=2.0, rounds=9, images_per_s=2.0),
    ]
    results = Results()
    for place in order:
        results.add(both[place])
    (merged,) = results.rows()
    assert merged.values == {"p50": 1.0, "p90": 1.0, "p99": 1.0, "rounds": 100, "images_per_s": 1.0}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["golden_first", "scenario_first"])
def test_loadgens_accuracy_does_not_replace_the_goldens(order):
    both = [found("golden", golden="exact", top1=0.96), found("scenario", top1=0.98, pictures=100)]
    results = Results()
    for place in order:
        results.add(both[place])
    (merged,) = results.rows()
    assert merged.values["top1"] == 0.96


# Figures


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=200), st.integers(1, 64))
def test_timing(seconds, batch):
    figures = timing(seconds, batch)
    assert min(seconds) <= figures.p50 <= figures.p90 <= figures.p99 <= max(seconds)
    assert figures.images_per_s == pytest.approx(batch * len(seconds) / sum(seconds))
    assert figures.rounds == len(seconds)
    assert figures.p50 == pytest.approx(np.median(seconds))


def test_percentiles_against_literal_numbers():
    figures = timing([float(n) for n in range(1, 102)], 1)
    assert (figures.p50, figures.p90, figures.p99) == (51.0, 91.0, 100.0)


# CSV


def test_csv_has_raw_numbers_and_an_environment(tmp_path):
    path = tmp_path / "out.csv"
    write_csv([row(golden="exact", top1=1 / 3, artifact="a,b\n", **SPEED), row(batch=None)], path)
    with path.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert float(first["top1"]) == 1 / 3
    assert float(first["p99_s"]) == 0.0031
    assert first["artifact"] == "a,b\n"
    assert first["cpu_features"] == " ".join(cpu_features())
    assert first["version_onnxruntime"] == library_versions()["onnxruntime"]
    assert (second["batch"], second["p50_s"], second["golden"]) == ("", "", "")
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_csv_that_cannot_be_written_is_a_clear_error(tmp_path):
    with pytest.raises(TopfiveError, match="cannot be written"):
        write_csv([row()], tmp_path / "no" / "out.csv")


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni bogus sse4_1\n", ("sse4_1", "avx2", "avx512_vnni")),
        ("Features\t: fp asimd asimddp i8mm\n", ("asimd", "asimddp", "i8mm")),
        ("", ()),
    ],
    ids=["x86", "arm", "empty"],
)
def test_cpu_features(tmp_path, text, features):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert cpu_features(path) == features
    assert cpu_features(tmp_path / "absent") == ()


def test_runs_of_loadgen_stand_one_by_one() -> None:
    results = Results()
    runs = [
        {"key": "performance-singlestream", "valid": True, "metric": 1.25e-3, "queries": 64},
        {"key": "performance-server", "valid": False, "metric": 123.46, "queries": 700},
        {"key": "accuracy-offline", "valid": True, "accuracy": 0.98, "right": 98, "total": 100},
    ]
    for run in runs:
        case = {"model": "pocket_fire", "target": "gemmini_sim", "quant": "int8", "batch": None}
        results.add({**case, "kind": "scenario", "values": {"simulated": "on the CPU", "loadgen": run}})
    assert "loadgen" not in results.rows()[0].values
    text = render_loadgen(results.loadgen)
    *lines, note = text.splitlines()[1:]
    assert note.startswith("server: a gentle rate")
    assert [line.split()[3:] for line in lines] == [
        ["performance-singlestream", "VALID", "1.250", "ms,", "90th", "percentile", "64"],
        ["performance-server", "INVALID", "123.5", "samples/s", "completed", "700"],
        ["accuracy-offline", "-", "98.00", "%", "top-1", "100"],
    ]
    assert all("gemmini_sim~" in line for line in lines)
    assert "gentle" not in render_loadgen(results.loadgen[:1])
    assert "\x1b" in render_loadgen(results.loadgen, colour=True)
