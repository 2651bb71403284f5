"""Declarations of `topfive targets` and `topfive models`."""

from __future__ import annotations

from typing import Annotated

import typer

from topfive.command_line.options import Cards, Json, ModelTags, split_tags

__all__ = ["models", "targets"]


def targets(json: Json = False) -> None:
    """List the targets: what can run here, and why not."""
    from topfive.commands.listing import list_targets

    list_targets(as_json=json)


def models(
    name: Annotated[list[str] | None, typer.Argument(help="Names or globs (default: all).")] = None,
    tags: ModelTags = None,
    cards: Cards = None,
    json: Json = False,
) -> None:
    """List the model cards."""
    from topfive.commands.listing import list_models

    list_models(name or [], split_tags(tags), cards or [], as_json=json)
