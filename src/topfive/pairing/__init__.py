"""Two artifacts measured turn by turn, so that what else the machine does is the same for both."""

from __future__ import annotations

from topfive.pairing.interleave import Slots, interleave
from topfive.pairing.ratio import FEWEST_EPOCHS, CpuRatio, Ratio, cpu_ratio_of, ratio_of
from topfive.pairing.sides import HelperSide, RunnerSide, Side, Timed, helper_of, open_side

__all__ = [
    "FEWEST_EPOCHS",
    "CpuRatio",
    "HelperSide",
    "Ratio",
    "RunnerSide",
    "Side",
    "Slots",
    "Timed",
    "cpu_ratio_of",
    "helper_of",
    "interleave",
    "open_side",
    "ratio_of",
]
