"""Declarations of the tools around a run: pictures in, float models, ranges, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from topfive.command_line.options import CacheFolder, Cards, Json, RemoveSoftmax, Select
from topfive.errors import OptionError, TopfiveError

__all__ = ["Calibrate", "calibrate", "diff", "optimize", "postprocess", "preprocess_pictures"]

TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Calibrate(TyperCommand):
    """`calibrate`, which also takes the imagenet runner's `--static=True` and `--static False`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Turn a value of --static into --static or --dynamic, then parse."""
        turned: list[str] = []
        for arg in args:
            name, _, value = arg.partition("=")
            if name == "--static" and value.lower() in TRUTHS:
                turned.append("--static" if TRUTHS[value.lower()] else "--dynamic")
            elif turned and turned[-1] == "--static" and arg.lower() in TRUTHS:
                turned[-1] = "--static" if TRUTHS[arg.lower()] else "--dynamic"
            else:
                turned.append(arg)
        return super().parse_args(ctx, turned)


def preprocess_pictures(
    *,
    source: Annotated[
        Path,
        typer.Option(
            "--input",
            "--input_folder",
            "--data_dir",
            "-d",
            help="Labelled pictures: class folders or val_map.txt.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "--output_folder",
            "--preprocessed_data_dir",
            "-o",
            help="Where LABEL/NAME.png and batch_out.txt go.",
        ),
    ],
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="So many, drawn at random.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.")] = 0,
    lossy: Annotated[bool, typer.Option("--lossy", help="JPEG of quality 95 instead of PNG.")] = False,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="Line n starts with the name of class n's folder.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="Write .npy tensors by this profile, such as alibaba_202_176."),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--formats", "-t", help="Of validation tensors: fp32, int8_linear, int8_chw4 (the default)."
        ),
    ] = "",
    data_maps: Annotated[
        Path | None, typer.Option("--data-maps", help="Holds val_map.txt and cal_map.txt (default: --input).")
    ] = None,
    val_only: Annotated[
        bool, typer.Option("--val-only", "--val_only", help="Only the pictures of val_map.txt.")
    ] = False,
    cal_only: Annotated[
        bool, typer.Option("--cal-only", "--cal_only", help="Only the pictures of cal_map.txt.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "-f", help="Make tensors again that are up to date.")
    ] = False,
    json: Json = False,
) -> None:
    """Resize and crop pictures to 224x224 for batch runs; with --profile, write them as tensors instead."""
    from topfive.commands.preprocess import write_crops
    from topfive.commands.preprocess_formats import write_formats

    if profile is not None:
        if sample is not None or lossy or classes is not None:
            raise TopfiveError("--sample, --lossy and --classes do not go with --profile")
        write_formats(
            source,
            output,
            profile=profile,
            formats=formats,
            data_maps=data_maps,
            val_only=val_only,
            cal_only=cal_only,
            overwrite=overwrite,
            as_json=json,
        )
        return
    if formats or data_maps or val_only or cal_only or overwrite:
        raise TopfiveError("--formats, --data-maps, --val-only, --cal-only and --overwrite go with --profile")
    write_crops(source, output, sample=sample, seed=seed, lossy=lossy, classes=classes, as_json=json)


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
    passes: Annotated[
        str | None,
        typer.Option(
            "--passes",
            help="Comma-separated, in order (default: what `build` does): constants, remove_passthrough, "
            "fuse_bn_into_conv, replace_gemm, sum_to_add, onnxruntime-basic, onnxruntime-extended, onnxslim.",
        ),
    ] = None,
    replace_gemm: Annotated[
        bool,
        typer.Option(
            "--replace-gemm", "--replace_gemm", help="Gemm to MatMul and Add too, where they are the same."
        ),
    ] = False,
    remove_softmax: RemoveSoftmax = False,
    select: Select = "",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare the outputs on random input.")
    ] = True,
    json: Json = False,
) -> None:
    """Fold a float model's constants and batch norms as `build` does; exit code 1 if its outputs change."""
    from topfive.commands.optimize import optimize_file
    from topfive.quantize.optimize import STAGE
    from topfive.quantize.output_head import Head

    named = tuple(name.strip() for name in passes.split(",") if name.strip()) if passes else STAGE
    chosen = (*named, "replace_gemm") if replace_gemm else named
    head = Head(remove_softmax, select)
    if not optimize_file(source, output, passes=chosen, head=head, check=check, as_json=json):
        raise typer.Exit(1)


