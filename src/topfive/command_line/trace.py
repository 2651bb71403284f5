"""Declarations of `topfive trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import Json

__all__ = ["flamegraph", "summary"]

TraceFile = Annotated[Path, typer.Argument(metavar="FILE", help="A trace, of topfive or of onnxruntime.")]


def summary(
    file: TraceFile,
    *,
    by: Annotated[str, typer.Option("--by", help="op, provider or layer.")] = "op",
    lane: Annotated[str, typer.Option("--lane", help="host (measured) or modelled.")] = "host",
    json: Json = False,
) -> None:
    """Print where the time of a trace goes."""
    from topfive.commands.trace import print_summary

    print_summary(file, by=by, lane=lane, as_json=json)


def flamegraph(
    file: TraceFile,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The SVG file to write.")],
    lane: Annotated[str, typer.Option("--lane", help="host, modelled or both.")] = "both",
    title: Annotated[str, typer.Option("--title", help="Instead of what the trace is of.")] = "",
    json: Json = False,
) -> None:
    """Draw a trace as a flame graph: an SVG file without scripts."""
    from topfive.commands.trace import draw_flamegraph

    draw_flamegraph(file, output, lane=lane, title=title, as_json=json)
