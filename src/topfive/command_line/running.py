"""Declarations of `topfive run` and `topfive build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import CacheFolder, Cards, Json, Model, ModelArgument, Quant, Target

__all__ = ["build", "run"]


def run(
    *,
    model: Model,
    image: Annotated[
        list[Path],
        typer.Option("--image", "-i", help="A picture (repeatable), or a .txt list of labelled pictures."),
    ],
    span: Annotated[
        str | None,
        typer.Option("--range", "-r", help="START[,END]: lines of the list, from 1, the end included."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Preprocessing profile (default: the card's).")
    ] = None,
    target: Target = "cpu",
    quant: Quant | None = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of the target.")] = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Classify pictures and print the five best classes, best last; count what is right in a list."""
    from topfive.commands.run import classify
    from topfive.commands.run_batch import classify_list, names_list

    if names_list(image, span):
        classify_list(
            model,
            image[0],
            span=span,
            profile=profile,
            target=target,
            quant=quant,
            threads=threads,
            cards=cards or [],
            cache=artifact_cache,
            as_json=json,
        )
        return
    classify(
        model,
        image,
        profile=profile,
        target=target,
        quant=quant,
        threads=threads,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )


def build(
    model: ModelArgument,
    *,
    target: Target,
    quant: Quant,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Compile a model and print where the artifact is."""
    from topfive.commands.build import build_artifact

    build_artifact(model, target, quant, cards or [], artifact_cache, as_json=json)
