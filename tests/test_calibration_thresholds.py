"""The formulas that choose a range, against plain ones and against onnxruntime's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnxruntime.quantization.calibrate import HistogramCollector

from topfive.errors import CalibrateError, UnknownNameError
from topfive.quantize.calibration import METHODS, Method
from topfive.quantize.calibration.histogram import Histogram
from topfive.quantize.calibration.thresholds import (
    entropy_bins,
    entropy_divergences,
    histogram_range,
    mse_bins,
    onnxruntime_window,
)

counts = arrays.arrays(np.int64, st.integers(24, 90), elements=st.integers(0, 2000)).filter(
    lambda c: c[1:].any()
)
HISTOGRAM_METHODS = [name for name in METHODS if name not in ("minmax", "entropy_onnxruntime")]


def plain_divergences(given_counts: np.ndarray, levels: int) -> np.ndarray:
    """The definition, bin by bin."""
    held = given_counts.astype(float)
    held[0] = held[1]
    found = []
    for kept in range(levels, held.size + 1):
        p = held[:kept].copy()
        p[-1] += held[kept:].sum()
        q = np.zeros(kept)
        for level in range(levels):
            own = [j for j in range(kept) if j * levels // kept == level and held[j] > 0]
            if own:
                q[own] = held[own].sum() / len(own)
        if not q.any() or (p[q == 0] > 0).any():
            found.append(np.inf)
            continue
        p, q = p / p.sum(), q / q.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(float(np.where(p > 0, p * np.log(p / q), 0.0).sum()))
    return np.array(found)


@settings(max_examples=40)
@given(counts, st.integers(2, 20))
def test_divergences_are_those_of_the_definition(histogram: np.ndarray, levels: int) -> None:
    found, wanted = entropy_divergences(histogram, levels), plain_divergences(histogram, levels)
    assert np.array_equal(np.isinf(found), np.isinf(wanted))
    known = np.isfinite(wanted)
    assert found[known] == pytest.approx(wanted[known], abs=1e-9)


@settings(max_examples=40)
@given(counts, st.integers(2, 20))
def test_entropy_keeps_the_last_of_the_least_diverging(histogram: np.ndarray, levels: int) -> None:
    kept, wanted = entropy_bins(histogram, levels), plain_divergences(histogram, levels)
    assert levels <= kept <= histogram.size
    least = wanted.min()
    if np.isfinite(least):
        assert wanted[kept - levels] == pytest.approx(least, abs=1e-9)
        assert (wanted[kept - levels + 1 :] > least - 1e-9).all()


def test_entropy_cuts_a_far_outlier_and_keeps_a_flat_distribution() -> None:
    random = np.random.default_rng(0)
    bell = np.histogram(np.abs(random.normal(0, 1, 200_000)), 2048, range=(0, 40))[0]
    bell[-1] += 1
    assert 128 <= entropy_bins(bell, 128) < 400
    assert entropy_bins(np.full(2048, 1000), 128) == 2048


@settings(max_examples=60)
@given(
    arrays.arrays(np.int64, st.integers(16, 120), elements=st.integers(0, 5000)).filter(np.any),
    st.integers(2, 16),
)
def test_the_window_is_onnxruntimes(histogram: np.ndarray, levels: int) -> None:
    edges = np.linspace(-4, 4, histogram.size + 1, dtype=np.float32)
    ends = np.float32(-9), np.float32(9)
    try:
        theirs = HistogramCollector.get_entropy_threshold(None, (histogram, edges, *ends), levels)
    except AssertionError:
        return  # their smoothing gives up where an almost empty window has counts below its epsilon
    start, end = onnxruntime_window(histogram, levels)
    assert (edges[start], edges[end]) == tuple(theirs)


def test_onnxruntimes_defaults_have_one_window() -> None:
    histogram = np.random.default_rng(0).integers(0, 100, 128)
    assert onnxruntime_window(histogram, 128) == (0, 128)


def plain_error(histogram: np.ndarray, kept: int) -> float:
    step, total = kept / 127, 0.0
    for j, count in enumerate(histogram):
        code = min(round((j + 0.5) / step), 127)
        total += count * (code * step - (j + 0.5)) ** 2
    return total


@settings(max_examples=30)
@given(arrays.arrays(np.int64, st.integers(64, 130), elements=st.integers(0, 500)).filter(np.any))
def test_mse_keeps_the_bins_of_least_error(histogram: np.ndarray) -> None:
    kept = mse_bins(histogram)
    candidates = range(histogram.size, histogram.size // 16 - 1, -1)
    errors = {n: plain_error(histogram, n) for n in candidates}
    assert errors[kept] == pytest.approx(min(errors.values()), rel=1e-9)


def histogram_of(x: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(x.astype(np.float32))
    return histogram


samples = arrays.arrays(np.float32, st.integers(50, 400), elements=st.floats(-20, 30, width=32))


@given(samples, st.floats(60, 99.9))
def test_a_symmetric_percentile_is_where_that_share_is_reached(x: np.ndarray, percentile: float) -> None:
    histogram = histogram_of(x)
    low, high = histogram_range(histogram, Method("percentile", True, percentile))
    assert low == -high
    if x.min() < x.max():
        bin_width = histogram.bound / 2048
        beyond = (np.abs(x) > high + bin_width + 2 * histogram.width).mean()
        inside = (np.abs(x) < high - histogram.width).mean()
        assert beyond <= 1 - percentile / 100 + 1e-9
        assert inside < percentile / 100 + 1e-9


@given(samples, st.sampled_from(HISTOGRAM_METHODS), st.booleans())
def test_a_range_never_reaches_beyond_what_was_seen(x: np.ndarray, name: str, symmetric: bool) -> None:
    low, high = histogram_range(histogram_of(x), Method(name, symmetric))
    assert low <= high
    bound = float(np.abs(x).max())
    assert high <= bound * (1 + 1e-12)
    if symmetric:
        assert low == -high
    else:
        assert float(x.min()) - 1e-12 * bound <= low
        assert high <= float(x.max())


@pytest.mark.parametrize("name", HISTOGRAM_METHODS)
@pytest.mark.parametrize("value", [0.0, 3.5, -2.25])
def test_a_constant_tensor_keeps_its_value(name: str, value: float) -> None:
    histogram = histogram_of(np.full(100, value))
    assert histogram_range(histogram, Method(name)) == (value, value)
    assert histogram_range(histogram, Method(name, symmetric=True)) == (-abs(value), abs(value))


def test_a_percentile_of_a_hundred_is_everything() -> None:
    x = np.random.default_rng(0).normal(0, 1, 5000)
    histogram = histogram_of(x)
    assert histogram_range(histogram, Method("percentile", percentile=100)) == (histogram.low, histogram.high)


def test_values_far_from_zero_and_near_each_other_keep_their_order() -> None:
    x = np.random.default_rng(0).uniform(5, 5.001, 1000)
    for name in HISTOGRAM_METHODS:
        low, high = histogram_range(histogram_of(x), Method(name))
        assert 4.9 < low <= high < 5.1, name


def test_asymmetric_mse_beats_the_whole_range_on_a_long_tail() -> None:
    bell = np.tile(np.random.default_rng(0).normal(0, 1, 5000), 200)
    x = np.concatenate([bell, [30.0, -12.0]]).astype(np.float32)
    low, high = histogram_range(histogram_of(x), Method("mse"))

    def error(a: float, b: float) -> float:
        step = (b - a) / 255
        zero = np.rint(-a / step)
        return float((((np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step - x) ** 2).mean())

    assert error(low, high) < 0.5 * error(float(x.min()), float(x.max()))


BAD = {
    "name": (UnknownNameError, {"name": "entrop"}, "did you mean entropy"),
    "percentile": (CalibrateError, {"name": "percentile", "percentile": 101.0}, "at most 100"),
    "low_percentile": (CalibrateError, {"name": "percentile", "percentile": 1.0}, "more than 50"),
    "bins_of_minmax": (CalibrateError, {"name": "minmax", "bins": 64}, "has no bins"),
    "too_many_bins": (CalibrateError, {"name": "entropy", "bins": 10**6}, "128 to 8192"),
    "fewer_bins_than_levels": (CalibrateError, {"name": "entropy", "bins": 100}, "128 to 8192"),
    "one_level": (CalibrateError, {"name": "entropy", "levels": 1}, "2 or more"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_parameters_say_what_is_allowed(case: str) -> None:
    error, parameters, message = BAD[case]
    with pytest.raises(error, match=message):
        Method(**parameters)
