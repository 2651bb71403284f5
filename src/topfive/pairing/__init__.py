"""Two artifacts measured turn by turn, so that what else the machine does is the same for both."""

from __future__ import annotations

from topfive.pairing.interleave import Slots, interleave
from topfive.pairing.ratio import FEWEST_EPOCHS, Ratio, ratio_of
from topfive.pairing.sides import HelperSide, RunnerSide, Side, helper_of, open_side

__all__ = [
    "FEWEST_EPOCHS",
    "HelperSide",
    "Ratio",
    "RunnerSide",
    "Side",
    "Slots",
    "helper_of",
    "interleave",
    "open_side",
    "ratio_of",
]
