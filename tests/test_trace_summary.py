"""Summaries and flame graphs: of made-up traces, of onnxruntime's own, of the imagenet runner's form."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.cards import fixtures_root
from topfive.errors import TraceError, UnknownNameError
from topfive.sessions import open_session
from topfive.targets.gemmini.cycles import model_cycles
from topfive.targets.gemmini.layers import Conv, Layer, Matmul
from topfive.trace.blocks import host_block, modelled_block
from topfive.trace.events import complete, write_trace
from topfive.trace.flamegraph import flame_svg
from topfive.trace.modelled import modelled_events
from topfive.trace.summary import summarise
from topfive.trace.validation import Trace, read_trace

LANE = (1, 1)
SVG = "{http://www.w3.org/2000/svg}"
OPS = ("QLinearConv", "QLinearAdd", "Relu", "Gemm")


def node(name: str, op: str, start: float, duration: float, provider: str = "CPU", **more: Any) -> Any:
    args = {"op_name": op, "provider": provider, "node": name, **more}
    return complete(f"{name}_kernel_time", "Node", LANE, start, duration, args)


def step(parent: str, action: str, start: float, duration: float) -> Any:
    args = {"sub_action": action, "parent_op": "QLinearConv", "parent": parent}
    return complete(f"{parent}_kernel_{action}_time", "Node", LANE, start, duration, args)


def made(*events: Any) -> Trace:
    return Trace(Path("made.json"), events)


@pytest.fixture
def small() -> Trace:
    layers = [
        Layer("a", "QLinearConv", Conv(1, (8, 8), 4, 8, 3)),
        Layer("b", "QLinearMatMul", Matmul(4, 4, 4)),
    ]
    modelled, _ = modelled_events(model_cycles(layers), {}, 0, 1)
    again, _ = modelled_events(model_cycles(layers), {}, 500, 2)
    return made(
        complete("session_initialization", "Session", LANE, 0, 50, {}),
        complete("model_run", "Session", LANE, 100, 100, {}),
        complete("SequentialExecutor::Execute", "Session", LANE, 105, 90, {}),
        node("a", "QLinearConv", 110, 40, "Systolic"),
        step("a", "im2col", 110, 10),
        step("a", "matmul", 120, 30),
        node("b", "QLinearMatMul", 150, 20, "Systolic"),
        node("c", "Gemm", 170, 20),
        complete("model_run", "Session", LANE, 300, 60, {}),
        node("a", "QLinearConv", 310, 30, "Systolic"),
        node("c", "Gemm", 340, 10),
        *modelled,
        *again,
    )


def test_time_by_operator_provider_and_layer(small: Trace) -> None:
    ops = summarise(small)
    assert [(r.name, r.microseconds, r.events, len(r.layers)) for r in ops.rows] == [
        ("QLinearConv", 70, 2, 1),
        ("Gemm", 30, 2, 1),
        ("QLinearMatMul", 20, 1, 1),
    ]
    providers = summarise(small, "provider")
    assert [(r.name, r.microseconds, len(r.layers)) for r in providers.rows] == [
        ("Systolic", 90, 2),
        ("CPU", 30, 1),
    ]
    layers = summarise(small, "layer")
    assert [(r.name, r.microseconds) for r in layers.rows] == [("a", 70), ("b", 20), ("c", 30)]
    assert ops.runs == 2
    # The product is in one run only.
    assert [row.by_run for row in ops.rows] == [{"1": 40, "2": 30}, {"1": 20, "2": 10}, {"1": 20}]
    assert [row.median(2) for row in ops.rows] == [35, 15, 10]
    assert ops.as_json()["rows"][0] == {
        "name": "QLinearConv",
        "us": 70,
        "us_per_run": 35,
        "us_median": 35,
        "share": 70 / 120,
        "nodes": 1,
        "events": 2,
    }


def test_the_modelled_lane_counts_cycles_once_a_run(small: Trace) -> None:
    found = summarise(small, "layer", "modelled")
    model = model_cycles(
        [Layer("a", "QLinearConv", Conv(1, (8, 8), 4, 8, 3)), Layer("b", "QLinearMatMul", Matmul(4, 4, 4))]
    )
    assert found.cycles == 2 * model.cycles("estimate")
    assert found.runs == 2
    assert [row.name for row in found.rows] == ["a", "b"]
    assert found.as_json()["modelled"] is True
    assert "cycles" not in summarise(small).as_json()


nodes = st.lists(
    st.tuples(st.sampled_from(OPS), st.sampled_from(["CPU", "Systolic"]), st.integers(0, 99)),
    min_size=1,
    max_size=12,
)


@given(nodes)
def test_every_grouping_has_the_same_sum(found: list[tuple[str, str, int]]) -> None:
    at, events = 10, []
    for number, (op, provider, duration) in enumerate(found):
        events.append(node(f"n{number}", op, at, duration, provider))
        at += duration + 1
    trace = made(complete("model_run", "Session", LANE, 5, at, {}), *events)
    total = sum(duration for _, _, duration in found)
    for by in ("op", "provider", "layer"):
        summary = summarise(trace, by)
        assert summary.microseconds == pytest.approx(total)
        assert sum(row.events for row in summary.rows) == len(found)
        shares = [row["share"] for row in summary.as_json()["rows"]]
        assert sum(shares) == pytest.approx(1 if total else 0)
    block = host_block(trace)
    assert sum(block.sums().values()) == pytest.approx(total)
    assert block.microseconds >= total


def test_a_node_inside_a_node_is_counted_once() -> None:
    trace = made(
        node("if", "If", 0, 100),
        complete("SequentialExecutor::Execute", "Session", LANE, 5, 80, {}),
        node("inner", "Conv", 10, 60),
        node("deeper", "Relu", 20, 5),
    )
    rows = {row.name: row.microseconds for row in summarise(trace, "layer").rows}
    assert rows == {"if": 40, "inner": 55, "deeper": 5}
    assert sum(host_block(trace).sums().values()) == 100


# A file of the imagenet runner, whose steps carry op_name themselves, and fences.
RUNNERS = [
    ("Session", "model_run", 0, 100, {}),
    ("Node", "conv1_fence_before", 10, 0, {"op_name": "QLinearConv"}),
    ("Node", "conv1_kernel_time", 10, 50, {"op_name": "QLinearConv", "provider": "Systolic"}),
    ("Node", "conv1_kernel_im2col_time", 11, 9, {"op_name": "QLinearConv", "sub_action": "im2col"}),
    ("Node", "conv1_kernel_matmul_time", 21, 30, {"op_name": "QLinearConv", "sub_action": "matmul"}),
    ("Node", "conv1_fence_after", 60, 0, {"op_name": "QLinearConv"}),
    ("Node", "fc_kernel_time", 61, 20, {"op_name": "Gemm", "provider": "CPU"}),
]


def test_a_trace_of_the_imagenet_runner_is_not_counted_twice(tmp_path: Path) -> None:
    path = tmp_path / "seed.json"
    events = [complete(name, cat, LANE, start, length, args) for cat, name, start, length, args in RUNNERS]
    write_trace(events, path)
    trace = read_trace(path)
    assert {row.name: row.microseconds for row in summarise(trace).rows} == {"QLinearConv": 50, "Gemm": 20}
    assert [row.name for row in summarise(trace, "layer").rows] == ["conv1", "fc"]
    labels = [block.label for block in host_block(trace).walk()]
    assert labels == ["model_run", "conv1", "conv1", "im2col", "matmul", "conv1", "fc"]


def test_onnxruntimes_own_trace_is_read(tmp_path: Path) -> None:
    model = str(fixtures_root() / "models" / "pocket_fire.onnx")
    session = open_session(model, threads=1, profile=tmp_path / "plain")
    for _ in range(2):
        session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 64, 64), np.float32)})
    path = Path(session.end_profiling())
    trace = read_trace(path)
    found = summarise(trace)
    written = json.loads(path.read_text())
    assert found.microseconds == sum(e["dur"] for e in written if "op_name" in e["args"])
    assert found.runs == 2
    assert [row.name for row in summarise(trace, "provider").rows] == ["CPUExecutionProvider"]
    assert {row.name for row in found.rows} == {
        e["args"]["op_name"] for e in written if "op_name" in e["args"]
    }
    ElementTree.fromstring(flame_svg(trace))
    with pytest.raises(TraceError, match="modelled"):
        summarise(trace, "op", "modelled")


@pytest.mark.parametrize(
    ("by", "lane", "error"),
    [("operator", "host", UnknownNameError), ("op", "gemmini", UnknownNameError), ("op", "host", TraceError)],
    ids=["by", "lane", "empty"],
)
def test_what_cannot_be_summed(by: str, lane: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        summarise(made(complete("model_run", "Session", LANE, 0, 1, {})), by, lane)


# Flame graphs


def rectangles(svg: str) -> list[tuple[str, float, float, float]]:
    """(tooltip, x, y, width) of each block."""
    found = []
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        title, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert box is not None
        found.append((title.text or "", *(float(box.attrib[k]) for k in ("x", "y", "width"))))
    return found


def test_the_median_run_is_drawn(small: Trace) -> None:
    block = host_block(small)
    assert (block.microseconds, block.said) == (60, "run 2 of 2, the median")
    assert [child.label for child in block.children.values()] == ["a", "c"]


def test_blocks_lie_in_their_parents_and_are_as_wide_as_they_take(small: Trace) -> None:
    one = Trace(small.path, small.events[:8] + small.events[11:])
    found = rectangles(flame_svg(one, "host"))
    named = {title.partition(":")[0].partition(",")[0]: box for title, *box in found}
    root, a, c = named["one run"], named["a"], named["c"]
    scale = root[2] / 100
    assert a[2] == pytest.approx(40 * scale, abs=1)
    assert c[2] == pytest.approx(20 * scale, abs=1)
    assert named["im2col of a"][2] == pytest.approx(10 * scale, abs=1)
    assert named["im2col of a"][1] > a[1] > root[1]
    assert c[0] == pytest.approx(a[0] + 60 * scale, abs=1)
    left, right = root[0], root[0] + root[2] + 1
    assert all(left <= x and x + width <= right + 1 for _, x, _, width in found)


def test_the_modelled_band_says_so_and_shows_the_engines(small: Trace) -> None:
    svg = flame_svg(small, "modelled")
    assert "Gemmini, modelled (calibrated estimate, not measured)" in svg
    assert "Host time" not in svg
    labels = {block.label for block in modelled_block(small).walk()}
    assert labels == {"all layers", "a", "b", "load", "compute", "store"}
    assert "Host time, measured" in flame_svg(small, "host")


def test_what_is_simulated_is_marked_in_the_heading_and_said_of_the_host(small: Trace) -> None:
    case = {"model": "net", "target": "gemmini_sim", "quant": "int8"}
    of_a_twin = replace(small, about={**case, "simulated": "bits of the device, times of the CPU"})
    svg = flame_svg(of_a_twin)
    assert "<title>net on gemmini_sim~, int8, batch 1</title>" in svg
    assert "; ~ simulated: bits of the device, times of the CPU<" in svg
    plain = flame_svg(replace(small, about={**case, "simulated": ""}))
    assert "~" not in plain
    assert "simulated" not in plain


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=60))
def test_any_name_makes_a_good_svg(name: str) -> None:
    trace = made(node(name, "Conv", 0, 10), complete("model_run", "Session", LANE, 0, 10, {}))
    svg = flame_svg(trace, title=name)
    titles = [title for title, *_ in rectangles(svg)]
    assert any(title.startswith(f"{name}, Conv on CPU") for title in titles)


@given(st.text(min_size=1, max_size=9))
def test_what_xml_cannot_hold_is_replaced(name: str) -> None:
    ElementTree.fromstring(flame_svg(made(node(name, "Conv", 0, 10)), title=f"a{name}\0\ud800"))


def test_the_svg_stands_alone_and_has_a_dark_form_of_every_colour(small: Trace) -> None:
    svg = flame_svg(small)
    assert "<script" not in svg
    assert not re.findall(r"(?:href|src|url\()", svg)
    used = set(re.findall(r'class="(flame[0-9a-f]{6})"', svg))
    dark = set(re.findall(r"\.(flame[0-9a-f]{6})\{fill:#[0-9a-f]{6}\}", svg))
    assert used == dark
    assert "prefers-color-scheme:dark" in svg


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_words_can_be_read_on_every_colour() -> None:
    """Contrast as WCAG 2 defines it; 4.5 is its limit for text."""
    from topfive.trace import flamegraph

    families = [colour for family in flamegraph.FAMILIES.values() for colour in family]
    for form in (0, 1):
        ink = luminance(flamegraph.INK[form])
        colours = [*families, *flamegraph.STEPS.values(), flamegraph.FRAME, flamegraph.PAPER]
        # One dark colour for each light one: it is named by it.
        assert len({light for light, _ in colours}) == len(colours)
        for colour in colours:
            low, high = sorted([ink, luminance(colour[form])])
            assert (high + 0.05) / (low + 0.05) >= 4.5, colour


@pytest.mark.skipif(shutil.which("rsvg-convert") is None, reason="rsvg-convert is not installed")
def test_a_renderer_takes_the_svg(small: Trace, tmp_path: Path) -> None:
    file = tmp_path / "flame.svg"
    file.write_text(flame_svg(small), encoding="utf-8")
    done = subprocess.run(["rsvg-convert", str(file)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\x89PNG")


def test_a_lane_that_is_none_is_refused(small: Trace) -> None:
    with pytest.raises(UnknownNameError, match="lane"):
        flame_svg(small, "gpu")
