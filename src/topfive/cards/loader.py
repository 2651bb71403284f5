"""Model cards: one TOML file a model, read strictly. docs/adding-a-model.md explains every key."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from topfive.cards.places import CARDS_FOLDERS, expand, fixtures_root
from topfive.cards.schema import fill, read_toml
from topfive.errors import CardError, UnknownNameError

__all__ = [
    "Calibration",
    "Card",
    "Input",
    "Output",
    "Pictures",
    "Plugins",
    "Published",
    "Source",
    "find_card",
    "load_card",
    "load_cards",
]

SOURCE_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bundled": (("path",), ("sha256",)),
    "file": (("path",), ("sha256",)),
    "light": (("architecture",), ("seed",)),
    "url": (("urls",), ("sha256",)),
    "torchvision": (("model",), ("revision", "opset")),
    "huggingface": (("model",), ("revision", "opset")),
}
"""Source kind -> (required keys, optional keys)."""

OUTPUT_KINDS = ("logits", "probabilities")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_SET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Source:
    """Where the ONNX file comes from; which keys go with which kind is in SOURCE_KEYS.

    revision: torchvision's name of the weights, or a revision of the Hugging Face repository. opset: of the
    export, 0 for the default. A url without sha256 is a file that nobody has vouched for yet: it is fetched
    only with a sha256 given by hand.
    """

    kind: str
    path: str = ""
    sha256: str = ""
    architecture: str = ""
    seed: int = 0
    urls: tuple[str, ...] = ()
    model: str = ""
    revision: str = ""
    opset: int = 0


@dataclass(frozen=True)
class Input:
    """Picture size (height, width) in pixels, and the name of the preprocessing profile."""

    size: tuple[int, int]
    profile: str


@dataclass(frozen=True)
class Output:
    """What the model's one output holds, [N, entries]; `classes` does not count the background class.

    name: which output, of a model that has several; the others are cut off.
    remove_softmax: build the model without the softmax that its graph ends with; `kind` says what is built.
    """

    kind: str
    classes: int
    background: bool = False
    labels: str = ""
    remove_softmax: bool = False
    name: str = ""

    @property
    def entries(self) -> int:
        """Length of one output vector: the classes, and the background class (index 0) if there is one."""
        return self.classes + self.background


@dataclass(frozen=True)
class Pictures:
    """The pictures that goldens are made of: the first `count` of a fixture set or of "folder:PATH".

    `map` is a file of "name index" lines where the folder itself has none.
    """

    set: str
    count: int
    map: str = ""


@dataclass(frozen=True)
class Calibration:
    """The pictures that activation ranges come from, and how the ranges are chosen.

    Pictures: [offset::step][:count] of the set, in order of name, or with a `map` of "name index" lines in
    its order; with a `seed`, `count` of [offset::step] are drawn. `table` is a committed table of ranges,
    relative to the fixtures folder or to a user's card. method: one of topfive.quantize.calibration.METHODS;
    symmetric: ranges are (-t, t); percentile: of method "percentile".
    """

    set: str
    count: int
    step: int = 1
    offset: int = 0
    table: str = ""
    map: str = ""
    seed: int | None = None
    method: str = "minmax"
    symmetric: bool = False
    percentile: float = 99.99


@dataclass(frozen=True)
class Published:
    """Published accuracies (fractions of 1) and what they were measured on; millions of weights, GMACs."""

    top1: float | None = None
    top5: float | None = None
    images: str = ""
    parameters_millions: float | None = None
    gmacs: float | None = None


@dataclass(frozen=True)
class Plugins:
    """Code of other people that computes operators of the model.

    onnxruntime: a library of custom operators, relative to the card; loaded only if its SHA-256 is `sha256`.
    tensorrt: operators of the graph that are TensorRT plugins.
    """

    onnxruntime: str = ""
    sha256: str = ""
    tensorrt: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """One model. `path` is the card's own file (of a bare ONNX file: that file)."""

    name: str
    description: str
    source: Source
    input: Input
    output: Output
    pictures: Pictures
    calibration: Calibration
    published: Published = field(default_factory=Published)
    plugins: Plugins = field(default_factory=Plugins)
    tags: tuple[str, ...] = ()
    trained: bool = True
    quantised: bool = False
    path: Path = field(default=Path(), metadata={"internal": True})

    def source_path(self) -> Path:
        """The ONNX file of kinds "bundled" and "file" (it need not exist); CardError for unset variables."""
        if self.source.kind == "bundled":
            return fixtures_root() / self.source.path
        if self.source.kind == "file":
            return expand(self.source.path, self.path.parent)
        raise CardError(f"{self.path}: a source of kind {self.source.kind!r} has no path")

    def plugin_path(self) -> Path | None:
        """The library of custom operators (it need not exist), if the card names one."""
        library = self.plugins.onnxruntime
        return expand(library, self.path.parent) if library else None

    def labels_path(self) -> Path | None:
        """The file of class names, or None if the card names none."""
        labels = self.output.labels
        if not labels:
            return None
        if labels.startswith("file:"):
            return expand(labels.removeprefix("file:"), self.path.parent)
        return fixtures_root() / "labels" / f"{labels}.txt"

    def labels(self) -> tuple[str, ...]:
        """Class names, `output.classes` of them without the background class; () if the card names none.

        Raises CardError if the file cannot be read or has another number of lines.
        """
        path = self.labels_path()
        if path is None:
            return ()
        try:
            names = tuple(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise CardError(f"{self.path}: key 'output.labels': {path} cannot be read: {error}") from error
        if len(names) != self.output.classes:
            raise CardError(
                f"{self.path}: key 'output.labels': {path} has {len(names)} lines, but 'output.classes' is "
                f"{self.output.classes}: correct one of them (a background class has no line)"
            )
        return names

    def pictures_folder(self) -> Path:
        """The folder of golden pictures (it need not exist)."""
        return self._folder(self.pictures.set, "val")

    def pictures_map(self) -> Path | None:
        """The file that maps golden pictures to classes, if the card names one."""
        return expand(self.pictures.map, self.path.parent) if self.pictures.map else None

    def calibration_folder(self) -> Path:
        """The folder of calibration pictures (it need not exist)."""
        return self._folder(self.calibration.set, "calibration")

    def calibration_map(self) -> Path | None:
        """The file that lists the calibration pictures, if the card names one."""
        return expand(self.calibration.map, self.path.parent) if self.calibration.map else None

    def calibration_table(self) -> Path | None:
        """The committed table of ranges (it need not exist), if the card names one."""
        if not self.calibration.table:
            return None
        base = fixtures_root() if self.source.kind in ("bundled", "light") else self.path.parent
        return expand(self.calibration.table, base)

    def _folder(self, picture_set: str, part: str) -> Path:
        if picture_set.startswith("folder:"):
            return expand(picture_set.removeprefix("folder:"), self.path.parent)
        return fixtures_root() / "pictures" / picture_set / part

    def missing_reason(self) -> str:
        """Why this model cannot be used here: a file, folder or variable that is absent; "" if nothing is."""
        wanted: list[tuple[str, Callable[[], Path | None]]] = [
            ("labels", self.labels_path),
            ("pictures", self.pictures_folder),
            ("picture map", self.pictures_map),
            ("calibration pictures", self.calibration_folder),
        ]
        if self.source.kind in ("bundled", "file"):
            wanted.insert(0, ("model", self.source_path))
        for what, place in wanted:
            try:
                path = place()
            except CardError as error:
                return error.message
            # os.path, because Path.exists raises on names that are too long
            if path is not None and not os.path.exists(path):  # noqa: PTH110
                return f"{what} not found: {path}"
        return ""


def load_card(path: Path) -> Card:
    """Read one card. Raises CardError naming the file and the key for everything that is wrong with it."""
    table = read_toml(path)
    pictures = table.get("pictures")
    if "calibration" not in table and isinstance(pictures, dict):
        table["calibration"] = {"set": pictures.get("set", ""), "count": 64}
    card = fill(Card, table, path)
    for key, fault in _faults(card, path):
        raise CardError(f"{path}: key {key!r} {fault}")
    return replace(card, path=path)


def _faults(card: Card, path: Path) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for values of the right type that mean nothing."""
    if not _NAME.fullmatch(card.name):
        yield "name", f"must be letters, digits and _ . + - (it names files and tests), not {card.name!r}"
    if card.name != path.stem:
        yield "name", f"is {card.name!r}, but the file is {path.name}: rename one of them"
    if not all(_NAME.fullmatch(tag) for tag in card.tags):
        yield "tags", f"must be words of letters, digits and _ . + -, not {list(card.tags)!r}"
    if not all(1 <= side <= 16384 for side in card.input.size):
        yield "input.size", f"must be [height, width] of 1 to 16384 pixels, not {list(card.input.size)}"
    if not card.input.profile:
        yield "input.profile", "must name a preprocessing profile"
    yield from _output_faults(card.output)
    yield from _source_faults(card.source)
    yield from _picture_faults(card.pictures, card.calibration)
    yield from _published_faults(card.published)
    yield from _plugin_faults(card.plugins)


def _output_faults(output: Output) -> Iterator[tuple[str, str]]:
    if output.kind not in OUTPUT_KINDS:
        yield "output.kind", f"must be one of {', '.join(OUTPUT_KINDS)}, not {output.kind!r}"
    if output.remove_softmax and output.kind != "logits":
        yield "output.kind", f"must be logits with 'output.remove_softmax', not {output.kind!r}"
    if not 2 <= output.classes <= 1_000_000:
        yield "output.classes", f"must be 2 to 1000000, not {output.classes}"
    if output.labels and not _reference(output.labels, "file:"):
        yield "output.labels", f"must be a label set's name or 'file:PATH', not {output.labels!r}"


def _source_faults(source: Source) -> Iterator[tuple[str, str]]:
    if source.kind not in SOURCE_KEYS:
        yield "source.kind", f"must be one of {', '.join(SOURCE_KEYS)}, not {source.kind!r}"
        return
    required, optional = SOURCE_KEYS[source.kind]
    for key in ("path", "sha256", "architecture", "seed", "urls", "model", "revision", "opset"):
        value = getattr(source, key)
        if key in required and not value:
            yield f"source.{key}", f"is missing or empty: kind {source.kind!r} needs it"
        if value and key not in required + optional:
            keys = ", ".join(required + optional)
            yield f"source.{key}", f"does not go with kind {source.kind!r} (its keys are {keys})"
    if source.kind == "bundled" and (Path(source.path).is_absolute() or ".." in Path(source.path).parts):
        yield "source.path", f"must be a path inside the fixtures folder, not {source.path!r}"
    if source.sha256 and not _SHA256.fullmatch(source.sha256):
        yield "source.sha256", f"must be 64 hexadecimal digits in lower case, not {source.sha256!r}"
    if not 0 <= source.seed < 2**63:
        yield "source.seed", "must be 0 to 2**63 - 1"
    for url in source.urls:
        if not re.fullmatch(r"https?://[^\s/]+/\S+", url):
            yield "source.urls", f"must be http:// or https:// addresses of a file, not {url!r}"


def _picture_faults(pictures: Pictures, calibration: Calibration) -> Iterator[tuple[str, str]]:
    for section, name in (("pictures", pictures.set), ("calibration", calibration.set)):
        if not _reference(name, "folder:"):
            yield f"{section}.set", f"must be a picture set's name or 'folder:PATH', not {name!r}"
    counts = [
        ("pictures.count", pictures.count, 1),
        ("calibration.count", calibration.count, 1),
        ("calibration.step", calibration.step, 1),
        ("calibration.offset", calibration.offset, 0),
        ("calibration.seed", calibration.seed or 0, 0),
    ]
    for key, count, least in counts:
        if not least <= count <= 10_000_000:
            yield key, f"must be {least} to 10000000, not {count}"
    if not 50 < calibration.percentile <= 100:
        yield "calibration.percentile", f"must be more than 50 and at most 100, not {calibration.percentile}"


def _published_faults(published: Published) -> Iterator[tuple[str, str]]:
    for key in ("top1", "top5"):
        value = getattr(published, key)
        if value is not None and not 0.0 <= value <= 1.0:
            yield f"published.{key}", f"must be a fraction from 0.0 to 1.0, not {value} (per cent?)"
    if (published.top1 or 0.0) > (math.inf if published.top5 is None else published.top5):
        yield "published.top5", f"is {published.top5}, less than 'top1' ({published.top1})"


def _plugin_faults(plugins: Plugins) -> Iterator[tuple[str, str]]:
    if plugins.onnxruntime and not plugins.sha256:
        yield "plugins.sha256", "is missing: a library is loaded only if its SHA-256 is known"
    if plugins.sha256 and not plugins.onnxruntime:
        yield "plugins.sha256", "is of no library: add 'plugins.onnxruntime'"
    if plugins.sha256 and not _SHA256.fullmatch(plugins.sha256):
        yield "plugins.sha256", f"must be 64 hexadecimal digits in lower case, not {plugins.sha256!r}"
    if not all(name.isidentifier() for name in plugins.tensorrt):
        yield "plugins.tensorrt", f"must be names of operators, not {list(plugins.tensorrt)!r}"


def _reference(text: str, prefix: str) -> bool:
    """Whether text is `prefix` and a path, or a plain name that cannot leave the fixtures folder."""
    if text.startswith(prefix):
        return bool(text.removeprefix(prefix).strip())
    return bool(_SET_NAME.fullmatch(text))


@functools.cache
def _own_cards() -> tuple[Card, ...]:
    """The cards that come with topfive: they do not change while it runs."""
    return tuple(load_card(path) for folder in CARDS_FOLDERS for path in sorted(folder.glob("*.toml")))


def load_cards(extra_dirs: Sequence[Path] = ()) -> dict[str, Card]:
    """All cards by name, sorted: topfive's own, those of TOPFIVE_CARDS, and those of `extra_dirs`.

    TOPFIVE_CARDS (separated as PATH is) and `extra_dirs` hold folders of cards, or single card files.
    Raises CardError for a malformed card, a folder that is absent, and a name that two files claim.
    """
    named = [Path(text) for text in os.environ.get("TOPFIVE_CARDS", "").split(os.pathsep) if text]
    cards: dict[str, Card] = {}
    for card in (*_own_cards(), *(load_card(path) for path in _card_files([*named, *extra_dirs]))):
        if card.name in cards:
            raise CardError(f"two cards are named {card.name!r}: {cards[card.name].path} and {card.path}")
        cards[card.name] = card
    return dict(sorted(cards.items()))


def _card_files(places: Sequence[Path]) -> list[Path]:
    """The card files in `places`, each once, however often and by whatever path it is reached."""
    files: dict[Path, Path] = {}
    for place in places:
        if place.is_dir():
            found = sorted(place.glob("*.toml"))
        elif place.is_file():
            found = [place]
        else:
            raise CardError(f"card folder {place} does not exist")
        for path in found:
            files.setdefault(path.resolve(), path)
    own = {path.resolve() for folder in CARDS_FOLDERS for path in folder.glob("*.toml")}
    return [path for resolved, path in files.items() if resolved not in own]


def find_card(name: str, cards: Mapping[str, Card]) -> Card:
    """The card of that name, or UnknownNameError with the nearest names."""
    if name not in cards:
        raise UnknownNameError("model", name, cards)
    return cards[name]
