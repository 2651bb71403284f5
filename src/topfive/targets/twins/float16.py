"""float16 values with float32 accumulation, in a graph of float32 operators.

Every float tensor holds float16 values: an operator computes in float32 from float16 inputs, and its output
is rounded to float16, halves to even, by a pair of casts. For + - * / and square roots that is float16
arithmetic to the bit, because float32 has more than twice the digits (24 >= 2 * 11 + 2: Figueroa, "When is
double rounding innocuous?", 1995); for sums of products it is float32 accumulation. Operators that select or
move elements need no rounding, and ReLU, Clip and max pool can come before it: rounding keeps the order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topfive.quantize.symmetric import DATA_MOVEMENT

__all__ = ["COMMUTING", "LARGEST", "SELECTING", "rounded_constant"]

LARGEST = 65504.0
# One input, and rounding before or after gives the same.
COMMUTING = {"Relu", "Clip", "MaxPool"}
# Every element of the output is an element of an input (or 0, or its opposite).
SELECTING = (
    DATA_MOVEMENT
    | COMMUTING
    | {
        "Abs",
        "Concat",
        "DepthToSpace",
        "Expand",
        "Gather",
        "GlobalMaxPool",
        "Max",
        "Min",
        "Neg",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Tile",
        "Where",
    }
)


def rounded_constant(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Weights as float16 values (still float32), and how many were beyond the range and clipped to +-65504.

    Source of the clipping: `fix_onnx_fp16` of Qualcomm's run_cv_classifier.py.
    """
    clipped = np.clip(values, -LARGEST, LARGEST)
    return clipped.astype(np.float16).astype(np.float32), int((np.abs(values) > LARGEST).sum())
