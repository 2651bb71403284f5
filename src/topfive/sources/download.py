"""Files by URL: several mirrors, sha256 always verified, kept once, never fetched without being asked."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pooch
from filelock import FileLock

from topfive.errors import FetchError
from topfive.sources.atomic import part_of, remove_parts, replacing

__all__ = ["download", "download_allowed", "downloaded"]

TIMEOUT = 30.0
"""Seconds that a mirror may stay silent before the next one is tried."""


def download_allowed(allow: bool | None) -> bool:
    """`allow`, or, when that is None, whether TOPFIVE_DOWNLOAD is 1."""
    return os.environ.get("TOPFIVE_DOWNLOAD") == "1" if allow is None else allow


def downloaded(urls: Sequence[str], sha256: str, folder: Path) -> tuple[Path, str]:
    """Where the file is or would be kept, and "" or why it is not there (the text to skip with)."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", urlsplit(urls[0]).path.rsplit("/", 1)[-1]) or "model.onnx"
    path = folder / f"{sha256[:16]}-{name[-100:]}"
    if path.is_file():
        return path, ""
    return path, f"{urls[0]} is not downloaded yet: set TOPFIVE_DOWNLOAD=1 to allow downloads"


def download(urls: Sequence[str], sha256: str, folder: Path, *, allow: bool | None = None) -> Path:
    """The file that every one of `urls` names, fetched from the first that gives it with this sha256.

    A file fetched before is used after its sha256 is checked again. It appears whole or not at all.
    Raises FetchError if downloads are not allowed, or with each mirror's fault if none works.
    """
    path, reason = downloaded(urls, sha256, folder)
    if not reason and _sha256(path) == sha256:
        return path
    if not download_allowed(allow):
        raise FetchError(reason or f"{path} is damaged: set TOPFIVE_DOWNLOAD=1 to allow fetching it again")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            remove_parts(path)
            return _from_mirrors(urls, sha256, path)
    except OSError as error:
        raise FetchError(f"{path} cannot be written: {error.strerror or error}") from error


def _from_mirrors(urls: Sequence[str], sha256: str, path: Path) -> Path:
    pooch.get_logger().setLevel("WARNING")
    faults = []
    # A folder of its own: pooch's temporary file has any name, and a killed download leaves it.
    folder = part_of(path)
    try:
        for url in urls:
            try:
                found = pooch.retrieve(
                    url,
                    known_hash=f"sha256:{sha256}",
                    fname=path.name,
                    path=folder,
                    downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
                )
            except (OSError, ValueError) as error:  # requests' are OSErrors; a wrong hash is a ValueError
                faults.append(f"{url}: {' '.join(str(error).split())}")
            else:
                with replacing(path) as temporary:
                    Path(found).replace(temporary)
                return path
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise FetchError(
        f"{urls[0]} cannot be had from any of its {len(urls)} addresses: check network and card",
        details="\n".join(faults),
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror or error}") from error