def calibrate(
    card: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A model card's name, or an ONNX file.")
    ] = None,
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", "--model_path", help="The same, as an option.")
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset",
            "--dataset_path",
            help="Holds test_data_set_*/input_0.pb, input_*.pb, or pictures (default: the card's).",
        ),
    ] = None,
    dataset_size: Annotated[
        int, typer.Option("--dataset-size", "--dataset_size", min=0, help="The first so many (0: all).")
    ] = 0,
    data_preprocess: Annotated[
        str | None,
        typer.Option(
            "--data-preprocess",
            "--data_preprocess",
            help="A preprocessing profile (default: the card's), or none: tensors as they are.",
        ),
    ] = None,
    static: Annotated[
        bool, typer.Option("--static/--dynamic", help="Whether input scales are fixed, or measured in a run.")
    ] = True,
    mode: Annotated[
        str, typer.Option("--mode", help="Codes of the quantised model: int8 or uint8.")
    ] = "int8",
    output_model: Annotated[
        Path | None,
        typer.Option("--output-model", "--output_model_path", help="Write the quantised model here."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the table of ranges here.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="minmax, percentile, entropy, entropy_onnxruntime or mse (default: the card's).",
        ),
    ] = None,
    symmetric: Annotated[
        bool | None, typer.Option("--symmetric/--asymmetric", help="Whether ranges are (-t, t).")
    ] = None,
    percentile: Annotated[
        float | None, typer.Option("--percentile", help="Of values that stay inside (default 99.99).")
    ] = None,
    cal_map: Annotated[
        Path | None,
        typer.Option("--cal-map", help="Lists the pictures: name, or name and index, a line."),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=0, help="Calibrate on so many (0: all).")] = 0,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Draw them with this seed (default: the first).")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read, and count them.")
    ] = False,
    imported: Annotated[
        Path | None,
        typer.Option("--import", help="Take the ranges from a table, a TensorRT cache or a Q/DQ model."),
    ] = None,
    exports: Annotated[
        list[Path] | None,
        typer.Option("--export", help="Write the ranges here: .json, .cache or .onnx (repeatable)."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Import what fits the model and leave out the rest.")
    ] = False,
    weights: Annotated[
        str, typer.Option("--weights", help="Scales of a Q/DQ model's weights: per_axis or per_tensor.")
    ] = "per_axis",
    validation: Annotated[
        Path | None, typer.Option("--validation", help="Warn of calibration pictures that are in here.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="Find int8 parameters by passes: a recipe's name, a TOML file, or auto: choose."
        ),
    ] = None,
    quant: Annotated[
        str | None, typer.Option("--quant", help="With --recipe: int8 or int8_dw (auto chooses).")
    ] = None,
    cards: Cards = None,
    artifact_cache: CacheFolder = None,
    json: Json = False,
) -> None:
    """Measure activation ranges; write them as a table (default: the card's own), or a quantised model."""
    from topfive.commands.calibrate import Request
    from topfive.commands.calibrate import calibrate as run
    from topfive.commands.recipes import find_parameters

    if (card is None) == (model is None):
        raise TopfiveError("calibrate wants one model: MODEL or --model MODEL")
    request = Request(
        dataset=dataset,
        count=dataset_size,
        profile=data_preprocess,
        mode=mode,
        static=static,
        table=output,
        quantised=output_model,
        sample=count,
        seed=seed,
        cal_map=cal_map,
        method=method,
        symmetric=symmetric,
        percentile=percentile,
        skip_bad=skip_bad,
        imported=imported,
        exports=tuple(exports or ()),
        weights=weights,
        partial=partial,
        validation=validation,
    )
    if recipe is not None:
        if request != Request(table=output):
            raise OptionError(
                "--recipe uses the card's calibration pictures: only --quant and --output go with it"
            )
        find_parameters(
            str(card or model),
            recipe,
            quant=quant,
            output=output,
            cards=cards or [],
            cache=artifact_cache,
            as_json=json,
        )
        return
    if quant is not None:
        raise OptionError("--quant goes with --recipe; the codes of a quantised model are chosen with --mode")
    run(str(card or model), request, cards=cards or [], cache=artifact_cache, as_json=json)


def diff(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="A model card's name, or an ONNX file; or leave it out.")
    ],
    left: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="An artifact's folder or TARGET:QUANT[:OPTION=VALUE...] to compare with; without [MODEL], "
            "MODEL:TARGET:QUANT.",
        ),
    ],
    right: Annotated[str, typer.Argument(metavar="B", help="The same: what is compared.")] = "",
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
        model if right else None,
        left if right else model,
        right or left,
        images=image or [],
        show=show,
        plot=plot,
        cards=cards or [],
        cache=artifact_cache,
        as_json=json,
    )
    if not equal:
        raise typer.Exit(1)
