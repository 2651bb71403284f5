"""Weight scales by least squared error: large weights are cut off where that costs less than it wins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topfive.quantize.passes.layer import Layer
from topfive.quantize.passes.rounding import Rounded, nearest

__all__ = ["best_weight_scale"]

Floats = NDArray[np.float64]
STEP = 0.05


def best_weight_scale(layer: Layer, plain: Rounded, smallest: float, *, own_scales: bool) -> Rounded:
    """The nearest codes at the share of the plain scale, from 1 down to `smallest`, with the least error.

    A weight's error counts as much as the mean square of the codes that it meets. own_scales: a share for
    each output; else one for all.
    """
    energy = np.square(layer.codes.astype(np.float64)).mean(axis=0)
    shares = np.arange(1.0, smallest - STEP / 2, -STEP)
    scales = [(plain.scale * share).astype(np.float32).astype(np.float64) for share in shares]
    candidates = [nearest(layer, scale) for scale in scales]
    losses = np.stack([(np.square(c.weights - layer.weights) * energy).sum(axis=1) for c in candidates])
    if not own_scales:
        return candidates[int(np.argmin(losses.sum(axis=1)))]
    best = np.argmin(losses, axis=0)
    return nearest(layer, np.stack(scales)[best, np.arange(len(best))])
