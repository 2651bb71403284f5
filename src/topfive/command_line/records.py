"""Declarations of `topfive records`, `topfive export` and `topfive import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topfive.command_line.options import Json, Records, split_tags

if TYPE_CHECKING:
    from topfive.records.library import Filter

__all__ = ["export_records", "import_records", "list_records", "remove", "show"]

Reference = "A record: its id, the start of it, its file, latest, or latest~N."
Kind = Annotated[str, typer.Option("--kind", help="session, scenario, sweep or pair.")]
WithTags = Annotated[
    list[str] | None, typer.Option("--tags", help="With all of these tags, comma-separated.")
]
ModelGlob = Annotated[str, typer.Option("--model", help="A name or a glob.")]
TargetGlob = Annotated[str, typer.Option("--target", help="A name or a glob.")]
Since = Annotated[str, typer.Option("--since", help="From this day on, as 2026-11-01.")]
Until = Annotated[str, typer.Option("--until", help="Up to this day, itself included.")]


def _filter(kind: str, tags: list[str] | None, model: str, target: str, since: str, until: str) -> Filter:
    from topfive.records.library import Filter

    return Filter(kind, tuple(split_tags(tags)), model, target, since, until)


def list_records(
    *,
    kind: Kind = "",
    tags: WithTags = None,
    model: ModelGlob = "",
    target: TargetGlob = "",
    since: Since = "",
    until: Until = "",
    records: Records = None,
    json: Json = False,
) -> None:
    """List records, the oldest first."""
    from topfive.commands.records import list_all

    list_all(records, _filter(kind, tags, model, target, since, until), as_json=json)


def show(
    record: Annotated[str, typer.Argument(metavar="RECORD", help=Reference)] = "latest",
    *,
    records: Records = None,
    json: Json = False,
) -> None:
    """Show one record: what made it, where, and what it found."""
    from topfive.commands.records import show as show_one

    show_one(record, records, as_json=json)


def remove(
    record: Annotated[list[str], typer.Argument(metavar="RECORD...", help=Reference)],
    *,
    records: Records = None,
    json: Json = False,
) -> None:
    """Remove records."""
    from topfive.commands.records import remove as remove_all

    remove_all(record, records, as_json=json)


def export_records(
    record: Annotated[list[str] | None, typer.Argument(metavar="[RECORD...]", help=Reference)] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The zip file, new.")],
    kind: Kind = "",
    tags: WithTags = None,
    model: ModelGlob = "",
    target: TargetGlob = "",
    since: Since = "",
    until: Until = "",
    records: Records = None,
    json: Json = False,
) -> None:
    """Put records into a zip file: those named, or all that the options choose."""
    from topfive.commands.records import send_out

    send_out(record or [], out, records, _filter(kind, tags, model, target, since, until), as_json=json)


def import_records(
    archive: Annotated[Path, typer.Argument(metavar="ZIP", help="A file of `topfive export`.")],
    *,
    records: Records = None,
    json: Json = False,
) -> None:
    """Take records out of a zip file; hashes are checked, nothing is overwritten."""
    from topfive.commands.records import bring_in

    bring_in(archive, records, as_json=json)
