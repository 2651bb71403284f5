"""Ranking a classifier's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["rank", "softmax"]


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Softmax over the last axis, computed in float64 with the maximum subtracted; float32, same shape."""
    x = np.asarray(logits, np.float64)
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: NDArray[np.float32] = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares


def rank(scores: Any, labels: Sequence[str], count: int) -> list[tuple[int, str, float]]:
    """The `count` best of one vector as (index, label, score), best first; ties by lower index.

    scores: [classes] or [1, classes]. labels: one a class, or empty (then "" each). Raises ValueError for
    another shape, a NaN, or labels of another length.
    """
    vector = np.asarray(scores)
    if vector.ndim == 2 and vector.shape[0] == 1:
        vector = vector[0]
    if vector.ndim != 1:
        raise ValueError(f"one vector of scores is wanted, got shape {vector.shape}")
    if np.isnan(vector).any():
        raise ValueError(f"score {int(np.flatnonzero(np.isnan(vector))[0])} is NaN")
    if labels and len(labels) != len(vector):
        raise ValueError(f"{len(labels)} labels for {len(vector)} scores")
    best = np.lexsort((np.arange(len(vector)), -vector.astype(np.float64)))[:count]
    return [(int(i), labels[i] if labels else "", float(vector[i])) for i in best]
