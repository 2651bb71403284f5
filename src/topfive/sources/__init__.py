"""Getting the ONNX file that a card names: bundled, a file, a light network, a download, an export."""

from __future__ import annotations

import hashlib
from pathlib import Path

from filelock import FileLock

from topfive.cards import Card
from topfive.errors import FetchError
from topfive.sources import light
from topfive.sources.atomic import remove_parts
from topfive.sources.download import download, download_allowed, downloaded
from topfive.sources.export import exported_path, unfetched_reason, verified

__all__ = ["EXPORTED", "kept_file", "resolve", "unavailable_reason"]

EXPORTED = ("torchvision", "huggingface")
"""Kinds that `topfive fetch` exports once; building never does: it would need PyTorch and the network."""


def resolve(card: Card, downloads: Path, *, allow_download: bool | None = None) -> Path:
    """The ONNX file of a card; downloads and light networks are kept in the folder `downloads`.

    Only kind "url" uses the network, and only if `allow_download`, or TOPFIVE_DOWNLOAD=1 when that is None.
    Raises FetchError if the file cannot be had or has another sha256 than the card says.
    """
    kind = card.source.kind
    if kind == "light":
        return _light(card, downloads)
    if kind == "url":
        if not card.source.sha256:
            raise FetchError(_unvouched(card))
        return download(card.source.urls, card.source.sha256, downloads, allow=allow_download)
    if kind in EXPORTED:
        return verified(card, downloads)
    path = card.source_path()
    if not path.is_file():
        raise FetchError(f"{path} does not exist ({card.path}: key 'source.path')")
    _verify(card, path)
    return path


def kept_file(card: Card, downloads: Path) -> Path | None:
    """Where a card's model is or would be kept in the folder `downloads`; None if it is never there."""
    source = card.source
    if source.kind == "light":
        return _light_file(card, downloads)
    if source.kind == "url":
        return downloaded(source.urls, source.sha256, downloads)[0] if source.sha256 else None
    return exported_path(card, downloads) if source.kind in EXPORTED else None


def unavailable_reason(card: Card, downloads: Path) -> str:
    """Why the model cannot be used now, for a skip: card.missing_reason(), or a download not allowed."""
    reason = card.missing_reason()
    if reason:
        return reason
    if card.source.kind in EXPORTED:
        return unfetched_reason(card, downloads)
    if card.source.kind == "url" and not card.source.sha256:
        return _unvouched(card)
    if card.source.kind == "url" and not download_allowed(None):
        return downloaded(card.source.urls, card.source.sha256, downloads)[1]
    return ""


def _unvouched(card: Card) -> str:
    return (
        f"{card.name}: nobody has vouched for the file at {card.source.urls[0]} yet: fetch it by hand, then "
        f"write its sha256 into a card of your own ({card.path} has none)"
    )


def _light_file(card: Card, downloads: Path) -> Path:
    architecture, seed = card.source.architecture, card.source.seed
    return downloads / f"light_{architecture}-{light.fingerprint(architecture, seed)[:16]}.onnx"


def _light(card: Card, downloads: Path) -> Path:
    architecture, seed = card.source.architecture, card.source.seed
    out = _light_file(card, downloads)
    if not out.exists():
        try:
            downloads.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{out}.lock"):
                if not out.exists():
                    remove_parts(out)
                    light.write(architecture, seed, out)
        except OSError as error:
            raise FetchError(f"{out} cannot be written: {error.strerror or error}") from error
    return out


def _verify(card: Card, path: Path) -> None:
    if not card.source.sha256:
        return
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror or error}") from error
    if found != card.source.sha256:
        raise FetchError(
            f"{path} is not the file that {card.path} was written for: restore it or correct 'source.sha256'",
            details=f"sha256 of the file: {found}\nsha256 on the card: {card.source.sha256}",
        )
