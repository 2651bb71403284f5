"""The content-addressed artifact cache.

An entry is a directory named by the hash of everything that decides its content. It appears whole or not at
all: it is made in a temporary directory beside its place, each file is flushed to disk, a manifest with the
files' hashes is written last, and the directory is renamed into place under a lock that spans processes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from topfive.errors import CacheError

__all__ = ["Cache", "Entry", "cache_root", "content_key", "file_sha256"]

MANIFEST = "manifest.json"
FORMAT = 1


def cache_root(given: Path | None = None) -> Path:
    """Where artifacts live: the argument, else TOPFIVE_CACHE, else the platform's cache directory."""
    if given is not None:
        return Path(given).expanduser()
    named = os.environ.get("TOPFIVE_CACHE", "")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("topfive"))


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_key(fields: Mapping[str, Any]) -> str:
    """Hash of a JSON-able mapping, independent of the order of its keys."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A finished cache entry: its directory, the fields that made its key, and its files' SHA-256."""

    path: Path
    key: str
    fields: Mapping[str, Any]
    files: Mapping[str, str]

    def file(self, name: str) -> Path:
        """Path of one of the entry's files."""
        return self.path / name


class Cache:
    """Entries below one root directory, shared by all processes of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: dict[str, Entry] = {}

    def entry(self, kind: str, fields: Mapping[str, Any], make: Callable[[Path], None]) -> Entry:
        """The entry for these fields, made by `make(directory)` if it is missing or damaged.

        Of several processes that ask at once, one makes it and the others wait. A damaged entry (a file's
        hash differs) is removed, rebuilt, and reported as a warning. Raises CacheError when the disk is full
        or the directory cannot be written; whatever `make` raises passes through, leaving nothing behind.
        """
        key = content_key({"kind": kind, **fields})
        if key in self._verified:
            return self._verified[key]
        place = self.root / "artifacts" / kind / key[:2] / key
        with _written(place), _locked(place):
            found = self._read(place, key)
            if found is None:
                self._make(place, key, {"kind": kind, **fields}, make)
                found = self._read(place, key)
        if found is None:
            raise CacheError(
                f"cache entry {place} cannot be read back just after it was written: check the disk"
            )
        self._verified[key] = found
        return found

    def _read(self, place: Path, key: str) -> Entry | None:
        """A whole and undamaged entry, or None; damage is removed and said."""
        if not place.is_dir():
            return None
        damage = ""
        try:
            manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            files: dict[str, str] = manifest["files"]
            damage = next((n for n, digest in files.items() if file_sha256(place / n) != digest), "")
            if not damage and manifest["key"] == key:
                return Entry(place, key, manifest["fields"], files)
        except (OSError, ValueError, KeyError, TypeError) as error:
            damage = damage or str(error)
        warnings.warn(f"damaged cache entry {place} ({damage or 'wrong key'}) is rebuilt", stacklevel=4)
        _remove_tree(place)
        return None

    def _make(self, place: Path, key: str, fields: Mapping[str, Any], make: Callable[[Path], None]) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        for stale in place.parent.glob(f".{key}.*"):
            _remove_tree(stale)
        work = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=place.parent))
        try:
            make(work)
            files = {p.relative_to(work).as_posix(): p for p in sorted(work.rglob("*")) if p.is_file()}
            digests = {name: file_sha256(path) for name, path in files.items()}
            manifest = {"format": FORMAT, "key": key, "fields": dict(fields), "files": digests}
            (work / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
            for path in [*files.values(), work / MANIFEST]:
                _flush(path)
            _flush(work)
            work.rename(place)
            _flush(place.parent)
        finally:
            if work.exists():
                shutil.rmtree(work, ignore_errors=True)


def _remove_tree(path: Path) -> None:
    """Remove a directory so that a kill in the middle cannot leave half of it under its own name."""
    doomed = path.with_name(f"{path.name}.removed.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.rename(doomed)
        path = doomed
    shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.parent / f"{place.name}.lock"):
        yield


@contextlib.contextmanager
def _written(place: Path) -> Iterator[None]:
    """Turn the disk's own errors into CacheError; errors of other files pass."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "the file size limit is reached",
        }
        if error.errno in reasons:
            raise CacheError(
                f"cannot write the cache under {place.parent}: {reasons[error.errno]}; "
                "free some space, or choose another place with --artifact-cache"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CacheError(
                f"cannot write the cache under {place.parent}: {error.strerror}; "
                "choose another place with --artifact-cache or TOPFIVE_CACHE"
            ) from error
        raise
