"""From a data set's card to its pictures: each with its place in the list, its name and its class.

A picture's `index` is its place in the list from 0, missing pictures counted, so that one missing file never
moves another picture's label (MLPerf's accuracy script counts lines and loses exactly that).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topfive.datasets.cards import DatasetCard
from topfive.datasets.storage import Storage, is_url, open_storage
from topfive.errors import ImageError
from topfive.images.folders import list_images, map_entries, map_text_entries

__all__ = [
    "IMAGENET_CLASSES",
    "REDUCED",
    "Listing",
    "Picture",
    "find_map",
    "is_wnid",
    "list_dataset",
    "read_synsets",
]

IMAGENET_CLASSES = 1000
REDUCED = 500
"""The reduced set: the first 500 pictures of the validation set, with the list of all 50,000."""
MAP_NAMES = ("val_map.txt", "val.txt", "caffe_ilsvrc12/val.txt", "ILSVRC2012_val.txt", "imagenet_1000.txt")
"""Label files by the names under which ImageNet's are met; the last two are MagicMind's."""
SYNSET_NAMES = ("synsets.txt", "synset_words.txt")
NEIGHBOURS = ("", "caffe_ilsvrc12", "aux", "imagenet-2012-aux")
"""Folders, inside the set and beside it, that hold Caffe's auxiliary files."""
_WNID = re.compile(r"n[0-9]{8}")
SHOWN = 3


@dataclass(frozen=True)
class Picture:
    """One line of the list: its place from 0, the file's name inside the set, its class from 0."""

    index: int
    name: str
    label: int


@dataclass(frozen=True)
class Listing:
    """The pictures of a data set that a sweep runs, in order of `index`.

    root: folder or URL. form: how labels are told. labels_from: the file or rule that gives them. classes: as
    the card states, 0 if it does not. listed: pictures in the whole list. missing: pictures of the list that
    are not there and were allowed to be missing.
    """

    name: str
    root: str
    form: str
    labels_from: str
    first_label: int
    classes: int
    listed: int
    pictures: tuple[Picture, ...]
    missing: tuple[Picture, ...] = ()

    def text(self) -> str:
        """A line "index<TAB>name<TAB>label" a picture."""
        return "".join(f"{p.index}\t{p.name}\t{p.label}\n" for p in self.pictures)

    def sha256(self) -> str:
        """Identifies names, labels and places; not the files' contents."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def storage(self) -> Storage:
        """Where the files are."""
        return open_storage(self.root)


def list_dataset(card: DatasetCard, *, count: int | None = None, allow_missing: bool = False) -> Listing:
    """The pictures of a data set, or the first `count` lines of its list.

    Raises ImageError naming file and line: a malformed, empty or repeated line, a picture that is missing
    (unless `allow_missing`, which leaves it out and lists it), class folders whose classes cannot be told,
    and pictures without labels.
    """
    root = card.root
    if not is_url(root) and not Path(root).is_dir():
        raise ImageError(f"{root}: no such folder (data set {card.name!r})")
    storage = open_storage(root)
    found = _map_of(card, root, storage)
    if found is None:
        return _of_folders(card, root, count)
    place, entries = found
    present = storage.existing(name for _, name, _ in entries)
    entries = _wanted(card, entries, present, count)
    pictures: list[Picture] = []
    missing: list[Picture] = []
    for index, (line, name, label) in enumerate(entries):
        if label is None:
            raise ImageError(f"{place}, line {line}: {name!r} has no class; accuracy needs one on each line")
        if label < card.first_label:
            raise ImageError(
                f"{place}, line {line}: {name!r} has class {label}, but data set {card.name!r} counts from "
                f"{card.first_label}: correct first_label of its card"
            )
        picture = Picture(index, name, label - card.first_label)
        (pictures if name in present else missing).append(picture)
    if missing and not allow_missing:
        raise _missing(root, place, missing, [line for line, _, _ in entries])
    if not pictures:
        raise ImageError(f"{root}: has none of the {len(entries)} pictures of {place}")
    whole = len(found[1])
    return Listing(
        card.name, root, "map", place, card.first_label, card.classes, whole, tuple(pictures), tuple(missing)
    )


def _wanted(
    card: DatasetCard, entries: list[tuple[int, str, int | None]], present: set[str], count: int | None
) -> list[tuple[int, str, int | None]]:
    """The first so many lines, if the caller or the card says so, or if it is the reduced set; else all."""
    if count is not None:
        return entries[:count]
    if card.images:
        return entries[: card.images]
    reduced = {name for _, name, _ in entries[:REDUCED]}
    return entries[:REDUCED] if len(entries) > REDUCED and present == reduced else entries


def _missing(root: str, place: str, missing: Sequence[Picture], lines: Sequence[int]) -> ImageError:
    first = missing[0]
    names = ", ".join(picture.name for picture in missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
    before = f", --count {first.index} for those before the first" if first.index else ""
    return ImageError(
        f"{root}: {len(missing)} of the {len(lines)} pictures of {place} are missing, the first is "
        f"{first.name} (line {lines[first.index]}): restore them{before}, or --allow-missing to leave "
        "them out",
        details=f"missing: {names}",
    )


def _map_of(
    card: DatasetCard, root: str, storage: Storage
) -> tuple[str, list[tuple[int, str, int | None]]] | None:
    """The label file's name and its lines, or None if the set has none."""
    named = card.map_path()
    if named is None and is_url(root):
        for name in MAP_NAMES:
            if storage.existing([name]):
                text = storage.read(name).decode("utf-8-sig", errors="strict")
                return f"{root}/{name}", _strict(f"{root}/{name}", map_text_entries(Path(name), text))
        raise ImageError(f"{root}: has none of {', '.join(MAP_NAMES)}: give the label file with --map")
    place = named or find_map(Path(root))
    if place is None:
        return None
    try:
        return str(place), _strict(str(place), map_entries(place))
    except OSError as error:
        raise ImageError(f"{place}: cannot be read: {error.strerror or error}") from error


