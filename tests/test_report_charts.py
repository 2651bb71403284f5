"""The formulas behind the report's figures: fronts, levels, axes, percentiles, and text as XML."""

from __future__ import annotations

import itertools
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topfive.report.site.charts.frame import LETTER, Axis, Labels, clean, fitting
from topfive.report.site.charts.histogram import FEWEST, histogram_chart, percentiles
from topfive.report.site.charts.lines import Series, scaling_chart
from topfive.report.site.charts.pareto import NAMED, Point, front, pareto_chart
from topfive.report.site.charts.roofline import Roof, Spot, roofline_chart
from topfive.report.site.steps import PENALTY, levels, noise

positive = st.floats(1e-6, 1e6)


@given(st.lists(st.builds(Point, st.just("x"), positive, st.floats(0, 1)), max_size=30))
def test_front_is_what_no_point_beats(points: list[Point]) -> None:
    best = front(points)

    def beaten(one: Point) -> bool:
        return any(
            p.seconds <= one.seconds
            and p.accuracy >= one.accuracy
            and (p.seconds, p.accuracy) != (one.seconds, one.accuracy)
            for p in points
        )

    assert {(p.seconds, p.accuracy) for p in best} == {
        (p.seconds, p.accuracy) for p in points if not beaten(p)
    }


@given(st.lists(positive, min_size=1, max_size=9))
def test_levels_are_the_best_of_all_cuts(values: list[float]) -> None:
    logs = np.log(values)
    penalty = PENALTY * noise(logs) ** 2 * math.log(max(len(values), 2))

    def cost(cuts: tuple[int, ...]) -> float:
        edges = [0, *cuts, len(values)]
        parts = [logs[a:b] for a, b in itertools.pairwise(edges)]
        return sum(float(((part - part.mean()) ** 2).sum()) for part in parts) + penalty * len(cuts)

    found = levels(values)
    assert [level.start for level in found] == [0, *(level.end for level in found[:-1])]
    assert found[-1].end == len(values)
    places = range(1, len(values))
    least = min(cost(cuts) for n in range(len(values)) for cuts in itertools.combinations(places, n))
    assert cost(tuple(level.start for level in found[1:])) <= least + 1e-9 + 1e-9 * abs(least)


@settings(max_examples=50)
@given(st.integers(0, 1000), st.integers(5, 20), st.integers(5, 20), st.sampled_from([1.2, 0.8, 1.5]))
def test_a_step_is_found_where_it_is(seed: int, before: int, after: int, ratio: float) -> None:
    random = np.random.default_rng(seed)
    values = np.concatenate([np.ones(before), np.full(after, ratio)]) * random.uniform(
        0.99, 1.01, before + after
    )
    found = levels(values.tolist())
    assert [level.start for level in found] == [0, before]
    assert abs(found[1].value / found[0].value - ratio) < 0.02


def test_levels_of_nothing_and_of_bad_numbers() -> None:
    assert levels([]) == []
    assert len(levels([2.0] * 40)) == 1
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            levels([1.0, bad])


@given(st.lists(positive, min_size=1, max_size=20), st.booleans())
def test_axis_shows_all_values(values: list[float], log: bool) -> None:
    axis = Axis.around(values, 10, 200, log=log)
    assert all(10 <= axis.at(value) <= 200 for value in values)
    ticks = axis.ticks()
    assert ticks == sorted(ticks)
    assert all(axis.low - 1e-9 * abs(axis.low) <= tick <= axis.high * (1 + 1e-9) for tick in ticks)


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=300))
def test_histogram_counts_every_round(values: list[float]) -> None:
    seconds = np.asarray(values)
    chart = histogram_chart(seconds, "x")
    assert f"{len(values)} rounds" in chart
    named = dict(percentiles(seconds))
    assert named["p50"] == np.quantile(seconds, 0.5)
    assert named["p99"] == np.quantile(seconds, 0.99)
    assert ("p99.9" in named) == (len(values) >= 1000)


@given(st.text(max_size=30))
def test_clean_text_is_xml(text: str) -> None:
    element = ElementTree.fromstring(f'<a b="{clean(text)}">{clean(text)}</a>')
    assert element.get("b") is not None


@given(positive, st.floats(0.001, 1000.0))
def test_ticks_are_told_apart_by_their_texts(low: float, share: float) -> None:
    texts = [text for _, text in Axis.around([low, low * (1 + share)], 0, 100).labelled()]
    assert len(set(texts)) == len(texts)


PIXELS = st.tuples(st.floats(20, 180), st.floats(20, 180))


