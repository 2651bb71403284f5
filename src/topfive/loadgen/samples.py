"""The pictures of a run: uint8 crops and class numbers, in a fixed order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topfive.cards import Card
from topfive.images import crop_uint8, list_images, load_profile
from topfive.loadgen.plan import ScenarioError

__all__ = ["SampleSet", "sample_set"]


@dataclass(frozen=True)
class SampleSet:
    """crops: uint8 [N, H, W, 3]; labels: N class numbers without the background class; names for logs."""

    crops: NDArray[np.uint8]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    place: str


def sample_set(
    card: Card, *, folder: Path | None = None, count: int | None = None, threads: int = 2
) -> SampleSet:
    """The first `count` labelled pictures of a folder, or of the card's own set, cropped as its profile says.

    Raises ScenarioError for a picture without a class or with one the model does not have, ImageError for a
    file that cannot be read: no picture is ever left out silently.
    """
    place = folder or card.pictures_folder()
    listed = list_images(place, map_file=None if folder else card.pictures_map())
    chosen = listed[: count if count is not None else (None if folder else card.pictures.count)]
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
    return SampleSet(np.stack(crops), tuple(labels), tuple(image.name for image in chosen), str(place))
