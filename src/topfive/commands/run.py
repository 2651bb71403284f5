"""`topfive run`: the imagenet runner of the seed, with its output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import topfive
from topfive.cards import Card
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.errors import CardError
from topfive.golden import output_labels
from topfive.images import load_profile, preprocess
from topfive.pipeline import resolve_card

__all__ = ["classify", "seed_text"]


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
    """Run pictures one at a time and print each one's five best.

    Scores are the model's output as it is. quant: by default as_is for a quantised model, else force_float32.
    """
    card = resolve_card(model, cards)
    chosen = load_profile(profile or card.input.profile)
    mode = quant or ("as_is" if card.quantised else "force_float32")
    labels = output_labels(card)
    artifact = topfive.build(card, target=target, quant=mode, cache=cache, progress=progress)
    rows: list[dict[str, Any]] = []
    with topfive.open(artifact, threads=threads) as runner:
        for image in images:
            tensor = preprocess(image, chosen, card.input.size)
            _check_layout(card, tensor.shape, chosen.name)
            output = runner.run(tensor[None])[0].reshape(-1)
            best = topfive.top5(output, labels)
            if not as_json:
                sys.stdout.write(seed_text(len(output), best))
            rows.append({"image": str(image), "elements": len(output), "top5": best})
    if as_json:
        print_json(
            {"model": card.name, "target": target, "quant": mode, "profile": chosen.name, "images": rows}
        )


def seed_text(elements: int, best: Sequence[tuple[int, str, float]]) -> str:
    """The seed's words: scores ascending, the best last; a class without a label shows its index."""
    lines = [f"{score:f} {label or index}" for index, label, score in reversed(best)]
    return "\n".join([f"Element count {elements}. Top {len(best)} classes:", *lines, ""])


def _check_layout(card: Card, shape: tuple[int, ...], profile: str) -> None:
    if shape != (3, *card.input.size):
        raise CardError(
            f"profile {profile!r} gives tensors of shape {list(shape)}, model {card.name} wants "
            f"{[3, *card.input.size]}: choose a profile of layout NCHW"
        )
