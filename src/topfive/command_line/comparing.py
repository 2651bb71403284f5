"""Declarations of `topfive compare`, `repeat` and `pair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import CacheFolder, Cards, Json, NoRecord, Records, Tags

__all__ = ["compare", "pair", "repeat"]

Reference = "A record: its id, the start of it, its file, latest, or latest~N."
Gates = Annotated[
    str | None,
    typer.Option("--gate", help="What may become worse: p50:5%,p99:10%,cycles:0,top1:0.2 (the default)."),
]
OtherMachine = Annotated[
    bool, typer.Option("--other-machine", help="Compare times although another machine measured them.")
]
OtherModel = Annotated[bool, typer.Option("--other-model", help="Compare although a model's file changed.")]
Everything = Annotated[bool, typer.Option("--all", help="Show also what did not change.")]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", help="Also write the table as Markdown, for a pull request.")
]


def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help=Reference)],
    new: Annotated[str, typer.Argument(metavar="NEW", help=Reference)] = "latest",
    *,
    gate: Gates = None,
    other_machine: OtherMachine = False,
    other_model: OtherModel = False,
    everything: Everything = False,
    markdown: Markdown = None,
    records: Records = None,
    json: Json = False,
) -> None:
    """Compare two records test by test; exit code 1 if a gate fails."""
    from topfive.commands.compare import Asked
    from topfive.commands.compare import compare as compare_two

    asked = Asked(gate, other_machine, other_model, everything, markdown, records, json)
    if not compare_two(base, new, asked):
        raise typer.Exit(1)


def repeat(
    record: Annotated[str, typer.Argument(metavar="RECORD", help=Reference)],
    *,
    gate: Gates = None,
    other_machine: OtherMachine = False,
    other_model: OtherModel = False,
    everything: Everything = False,
    markdown: Markdown = None,
    records: Records = None,
    json: Json = False,
) -> None:
    """Run what made a record again and compare the two; exit code 1 if a gate fails."""
    from topfive.commands.compare import Asked
    from topfive.commands.compare import repeat as repeat_run

    asked = Asked(gate, other_machine, other_model, everything, markdown, records, json)
    if not repeat_run(record, asked):
        raise typer.Exit(1)


def pair(
    first: Annotated[
        str, typer.Argument(metavar="A", help="MODEL:TARGET:QUANT[:OPTION=VALUE...] or a folder.")
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="The same, or PYTHON@FOLDER: of another checkout.")
    ],
    *,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures a call.")] = 1,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of each target.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="Half the interval to reach.")] = "0.5%",
    seconds: Annotated[float, typer.Option("--seconds", help="The longest that it measures.")] = 60.0,
    gate: Annotated[
        str | None, typer.Option("--gate", help="Exit code 1 if B is slower by more than this, as 2%.")
    ] = None,
    records: Records = None,
    no_record: NoRecord = False,
    tags: Tags = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Measure two artifacts turn by turn (A B B A); B/A with an interval, also on a noisy machine."""
    from topfive.commands.pair import PairRequest, percentage, run_pair, split_tags

    request = PairRequest(
        first=first,
        second=second,
        batch=batch,
        threads=threads,
        precision=percentage(precision, "--precision") or 0.0,
        seconds=seconds,
        gate=percentage(gate, "--gate"),
        cards=tuple(cards or ()),
        cache=artifact_cache,
        keep=not no_record,
        records=records,
        tags=tuple(split_tags(tags)),
        as_json=json,
    )
    if not run_pair(request):
        raise typer.Exit(1)
