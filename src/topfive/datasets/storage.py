"""Where the bytes of a picture set are: a folder of this machine, or a fsspec URL (s3://, https://, ...)."""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from topfive.errors import ImageError

__all__ = ["LocalFolder", "RemoteFolder", "Storage", "is_url", "open_storage"]

STAMP_BYTES = 16
SETTLED_NS = 3_000_000_000


class Storage(ABC):
    """A folder of files, named with slashes relative to it."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises ImageError naming it."""

    def stamp(self, name: str) -> bytes | None:
        """STAMP_BYTES that cannot stay the same when a file's contents change, or None if that is not known.

        Raises ImageError naming a local file that is not there.
        """
        return None

    @abstractmethod
    def existing(self, names: Iterable[str]) -> set[str]:
        """Those of `names` that are files here; each folder is read once. Raises ImageError."""


class LocalFolder(Storage):
    """A folder of this machine, or of a file system that it has mounted."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes:
        """See Storage.read."""
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise _unreadable(self.root / name, error) from error

    def stamp(self, name: str) -> bytes | None:
        """Of size, times of writing and of change, inode and device: no program can set the time of change.

        None for a file that changed in the last seconds: it could change again within the same tick of the
        file system's clock.
        """
        try:
            status = os.stat(f"{self.root}/{name}")  # noqa: PTH116 - called for every picture
        except OSError as error:
            raise _unreadable(self.root / name, error) from error
        if time.time_ns() - status.st_ctime_ns < SETTLED_NS:
            return None
        parts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
        return hashlib.blake2b(repr(parts).encode(), digest_size=STAMP_BYTES).digest()

    def existing(self, names: Iterable[str]) -> set[str]:
        """See Storage.existing."""
        found: set[str] = set()
        for folder, wanted in _by_folder(names).items():
            place = self.root / folder
            try:
                inside = {path.name for path in place.iterdir()} if place.is_dir() else set()
            except OSError as error:
                raise _unreadable(place, error) from error
            found.update(f"{folder}/{name}" if folder else name for name in wanted & inside)
        return found


class RemoteFolder(Storage):
    """A folder behind a fsspec URL; needs the extra `dask`, which brings fsspec."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise ImageError(f"{url}: URLs need fsspec: pip install 'topfive[dask]'") from error
        self.url = url.rstrip("/")
        try:
            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ImageError(f"{url}: fsspec cannot open it: {error}") from error

    def read(self, name: str) -> bytes:
        """See Storage.read."""
        try:
            data: bytes = self._files.cat_file(f"{self._root}/{name}")
        except Exception as error:  # each file system raises its own kinds
            raise ImageError(f"{self.url}/{name}: cannot be read: {error or type(error).__name__}") from error
        return data

    def existing(self, names: Iterable[str]) -> set[str]:
        """See Storage.existing."""
        found: set[str] = set()
        for folder, wanted in _by_folder(names).items():
            place = f"{self._root}/{folder}" if folder else self._root
            try:
                inside = {
                    str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(place, detail=False)
                }
            except FileNotFoundError:
                inside = set()
            except Exception as error:  # each file system raises its own kinds
                raise ImageError(f"{self.url}: cannot be listed: {error or type(error).__name__}") from error
            found.update(f"{folder}/{name}" if folder else name for name in wanted & inside)
        return found


def is_url(root: str) -> bool:
    """Whether `root` is a URL and not a path."""
    return "://" in root


def open_storage(root: str) -> Storage:
    """The storage of a path or a URL. Raises ImageError for a URL of an unknown kind, or without fsspec."""
    return RemoteFolder(root) if is_url(root) else LocalFolder(Path(root))


def _by_folder(names: Iterable[str]) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        wanted.setdefault(folder, set()).add(file)
    return wanted


def _unreadable(path: Path, error: OSError) -> ImageError:
    return ImageError(f"{path}: cannot be read: {error.strerror or error}")
