"""The pictures of a run: uint8 crops and class numbers, in a fixed order."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.cards import Card
from topfive.datasets import find_dataset, list_dataset
from topfive.datasets.storage import is_url
from topfive.images import LabelledImage, crop_uint8, list_images, load_profile
from topfive.loadgen.plan import ScenarioError
from topfive.records.answers import Answers

__all__ = ["SampleSet", "sample_set"]


@dataclass(frozen=True)
class SampleSet:
    """crops: uint8 [N, H, W, 3]; labels: N class numbers without the background class; names for logs.

    digests: int64 [N], the first 8 bytes of each file's SHA-256, little-endian.
    """

    crops: NDArray[np.uint8]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    place: str
    digests: NDArray[np.int64]

    def answers(self, top5: NDArray[np.int32] | None) -> dict[str, Any]:
        """The answers [N, 5] to the first N pictures as a record keeps them; {} for None."""
        if top5 is None:
            return {}
        count = len(top5)
        return Answers(np.array(self.labels[:count], np.int32), top5, self.digests[:count]).to_json()


def sample_set(
    card: Card, *, dataset: str | None = None, count: int | None = None, threads: int = 2
) -> SampleSet:
    """The first `count` labelled pictures of a data set, or of the card's own, cropped as its profile says.

    dataset: a folder or a registered name, listed as a sweep lists it. Raises ScenarioError for a picture
    without a class or with one the model does not have, and for a data set at a URL, ImageError for a file
    that cannot be read: no picture is ever left out silently.
    """
    if dataset is None:
        place = str(card.pictures_folder())
        listed = list_images(place, map_file=card.pictures_map())
        chosen = listed[: count if count is not None else card.pictures.count]
    else:
        place, chosen = _listed(dataset, count)
    labels = []
    for image in chosen:
        if image.label is None or not 0 <= image.label < card.output.classes:
            raise ScenarioError(
                f"{image.path}: class {image.label} is not one of the {card.output.classes} of {card.name}"
            )
        labels.append(image.label)
    if not chosen:
        raise ScenarioError(f"{place} has no pictures")
    profile = load_profile(card.input.profile)
    with ThreadPoolExecutor(threads) as pool:
        crops = list(pool.map(lambda image: crop_uint8(image.path, profile, card.input.size), chosen))
        digests = list(pool.map(lambda image: hashlib.sha256(image.path.read_bytes()).digest()[:8], chosen))
    names = tuple(image.name for image in chosen)
    return SampleSet(np.stack(crops), tuple(labels), names, place, np.frombuffer(b"".join(digests), "<i8"))


def _listed(dataset: str, count: int | None) -> tuple[str, list[LabelledImage]]:
    """A data set's folder and its pictures."""
    listing = list_dataset(find_dataset(dataset), count=count)
    if is_url(listing.root):
        raise ScenarioError(f"{dataset}: LoadGen's samples are read from a folder; {listing.root} is a URL")
    root = Path(listing.root)
    return listing.root, [LabelledImage(root / p.name, p.name, p.label) for p in listing.pictures]
