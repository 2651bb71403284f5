"""Declaration of `topfive report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import CacheFolder, Cards, Json

__all__ = ["report"]


def report(
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write the site to.")],
    records: Annotated[
        list[Path] | None,
        typer.Option("--records", help="A folder of records (repeatable; default: as `topfive records`)."),
    ] = None,
    benchmarks: Annotated[
        Path | None, typer.Option("--benchmarks", help="pytest-benchmark's storage (default: .benchmarks).")
    ] = None,
    goldens: Annotated[
        Path | None, typer.Option("--golden", help="The committed goldens (default: golden).")
    ] = None,
    models: Annotated[
        str, typer.Option("--models", help="Only these models: names or globs, comma-separated.")
    ] = "",
    traces: Annotated[
        Path | None, typer.Option("--traces", help="Traces of `pytest --trace-dir`, for layers and flames.")
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            help="Build and run these models once, for loss and cycles by layer: globs, '*' for all.",
        ),
    ] = "",
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="Golden pictures a model shows.")] = 4,
    title: Annotated[str, typer.Option("--title", help="The site's title.")] = "topfive report",
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Write a static site of all results: a folder that opens in any browser, without a network."""
    from topfive.commands.report import build_report

    build_report(
        output,
        records=records or [],
        benchmarks=benchmarks,
        goldens=goldens,
        models=_names(models),
        traces=traces,
        layers=_names(layers),
        pictures=pictures,
        title=title,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]
