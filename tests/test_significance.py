"""The statistics of comparisons against their definitions, by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.records.significance import (
    hodges_lehmann,
    hypergeometric_tails,
    mann_whitney,
    quantile_test,
)
from topfive.sweep.statistics import mcnemar

FEW = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=5)


def u_of(first, second):
    return sum((b > a) + 0.5 * (b == a) for a in first for b in second)


@given(FEW, FEW)
def test_mann_whitney_is_the_permutation_test(first, second):
    found = mann_whitney(np.array(first), np.array(second))
    n, m = len(first), len(second)
    u = u_of(first, second)
    assert math.isclose(found.effect, 2 * u / (n * m) - 1, abs_tol=1e-12)
    pooled = first + second
    values = []
    for chosen in itertools.combinations(range(n + m), m):
        inside = [pooled[i] for i in chosen]
        outside = [pooled[i] for i in range(n + m) if i not in chosen]
        values.append(u_of(outside, inside))
    tail = min(sum(v <= u for v in values), sum(v >= u for v in values))
    assert math.isclose(found.p, min(1.0, 2 * tail / len(values)), rel_tol=1e-12)
    assert found.p >= found.least - 1e-12 or len(set(pooled)) < n + m


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        # scipy.stats.mannwhitneyu(..., method="exact")
        ([1, 2, 3], [4, 5, 6], 0.1),
        ([1, 2, 3, 4], [5, 6, 7, 8], 2 / 70),
        ([1, 3, 5, 7], [2, 4, 6, 8], 48 / 70),
    ],
    ids=["3+3", "4+4", "mixed"],
)
def test_mann_whitney_of_tables(first, second, p):
    assert math.isclose(mann_whitney(np.array(first, float), np.array(second, float)).p, p)


TEN = np.array([1.2, 1.3, 1.3, 1.4, 1.5, 1.1, 1.2, 1.3, 1.6, 1.2])
OTHER_TEN = np.array([1.4, 1.5, 1.3, 1.7, 1.8, 1.6, 1.5, 1.4, 1.9, 1.3])


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        # scipy.stats.mannwhitneyu, two-sided: asymptotic (ties, continuity) twice, then exact
        (np.tile(TEN, 5), np.tile(OTHER_TEN, 4), 8.738653993611242e-08),
        (np.arange(60.0), 1.5 * np.arange(45.0) + 3, 0.09606879278519248),
        (np.arange(12.0), 2 * np.arange(9.0) + 0.5, 0.21884802503997552),
    ],
    ids=["ties", "no_ties", "exact"],
)
def test_mann_whitney_is_scipys(first, second, p):
    assert math.isclose(mann_whitney(first, second).p, p, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        # 2 scipy.stats.binom.cdf(k, n, 1/2) - scipy.stats.binom.pmf(k, n, 1/2)
        (12, 3, 0.02127075195312501),
        (12, 28, 0.011507789735333063),
        (40, 80, 0.00024421702449694226),
        (1550, 1450, 0.06791718465371652),
    ],
    ids=["15", "40", "120", "3000"],
)
def test_mcnemar_is_scipys_binomial(lost, gained, p):
    assert math.isclose(mcnemar(lost, gained), p, rel_tol=1e-9)


def test_the_tails_are_scipys():
    # scipy.stats.hypergeom(300, 30, 120): cdf(7) and sf(6)
    below, above = hypergeometric_tails(7, 300, 30, 120)
    assert math.isclose(below, 0.0358084946260996, rel_tol=1e-9)
    assert math.isclose(above, 0.9869472089814959, rel_tol=1e-9)
    assert math.isclose(hodges_lehmann(TEN, OTHER_TEN), 0.2, rel_tol=1e-12)


def test_the_normal_approximation_meets_the_exact_one():
    random = np.random.default_rng(1)
    for shift in (0.0, 0.4, 0.8):
        first, second = random.normal(size=20), random.normal(size=20) + shift
        exact = mann_whitney(first, second).p
        # One value more makes it approximate; a middling one hardly changes the rest.
        near = mann_whitney(np.append(first, np.median(np.r_[first, second])), second).p
        assert abs(exact - near) < 0.1 * exact + 0.02


def test_false_alarms_are_as_rare_as_promised():
    random = np.random.default_rng(2)
    alarms = sum(
        mann_whitney(random.exponential(size=60), random.exponential(size=50)).p < 0.05 for _ in range(1000)
    )
    assert 25 < alarms < 80
    alarms = sum(
        quantile_test(random.exponential(size=400), random.exponential(size=300), 0.9).p < 0.05
        for _ in range(1000)
    )
    assert alarms < 65


@given(FEW, FEW)
def test_the_shift_is_the_median_difference(first, second):
    found = hodges_lehmann(np.array(first), np.array(second))
    assert found == np.median([b - a for a in first for b in second])


def test_the_shift_of_many_values():
    random = np.random.default_rng(3)
    first = random.normal(10, 1, 5000)
    assert math.isclose(hodges_lehmann(first, first + 0.5), 0.5, abs_tol=0.01)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 12))
def test_hypergeometric_tails_by_counting(total, marked, drawn):
    marked, drawn = min(marked, total), min(drawn, total)
    for k in range(max(0, drawn + marked - total), min(marked, drawn) + 1):
        ways = [
            math.comb(marked, i) * math.comb(total - marked, drawn - i)
            for i in range(max(0, drawn + marked - total), min(marked, drawn) + 1)
        ]
        place = k - max(0, drawn + marked - total)
        below, above = hypergeometric_tails(k, total, marked, drawn)
        assert math.isclose(below, sum(ways[: place + 1]) / math.comb(total, drawn), rel_tol=1e-9)
        assert math.isclose(above, sum(ways[place:]) / math.comb(total, drawn), rel_tol=1e-9)


def test_a_heavier_tail_is_found_where_the_median_is_the_same():
    random = np.random.default_rng(4)
    first, second = random.normal(1, 0.01, 1000), random.normal(1, 0.01, 1000)
    second[:40] += 1
    assert quantile_test(first, second, 0.99).p < 0.001
    assert mann_whitney(first, second).p > 0.001


def test_three_rounds_can_never_be_significant():
    found = mann_whitney(np.array([1.0, 2, 3]), np.array([10.0, 20, 30]))
    assert found.p == found.least == 0.1
    assert quantile_test(np.arange(20.0), np.arange(20.0) + 100, 0.99).least > 0.01
