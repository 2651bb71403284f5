"""Where an exported network is kept, and the note beside it that says what it was made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from topfive.cards import Card
from topfive.errors import FetchError
from topfive.sources.atomic import replacing

__all__ = [
    "DEFAULT_OPSET",
    "exported_path",
    "file_sha256",
    "note_path",
    "unfetched_reason",
    "verified",
    "write_note",
]

DEFAULT_OPSET = 17


def exported_path(card: Card, downloads: Path, *, opset: int | None = None, seed: int | None = None) -> Path:
    """The ONNX file that a card's network is exported to.

    seed: None for the published weights, else the seed of random ones: never the same file, so that random
    weights are not taken for published ones.
    """
    source = card.source
    weights = source.revision or "default" if seed is None else f"random{seed}"
    version = opset or source.opset or DEFAULT_OPSET
    name = f"{source.kind}-{source.model}-{weights}-opset{version}.onnx"
    return downloads / name.replace("/", "_")


def note_path(path: Path) -> Path:
    """The note beside an exported file."""
    return path.with_suffix(".json")


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Write what an exported file was made from; raises FetchError."""
    with replacing(note_path(path)) as temporary:
        temporary.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def unfetched_reason(card: Card, downloads: Path) -> str:
    """Why the card's network is not here yet (the text to skip with), or ""."""
    if exported_path(card, downloads).is_file():
        return ""
    return f"{card.name} is not fetched yet: `topfive fetch {card.name}` (extra topfive[export], network)"


def verified(card: Card, downloads: Path) -> Path:
    """The exported file, its sha256 checked against its note. Raises FetchError."""
    path = exported_path(card, downloads)
    reason = unfetched_reason(card, downloads)
    if reason:
        raise FetchError(reason)
    try:
        wanted = json.loads(note_path(path).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FetchError(
            f"{note_path(path)} does not say what {path.name} is: remove both and fetch again",
            details=str(error),
        ) from None
    if file_sha256(path) != wanted:
        raise FetchError(f"{path} was changed after it was exported: remove it and fetch again")
    return path


def file_sha256(path: Path) -> str:
    """64 hexadecimal digits; raises FetchError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror or error}") from error
