"""The formulas behind the report's figures: fronts, levels, axes, percentiles, and text as XML."""

from __future__ import annotations

import itertools
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topfive.report.site.charts.frame import Axis, clean
from topfive.report.site.charts.histogram import histogram_chart, percentiles
from topfive.report.site.charts.pareto import Point, front
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
