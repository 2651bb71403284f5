"""What the report shows of a case that several runs are about: accuracy, latency, history."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topfive.records.arrays import pack_array
from topfive.report.site import Content, Material, read_content, site_files
from topfive.report.site.content import Figures, Run, golden_basis
from topfive.report.site.fronts import comparable, fronts_of_all, fronts_of_model
from topfive.report.site.newest import CaseView, case_views

from report_records import MACHINE, case_tests, write_models, write_run

CASE = ("net", "cpu", "int8")
RIGHT = {f"{n:016x}": n < 9 for n in range(10)}


def run(number: int, *figures: Figures, host: str = "here") -> Run:
    created = f"2026-01-{1 + number:02d}T10:00:00+00:00"
    return Run(
        f"run-{number}", "session", created, "file", "pytest", f"{number:07x}", False, host, {}, figures
    )


def accuracy(case: tuple[str, str, str], basis: str, top1: float, **more: Any) -> Figures:
    return Figures("accuracy", case, None, "passed", {"top1": top1, "pictures": 10, **more}, basis=basis)


def latency(case: tuple[str, str, str], p50: float, batch: int = 1, **more: Any) -> Figures:
    values = {"p50": p50, "rounds": 100, **more}
    return Figures("latency", case, batch, "passed", values, kind="latency")


def view(*runs: Run) -> CaseView:
    (found,) = case_views(Content(runs), {})
    return found


def loadgen_test(top1: float) -> dict[str, Any]:
    stored = {"key": "accuracy-offline", "valid": True, "accuracy": top1, "total": 5}
    return {
        "test": "scenario net",
        "kind": "scenario",
        "outcome": "passed",
        "case": {"model": "net", "target": "cpu", "quant": "int8", "batch": None},
        "values": {"top1": top1, "pictures": 5},
        "loadgen": stored,
    }


def test_loadgen_on_fewer_pictures_does_not_replace_the_goldens_accuracy(tmp_path: Path) -> None:
    golden = case_tests(*CASE, 1, 20)[0]
    golden["values"] |= {"top1": 0.9, "right1": RIGHT}
    write_run(tmp_path, [golden], 0)
    write_run(tmp_path, [loadgen_test(0.6)], 1)
    (found,) = case_views(read_content([tmp_path]), {})
    assert [(a.top1, a.pictures) for a in found.accuracies] == [(0.9, 10), (0.6, 5)]
    assert found.accuracy is not None
    assert found.accuracy.basis == golden_basis(RIGHT)


def test_a_sweep_goes_before_goldens_of_a_later_run() -> None:
    found = view(
        run(0, accuracy(CASE, "sweep", 0.7, top5=0.9)),
        run(1, accuracy(CASE, "goldens", 0.9)),
    )
    assert [a.basis for a in found.accuracies] == ["sweep", "goldens"]
    assert found.accuracy is not None
    assert (found.accuracy.top1, found.accuracy.top5) == (0.7, 0.9)


def test_only_top1_of_the_same_pictures_is_compared() -> None:
    """Three cases share goldens, one of them has a sweep as well, and another model has other pictures."""
    cases = [("net", "cpu", quant) for quant in ("a", "b", "c")] + [("other", "cpu", "a")]
    runs = [run(n, latency(case, 1e-3 * (n + 1))) for n, case in enumerate(cases)]
    runs += [run(10 + n, accuracy(case, "goldens", 0.9)) for n, case in enumerate(cases[:3])]
    runs += [run(20, accuracy(cases[0], "sweep", 0.7, top5=0.9)), run(21, accuracy(cases[3], "else", 0.99))]
    views = case_views(Content(runs), {})
    groups = [(basis, [v.case for v, _ in chosen]) for basis, chosen in comparable(views)]
    assert groups == [("goldens", cases[:3]), ("else", cases[3:])]
    ((words, chart),) = fronts_of_all(views)
    assert words == "goldens"
    assert "3 cases" in chart
    assert [basis for basis, _ in fronts_of_model("net", views[:3])] == ["goldens"]


def test_other_machines_and_batches_are_said_in_a_front() -> None:
    cases = [("net", "cpu", quant) for quant in ("a", "b")]
    figures = [
        (latency(case, 1e-3, batch), accuracy(case, "goldens", 0.9))
        for batch, case in zip((1, 8), cases, strict=True)
    ]
    here, there = run(0, *figures[0]), run(1, *figures[1], host="there")
    ((_, chart),) = fronts_of_model("net", case_views(Content([here, there]), {}))
    assert "cpu a, batch 1, on here" in chart
    assert "cpu b, batch 8, on there" in chart
    same = dataclasses.replace(figures[1][0], batch=1)
    ((_, chart),) = fronts_of_model("net", case_views(Content([here, run(1, same, figures[1][1])]), {}))
    assert "batch" not in chart
    assert " on " not in chart


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["latency_first", "throughput_first"])
def test_at_batch_1_the_latency_test_is_shown_as_in_the_sessions_table(order: tuple[int, int]) -> None:
    both = [
        latency(CASE, 1e-3, rounds=10),
        Figures("throughput", CASE, 1, "passed", {"p50": 2e-3, "rounds": 90}, kind="throughput"),
    ]
    found = view(run(0, *(both[place] for place in order)))
    assert [m.number("p50") for m in found.measured] == [1e-3]
    assert [m.p50 for m in found.history(1)] == [1e-3]


def test_history_keeps_to_the_newest_runs_machine_threads_and_kernels() -> None:
    alike = {"threads": 2, "kernels": "exact"}
    runs = [
        run(0, latency(CASE, 1e-3, **alike)),
        run(1, latency(CASE, 9e-3, threads=1, kernels="exact")),
        run(2, latency(CASE, 8e-3, threads=2, kernels="native")),
        run(3, latency(CASE, 7e-3, **alike), host="elsewhere"),
        run(4, latency(CASE, 2e-3, **alike)),
    ]
    assert [m.p50 for m in view(*runs).history(1)] == [1e-3, 2e-3]


def test_two_files_of_one_name_are_two_runs(tmp_path: Path) -> None:
    """pytest-benchmark numbers its files in a folder for each machine: 0001_base.json is in each."""
    import json

    for folder, p50 in (("Linux-a", 0.5), ("Linux-b", 0.25)):
        (tmp_path / folder).mkdir()
        row = {
            "fullname": "bench/test_latency.py::test_latency[net-cpu-int8-b1]",
            "params": {"model": "net", "target": "cpu", "quant": "int8", "batch": 1},
            "extra_info": {"p50": p50, "p90": p50, "p99": p50, "images_per_s": 1 / p50, "simulated": ""},
            "stats": {"rounds": 1, "data": [p50]},
        }
        stored = {
            "machine_info": {"node": folder, "cpu": {}},
            "commit_info": {"id": "abc", "dirty": False},
            "datetime": "2026-01-05T10:00:00",
            "benchmarks": [row],
        }
        (tmp_path / folder / "0001_base.json").write_text(json.dumps(stored))
    content = read_content(benchmarks=[tmp_path])
    assert sorted(found.host for found in content.runs) == ["Linux-a", "Linux-b"]
    assert [found.figures[0].kind for found in content.runs] == ["latency", "latency"]


def test_what_is_simulated_is_marked_wherever_it_is_named(tmp_path: Path) -> None:
    """On every page: in tables, figures, lists, headings. Only controls' values and notes name it bare."""
    write_models(tmp_path, ["net_a", "net_b"], runs=3)
    side = {"case": {"model": "net_a", "target": "gemmini_sim", "quant": "int8"}, "outcome": "passed"}
    pair = {"median_a": 1e-3, "median_b": 2e-3, "ratio": 2.0, "low": 1.9, "high": 2.1, "rounds": 4}
    packed = pack_array(np.ones(4))
    tests = [{"test": name, "kind": "pair", "rounds": packed, **side} for name in ("pair a", "pair b")]
    write_run(tmp_path, tests, 5, pair={**pair, "verdict": "slower", "passed": True}, machine=MACHINE)
    material = Material("report", "2026-02-01T00:00:00+00:00", {"gemmini_sim": "x", "tensorrt_sim": "y"})
    for name, data in site_files(read_content([tmp_path]), material).items():
        text = data.decode()
        bare = re.sub(r"<option>.*?</option>|data-target=\"\w+\"|~ \w+ is simulated", "", text)
        assert not re.findall(r".{30}\w+_sim(?![~\w]).{30}", bare), name


def test_every_figure_says_what_it_shows(tmp_path: Path) -> None:
    write_models(tmp_path, ["net"], runs=3)
    content = read_content([tmp_path])
    page = site_files(content, Material("report", "2026-02-01T00:00:00+00:00"))["models/net.html"].decode()
    figures = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(figures) > 8
    for figure in figures:
        assert re.match(
            r'<svg [^>]*role="img" aria-label="[^"]+"><title>[^<]+</title><desc>[^<]+</desc>', figure
        )
