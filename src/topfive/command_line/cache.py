"""Declarations of `topfive cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from topfive.command_line.options import CacheFolder, Json, Records

__all__ = ["list_cache", "prune"]

Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", help="fetch ... compile, crops, downloads, sweeps (repeatable)."),
]


def list_cache(
    *, kind: Kinds = None, records: Records = None, artifact_cache: CacheFolder = None, json: Json = False
) -> None:
    """List artifacts, packed pictures and downloads: size, age, and what uses them."""
    from topfive.commands.cache import list_cache as list_all

    list_all(artifact_cache, records, kind or [], as_json=json)


def prune(
    *,
    kind: Kinds = None,
    older: Annotated[float | None, typer.Option("--older", metavar="DAYS", help="Made before.")] = None,
    unused: Annotated[bool, typer.Option("--unused", help="What no record, stage or card uses.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Everything that the other options leave.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    records: Records = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Remove what the options choose; all of them must hold."""
    from topfive.commands.cache import Pruning, prune_cache

    pruning = Pruning(tuple(kind or ()), older, unused, everything, dry_run)
    prune_cache(artifact_cache, records, pruning, as_json=json)
