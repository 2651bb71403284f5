"""Data set cards: one TOML file a picture set, in the set's own folder or in the user's registry.

name = "imagenet"
folder = "/data/imagenet/val"       # or a fsspec URL; a relative path starts at the card
map = "../caffe_ilsvrc12/val.txt"   # lines "name index"; left out for class folders, or to look for one
synsets = "synsets.txt"             # line n starts with the WNID of class n: for class folders
first_label = 0                     # 1: the map, or folders named by numbers, count classes from 1
classes = 1000
images = 500                        # only the first so many of the map: the reduced set
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import platformdirs

from topfive.cards.places import expand
from topfive.cards.schema import fill, read_toml
from topfive.datasets.storage import is_url
from topfive.errors import CardError, UnknownNameError
from topfive.files import write_whole

__all__ = [
    "CARD_FILE",
    "DatasetCard",
    "escaped",
    "find_dataset",
    "read_card",
    "register_dataset",
    "registered",
    "registry_folder",
    "write_card",
]

CARD_FILE = "topfive-dataset.toml"
"""The card that a folder of pictures may hold about itself."""
REGISTRY_VARIABLE = "TOPFIVE_DATASETS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class DatasetCard:
    """One labelled picture set; the keys are in this module's docstring. 0 in classes or images: not said."""

    name: str
    folder: str = "."
    description: str = ""
    map: str = ""
    synsets: str = ""
    first_label: int = 0
    classes: int = 0
    images: int = 0
    path: Path = field(default=Path(), metadata={"internal": True})

    @property
    def root(self) -> str:
        """The folder as an absolute path, or the URL. Raises CardError for variables that are not set."""
        return self.folder if is_url(self.folder) else str(self._placed(self.folder))

    def map_path(self) -> Path | None:
        """The label file that the card names."""
        return self._placed(self.map) if self.map else None

    def synsets_path(self) -> Path | None:
        """The file of WNIDs that the card names."""
        return self._placed(self.synsets) if self.synsets else None

    def _placed(self, text: str) -> Path:
        return Path(os.path.normpath(expand(text, self.path.parent).absolute()))  # links stay as they are


def read_card(path: Path) -> DatasetCard:
    """The card in a file. Raises CardError naming the file and the key."""
    card = replace(fill(DatasetCard, read_toml(path), path), path=path)
    if not _NAME.fullmatch(card.name):
        raise CardError(f"{path}: key 'name' must be letters, digits and _ . + -, not {card.name!r}")
    if card.first_label not in (0, 1):
        raise CardError(f"{path}: key 'first_label' must be 0 or 1, not {card.first_label}")
    for key in ("classes", "images"):
        if not 0 <= getattr(card, key) <= 100_000_000:
            raise CardError(
                f"{path}: key {key!r} must be 0 (not said) to 100000000, not {getattr(card, key)}"
            )
    if card.map and card.synsets:
        raise CardError(f"{path}: has 'map' and 'synsets'; a map labels files, synsets label class folders")
    return card


def write_card(card: DatasetCard, path: Path) -> None:
    """Write a card, whole or not at all. Raises CardError naming the file."""
    lines = []
    for key in ("name", "description", "folder", "map", "synsets", "first_label", "classes", "images"):
        value = getattr(card, key)
        if value or key in ("name", "folder", "first_label"):
            # A JSON string without \u escapes is a TOML string too.
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    write_whole(path, "".join(lines).encode(), CardError)


def registry_folder() -> Path:
    """Where registered cards are: TOPFIVE_DATASETS, else `datasets` in the user's data folder."""
    named = os.environ.get(REGISTRY_VARIABLE, "")
    return Path(named).expanduser() if named else Path(platformdirs.user_data_dir("topfive")) / "datasets"


def registered() -> dict[str, DatasetCard]:
    """The registered cards by name, sorted. Raises CardError for a malformed one."""
    cards = {}
    for path in sorted(registry_folder().glob("*.toml")):
        card = read_card(path)
        if card.name != path.stem:
            raise CardError(f"{path}: key 'name' is {card.name!r}; it must be the file's name, {path.stem!r}")
        cards[card.name] = card
    return cards


def register_dataset(card: DatasetCard) -> DatasetCard:
    """Write a card with absolute paths into the registry, in place of one of the same name."""
    if not _NAME.fullmatch(card.name):
        raise CardError(f"a data set's name must be letters, digits and _ . + -, not {card.name!r}")
    map_path, synsets_path = card.map_path(), card.synsets_path()
    placed = replace(
        card,
        folder=card.root,
        map=str(map_path) if map_path else "",
        synsets=str(synsets_path) if synsets_path else "",
        path=registry_folder() / f"{card.name}.toml",
    )
    write_card(
        replace(
            placed,
            folder=escaped(placed.folder),
            map=escaped(placed.map),
            synsets=escaped(placed.synsets),
        ),
        placed.path,
    )
    return read_card(placed.path)


def escaped(path: str) -> str:
    """A path as a card says it: cards expand $NAME in paths, $$ is a dollar sign. URLs are not expanded."""
    return path if is_url(path) else path.replace("$", "$$")


def find_dataset(name: str, known: Mapping[str, DatasetCard] | None = None) -> DatasetCard:
    """The card of a folder, a URL or a registered name.

    A folder's own card is used if it holds one; a folder without one gets a card with its name. Raises
    CardError, and UnknownNameError when it is neither a folder nor a name of `known` (default: the registry).
    """
    if is_url(name):
        return DatasetCard(_plain(name.rstrip("/").rpartition("/")[2]), folder=name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        own = folder / CARD_FILE
        if own.is_file():
            return read_card(own)
        resolved = folder.absolute()
        return DatasetCard(_plain(resolved.resolve().name), folder=escaped(str(resolved)))
    cards = registered() if known is None else known
    if name in cards:
        return cards[name]
    if os.sep in name:
        raise CardError(f"{name}: no such folder of pictures, and no data set is registered by this name")
    raise UnknownNameError("data set or folder", name, cards)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", name).lstrip("_.+-") or "pictures"
