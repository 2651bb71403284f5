"""Small copies of golden pictures for the pages."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image, ImageOps

from topfive.cards import Card
from topfive.errors import TopfiveError
from topfive.images import list_images

__all__ = ["Thumbnails"]

SIDE = 96
"""Pixels."""
QUALITY = 80


@dataclass
class Thumbnails:
    """Makes each picture once. files: what to write, by path within the site. cards: by model."""

    cards: Mapping[str, Card]
    files: dict[str, bytes] = field(default_factory=dict)
    _folders: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def of(self, model: str, file: str, sha256: str) -> str:
        """The path within the site of a golden's picture; "" if it is not here, or is another one."""
        path = f"pictures/{sha256[:16]}.jpg"
        if path in self.files:
            return path
        card = self.cards.get(model)
        try:
            data = _data(card, file) if card else b""
        except (TopfiveError, OSError):
            return ""
        if not data or hashlib.sha256(data).hexdigest() != sha256:
            return ""
        self.files[path] = _small(data)
        return path


def _data(card: Card, file: str) -> bytes:
    listed = list_images(card.pictures_folder(), map_file=card.pictures_map())
    return next((image.path.read_bytes() for image in listed if image.name == file), b"")


def _small(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        square = ImageOps.fit(picture.convert("RGB"), (SIDE, SIDE))
    stream = io.BytesIO()
    square.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()
