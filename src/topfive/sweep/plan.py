"""What a sweep of one case is: everything that decides its numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from topfive.cache import content_key
from topfive.cards import Card
from topfive.datasets import Listing
from topfive.errors import SweepError
from topfive.images import decoder_version, load_profile
from topfive.images.packed import crop_key
from topfive.targets.base import Artifact

__all__ = [
    "BATCH",
    "FORMAT",
    "PICTURES_A_SHARD",
    "Plan",
    "make_plan",
    "shard_count",
    "shard_range",
    "version_differences",
]

FORMAT = 1
BATCH = 8
"""Pictures a run; larger batches are no faster on one thread and need more memory."""
PICTURES_A_SHARD = 500
FEWEST_SHARDS = 8


@dataclass(frozen=True)
class Plan:
    """One model, target and quant mode over one list of pictures. Plain values, stored as JSON.

    artifact: the compiled model's key. batch: pictures a run. pictures: how many are run; pictures_sha256:
    of their names, labels and places. background: whether output 0 is the background class. crop: what
    decides the uint8 crops. made_by: versions that decide bits besides the artifact's own.
    """

    model: str
    target: str
    quant: str
    artifact: str
    source_sha256: str
    simulated: str
    profile: str
    size: tuple[int, int]
    crop: str
    classes: int
    background: bool
    batch: int
    shards: int
    dataset: str
    root: str
    form: str
    labels_from: str
    first_label: int
    listed: int
    pictures: int
    pictures_sha256: str
    missing: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    made_by: tuple[tuple[str, str], ...] = ()
    format: int = field(default=FORMAT)

    @property
    def case(self) -> str:
        """model-target-quant, as in test ids."""
        return f"{self.model}-{self.target}-{self.quant}"

    def key(self) -> str:
        """What makes two commands the same sweep; that the data or versions changed is no other sweep."""
        chosen = (self.model, self.target, self.quant, self.artifact, self.root, self.labels_from)
        return content_key({"chosen": chosen, "sizes": [self.pictures, self.shards, self.batch]})

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        stored: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return stored

    @staticmethod
    def from_json(stored: dict[str, Any]) -> Plan:
        """The plan of `to_json` after a trip through JSON. Raises SweepError if it is none."""
        try:
            if stored["format"] != FORMAT:
                raise SweepError(f"a sweep of format {stored['format']}, this version reads {FORMAT}")
            values = {f.name: _tuples(stored[f.name]) for f in fields(Plan)}
        except (KeyError, TypeError) as error:
            raise SweepError(f"not a sweep's plan: {error!r}") from error
        return Plan(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def shard_count(pictures: int, wanted: int | None = None) -> int:
    """How many shards a list is cut into: as wanted, else of about 500 pictures, but at least 8.

    Raises SweepError for more shards than pictures.
    """
    if wanted is not None:
        if not 1 <= wanted <= pictures:
            raise SweepError(f"{wanted} shards of {pictures} pictures: choose 1 to {pictures}")
        return wanted
    return min(pictures, max(FEWEST_SHARDS, -(-pictures // PICTURES_A_SHARD)))


def shard_range(pictures: int, shards: int, number: int) -> range:
    """The positions of shard `number` (from 0): contiguous, sizes differing by at most 1."""
    return range(pictures * number // shards, pictures * (number + 1) // shards)


def counted(number: int, thing: str) -> str:
    """A number of things: "1 shard", "2 shards"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def make_plan(
    card: Card,
    artifact: Artifact,
    listing: Listing,
    *,
    shards: int | None = None,
    batch: int = BATCH,
    versions: Sequence[tuple[str, str]] = (),
    target: str = "",
) -> Plan:
    """The plan of one case. A model with a fixed batch size runs at that size.

    target: as the case names it, if it is a variant.

    Raises SweepError when the labels are not the model's, naming the first picture.
    """
    check_labels(card, listing)
    fixed = artifact.meta["input"]["shape"][0]
    profile = load_profile(card.input.profile)
    return Plan(
        model=artifact.model,
        target=target or artifact.target,
        quant=artifact.quant,
        artifact=artifact.key,
        source_sha256=str(artifact.meta.get("source_sha256", "")),
        simulated=str(artifact.meta.get("simulated", "")),
        profile=card.input.profile,
        size=card.input.size,
        crop=crop_key(profile, card.input.size),
        classes=card.output.classes,
        background=card.output.background,
        batch=fixed if isinstance(fixed, int) else batch,
        shards=shard_count(len(listing.pictures), shards),
        dataset=listing.name,
        root=listing.root,
        form=listing.form,
        labels_from=listing.labels_from,
        first_label=listing.first_label,
        listed=listing.listed,
        pictures=len(listing.pictures),
        pictures_sha256=listing.sha256(),
        missing=tuple(picture.name for picture in listing.missing),
        options=tuple(sorted(artifact.options.items())),
        made_by=(("decoder", decoder_version()), *versions),
    )


def check_labels(card: Card, listing: Listing) -> None:
    """Raise SweepError when a label is beyond the model's classes, or the set states another number."""
    classes = card.output.classes
    if listing.classes and listing.classes != classes:
        raise SweepError(
            f"{card.name} has {classes} classes, data set {listing.name!r} has {listing.classes}: choose "
            "another model or set with --models or --imagenet"
        )
    for picture in listing.pictures:
        if picture.label >= classes:
            written = picture.label + listing.first_label
            hint = ""
            if written == classes and all(p.label > 0 for p in listing.pictures):
                hint = (
                    "; no picture has class 0, so the labels count from 1: register it with --first-label 1"
                )
            raise SweepError(
                f"{listing.labels_from}: {picture.name} has class {written}, but {card.name} has {classes} "
                f"classes{hint}"
            )


def version_differences(plan: Plan) -> list[str]:
    """What of the plan's `made_by` is another version here, a line each."""
    found = []
    for name, then in plan.made_by:
        try:
            now = decoder_version() if name == "decoder" else version(name)
        except PackageNotFoundError:
            now = "not installed"
        if now != then:
            found.append(f"{name} is {now}, the sweep began with {then}")
    return found
