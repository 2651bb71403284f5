"""A card's fixture pictures, decoded once a session and turned into tensors one at a time."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.cache import file_sha256
from topfive.cards import Card
from topfive.golden.observation import Shown
from topfive.images import (
    LabelledImage,
    Profile,
    crop_uint8,
    list_images,
    load_profile,
    normalise,
    preprocess,
)

__all__ = ["Pictures", "pictures_key"]

AHEAD = 32
TIMED = 8


def pictures_key(card: Card) -> tuple[object, ...]:
    """What decides a card's tensors: models with the same key share their pictures."""
    return (
        card.pictures_folder(),
        card.pictures_map(),
        card.pictures.count,
        card.input.profile,
        card.input.size,
    )


class Pictures:
    """The first `count` pictures of a card's set, but at most `most`.

    Crops are kept as uint8, a quarter of the tensors' size; `normalise` of a crop is bit-equal to
    `preprocess` of the file. Raises ImageError for a folder or file that cannot be read.
    """

    def __init__(self, card: Card, threads: int, most: int | None = None) -> None:
        listed = list_images(card.pictures_folder(), map_file=card.pictures_map())
        self.images: list[LabelledImage] = listed[: card.pictures.count][:most]
        self.profile: Profile = load_profile(card.input.profile)
        self.size = card.input.size
        self.threads = threads
        self._crops: dict[int, NDArray[np.uint8]] = {}

    @cached_property
    def shown(self) -> list[Shown]:
        """Name, hash and label of each picture."""
        return [Shown(image.name, file_sha256(image.path), image.label) for image in self.images]

    @cached_property
    def preprocess_seconds(self) -> float:
        """Median time of one picture from file to tensor, on one thread."""
        seconds = []
        for image in self.images[:TIMED]:
            start = time.perf_counter()
            preprocess(image.path, self.profile, self.size)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def tensor(self, number: int) -> NDArray[Any]:
        """Input of picture `number`: a batch of one."""
        return normalise(self._crop(number)[None], self.profile)

    def batch(self, size: int) -> NDArray[Any]:
        """The first `size` pictures as one batch, from the beginning again when there are fewer."""
        return np.concatenate([self.tensor(number % len(self.images)) for number in range(size)])

    def _crop(self, number: int) -> NDArray[np.uint8]:
        if number not in self._crops:
            wanted = [n for n in range(number, min(number + AHEAD, len(self.images))) if n not in self._crops]
            with ThreadPoolExecutor(self.threads) as pool:
                made = pool.map(lambda n: crop_uint8(self.images[n].path, self.profile, self.size), wanted)
                self._crops.update(zip(wanted, made, strict=True))
        return self._crops[number]
