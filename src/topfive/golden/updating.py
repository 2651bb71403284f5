"""Making goldens, and rewriting of a golden file only what changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from topfive.errors import GoldenError
from topfive.golden.comparison import compare_image
from topfive.golden.files import read_golden, write_golden
from topfive.golden.observation import Observed, fixture_top1, output_labels, score_kind
from topfive.golden.records import Golden, GoldenImage, Tolerance

if TYPE_CHECKING:
    from topfive.cards import Card
    from topfive.targets.base import Artifact

__all__ = ["Update", "make_golden", "refuse_under_ci", "update"]

LISTED = 10
# Float sums in another order move a float16 logit by one step, seldom two, on every model measured.
FLOAT16_STEPS = 3
# What a golden is about: a change in one of these is a change of the golden.
SUBJECT = (
    "model",
    "target",
    "quant",
    "source_sha256",
    "profile",
    "score",
    "exact_tensors",
    "modelled_cycles",
)


@dataclass(frozen=True)
class Update:
    """What `update` did: whether the file was written, and the difference as text."""

    written: bool
    text: str


def refuse_under_ci(environ: Mapping[str, str] = os.environ) -> None:
    """GoldenError when the environment variable CI says that nobody would look at the difference."""
    if environ.get("CI", "").lower() not in ("", "0", "false"):
        raise GoldenError(
            f"--update-golden is refused under CI (CI={environ['CI']}): goldens are updated by a person who "
            "looks at the difference; run it on a workstation and commit the files"
        )


def make_golden(
    card: Card, artifact: Artifact, observed: Sequence[Observed], decoder: str, versions: Mapping[str, str]
) -> Golden:
    """The golden that these observations would be. ValueError when a score is NaN.

    An untrained model's absolute tolerance is 1 % of the largest logit: its scores cross zero. Where the
    output is float16 values (`float16_output` of the artifact), a probability may be off by what
    FLOAT16_STEPS steps of the largest logit make of it, if that is more than the usual 1 %.
    """
    labels = output_labels(card)
    images = tuple(GoldenImage(o.picture.file, o.picture.sha256, o.top5(labels), o.int8) for o in observed)
    if not all(image.top5 for image in images):
        raise ValueError("a score is NaN")
    kind = score_kind(card)
    if kind == "logit":
        largest = max((float(np.abs(o.scores).max()) for o in observed), default=0.0)
        tolerance = Tolerance(absolute=float(f"{0.01 * largest:.3g}"))
    else:
        tolerance = _float16_tolerance(observed) if artifact.meta.get("float16_output") else Tolerance()
    return Golden(
        model=artifact.model,
        target=artifact.target,
        quant=artifact.quant,
        source_sha256=str(artifact.meta.get("source_sha256", "")),
        profile=card.input.profile,
        score=kind,
        tolerance=tolerance,
        images=images,
        exact_tensors=tuple(artifact.meta.get("exact_tensors", ())),
        top1=fixture_top1(card, observed),
        artifact=artifact.key,
        decoder=decoder,
        versions=versions,
        modelled_cycles=artifact.meta.get("modelled_cycles", {}),
    )


def _float16_tolerance(observed: Sequence[Observed]) -> Tolerance:
    """d logit = d probability / probability, to first order: so many steps of the largest logit."""
    largest = max((o.largest for o in observed), default=0.0)
    step = float(np.spacing(np.float16(largest))) if np.isfinite(largest) else 0.0
    usual = Tolerance()
    return Tolerance(max(usual.relative, float(f"{FLOAT16_STEPS * step:.3g}")), usual.absolute)


def update(
    path: Path, fresh: Golden, observed: Sequence[Observed], environ: Mapping[str, str] = os.environ
) -> Update:
    """Bring the file up to `fresh`, touching only pictures whose verdict is not "exact".

    A tolerance set by hand is kept. The file is not written at all when no picture and nothing that the
    golden is about changed. Raises GoldenError under CI.
    """
    refuse_under_ci(environ)
    if not path.exists():
        write_golden(fresh, path)
        return Update(True, f"{path}: new, {len(fresh.images)} pictures")
    try:
        old = read_golden(path)
    except GoldenError as error:
        write_golden(fresh, path)
        return Update(True, f"{path}: rewritten, it was malformed ({error.message})")
    merged, lines = _merge(old, fresh, observed)
    if not lines:
        return Update(False, f"{path}: unchanged")
    write_golden(merged, path)
    shown = lines[:LISTED] + ([f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else [])
    return Update(True, "\n  ".join([f"{path}: {len(lines)} changes", *shown]))


def _merge(old: Golden, fresh: Golden, observed: Sequence[Observed]) -> tuple[Golden, list[str]]:
    """The golden to write, and a line for each change in it."""
    lines = [
        f"{name}: {getattr(old, name)} -> {getattr(fresh, name)}"
        for name in SUBJECT
        if getattr(old, name) != getattr(fresh, name)
    ]
    # Another kind of score has another scale: a tolerance set for the old one means nothing.
    tolerance = old.tolerance if old.score == fresh.score else fresh.tolerance
    known = {image.file: image for image in old.images}
    images = []
    for image, seen in zip(fresh.images, observed, strict=True):
        before = known.pop(image.file, None)
        if before is not None and _unchanged(before, image, seen, old, fresh):
            images.append(before)
        else:
            images.append(image)
            lines.append(f"{image.file}: {_five(before)} -> {_five(image)}")
    lines += [f"{name}: removed" for name in known]
    if not lines and [i.file for i in old.images] != [i.file for i in images]:
        lines.append("the order of the pictures")
    return replace(fresh, images=tuple(images), tolerance=tolerance), lines


def _unchanged(before: GoldenImage, now: GoldenImage, seen: Observed, old: Golden, fresh: Golden) -> bool:
    """Whether the old line of a picture still says what the new one would, but for noise below "exact"."""
    if before.sha256 != now.sha256 or before.int8 != now.int8 or old.exact_tensors != fresh.exact_tensors:
        return False
    if [row[:2] for row in before.top5] != [row[:2] for row in now.top5]:
        return False
    return compare_image(before, seen, (), old).verdict == "exact"


def _five(image: GoldenImage | None) -> str:
    if image is None:
        return "none"
    best = ", ".join(f"{index} {score:.6g}" for index, _, score in image.top5)
    return f"[{best}]" + (f" int8 {image.int8[0][:8]}" if image.int8 else "")
