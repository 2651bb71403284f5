"""Declarations of `topfive gemmini`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import CacheFolder, Cards, Json

__all__ = ["cycles", "diff_modes", "explore"]

GemminiModel = Annotated[str, typer.Option("--model", "-m", help="A model card's name, or an ONNX file.")]
GemminiQuant = Annotated[str, typer.Option("--quant", help="int8, int8_dw or as_is.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Pictures a batch.")]


def cycles(
    *,
    model: GemminiModel,
    quant: GemminiQuant = "int8",
    batch: Batch = 1,
    hardware: Annotated[
        str, typer.Option("--hardware", help="A hardware description: name or file.")
    ] = "default",
    dataflow: Annotated[str, typer.Option("--dataflow", help="ws or os.")] = "ws",
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Print each layer's modelled cycles and what bounds it."""
    from topfive.commands.gemmini import print_cycles

    print_cycles(
        model,
        quant=quant,
        batch=batch,
        hardware=hardware,
        dataflow=dataflow,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )


def explore(
    *,
    model: GemminiModel,
    quant: GemminiQuant = "int8",
    batch: Batch = 1,
    dim: Annotated[str, typer.Option("--dim", help="Sizes of the array.")] = "8,16,32",
    scratchpad: Annotated[str, typer.Option("--scratchpad", help="Capacities.")] = "128K,256K,512K",
    accumulator: Annotated[str, typer.Option("--accumulator", help="Capacities.")] = "64K",
    hardware: Annotated[
        str, typer.Option("--hardware", help="What the options leave open is as here (a name or a file).")
    ] = "default",
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the Pareto plot as an SVG file.")] = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Model every combination of hardware parameters: cycles against area."""
    from topfive.commands.gemmini import explore_hardware

    explore_hardware(
        model,
        quant=quant,
        batch=batch,
        dims=dim,
        scratchpads=scratchpad,
        accumulators=accumulator,
        base=hardware,
        plot=plot,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )


def diff_modes(
    *,
    model: GemminiModel,
    executions: Annotated[str, typer.Option("--x", help="Values of the runner's -x.")] = "0,2",
    optimizations: Annotated[str, typer.Option("--O", help="Values of its -O.")] = "1",
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Pictures (default: the card's first).")
    ] = None,
    quant: Annotated[
        str | None, typer.Option("--quant", help="int8, or as_is for a model that is quantised.")
    ] = None,
    show: Annotated[int, typer.Option("--show", min=1, help="Tensors to print.")] = 20,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Run a model in several modes and print which int8 tensors differ; exit code 1 if any does."""
    from topfive.commands.gemmini_diff import compare_modes

    equal = compare_modes(
        model,
        executions=executions,
        optimizations=optimizations,
        images=image or [],
        quant=quant,
        show=show,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )
    if not equal:
        raise typer.Exit(1)
