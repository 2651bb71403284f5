"""Declarations of `topfive scales`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import CacheFolder, Cards, Json

__all__ = ["convert", "diff", "show"]

Table = Annotated[
    Path, typer.Argument(help="A table of ranges (.json), a TensorRT calibration cache, or a Q/DQ model.")
]


def show(file: Table, *, json: Json = False) -> None:
    """Print the ranges and int8 scales in a file."""
    from topfive.commands.scales import show_scales

    show_scales(file, as_json=json)


def diff(
    left: Table,
    right: Table,
    *,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="How much larger a scale may be: 0.01 is one percent.")
    ] = 0.0,
    show: Annotated[int, typer.Option("--show", min=1, help="Tensors to print.")] = 20,
    json: Json = False,
) -> None:
    """Compare two files tensor by tensor, largest ratio first; exit code 1 if they differ."""
    from topfive.commands.scales import diff_scales

    if not diff_scales(left, right, tolerance=tolerance, show=show, as_json=json):
        raise typer.Exit(1)


def convert(
    source: Table,
    output: Annotated[Path, typer.Argument(help="The file to write: .json, .cache, .calib, .txt or .onnx.")],
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The float model: a card's name, or an ONNX file.")
    ] = None,
    header: Annotated[
        str | None, typer.Option("--header", help="First line of a cache (default: as it was read).")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--tensorrt", help="Write a cache for this TensorRT, such as 8.6.1.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="Scales of a Q/DQ model's weights: per_axis or per_tensor.")
    ] = "per_axis",
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out tensors that the model lacks, and zero scales.")
    ] = False,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Write the ranges in a file in another form."""
    from topfive.commands.scales import convert_scales

    convert_scales(
        source,
        output,
        model=model,
        header=header,
        version=version,
        weights=weights,
        partial=partial,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )
