"""`topfive run`: pictures through a model, printed as the Gemmini imagenet runner prints them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import topfive
from topfive.cards import Card
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.errors import CardError, RunError
from topfive.golden import output_labels
from topfive.images import Profile, load_profile, preprocess
from topfive.pipeline import resolve_card
from topfive.targets.base import Artifact, Runner

__all__ = ["Job", "classify", "prepare", "runner_text"]


@dataclass(frozen=True)
class Job:
    """A model that is built, and how its pictures are prepared."""

    card: Card
    profile: Profile
    labels: tuple[str, ...]
    artifact: Artifact

    def scores(self, runner: Runner, picture: Path) -> NDArray[Any]:
        """The model's output for one picture, [entries].

        Raises ImageError naming the file, CardError if the profile's tensors do not fit the model, RunError
        for a NaN, which has no place among the five best.
        """
        tensor = preprocess(picture, self.profile, self.card.input.size)
        _check_layout(self.card, tensor.shape, self.profile.name)
        output: NDArray[Any] = runner.run(tensor[None])[0].reshape(-1)
        if np.isnan(output).any():
            place = self.artifact
            raise RunError(
                f"the output for {picture} holds NaN: look for the layer with `topfive diff`"
            ).located(place.model, place.target, place.quant)
        return output

    def described(self) -> dict[str, Any]:
        """What runs, as JSON-able values."""
        return {
            "model": self.card.name,
            "target": self.artifact.target,
            "quant": self.artifact.quant,
            "profile": self.profile.name,
        }


def prepare(card: Card, *, profile: str | None, target: str, quant: str | None, cache: Path | None) -> Job:
    """Load the profile (default: the card's) and build the model.

    quant: by default as_is for a quantised model, else force_float32.
    """
    chosen = load_profile(profile or card.input.profile)
    mode = quant or ("as_is" if card.quantised else "force_float32")
    labels = output_labels(card)
    artifact = topfive.build(card, target=target, quant=mode, cache=cache, progress=progress)
    return Job(card, chosen, labels, artifact)


def classify(
    model: str,
    images: Sequence[Path],
    *,
    profile: str | None,
    target: str,
    quant: str | None,
    threads: int | None,
    cards: Sequence[Path],
    cache: Path | None,
    as_json: bool,
) -> None:
    """Run pictures one at a time and print each one's five best; scores are the model's output as it is."""
    job = prepare(resolve_card(model, cards), profile=profile, target=target, quant=quant, cache=cache)
    rows: list[dict[str, Any]] = []
    with topfive.open(job.artifact, threads=threads) as runner:
        for image in images:
            output = job.scores(runner, image)
            best = topfive.top5(output, job.labels)
            if not as_json:
                sys.stdout.write(runner_text(len(output), best))
            rows.append({"image": str(image), "elements": len(output), "top5": best})
    if as_json:
        print_json({**job.described(), "images": rows})


def runner_text(elements: int, best: Sequence[tuple[int, str, float]]) -> str:
    """The runner's words: scores ascending, the best last; a class without a label shows its index."""
    lines = [f"{score:f} {label or index}" for index, label, score in reversed(best)]
    return "\n".join([f"Element count {elements}. Top {len(best)} classes:", *lines, ""])


def _check_layout(card: Card, shape: tuple[int, ...], profile: str) -> None:
    if shape != (3, *card.input.size):
        raise CardError(
            f"profile {profile!r} gives tensors of shape {list(shape)}, model {card.name} wants "
            f"{[3, *card.input.size]}: choose a profile of layout NCHW"
        )