@given(st.lists(PIXELS, min_size=1, max_size=12))
def test_labels_cover_neither_points_nor_one_another(points: list[tuple[float, float]]) -> None:
    labels = Labels(points, (0, 0, 200, 200))
    boxes = []
    for number, (x, y) in enumerate(points):
        for element in ElementTree.fromstring(f"<g>{labels.text(str(number), x, y)}</g>").iter("text"):
            left, base = float(element.get("x", "")), float(element.get("y", ""))
            boxes.append((left, base - 10, left + LETTER * len(element.text or ""), base + 1))
    for box in boxes:
        assert box[0] >= 0
        assert box[2] <= 200
        assert not any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in points)
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@given(st.text(max_size=60), st.integers(0, 400))
def test_fitting_text_is_no_wider_than_there_is_room(text: str, pixels: int) -> None:
    shown = fitting(text, pixels)
    assert len(shown) <= max(pixels / LETTER, 2)
    assert shown == text or text.startswith(shown[:-1])


def bars_of(chart: str) -> list[tuple[float, float]]:
    """Right edge and height in pixels of each bar of a histogram that is not empty."""
    root = ElementTree.fromstring(chart)
    path = next(e.get("d", "") for e in root.iter("path") if e.get("class") == "s0 bar")
    start, *steps = path.removesuffix("z").split("V")
    floor = float(start.split()[1])
    corners = [tuple(map(float, step.split("H"))) for step in steps[:-1]]
    return [(right, floor - up) for up, right in corners if up != floor]


def test_histogram_bars_are_the_counts() -> None:
    """Two values, 30 and 10 times: two bars, three to one; none of the rounds at an edge is lost."""
    chart = histogram_chart(np.asarray([1e-3] * 30 + [1.2e-3] * 10), "x")
    (_, tall), (_, small) = bars_of(chart)
    assert tall / small == pytest.approx(3.0, rel=0.01)
    assert ">30</text>" in chart
    assert "ms (log)" in chart


def test_histogram_of_close_rounds_keeps_its_shape() -> None:
    """A device's rounds within 0.2 % are no single bar, and the numbers below tell them apart."""
    chart = histogram_chart(np.linspace(10e-3, 10.02e-3, 200), "x")
    assert len(bars_of(chart)) > 10
    below = [e for e in ElementTree.fromstring(chart).iter("text") if e.get("text-anchor") == "middle"]
    texts = [e.text for e in below if (e.text or "").startswith("10")]
    assert len(texts) > 2
    assert len(set(texts)) == len(texts)


def test_few_rounds_are_lines() -> None:
    few = histogram_chart(np.linspace(1e-3, 2e-3, FEWEST - 1), "x")
    assert "s0 bar" not in few
    (path,) = [
        e.get("d", "") for e in ElementTree.fromstring(few).iter("path") if e.get("class") == "s0 line"
    ]
    assert path.count("M") == FEWEST - 1
    assert "p99 1.99*" in few


def test_front_of_a_figure_leaves_out_what_is_simulated() -> None:
    points = [Point("slow", 2e-3, 0.9), Point("best~", 1e-3, 0.99, hollow=True)]
    root = ElementTree.fromstring(pareto_chart(points, "x"))
    assert (root.findtext("desc") or "").endswith("fastest first: slow: 2.000 ms, 90.00 %.")
    marks = [e.get("class", "") for e in root.iter("circle")]
    assert sum("hollow" in mark for mark in marks) == sum("dot" in mark for mark in marks) == 2


def test_a_crowded_front_names_only_the_best() -> None:
    points = [Point(f"case {n}", 1e-3 * (1 + n), 0.5 + n / 100 * (n % 2)) for n in range(NAMED + 1)]
    root = ElementTree.fromstring(pareto_chart(points, "x"))
    texts = [e.text or "" for e in root.iter("text")]
    named = [text for text in texts if "case" in text]
    assert len(named) == len(front(points)) < NAMED


def test_close_rates_stand_on_an_axis_from_zero_and_distant_ones_do_not() -> None:
    near = scaling_chart([Series("a", ((1, 100.0), (4, 300.0)))], "x")
    far = scaling_chart([Series("a", ((1, 1.0), (4, 300.0)))], "x")
    assert ">0</text>" in near
    assert ">images/s<" in near
    assert ">images/s (log)<" in far


def test_roofline_corners_and_marks() -> None:
    """The array's roof begins at peak / bus, and what bounds a layer shows by its shape."""
    spots = [
        Spot(f"layer{n}", 10.0 + n, 50.0, bound, n) for n, bound in enumerate(("load", "compute", "store"))
    ]
    root = ElementTree.fromstring(roofline_chart(spots, Roof(256.0, 16.0, 0.5), "x"))
    across = Axis.around([16.0, 32.0, 10.0, 11.0, 12.0], 64, 660, log=True)
    corners = [
        e.get("d", "").split("L")[1].split()[0] for e in root.iter("path") if "roof" in e.get("class", "")
    ]
    assert corners == [str(across.at(16.0)), str(across.at(32.0))]
    shapes = {e.get("d") for e in root.iter("path") if " dot" in e.get("class", "")}
    assert len(shapes) == 3
    assert "MAC/cycle" in "".join(e.text or "" for e in root.iter("text"))
