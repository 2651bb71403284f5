"""Judging what a model gives against its golden.

The seed tolerates "<1 % deviations" of the scores. Here: *exact* when the classes and their order are the
golden's and the scores equal to 1e-5; *drift* when every score is within the tolerance and the classes are
the golden's up to ties; *fail* otherwise, and always when an exact int8 tensor differs. A tie is a swap among
scores that agree within the tolerance, also at the edge of the five.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topfive.errors import GoldenError
from topfive.golden.observation import Observed
from topfive.golden.records import Golden, GoldenImage, Ranked, Tolerance

__all__ = [
    "EXACT_SCORE",
    "Comparison",
    "Deviation",
    "GoldenMismatchError",
    "ImageVerdict",
    "compare",
    "compare_image",
    "required_tolerance",
]

EXACT_SCORE = 1e-5
ORDER = ("exact", "drift", "fail")


class GoldenMismatchError(AssertionError):
    """What a model gives is not its golden; the message is the whole explanation."""


@dataclass(frozen=True)
class Deviation:
    """Two scores that a tolerance must cover: their distance, the golden score it is relative to, and why."""

    error: float
    reference: float
    what: str


@dataclass(frozen=True)
class ImageVerdict:
    """The judgement of one picture.

    cosine: of the golden's five scores and the same classes' scores now. max_error: largest absolute
    difference among those. faults: what no tolerance forgives.
    """

    file: str
    verdict: str
    golden: Ranked
    now: Ranked
    deviations: tuple[Deviation, ...]
    faults: tuple[str, ...]
    cosine: float
    max_error: float


@dataclass(frozen=True)
class Comparison:
    """The judgement of a model's golden: the worst of its pictures'."""

    golden: Golden
    images: tuple[ImageVerdict, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """ "exact", "drift" or "fail"."""
        return max((i.verdict for i in self.images), key=ORDER.index, default="exact")

    def of(self, verdict: str) -> list[ImageVerdict]:
        """The pictures of one verdict."""
        return [i for i in self.images if i.verdict == verdict]

    def required(self) -> Tolerance | None:
        """The tolerance under which every picture passes, None if there is none."""
        return required_tolerance(self.images, self.golden.tolerance)


def compare(
    golden: Golden,
    observed: Sequence[Observed],
    labels: Sequence[str],
    path: Path,
    notes: tuple[str, ...] = (),
) -> Comparison:
    """Judge all pictures of a golden; `path` is its file, for messages, `notes` are lines for its report.

    Raises GoldenError when the pictures are not the golden's: one missing, one too many, one changed.
    """
    seen = {o.picture.file: o for o in observed}
    fix = "restore the picture, or run pytest --update-golden if the set was changed on purpose"
    for image in golden.images:
        if image.file not in seen:
            raise GoldenError(f"{path} names picture {image.file!r}, which the set lacks: {fix}")
        if seen[image.file].picture.sha256 != image.sha256:
            raise GoldenError(
                f"{path}: picture {image.file!r} is not the one the golden was made of: {fix}",
                details=f"sha256 in the golden: {image.sha256}\n"
                f"sha256 of the file: {seen[image.file].picture.sha256}",
            )
    extra = sorted(seen.keys() - {image.file for image in golden.images})
    if extra:
        raise GoldenError(
            f"{path} lacks picture {extra[0]!r} ({len(extra)} in all) of the set: run pytest --update-golden"
        )
    images = tuple(compare_image(image, seen[image.file], labels, golden) for image in golden.images)
    return Comparison(golden, images, notes)


def compare_image(golden: GoldenImage, seen: Observed, labels: Sequence[str], header: Golden) -> ImageVerdict:
    """Judge one picture; labels: a name an entry of the output, or none."""
    now = seen.top5(labels)
    faults = tuple(_faults(golden, seen, header))
    deviations = () if faults and not now else tuple(_deviations(golden, seen, now))
    wanted = np.array([score for _, _, score in golden.top5], np.float64)
    given = np.array([_score(seen, index) for index, _, _ in golden.top5], np.float64)
    same_order = [index for index, _, _ in golden.top5] == [index for index, _, _ in now]
    equal = np.abs(given - wanted) <= EXACT_SCORE * np.maximum(np.abs(given), np.abs(wanted))
    if faults or not all(header.tolerance.allows(d.error, d.reference) for d in deviations):
        verdict = "fail"
    else:
        verdict = "exact" if same_order and bool(equal.all()) else "drift"
    error = float(np.abs(given - wanted).max(initial=0.0))
    return ImageVerdict(
        golden.file, verdict, golden.top5, now, deviations, faults, _cosine(wanted, given), error
    )


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Cosine of the angle between two vectors; 1 for equal ones, NaN when one is not finite."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else float(np.array_equal(a, b))


def _faults(golden: GoldenImage, seen: Observed, header: Golden) -> Iterable[str]:
    if np.isnan(seen.scores).any():
        yield "a score is NaN"
    entries = len(seen.scores)
    if any(index >= entries for index, _, _ in golden.top5):
        yield f"the golden has classes that the output, of {entries} entries, has not"
    if len(golden.int8) != len(seen.int8):
        yield f"the golden hashes {len(golden.int8)} exact int8 tensors, the artifact makes {len(seen.int8)}"
        return
    for name, wanted, given in zip(header.exact_tensors, golden.int8, seen.int8, strict=False):
        if wanted != given:
            yield f"exact int8 tensor {name!r} differs ({given[:12]}, golden {wanted[:12]})"


def _score(seen: Observed, index: int) -> float:
    return float(seen.scores[index]) if index < len(seen.scores) else math.nan


def _deviations(golden: GoldenImage, seen: Observed, now: Ranked) -> Iterable[Deviation]:
    """Every pair of scores that has to agree for the golden to hold."""
    for index, label, score in golden.top5:
        name = label or f"class {index}"
        yield Deviation(abs(_score(seen, index) - score), abs(score), f"score of {name}")
    place = {index: rank for rank, (index, _, _) in enumerate(now)}
    for (a, _, first), (b, _, second) in itertools.combinations(golden.top5, 2):
        if place.get(b, len(now)) < place.get(a, len(now)):
            reference = max(abs(first), abs(second))
            yield Deviation(abs(first - second), reference, f"order of classes {a} and {b}")
    inside = {index for index, _, _ in golden.top5}
    for rank, (index, _, score) in enumerate(now):
        if index in inside:
            continue
        for passed, _, wanted in golden.top5:
            if place.get(passed, len(now)) > rank:
                yield Deviation(abs(score - wanted), abs(wanted), f"class {index} before class {passed}")


def required_tolerance(images: Iterable[ImageVerdict], now: Tolerance) -> Tolerance | None:
    """The tolerance that passes all pictures: a larger `relative` where that can do it, else `absolute` too.

    Rounded up to three digits; `now` when it passes already. None when a fault or a NaN makes it impossible.
    """
    relative, absolute = now.relative, now.absolute
    for image in images:
        if image.faults:
            return None
        for deviation in image.deviations:
            if now.allows(deviation.error, deviation.reference):
                continue
            if not math.isfinite(deviation.error):
                return None
            needed = deviation.error / deviation.reference if deviation.reference else math.inf
            # Above 1 a relative tolerance says nothing: the score may then be anything.
            if needed <= 1:
                relative = max(relative, _rounded_up(needed))
            else:
                absolute = max(absolute, _rounded_up(deviation.error))
    return Tolerance(relative, absolute)


def _rounded_up(value: float) -> float:
    """To three significant digits, strictly upwards, so that the printed number really passes."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    up = math.ceil(value / step)
    rounded = float(f"{up * step:.4g}")
    return rounded if rounded > value * (1 + 1e-12) else float(f"{(up + 1) * step:.4g}")
