"""Preprocessed pictures as .npy files, one a picture, with a manifest that says what they were made of.

A file is used again only if the manifest knows it: the same picture (SHA-256), the same profile, the same
decoder, and the file itself unchanged. Anything else is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from topfive.errors import FetchError, ImageError
from topfive.images.decode import decoder_version
from topfive.images.preprocess import crop_uint8, normalise
from topfive.images.profiles import Profile
from topfive.sources.atomic import replacing

__all__ = ["MANIFEST", "Written", "write_preprocessed"]

MANIFEST = "manifest.json"
FORMAT = "topfive-preprocessed/1"
STORE_SECONDS = 5.0
Picture = tuple[str, Path]
Progress = Callable[[int, int], None]


@dataclass
class Written:
    """What `write_preprocessed` did in one folder: files made, used again, and why others were not."""

    folder: Path
    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)


def write_preprocessed(
    pictures: Sequence[Picture],
    places: dict[Path, Profile],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Written]:
    """Write `folder`/<name>.npy of each (name, file) for each folder and its profile; one report a folder.

    The array is the profile's tensor without the batch axis, C order, in its dtype. overwrite: make all
    again. progress: called with (pictures done, pictures in all). Each file, and each manifest, appears whole
    or not at all; a killed run keeps what its last manifest knows. Raises ImageError naming a picture that
    cannot be read or a file that cannot be written.
    """
    folders = [_Folder(folder, profile, overwrite) for folder, profile in places.items()]
    stored = time.monotonic()
    try:
        for done, (name, path) in enumerate(pictures, start=1):
            _write_one(name, path, folders)
            if progress:
                progress(done, len(pictures))
            if time.monotonic() - stored > STORE_SECONDS:
                for place in folders:
                    place.store()
                stored = time.monotonic()
    finally:
        for place in folders:
            place.store()
    return [place.written for place in folders]


def _write_one(name: str, path: Path, folders: Sequence[_Folder]) -> None:
    try:
        image = _sha256(path.read_bytes())
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    wanted = [place for place in folders if not place.holds(name, image)]
    crops: dict[Any, Any] = {}
    for place in wanted:
        # One crop serves all profiles with the same picture steps.
        profile = place.profile
        steps = (profile.picture, profile.decoder, profile.exif, profile.size)
        if steps not in crops:
            crops[steps] = crop_uint8(path, profile)
        place.write(name, image, np.ascontiguousarray(normalise(crops[steps], profile)))


class _Folder:
    """One folder of .npy files and its manifest."""

    def __init__(self, folder: Path, profile: Profile, overwrite: bool) -> None:
        self.folder, self.profile, self.overwrite = folder, profile, overwrite
        self.written = Written(folder)
        steps = dataclasses.asdict(profile)
        made_by = {name: value for name, value in steps.items() if name not in ("path", "description")}
        self.about = {
            "format": FORMAT,
            "profile": json.loads(json.dumps(made_by)),
            "decoder": decoder_version(),
        }
        self.files: dict[str, dict[str, str]] = {}
        self.before = ""
        self._read()

    def _read(self) -> None:
        """Take over the files that an equal profile and decoder made."""
        place = self.folder / MANIFEST
        if not place.is_file():
            self.before = "is not in a manifest"
            return
        try:
            stored = json.loads(place.read_text(encoding="utf-8"))
            files = {str(name): dict(entry) for name, entry in stored.pop("files").items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.before = "has a damaged manifest"
            return
        changed = [name for name, value in self.about.items() if stored.get(name) != value]
        self.before = f"was made with another {' and '.join(changed)}" if changed else ""
        self.files = {} if changed else files

    def holds(self, name: str, image: str) -> bool:
        """Whether the file of this picture can be used again; why not is noted if there is a file."""
        path = self._path(name)
        reason = self._reason(name, image, path)
        if not reason:
            self.written.reused.append(name)
            return True
        if path.exists():
            self.written.stale[name] = reason
        return False

    def _reason(self, name: str, image: str, path: Path) -> str:
        entry = self.files.get(name)
        if self.overwrite:
            return "is to be overwritten"
        if entry is None:
            return self.before or "is not in the manifest"
        if entry.get("image") != image:
            return "is of another picture"
        try:
            same = _sha256(path.read_bytes()) == entry.get("npy")
        except OSError:
            return "is missing"
        return "" if same else "was changed"

    def write(self, name: str, image: str, tensor: Any) -> None:
        """Write one file and note it."""
        buffer = io.BytesIO()
        np.save(buffer, tensor, allow_pickle=False)
        data = buffer.getvalue()
        self.files.pop(name, None)
        try:
            with replacing(self._path(name)) as temporary:
                temporary.write_bytes(data)
        except FetchError as error:
            raise ImageError(error.message) from error
        self.files[name] = {"image": image, "npy": _sha256(data)}
        self.written.made.append(name)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def store(self) -> None:
        """Write the manifest."""
        document = {**self.about, "files": dict(sorted(self.files.items()))}
        try:
            with replacing(self.folder / MANIFEST) as temporary:
                temporary.write_text(
                    json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
                )
        except FetchError as error:
            raise ImageError(error.message) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
