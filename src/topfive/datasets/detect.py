"""Finding picture sets below a folder, by the marks that ImageNet's forms have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from topfive.datasets.cards import CARD_FILE, DatasetCard, find_dataset
from topfive.datasets.listing import IMAGENET_CLASSES, Listing, find_map, is_wnid, list_dataset
from topfive.errors import ImageError, TopfiveError
from topfive.images.folders import SUFFIXES, map_entries

__all__ = ["Found", "detect", "guess_first_label"]

DEPTH = 3
_MARK = re.compile(r"ILSVRC2012_val_[0-9]{8}\.jpe?g", re.IGNORECASE)
FEWEST_FOLDERS = 2


@dataclass(frozen=True)
class Found:
    """A picture set that was found: its card, its pictures, or why they cannot be listed."""

    card: DatasetCard
    listing: Listing | None
    problem: str = ""


def detect(search: Path, depth: int = DEPTH) -> list[Found]:
    """The picture sets in `search` and at most `depth` folders below it, sorted by path.

    A set is a folder with a card of its own, with a label file, with pictures named as ImageNet's validation
    set, or with class folders named by WNIDs or numbers; its own folders are not searched. Folders that
    cannot be read are passed over. Raises ImageError when `search` is no folder.
    """
    if not search.is_dir():
        raise ImageError(f"{search}: no such folder to search")
    return [_found(folder) for folder in _marked(search, depth)]


def _marked(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    except OSError:
        return
    if _is_set(folder, names):
        yield folder
        return
    if depth:
        for name in sorted(name for name, is_folder in names.items() if is_folder):
            yield from _marked(folder / name, depth - 1)


def _is_set(folder: Path, names: dict[str, bool]) -> bool:
    files = {name for name, is_folder in names.items() if not is_folder}
    folders = names.keys() - files
    if CARD_FILE in files or any(_MARK.fullmatch(name) for name in files):
        return True
    wnids = sum(map(is_wnid, folders))
    numbers = sum(name.isascii() and name.isdecimal() for name in folders)
    if max(wnids, numbers) >= FEWEST_FOLDERS and max(wnids, numbers) == len(folders):
        return True
    if not any(Path(name).suffix.lower() in SUFFIXES for name in files):
        return False
    try:
        place = find_map(folder)
        # A label file that stands above the folders of its pictures does not make this folder the set.
        return place is not None and any(name in files for _, name, _ in map_entries(place))
    except (ImageError, OSError):
        return False


def _found(folder: Path) -> Found:
    card = DatasetCard(folder.name)
    try:
        card = find_dataset(str(folder))
        listing = list_dataset(card)
        first = guess_first_label(listing)
        if first != card.first_label and not card.path.name:
            card = replace(card, first_label=first)
            listing = list_dataset(card)
        part = len(listing.pictures) < listing.listed
        return Found(replace(card, images=len(listing.pictures) if part else card.images), listing)
    except TopfiveError as error:
        return Found(replace(card, folder=str(folder)), None, error.message)


def guess_first_label(listing: Listing) -> int:
    """1 if the labels are those of ImageNet counted from 1 (1000 occurs and 0 does not), else 0."""
    labels = {picture.label + listing.first_label for picture in listing.pictures}
    return int(0 not in labels and max(labels) == IMAGENET_CLASSES)
