"""What is wrong with a data set, all of it at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from topfive.datasets.cards import DatasetCard
from topfive.datasets.detect import guess_first_label
from topfive.datasets.listing import Listing, Picture, list_dataset
from topfive.datasets.storage import Storage
from topfive.errors import ImageError
from topfive.images.decode import decode_bytes

__all__ = ["Checked", "check_dataset"]

AHEAD = 256


@dataclass(frozen=True)
class Checked:
    """A listing and its problems, a line each; notes are worth knowing but no problem."""

    listing: Listing
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_dataset(
    card: DatasetCard, *, threads: int = 1, progress: Callable[[int, int], None] | None = None
) -> Checked:
    """List a data set, missing pictures too, and decode every picture.

    progress: called with (pictures decoded, pictures). Raises ImageError for what makes listing impossible.
    """
    listing = list_dataset(card, allow_missing=True)
    checked = Checked(listing)
    for picture in listing.missing:
        checked.problems.append(f"line {picture.index + 1}: {picture.name} is missing")
    _check_labels(checked)
    storage = listing.storage()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(listing.pictures), AHEAD):
            part = listing.pictures[start : start + AHEAD]
            # In slices, so that memory does not grow with the set.
            for problem in pool.map(lambda picture: _decoded(storage, picture), part):
                if problem:
                    checked.problems.append(problem)
            if progress:
                progress(start + len(part), len(listing.pictures))
    return checked


def _decoded(storage: Storage, picture: Picture) -> str:
    try:
        decode_bytes(storage.read(picture.name), picture.name)
    except ImageError as error:
        return error.message
    return ""


def _check_labels(checked: Checked) -> None:
    listing = checked.listing
    counts = Counter(picture.label for picture in listing.pictures)
    if guess_first_label(listing) and listing.first_label == 0:
        checked.problems.append(
            "class 1000 occurs and class 0 does not: the labels count from 1; register with --first-label 1"
        )
    elif listing.classes and max(counts) >= listing.classes:
        wrong = next(picture for picture in listing.pictures if picture.label >= listing.classes)
        checked.problems.append(
            f"{wrong.name} has class {wrong.label + listing.first_label}, beyond {listing.classes} classes"
        )
    least, most = min(counts.values()), max(counts.values())
    checked.notes.append(
        f"{len(counts)} classes occur ({min(counts)} to {max(counts)}), {least} to {most} pictures each"
    )
