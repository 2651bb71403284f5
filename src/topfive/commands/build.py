"""`topfive build`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import topfive
from topfive.commands import print_json
from topfive.commands.explain import explanation
from topfive.targets.base import Artifact

__all__ = ["build_artifact", "progress"]


def progress(line: str) -> None:
    """Show a stage on standard error, where it does not mix with results."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def build_artifact(
    model: str,
    target: str,
    quant: str,
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
    """Build and print the artifact's directory, or all about it; `explain`: where each layer runs first."""
    artifact = topfive.build(
        model,
        target=target,
        quant=quant,
        cards=cards,
        cache=cache,
        progress=progress,
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
