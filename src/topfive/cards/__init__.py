"""Model cards: data, not code. What a model is, where its ONNX comes from, what it is fed and gives."""

from __future__ import annotations

from pathlib import Path

from topfive.cards.loader import (
    Calibration,
    Card,
    Input,
    Output,
    Pictures,
    Plugins,
    Published,
    Source,
    find_card,
    load_card,
    load_cards,
)
from topfive.cards.places import expand, fixtures_root

__all__ = [
    "Calibration",
    "Card",
    "Input",
    "Output",
    "Pictures",
    "Plugins",
    "Published",
    "Source",
    "card_for_file",
    "expand",
    "find_card",
    "fixtures_root",
    "load_card",
    "load_cards",
]


def card_for_file(path: str | Path) -> Card:
    """A card for a bare ONNX file: see topfive.sources.bare.card_for_file."""
    from topfive.sources.bare import card_for_file as make_card  # reading a graph needs onnx; cards do not

    return make_card(Path(path))
