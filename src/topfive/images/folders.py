"""Finding the labelled pictures of a folder, in the layouts in which ImageNet is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from topfive.errors import ImageError

__all__ = ["SUFFIXES", "LabelledImage", "list_images", "map_entries", "map_text_entries"]

MAP_NAMES = ("val_map.txt", "val.txt")
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class LabelledImage:
    """A picture file, its name inside the folder (with slashes), its class index if the folder has any."""

    path: Path
    name: str
    label: int | None


def list_images(
    folder: str | Path, classes: Sequence[str] | None = None, map_file: Path | None = None
) -> list[LabelledImage]:
    """The pictures of `folder`, in a fixed order.

    - A map (`map_file`, or val_map.txt or val.txt in the folder, or beside it if it names its files): its
      lines "name index", separated by tabs or blanks, in its order. The index may be left out on all lines.
    - Class folders: sorted by folder, then by file. The label is the number that is the folder's name, if all
      folders are named by numbers; else the folder's position in `classes`, or, without `classes`, among the
      sorted folders.
    - A plain folder: its pictures sorted by name, without labels.

    Raises ImageError naming the file or the line: no such folder, no pictures, both pictures and class
    folders, a picture that a map names but is missing or named twice, a malformed line, a class folder that
    `classes` lacks.
    """
    root = Path(folder)
    try:
        if not root.is_dir():
            raise ImageError(
                f"{root}: is not a folder of pictures" if root.exists() else f"{root}: no such folder"
            )
        found = _read_map(map_file, root) if map_file else _from_map(root)
        if found is None:
            found = _from_folders(root, classes)
    except OSError as error:
        raise ImageError(f"{error.filename or root}: cannot be read: {error.strerror or error}") from error
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise ImageError(f"{root}: has no pictures ({kinds}), class folders of pictures, or val_map.txt")
    return found


def _from_map(root: Path) -> list[LabelledImage] | None:
    for path in (root / name for name in MAP_NAMES):
        if path.is_file():
            return _read_map(path, root)
    for path in (root.resolve().parent / name for name in MAP_NAMES):
        if path.is_file():
            entries = map_entries(path)
            if entries and (root / entries[0][1]).is_file():
                return _read_map(path, root)
    return None


def _read_map(path: Path, root: Path) -> list[LabelledImage]:
    images, lines = [], dict[str, int]()
    for line, name, label in map_entries(path):
        if name in lines:
            raise ImageError(
                f"{path}, line {line}: {name!r} was named on line {lines[name]} already; remove one"
            )
        if not (root / name).is_file():
            raise ImageError(f"{path}, line {line}: {root / name} is missing; restore it or remove the line")
        lines[name] = line
        images.append(LabelledImage(root / name, name, label))
    if len({image.label is None for image in images}) > 1:
        raise ImageError(f"{path}: has lines with and lines without a class index; give all or none")
    return images


def map_entries(path: Path) -> list[tuple[int, str, int | None]]:
    """(line number, name, label or None) of each line "name index" that is not blank, in order.

    Raises ImageError naming the line, and OSError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return map_text_entries(path, text)


def map_text_entries(path: Path, text: str) -> list[tuple[int, str, int | None]]:
    """`map_entries` of a label file that is read already; `path` is what errors call it."""
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            entries.append((number, *_entry(path, number, line.strip())))
    return entries


def _entry(path: Path, number: int, line: str) -> tuple[str, int | None]:
    name, *rest = line.rsplit("\t", 1) if "\t" in line else line.rsplit(None, 1)
    name = name.strip()
    label = rest[0].strip() if rest else ""
    if label and not (label.isascii() and label.isdecimal()):
        raise ImageError(f"{path}, line {number}: {label!r} is not a class index; write 'name index'")
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\x00" in name:
        raise ImageError(f"{path}, line {number}: {name!r} is outside the folder; name files inside it")
    return name, int(label) if label else None


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _from_folders(root: Path, classes: Sequence[str] | None) -> list[LabelledImage]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    contents = {path: files for path in folders if (files := _pictures(path))}
    loose = _pictures(root)
    if loose and contents:
        raise ImageError(
            f"{root}: has pictures ({loose[0].name}) and class folders ({next(iter(contents)).name}); "
            "move one kind elsewhere, or write a val_map.txt"
        )
    if loose:
        return [LabelledImage(path, path.name, None) for path in loose]
    labels = _labels(root, [path.name for path in folders], classes)
    return [
        LabelledImage(path, f"{folder.name}/{path.name}", labels[folder.name])
        for folder in sorted(contents, key=lambda folder: (labels[folder.name], folder.name))
        for path in contents[folder]
    ]


def _labels(root: Path, names: list[str], classes: Sequence[str] | None) -> dict[str, int]:
    if all(name.isascii() and name.isdecimal() for name in names):
        return {name: int(name) for name in names}
    known = list(classes) if classes is not None else names
    for name in names:
        if name not in known:
            raise ImageError(
                f"{root / name}: is not one of the {len(known)} classes; rename or remove the folder"
            )
    return {name: known.index(name) for name in names}
