"""Which pictures a calibration runs over, and whether an accuracy run meets them again."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

from topfive.errors import ImageError
from topfive.images.folders import list_images, map_entries

__all__ = ["calibration_pictures", "drawn", "same_pictures"]

MAP_NAME = "cal_map.txt"
LISTED = 10


def calibration_pictures(folder: Path, map_file: Path | None = None) -> list[Path]:
    """The calibration pictures of a folder, in a fixed order.

    With a map (`map_file`, or cal_map.txt in the folder, or beside it if it names the folder's files): its
    lines "name" or "name index", in its order; the index is not used. Else all pictures, in any form that
    `list_images` knows, sorted by path. Raises ImageError: no such folder, no pictures, a malformed line, a
    name twice, and, naming them all, pictures that the map names but the folder lacks.
    """
    found = map_file or _map_of(folder)
    if found is None:
        return sorted(image.path for image in list_images(folder))
    return _listed(found, folder)


def _map_of(folder: Path) -> Path | None:
    inside, beside = folder / MAP_NAME, folder.resolve().parent / MAP_NAME
    if inside.is_file():
        return inside
    if beside.is_file():
        entries = map_entries(beside)
        if entries and (folder / entries[0][1]).is_file():
            return beside
    return None


def _listed(path: Path, folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder of calibration pictures")
    try:
        entries = map_entries(path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not entries:
        raise ImageError(f"{path}: names no pictures: the calibration set is empty")
    lines: dict[str, int] = {}
    for line, name, _ in entries:
        if name in lines:
            raise ImageError(
                f"{path}, line {line}: {name!r} was named on line {lines[name]} already; remove one"
            )
        lines[name] = line
    missing = [(line, name) for name, line in lines.items() if not (folder / name).is_file()]
    if missing:
        line, name = missing[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        rest = [f"  line {line}: {name}" for line, name in missing[:LISTED]]
        raise ImageError(
            f"{path}, line {line}: {folder / name}{more} of {len(entries)} missing; restore them or remove "
            "the lines",
            details="\n".join([*rest, *(["  ..."] if len(missing) > LISTED else [])]),
        )
    return [folder / name for name in lines]


def drawn(pictures: Sequence[Path], count: int, seed: int) -> list[Path]:
    """`count` of the pictures, drawn with `seed`, in their old order.

    The same on every machine and Python. Raises ImageError if there are fewer.
    """
    if count > len(pictures):
        raise ImageError(f"the calibration set has {len(pictures)} files; draw at most so many, not {count}")
    return [pictures[n] for n in sorted(random.Random(seed).sample(range(len(pictures)), count))]


def same_pictures(calibration: Sequence[Path], validation: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs (calibration, validation) of files with the same content, whatever their names.

    Only files of equal size are read.
    """
    sizes: dict[int, list[Path]] = {}
    for path in calibration:
        sizes.setdefault(path.stat().st_size, []).append(path)
    digests: dict[str, Path] = {}
    found = []
    for path in validation:
        for other in sizes.pop(path.stat().st_size, []):
            digests.setdefault(_sha256(other), other)
    known = {path.stat().st_size for path in digests.values()}
    for path in validation:
        if path.stat().st_size in known and (digest := _sha256(path)) in digests:
            found.append((digests[digest], path))
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
