"""Growing histograms: the same counts whatever the order, and what is read off them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from topfive.quantize.calibration.histogram import HALF, Histogram

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
values = arrays.arrays(np.float32, st.integers(1, 60), elements=finite)
moderate = arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-50, 80, width=32))


def counted(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def same(left: Histogram, right: Histogram) -> bool:
    return (
        left.exponent == right.exponent
        and (left.low, left.high) == (right.low, right.high)
        and np.array_equal(left.counts, right.counts)
    )


@given(values)
def test_a_bin_is_the_floor_of_the_value_over_a_power_of_two(x: np.ndarray) -> None:
    histogram = counted(x)
    bound = float(np.abs(x).max())
    exponent = max(math.frexp(bound)[1] - 16, -126) if bound else -126
    assert histogram.exponent == exponent
    assert bound < HALF * histogram.width
    codes = np.floor(np.ldexp(x.astype(np.float64), -exponent)).astype(np.int64)
    assert np.array_equal(histogram.counts, np.bincount(codes + HALF, minlength=2 * HALF))
    assert (histogram.low, histogram.high) == (float(x.min()), float(x.max()))


@given(values, st.data())
def test_order_and_batches_do_not_matter(x: np.ndarray, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, x.size), max_size=4)))
    shuffled = x[data.draw(st.permutations(range(x.size)))]
    assert same(counted(x), counted(*np.split(shuffled, cuts)))


@given(values, st.floats(-10, 0, width=32), st.floats(0, 10, width=32))
def test_clipping_a_histogram_is_counting_clipped_values(x: np.ndarray, low: float, high: float) -> None:
    histogram = counted(x)
    made = histogram.clipped(low, high)
    clipped = np.clip(x, np.float32(low), np.float32(high))
    codes = np.floor(np.ldexp(clipped.astype(np.float64), -histogram.exponent)).astype(np.int64)
    assert np.array_equal(made.counts, np.bincount(codes + HALF, minlength=2 * HALF))
    assert (made.low, made.high) == (float(clipped.min()), float(clipped.max()))
    assert made.exponent == histogram.exponent


def test_a_chunk_is_no_boundary() -> None:
    x = np.random.default_rng(0).normal(0, 3, 300_001).astype(np.float32)
    assert counted(x).total == x.size
    assert same(counted(x), counted(x[:1], x[1:]))


@given(moderate, st.integers(1, 64))
def test_values_below_an_edge_are_right_but_for_the_edges_own_bin(x: np.ndarray, parts: int) -> None:
    histogram = counted(x)
    edges = np.linspace(histogram.low - 1, histogram.high + 1, parts + 1)
    found = histogram.below(edges)
    for edge, below in zip(edges, found, strict=True):
        floor, ceiling = ((x < edge - histogram.width).sum(), (x < edge + histogram.width).sum())
        assert floor <= below <= ceiling
    assert found[0] == 0
    assert found[-1] == x.size


@given(moderate, st.integers(16, 256))
def test_absolute_counts_lose_nothing(x: np.ndarray, bins: int) -> None:
    histogram = counted(x)
    counts = histogram.absolute(bins)
    assert counts.shape == (bins,)
    assert counts.sum() == x.size
    assert (counts >= 0).all()


def test_absolute_counts_are_numpys_on_dense_values() -> None:
    x = np.random.default_rng(1).laplace(0, 1, 200_000).astype(np.float32)
    histogram = counted(x)
    wanted = np.histogram(np.abs(x), 128, range=(0, histogram.bound))[0]
    assert np.abs(histogram.absolute(128) - wanted).max() <= 0.01 * wanted.max()


def test_the_many_zeros_after_a_relu_are_in_the_first_bin() -> None:
    x = np.maximum(np.random.default_rng(2).normal(0, 1, 10_000), 0).astype(np.float32)
    counts = counted(x).absolute(2048)
    assert counts[0] >= (x == 0).sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus_inf"])
def test_what_is_not_finite_is_not_counted(bad: float) -> None:
    histogram = counted(np.array([1.0], np.float32))
    before = histogram.counts.copy()
    with pytest.raises(ValueError, match="not finite"):
        histogram.add(np.array([1.0, bad, 2.0], np.float32))
    assert np.array_equal(histogram.counts, before)
    assert histogram.high == 1.0


def test_nothing_and_zeros_count_as_they_are() -> None:
    histogram = counted(np.zeros(0, np.float32), np.zeros(5, np.float32))
    assert histogram.total == 5
    assert histogram.bound == 0.0
    histogram.add(np.array([-3.0, 4.0], np.float32))
    assert histogram.total == 7
    assert histogram.counts[HALF] == 5
