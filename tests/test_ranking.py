"""top5 and softmax."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import topfive
from topfive.ranking import softmax

vectors = hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e3, 1e3, width=32))


@given(vectors)
def test_top5_is_a_stable_sort(scores: np.ndarray) -> None:
    expected = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))[:5]
    assert [i for i, _, _ in topfive.top5(scores)] == expected


def test_ties_go_to_the_lower_index_and_labels_follow() -> None:
    scores = np.array([0.1, 0.5, 0.5, 0.2, 0.5, 0.0], np.float32)
    labels = list("abcdef")
    assert [(i, n) for i, n, _ in topfive.top5(scores, labels)] == [
        (1, "b"),
        (2, "c"),
        (4, "e"),
        (3, "d"),
        (0, "a"),
    ]
    assert topfive.top5(scores[None], labels)[0] == (1, "b", 0.5)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), [], "one vector"),
        (np.array([0.0, np.nan]), [], "score 1 is NaN"),
        (np.zeros(3), ["a"], "1 labels for 3 scores"),
    ],
    ids=["two_rows", "nan", "labels"],
)
def test_bad_scores(scores: np.ndarray, labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        topfive.top5(scores, labels)


@given(hnp.arrays(np.float32, (2, 7), elements=st.floats(-1e4, 1e4, width=32)))
def test_softmax_sums_to_one_and_keeps_order(logits: np.ndarray) -> None:
    p = softmax(logits)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    for row, probabilities in zip(logits, p, strict=True):
        assert probabilities[np.argmax(row)] == probabilities.max()


def test_softmax_literal() -> None:
    np.testing.assert_allclose(softmax(np.log([[1.0, 2.0, 5.0]])), [[0.125, 0.25, 0.625]], rtol=1e-6)
