"""Declaration of `topfive fetch`."""

from __future__ import annotations

from typing import Annotated

import typer

from topfive.command_line.options import CacheFolder, Cards, Json, ModelTags, split_tags

__all__ = ["fetch"]


def fetch(
    name: Annotated[list[str] | None, typer.Argument(help="Models: names or globs of cards.")] = None,
    *,
    tags: ModelTags = None,
    opset: Annotated[int | None, typer.Option("--opset", min=9, max=20, help="Opset of an export.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Export with random weights: no download.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of the random weights (default: 0).")
    ] = None,
    clip_float16: Annotated[
        bool, typer.Option("--clip-float16", help="Clip an export's weights to the range of float16.")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on with the next model after a failure.")
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Keep nothing: only show that each model can be had.")
    ] = False,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Get models: download files, export networks of torchvision and Hugging Face to ONNX."""
    from topfive.commands.fetch import How, fetch_models

    wanted = split_tags(tags)
    if not name and not wanted:
        raise typer.BadParameter("name a model, or give --tags")
    if seed is not None and not random_weights:
        raise typer.BadParameter("--seed is of --random-weights: published weights have none")
    fetched = fetch_models(
        name or [],
        wanted,
        How(opset, (seed or 0) if random_weights else None, clip_float16),
        keep_going=keep_going,
        discard=discard,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )
    if not fetched:
        raise typer.Exit(1)
