"""The `topfive` command. Exit codes: 0 good, 1 a comparison failed, 2 bad usage or bad input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from topfive.errors import TopfiveError

__all__ = ["app", "main"]

BAD_INPUT = 2
app = typer.Typer(
    name="topfive",
    help="Benchmark and regression tests of image classifiers on accelerators.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Option("--model", "-m", help="A model card's name, or an ONNX file.")]
Target = Annotated[str, typer.Option("--target", help="Where it runs: see `topfive targets`.")]
Quant = Annotated[
    str, typer.Option("--quant", help="Quant mode: force_float32, force_float16, int8 or as_is.")
]
Cards = Annotated[
    list[Path] | None, typer.Option("--cards", help="A folder of model cards to add (repeatable).")
]
CacheFolder = Annotated[Path | None, typer.Option("--artifact-cache", help="Where artifacts are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
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
    target: Target = "cpu",
    quant: Quant | None = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of the target.")] = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Classify pictures and print the five best classes, best last; count what is right in a list."""
    from topfive.commands.run import classify
    from topfive.commands.run_batch import classify_list, names_list

    if names_list(image, span):
        classify_list(
            model,
            image[0],
            span=span,
            profile=profile,
            target=target,
            quant=quant,
            threads=threads,
            cards=cards or [],
            cache=artifact_cache,
            as_json=json,
        )
        return
    classify(
        model,
        image,
        profile=profile,
        target=target,
        quant=quant,
        threads=threads,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="A model card's name, or an ONNX file.")],
    *,
    target: Target,
    quant: Quant,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Compile a model and print where the artifact is."""
    from topfive.commands.build import build_artifact

    build_artifact(model, target, quant, cards or [], artifact_cache, as_json=json)


@app.command()
def postprocess(
    folder: Annotated[Path, typer.Argument(help="Holds the outputs of batch runs, out.*.")],
    *,
    json: Json = False,
) -> None:
    """Sum the results of batch runs whose outputs are kept as DIR/out.*."""
    from topfive.commands.postprocess import sum_outputs

    sum_outputs(folder, as_json=json)


@app.command(name="preprocess")
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


@app.command()
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


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="A model card's name, or an ONNX file.")],
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


@app.command()
def diff(
    model: Annotated[str, typer.Argument(help="A model card's name, or an ONNX file.")],
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


@app.command()
def targets(json: Json = False) -> None:
    """List the targets: what can run here, and why not."""
    from topfive.commands.listing import list_targets

    list_targets(as_json=json)


@app.command()
def models(
    name: Annotated[list[str] | None, typer.Argument(help="Names or globs (default: all).")] = None,
    tags: Annotated[
        str | None, typer.Option("--tags", help="Only models with all of these, comma-separated.")
    ] = None,
    cards: Cards = None,
    json: Json = False,
) -> None:
    """List the model cards."""
    from topfive.commands.listing import list_models

    list_models(name or [], [tag for tag in (tags or "").split(",") if tag], cards or [], as_json=json)


gemmini_app = typer.Typer(help="Modelled cycles of Gemmini.", no_args_is_help=True)
app.add_typer(gemmini_app, name="gemmini")

GemminiModel = Annotated[str, typer.Option("--model", "-m", help="A model card's name, or an ONNX file.")]
GemminiQuant = Annotated[str, typer.Option("--quant", help="int8 or as_is.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Pictures a batch.")]


@gemmini_app.command()
def cycles(
    *,
    model: GemminiModel,
    quant: GemminiQuant = "int8",
    batch: Batch = 1,
    hardware: Annotated[str, typer.Option("--hardware", help="A hardware description's name.")] = "default",
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


@gemmini_app.command()
def explore(
    *,
    model: GemminiModel,
    quant: GemminiQuant = "int8",
    batch: Batch = 1,
    dim: Annotated[str, typer.Option("--dim", help="Sizes of the array.")] = "8,16,32",
    scratchpad: Annotated[str, typer.Option("--scratchpad", help="Capacities.")] = "128K,256K,512K",
    accumulator: Annotated[str, typer.Option("--accumulator", help="Capacities.")] = "64K",
    hardware: Annotated[
        str, typer.Option("--hardware", help="What the options leave open is as in this description.")
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


def main() -> NoReturn:
    """Run the command line; what is the input's fault is one message on stderr and exit code 2."""
    try:
        app()
    except TopfiveError as error:
        sys.stderr.write(f"topfive: {error}\n")
        sys.exit(BAD_INPUT)
    sys.exit(0)
