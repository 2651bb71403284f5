"""`topfive calibrate`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from topfive.cache import Cache, cache_root
from topfive.commands.build import progress
from topfive.errors import CardError
from topfive.pipeline import RANGES, Pipeline, resolve_card

__all__ = ["write_ranges_of"]


def write_ranges_of(model: str, output: Path | None, cards: Sequence[Path], cache: Path | None) -> None:
    """Measure a model's activation ranges on its card's calibration pictures and write them as a table.

    output: the file to write; by default the table that the card names. Raises CardError if there is none.
    """
    card = resolve_card(model, cards)
    place = output or card.calibration_table()
    if place is None:
        raise CardError(f"{card.path} names no [calibration] table: say where to write it with --output")
    pipeline = Pipeline(card, "cpu", "int8", Cache(cache_root(cache)), progress)
    measured = pipeline.measured_ranges().file(RANGES)
    place.parent.mkdir(parents=True, exist_ok=True)
    changed = not place.is_file() or place.read_bytes() != measured.read_bytes()
    if changed:
        shutil.copyfile(measured, place)
    sys.stdout.write(f"{place}: {'written' if changed else 'unchanged'}\n")
