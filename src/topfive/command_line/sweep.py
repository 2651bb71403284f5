"""Declaration of `topfive sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import CacheFolder, Cards, Json, NoRecord, Records

__all__ = ["sweep"]


def sweep(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Names, globs, tag:NAME, or ONNX files.")
    ],
    *,
    targets: Annotated[str, typer.Option("--targets", help="Comma-separated.")] = "cpu",
    quant: Annotated[
        str | None, typer.Option("--quant", help="Quant modes, comma-separated (default: all that apply).")
    ] = None,
    imagenet: Annotated[
        str | None,
        typer.Option("--imagenet", metavar="SET", help="A folder, a fsspec URL, or a registered data set."),
    ] = None,
    map: Annotated[Path | None, typer.Option("--map", help="The label file: lines 'name index'.")] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Only the first so many.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out pictures that are not there, and list them.")
    ] = False,
    shards: Annotated[int | None, typer.Option("--shards", min=1, help="Parts (default: by size).")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures a run.")] = 8,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes (default: one a processor).")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of a worker.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="local or dask.")] = "local",
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Of a Dask cluster: tcp://host:8786, or a JSON file.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Decode pictures each time, keep no packed copy.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget shards that are done.")] = False,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="Also write magicmind, mlperf or csv (repeatable).")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where --format writes.")] = Path("sweep_results"),
    records: Records = None,
    no_record: NoRecord = False,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Accuracy of many models over a picture set in one pass; goes on where it was killed."""
    from topfive.commands.sweep import Request, run_sweep

    request = Request(
        models=tuple(models),
        targets=_split(targets) or (),
        quants=_split(quant),
        imagenet=imagenet,
        map_file=map,
        count=count,
        allow_missing=allow_missing,
        shards=shards,
        batch=batch,
        workers=workers,
        threads=threads,
        engine=engine,
        scheduler=scheduler,
        packed=not no_cache,
        restart=restart,
        formats=tuple(formats or ()),
        out=out,
        records=records,
        keep=not no_record,
        cards=tuple(cards or ()),
        cache=artifact_cache,
        as_json=json,
    )
    if not run_sweep(request):
        raise typer.Exit(1)


def _split(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())
