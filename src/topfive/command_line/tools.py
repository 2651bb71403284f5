"""Declarations of the tools around a run: pictures in, float models, ranges, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import CacheFolder, Cards, Json, ModelArgument

__all__ = ["calibrate", "diff", "optimize", "postprocess", "preprocess_pictures"]


def preprocess_pictures(
    *,
    source: Annotated[Path, typer.Option("--input", help="Labelled pictures: class folders or val_map.txt.")],
    output: Annotated[Path, typer.Option("--output", help="Where LABEL/NAME.png and batch_out.txt go.")],
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="So many, drawn at random.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.")] = 0,
    lossy: Annotated[bool, typer.Option("--lossy", help="JPEG of quality 95 instead of PNG.")] = False,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="Line n starts with the name of class n's folder.")
    ] = None,
) -> None:
    """Resize and crop pictures to 224x224 for batch runs, and list them in batch_out.txt."""
    from topfive.commands.preprocess import write_crops

    write_crops(source, output, sample=sample, seed=seed, lossy=lossy, classes=classes)


def postprocess(
    folder: Annotated[Path, typer.Argument(help="Holds the outputs of batch runs, out.*.")],
    *,
    json: Json = False,
) -> None:
    """Sum the results of batch runs whose outputs are kept as DIR/out.*."""
    from topfive.commands.postprocess import sum_outputs

    sum_outputs(folder, as_json=json)


def optimize(
    *,
    source: Annotated[Path, typer.Option("--input", help="An ONNX file.")],
    output: Annotated[Path, typer.Option("--output", help="The ONNX file to write.")],
    replace_gemm: Annotated[
        bool, typer.Option("--replace-gemm", help="Turn Gemm into MatMul and Add where they are the same.")
    ] = False,
) -> None:
    """Fold a float model's constants and batch norms as `build` does; print what changed."""
    from topfive.commands.optimize import optimize_file

    optimize_file(source, output, replace_gemm=replace_gemm)


def calibrate(
    model: ModelArgument,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The table (default: the card's own).")
    ] = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
) -> None:
    """Measure activation ranges on the card's calibration pictures and write them as a table."""
    from topfive.commands.calibrate import write_ranges_of

    write_ranges_of(model, output, cards or [], artifact_cache)


def diff(
    model: ModelArgument,
    left: Annotated[str, typer.Argument(help="TARGET:QUANT to compare with.")],
    right: Annotated[str, typer.Argument(help="TARGET:QUANT that is compared.")],
    *,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Pictures (default: the card's first).")
    ] = None,
    show: Annotated[int, typer.Option("--show", min=1, help="Layers to print.")] = 20,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write SQNR by layer as an SVG file.")] = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Compare two artifacts of one model layer by layer; exit code 1 if int8 codes differ."""
    from topfive.commands.diff import diff_layers

    equal = diff_layers(
        model,
        left,
        right,
        images=image or [],
        show=show,
        plot=plot,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )
    if not equal:
        raise typer.Exit(1)
