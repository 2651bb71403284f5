"""The range of a layer's output by its own error: large values are cut off where that pays.

What counts is what comes out of the activation: before a LeakyReLU large negative values matter little.
"""

from __future__ import annotations

import numpy as np

from topfive.quantize.passes.layer import Layer
from topfive.quantize.passes.rounding import Rounded

__all__ = ["best_share"]

STEP = 0.1
LOWEST, HIGHEST = -128, 127


def best_share(layer: Layer, found: Rounded, scale: float, smallest: float) -> float:
    """The share of the output's scale, from 1 down to `smallest`, with the least error after the activation.

    Stops at the first share that is worse than the one before.
    """
    before = layer.sums(found.weights) + found.bias
    wanted = layer.activate(layer.target)
    best, least = 1.0, np.inf
    for share in np.arange(1.0, smallest - STEP / 2, -STEP):
        step = float(np.float32(scale * share))
        codes = np.clip(np.rint(before / step), LOWEST, HIGHEST)
        error = float(np.square(layer.activate(codes * step) - wanted).sum())
        if error >= least:
            break
        best, least = float(share), error
    return best
