"""`topfive build`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import topfive
from topfive import targets
from topfive.cards import Card
from topfive.commands import print_json
from topfive.commands.explain import explanation
from topfive.commands.progress_bar import StageProgress
from topfive.pipeline import resolve_card
from topfive.targets.base import Artifact

__all__ = ["build_artifact", "default_quant", "progress"]


def progress(line: str) -> None:
    """Show a stage on standard error, where it does not mix with results."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def default_quant(card: Card, target: str) -> str:
    """as_is for a quantised model, else force_float32, else int8, else the target's first."""
    quants = targets.get(target).quants
    plain = next(name for name in ("force_float32", "int8", *quants) if name in quants)
    return "as_is" if card.quantised else plain


def build_artifact(
    model: str,
    target: str,
    quant: str | None,
    cards: Sequence[Path],
    cache: Path | None,
    *,
    options: Mapping[str, str],
    remove_softmax: bool,
    select: str,
    recipe: str,
    calibration: str,
    explain: bool,
    as_json: bool,
) -> None:
    """Build and print the artifact's directory, or all about it; `explain`: where each layer runs first.

    quant: None for `default_quant`.
    """
    card = resolve_card(model, cards)
    with StageProgress() as shown:
        artifact = topfive.build(
            card,
            target=target,
            quant=quant or default_quant(card, target),
            cache=cache,
            progress=shown,
            options=options,
            remove_softmax=remove_softmax,
            select=select,
            recipe=recipe,
            calibration=calibration,
        )
    for name, count in artifact.meta.get("clipped_weights", {}).items():
        progress(f"{count} values of {name} are beyond float16: clipped to +-65504")
    if explain:
        text = explanation(artifact)
        sys.stdout.write("" if as_json else text)
    if as_json:
        print_json(described(artifact))
    else:
        sys.stdout.write(f"{artifact.path}\n")


def described(artifact: Artifact) -> dict[str, object]:
    """An artifact as JSON-able values."""
    return {
        "path": str(artifact.path),
        "key": artifact.key,
        "model": artifact.model,
        "target": artifact.target,
        "quant": artifact.quant,
        "meta": dict(artifact.meta),
    }
