"""Declarations of `topfive run`, `topfive build` and `topfive measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topfive.command_line.options import (
    CacheFolder,
    Cards,
    Json,
    Model,
    ModelArgument,
    Quant,
    RemoveSoftmax,
    Select,
    Target,
    TargetOptions,
    target_options,
)

__all__ = ["build", "measure", "run"]

Explain = Annotated[
    bool, typer.Option("--explain", help="Print which layers Gemmini runs, what is fused and transposed.")
]
Execution = Annotated[
    str | None,
    typer.Option("--execution", "-x", help="Gemmini: 0 emulated, 1 output stationary, 2 weight stationary."),
]
Optimization = Annotated[
    str | None,
    typer.Option("--optimization", "-O", help="Gemmini: 0, 1, 2, or 99 for NHWC and fused max pools."),
]
TraceFile = Annotated[
    Path | None, typer.Option("--trace", "-t", help="Write where the time goes as a trace-event file.")
]
TracePictures = Annotated[
    int | None,
    typer.Option("--trace-pictures", min=1, help="So many pictures at most are traced (default: 10)."),
]


def run(
    *,
    model: Model,
    image: Annotated[
        list[Path],
        typer.Option("--image", "-i", help="A picture (repeatable), or a .txt list of labelled pictures."),
    ],
    span: Annotated[
        str | None,
        typer.Option("--range", "-r", help="START[,END]: lines of the list, from 1, the end included."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Preprocessing profile (default: the card's).")
    ] = None,
    target: Target | None = None,
    quant: Quant | None = None,
    option: TargetOptions = None,
    execution: Execution = None,
    optimization: Optimization = None,
    explain: Explain = False,
    debug: Annotated[
        int | None,
        typer.Option("--debug", "-d", min=0, max=4, help="ONNX Runtime's log level: 0 verbose ... 4 fatal."),
    ] = None,
    save_model: Annotated[
        Path | None, typer.Option("--save-model", "-s", help="Write the model that runs as an ONNX file.")
    ] = None,
    trace: TraceFile = None,
    trace_pictures: TracePictures = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of the target.")] = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Classify pictures and print the five best classes, best last; count what is right in a list."""
    from topfive.commands.run import Settings, classify
    from topfive.commands.run_batch import classify_list, names_list

    settings = Settings(
        profile=profile,
        target=target,
        quant=quant,
        options=target_options(option),
        execution=execution,
        optimization=optimization,
        threads=threads,
        log_level=debug,
        explain=explain,
        save_to=save_model,
        trace=trace,
        trace_pictures=trace_pictures,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )
    if names_list(image, span):
        classify_list(model, image[0], settings, span=span)
    else:
        classify(model, image, settings)


def build(
    model: ModelArgument,
    *,
    target: Target,
    quant: Annotated[
        str | None,
        typer.Option("--quant", help="Quant mode (default: as_is if quantised, else float32, else int8)."),
    ] = None,
    option: TargetOptions = None,
    dataflow: Annotated[
        str | None, typer.Option("--dataflow", help="ws or os: short for --option dataflow=...")
    ] = None,
    remove_softmax: RemoveSoftmax = False,
    select: Select = "",
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="Passes that find int8 parameters: a recipe, or plain (default: what is committed).",
        ),
    ] = "",
    calibration: Annotated[
        str, typer.Option("--calibration", help="How int8 ranges are chosen, in place of the card's method.")
    ] = "",
    explain: Explain = False,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Compile a model and print where the artifact is."""
    from topfive.commands.build import build_artifact

    option = [*(option or []), *([f"dataflow={dataflow}"] if dataflow else [])]
    build_artifact(
        model,
        target,
        quant,
        cards or [],
        artifact_cache,
        options=target_options(option),
        remove_softmax=remove_softmax,
        select=select,
        recipe=recipe,
        calibration=calibration,
        explain=explain,
        as_json=json,
    )


def measure(
    model: ModelArgument,
    *,
    target: Target,
    quant: Quant,
    option: TargetOptions = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Measure a model with the device's own tool, where the target has one, and print its figures."""
    from topfive.commands.measure import measure_model

    measure_model(
        model, target, quant, cards or [], artifact_cache, options=target_options(option), as_json=json
    )