def _strict(place: str, entries: list[tuple[int, str, int | None]]) -> list[tuple[int, str, int | None]]:
    """Refuse empty lines between others, which would shift whoever counts lines, and repeated names."""
    if not entries:
        raise ImageError(f"{place}: has no lines")
    lines: dict[str, int] = {}
    for number, (line, name, _) in enumerate(entries, start=1):
        if line != number:
            raise ImageError(f"{place}, line {number}: is empty; remove the line or restore what it said")
        if name in lines:
            raise ImageError(
                f"{place}, line {line}: {name!r} was named on line {lines[name]} already; remove one"
            )
        lines[name] = line
    return entries


def find_map(root: Path) -> Path | None:
    """The label file of a folder: in it, else beside it if it names one of its files."""
    for path in (root / name for name in MAP_NAMES):
        if path.is_file():
            return path
    inside: set[str] | None = None
    parent = root.resolve().parent
    names = dict.fromkeys((*MAP_NAMES, *(f"{folder}/val.txt" for folder in NEIGHBOURS if folder)))
    for path in (parent / name for name in names):
        if path.is_file():
            inside = inside or {path.name for path in root.iterdir()}
            if any(name.partition("/")[0] in inside for _, name, _ in map_entries(path)):
                return path
    return None


def _of_folders(card: DatasetCard, root: str, count: int | None) -> Listing:
    """Class folders: named by WNIDs, by numbers, or in order of name."""
    folders = sorted(p.name for p in Path(root).iterdir() if p.is_dir() and not p.name.startswith("."))
    classes, form, rule = None, "class folders in order of name", "the order of the folders' names"
    first_label = 0
    if folders and all(is_wnid(name) for name in folders):
        form = "class folders named by WNIDs"
        classes, rule = _synsets_of(card, Path(root), folders)
    elif folders and all(name.isascii() and name.isdecimal() for name in folders):
        form, rule, first_label = "class folders named by numbers", "the folders' names", card.first_label
    images = list_images(root, classes)
    if any(image.label is None for image in images):
        raise ImageError(
            f"{root}: its pictures have no labels: put a val_map.txt of 'name index' lines there, or name "
            "one with --map"
        )
    pictures = []
    for index, image in enumerate(images):
        label = int(image.label or 0) - first_label
        if label < 0:
            raise ImageError(
                f"{image.path.parent}: data set {card.name!r} counts classes from {first_label}: correct "
                "first_label of its card"
            )
        pictures.append(Picture(index, image.name, label))
    limit = count if count is not None else (card.images or None)
    stated = card.classes or (len(classes) if classes else 0)
    return Listing(card.name, root, form, rule, first_label, stated, len(pictures), tuple(pictures[:limit]))


def _synsets_of(card: DatasetCard, root: Path, folders: list[str]) -> tuple[list[str], str]:
    """WNIDs in order of class: from a file, or the folders themselves if all of ImageNet's are there."""
    named = card.synsets_path()
    places = [root / folder / name for folder in NEIGHBOURS for name in SYNSET_NAMES]
    beside = [root.resolve().parent / folder / name for folder in NEIGHBOURS for name in SYNSET_NAMES]
    for path in [named] if named else [*places, *beside]:
        if named or path.is_file():
            return read_synsets(path), str(path)
    if len(folders) == IMAGENET_CLASSES:
        return folders, "the order of the 1000 WNIDs"
    raise ImageError(
        f"{root}: has {len(folders)} class folders named by WNIDs, of ImageNet's {IMAGENET_CLASSES}, so "
        "their order does not tell the classes: name the list with --synsets (Caffe's synsets.txt or "
        "synset_words.txt)"
    )


def is_wnid(name: str) -> bool:
    """Whether a folder's name is a WordNet id: n and eight digits."""
    return _WNID.fullmatch(name) is not None


def read_synsets(path: Path) -> list[str]:
    """The WNIDs that start the lines of synsets.txt or synset_words.txt; ImageError naming the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: cannot be read: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    found: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        wnid = line.split(None, 1)[0] if line.strip() else ""
        if not is_wnid(wnid):
            raise ImageError(f"{path}, line {number}: {wnid!r} is not a WNID (n and eight digits)")
        if wnid in found:
            raise ImageError(f"{path}, line {number}: {wnid} was on line {found[wnid]} already; remove one")
        found[wnid] = number
    return list(found)
