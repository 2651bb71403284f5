"""Running a model on the golden's pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from topfive.errors import RunError
from topfive.ranking import rank, softmax

if TYPE_CHECKING:
    from topfive.cards import Card
    from topfive.targets.base import Artifact, Runner

__all__ = [
    "Observed",
    "PictureSet",
    "Shown",
    "evidence",
    "fixture_top1",
    "observe",
    "output_labels",
    "score_kind",
    "scores_of",
]


@dataclass(frozen=True)
class Shown:
    """One picture of the set: name inside its folder, SHA-256 of the file, class index if known."""

    file: str
    sha256: str
    label: int | None


class PictureSet(Protocol):
    """Pictures in order, and the input tensor of each."""

    @property
    def shown(self) -> Sequence[Shown]:
        """The pictures."""

    def tensor(self, number: int) -> NDArray[Any]:
        """Input of picture `number`, a batch of one in the model's layout and dtype."""


@dataclass(frozen=True)
class Observed:
    """What a model made of one picture: its scores, float32 [entries], and hashes of its exact tensors.

    largest: magnitude of the largest element of the output that the scores were made from.
    """

    picture: Shown
    scores: NDArray[np.float32]
    int8: tuple[str, ...] = ()
    largest: float = 0.0

    def top5(self, labels: Sequence[str]) -> tuple[tuple[int, str, float], ...]:
        """The five best; () when a score is NaN."""
        return () if np.isnan(self.scores).any() else tuple(rank(self.scores, labels, 5))


def output_labels(card: Card) -> tuple[str, ...]:
    """A label for each entry of the output, the background class included; () if the card names none."""
    labels = card.labels()
    return ("background", *labels) if labels and card.output.background else labels


def score_kind(card: Card) -> str:
    """ "probability", or "logit" for an untrained model, whose probabilities would mean nothing."""
    return "probability" if card.trained or card.output.kind == "probabilities" else "logit"


def scores_of(card: Card, output: NDArray[Any]) -> NDArray[np.float32]:
    """A golden's scores of one output vector: softmax of a trained model's logits, else the output itself."""
    vector = np.asarray(output, np.float32).reshape(-1)
    if card.trained and card.output.kind == "logits" and not np.isnan(vector).any():
        return softmax(vector)
    return vector


def observe(card: Card, runner: Runner, pictures: PictureSet) -> list[Observed]:
    """Run every picture, one at a time so that batching cannot change a bit.

    Scores and exact tensors come from one run; that asking for the tensors does not change the scores is
    checked on the first picture. Raises RunError when it does.
    """
    names = tuple(runner.artifact.meta.get("exact_tensors", ()))
    seen = []
    for number, picture in enumerate(pictures.shown):
        batch = pictures.tensor(number)
        output, tensors = runner.run_exact(batch) if names else (runner.run(batch), {})
        if names and number == 0:
            _check_same(runner, runner.run(batch), output)
        hashes = tuple(hashlib.sha256(np.ascontiguousarray(tensors[n]).tobytes()).hexdigest() for n in names)
        largest = float(np.abs(output[0]).max(initial=0.0))
        seen.append(Observed(picture, scores_of(card, output[0]), hashes, largest))
    return seen


def _check_same(runner: Runner, alone: NDArray[Any], observed: NDArray[Any]) -> None:
    if not np.allclose(alone, observed, rtol=1e-5, atol=1e-5 * float(np.abs(alone).max()), equal_nan=True):
        place = runner.artifact
        raise RunError("the output changes when exact int8 tensors are asked for as well").located(
            place.model, place.target, place.quant
        )


def fixture_top1(card: Card, observed: Iterable[Observed]) -> float | None:
    """Top-1 accuracy on labelled pictures, a fraction; None for an untrained model or without labels."""
    judged = [o for o in observed if o.picture.label is not None]
    if not judged or not card.trained:
        return None
    offset = int(card.output.background)
    hits = sum(int(np.argmax(o.scores)) - offset == o.picture.label for o in judged)
    return hits / len(judged)


def evidence(card: Card, artifact: Artifact, observed: Sequence[Observed]) -> dict[str, Any]:
    """What a record keeps for comparisons: `bits` and `right1`, each absent where there is none.

    bits: one SHA-256 over the hashes of all exact tensors of all pictures. right1: for each labelled picture,
    by the first 16 digits of its file's SHA-256, whether the best class is its own.
    """
    found: dict[str, Any] = {}
    if artifact.exact:
        lines = sorted(f"{o.picture.sha256} {' '.join(o.int8)}" for o in observed)
        found["bits"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if fixture_top1(card, observed) is not None:
        found["right1"] = {
            o.picture.sha256[:16]: bool(fixture_top1(card, [o]))
            for o in observed
            if o.picture.label is not None
        }
    return found
