"""Which pictures a model is swept over when nobody names any: its own photographs, or drawn ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import PIL

from topfive.cache import Cache
from topfive.cards import Card
from topfive.datasets import DatasetCard, Listing, find_dataset, list_dataset
from topfive.datasets.cards import escaped
from topfive.images import procedural

__all__ = ["DRAWN_PICTURES", "default_listing", "given_listing"]

DRAWN_PICTURES = 500
SPLIT = "sweep"
"""Not a split that the bundled models were trained, tested or calibrated on."""


def given_listing(name: str, *, map_file: Path | None, count: int | None, allow_missing: bool) -> Listing:
    """The pictures of a folder, URL or registered name. Raises ImageError, CardError, UnknownNameError."""
    card = find_dataset(name)
    if map_file is not None:
        card = replace(card, map=escaped(str(map_file.absolute())), synsets="")
    return list_dataset(card, count=count, allow_missing=allow_missing)


def default_listing(card: Card, cache: Path, *, count: int | None = None) -> Listing:
    """A card's own photographs, all of them, or else drawn pictures, made once and kept in the cache.

    count: so many of the photographs, or so many drawn ones (default 500). Raises ImageError, CacheError.
    """
    if card.pictures.set.startswith("folder:"):
        place = card.pictures_map()
        own = DatasetCard(
            name=card.pictures_folder().name,
            folder=escaped(str(card.pictures_folder())),
            map=escaped(str(place)) if place else "",
        )
        return list_dataset(own, count=count)
    pictures = count or DRAWN_PICTURES
    fields = {
        "generation": procedural.GENERATION,
        "seed": 0,
        "split": SPLIT,
        "pictures": pictures,
        "pillow": PIL.__version__,
    }
    entry = Cache(cache).entry("pictures", fields, lambda folder: _draw(folder, pictures))
    drawn = DatasetCard(
        name=f"drawn_{SPLIT}_{pictures}",
        folder=escaped(str(entry.path)),
        map=escaped(str(entry.file("val_map.txt"))),
        classes=procedural.CLASSES,
    )
    return list_dataset(drawn)


def _draw(folder: Path, pictures: int) -> None:
    procedural.write_flat(folder, pictures, split=SPLIT)
