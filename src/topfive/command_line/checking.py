"""Declaration of `topfive doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import CacheFolder, Cards, Json

__all__ = ["doctor"]


def doctor(
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="How much it is affected: a card's name, or an ONNX file."),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", "-i", help="Pictures or folders (default: the card's calibration set)."),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="The first so many pictures.")] = 64,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Measure whether this processor's default int8 kernels saturate, and what that does to a model."""
    from topfive.commands.doctor import examine

    examine(model, images or [], count=count, cards=cards or [], cache=artifact_cache, as_json=json)
