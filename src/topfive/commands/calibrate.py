"""`topfive calibrate`: activation ranges as a table, and a quantised ONNX file as the imagenet runner's
calibrate.py writes it."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx

from topfive.cache import Cache, cache_root, file_sha256
from topfive.cards import Card
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.commands.optimize import changes, operators
from topfive.commands.progress_bar import CountedProgress
from topfive.errors import (
    CalibrateError,
    CardError,
    FetchError,
    QuantizeError,
    TopfiveError,
    UnknownNameError,
)
from topfive.graph import Graph, save_model
from topfive.images import list_images, load_profile
from topfive.images.calibration_set import same_pictures
from topfive.pipeline import MODEL, RANGES, Pipeline, resolve_card
from topfive.quantize.asymmetric import quantize_asymmetric
from topfive.quantize.calibration import calibrated_tensors
from topfive.quantize.dynamic import quantize_dynamic
from topfive.quantize.ranges import RangeTable, read_ranges, write_ranges
from topfive.quantize.samples import Samples, TensorSamples, open_dataset
from topfive.quantize.scales import read_table, write_table
from topfive.quantize.scales.files import file_kind
from topfive.quantize.scales.names import fitting, tensor_names
from topfive.quantize.symmetric import quantize_symmetric
from topfive.sessions import open_session
from topfive.sources.atomic import replacing

__all__ = ["MODES", "Request", "calibrate"]

DEFAULT_MODEL = Path("calibrated_quantized_model.onnx")
AS_THEY_ARE = "none"
SHOWN = 5
Quantise = Callable[[onnx.ModelProto, RangeTable], onnx.ModelProto]
STATIC: Mapping[str, Quantise] = MappingProxyType({"int8": quantize_symmetric, "uint8": quantize_asymmetric})
DYNAMIC: Mapping[str, Quantise] = MappingProxyType(
    {
        "int8": partial(quantize_dynamic, signed=True),
        "uint8": partial(quantize_dynamic, signed=False),
    }
)
MODES = tuple(STATIC)


@dataclass(frozen=True)
class Request:
    """What to calibrate on and what to write.

    dataset: a folder of tensors or pictures (default: the card's calibration pictures), of which the first
    `count` are read (0: all) and prepared by `profile` (default: the card's; "none": tensors as they are).
    mode, static: of the quantised model. table, quantised: where the ranges and the model go.

    sample, seed: how many to calibrate on, of the dataset or of the card's set, the first or drawn. cal_map:
    a list of the dataset's pictures. method, symmetric, percentile: how ranges are chosen (default: as the
    card says). skip_bad: leave out pictures that cannot be read. imported: a file that the ranges come from
    instead; partial: though it does not fit the model wholly. exports: files to write the ranges to, in the
    form that each suffix says; weights: of a Q/DQ model, "per_axis" or "per_tensor". validation: pictures
    that no calibration should see (default: those that the card's goldens are made of).
    """

    dataset: Path | None = None
    count: int = 0
    profile: str | None = None
    mode: str = "int8"
    static: bool = True
    table: Path | None = None
    quantised: Path | None = None
    sample: int = 0
    seed: int | None = None
    cal_map: Path | None = None
    method: str | None = None
    symmetric: bool | None = None
    percentile: float | None = None
    skip_bad: bool = False
    imported: Path | None = None
    partial: bool = False
    exports: tuple[Path, ...] = ()
    weights: str = "per_axis"
    validation: Path | None = None


def calibrate(
    model: str, request: Request, *, cards: Sequence[Path], cache: Path | None, as_json: bool
) -> None:
    """Measure a float model's ranges and write them, or the quantised model, or both.

    Without a dataset and a place for either: the card's own table. With a dataset and no place: the model, to
    calibrated_quantized_model.onnx. Raises CardError if there is no place, and what reading, measuring and
    quantising raise.
    """
    if request.mode not in MODES:
        raise UnknownNameError("calibration mode", request.mode, MODES)
    card = resolve_card(model, cards)
    request = _placed(request, card)
    for place in request.exports:
        file_kind(place)
    card = _chosen(card, request)
    with CountedProgress(f"{card.name}: calibration pictures") as counted:
        pipeline = Pipeline(
            card,
            "cpu",
            "int8",
            Cache(cache_root(cache)),
            progress,
            skip_bad=request.skip_bad,
            counted=counted.show,
        )
        table = _imported(pipeline, request) if request.imported else _ranges(pipeline, request)
    said: dict[str, Any] = {"model": card.name, **table.provenance, "tensors": len(table.ranges)}
    said["method"] = table.method
    lines = [f"{len(table.ranges)} ranges over {table.provenance.get('pictures', '?')} samples"]
    said |= _remarks(table)
    for place in request.exports:
        float_model = onnx.load(pipeline.optimized().file(MODEL))
        order = calibrated_tensors(Graph(float_model))
        write_table(table, place, model=float_model, weights=request.weights, order=order)
        lines.append(f"{place}: written")
    said |= {"exports": [str(place) for place in request.exports]} if request.exports else {}
    if request.table is not None:
        written = _write_table(table, request.table)
        lines.append(f"{request.table}: {'written' if written else 'unchanged'}")
        said |= {"table": str(request.table), "written": written}
    if request.quantised is not None:
        before, after = _write_model(pipeline, table, request)
        lines += [changes(before, after).rstrip(), f"{request.quantised}: written"]
        said |= {"mode": request.mode, "static": request.static, "quantised": str(request.quantised)}
        said["nodes"] = dict(sorted(after.items()))
    if as_json:
        print_json(said)
    else:
        sys.stdout.write("\n".join([*lines, ""]))


def _placed(request: Request, card: Card) -> Request:
    """The request with its default outputs."""
    if request.dataset is None and (request.count or request.profile):
        option = "--dataset-size" if request.count else "--data-preprocess"
        raise CardError(
            f"{option} goes with --dataset: the card {card.path} says which pictures are used else"
        )
    if request.seed is not None and request.dataset and not (request.sample or request.count):
        raise CardError("--seed draws as many as --count says: give it too")
    if request.table or request.quantised or request.exports:
        return request
    if request.method or request.symmetric is not None or request.percentile or request.imported:
        raise CardError("say where the ranges go, with --output or --export: they are not the card's own")
    if request.dataset is not None:
        return dataclasses.replace(request, quantised=DEFAULT_MODEL)
    if card.calibration_table() is None:
        raise CardError(f"{card.path} names no [calibration] table: say where to write it with --output")
    return dataclasses.replace(request, table=card.calibration_table())


def _ranges(pipeline: Pipeline, request: Request) -> RangeTable:
    """Ranges over the dataset; without one those of the card, measured now if they are to be written."""
    if request.dataset is None and request.table is None and pipeline.card.calibration.table:
        return read_ranges(pipeline.calibrated()[1]())
    if request.dataset is None:
        _warn_of_overlap(pipeline, request, pipeline.calibration_samples())
        return read_ranges(pipeline.measured_ranges().file(RANGES))
    samples = _samples(pipeline, request, request.dataset)
    _warn_of_overlap(pipeline, request, samples)
    try:
        return pipeline.measure(samples)
    except (TopfiveError, OSError, MemoryError):
        raise
    except Exception as error:
        raise CalibrateError(
            f"{request.dataset}: {type(error).__name__} while the model ran on it", details=str(error)
        ) from error


def _samples(pipeline: Pipeline, request: Request, dataset: Path) -> Samples:
    card = pipeline.card
    name = request.profile or card.input.profile
    profile = None if name.lower() == AS_THEY_ARE else load_profile(name)
    dims = Graph(onnx.load(pipeline.optimized().file(MODEL))).inputs[0].type.tensor_type.shape.dim
    shape = tuple(int(dim.dim_value) for dim in dims[1:])
    samples = open_dataset(
        dataset,
        profile=profile,
        size=card.input.size,
        shape=shape,
        count=request.sample or request.count,
        seed=request.seed,
        map_file=request.cal_map,
    )
    warning = samples.beyond_levels() if isinstance(samples, TensorSamples) else ""
    if warning:
        progress(f"warning: {warning}")
    return samples


def _chosen(card: Card, request: Request) -> Card:
    """The card with what the request says of the calibration in place of its own."""
    given: dict[str, Any] = {
        "method": request.method,
        "symmetric": request.symmetric,
        "percentile": request.percentile,
        "count": request.sample or None,
        "seed": request.seed,
        "map": str(request.cal_map.resolve()) if request.cal_map else None,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    if not changed:
        return card
    # What the card's own table holds is not what was asked for.
    calibration = dataclasses.replace(card.calibration, **changed, table="")
    return dataclasses.replace(card, calibration=calibration)


def _imported(pipeline: Pipeline, request: Request) -> RangeTable:
    """The ranges in a file of another tool, as far as they fit the model."""
    place = request.imported or Path()
    table = read_table(place)
    models = (onnx.load(pipeline.source()), onnx.load(pipeline.optimized().file(MODEL)))
    table, left_out = fitting(
        table, tensor_names(*models), place=place, model=pipeline.card.name, partial=request.partial
    )
    about: dict[str, Any] = {"model": pipeline.identity(), **table.provenance}
    about["imported"] = [place.name, file_sha256(place)]
    if left_out:
        about["left_out"] = left_out
        progress(f"warning: {place}: {len(left_out)} of its tensors are left out: {_few(left_out)}")
    return dataclasses.replace(table, provenance=about)


def _remarks(table: RangeTable) -> dict[str, Any]:
    """What a person should know of a table, said on standard error too."""
    constant = [name for name, (low, high) in table.ranges.items() if low == high]
    skipped = list(table.provenance.get("skipped", ()))
    if constant:
        progress(f"warning: {len(constant)} tensors never changed (a range of one value): {_few(constant)}")
    if skipped:
        progress(f"warning: {len(skipped)} pictures could not be read and were left out: {_few(skipped)}")
    return {"constant": constant} if constant else {}


def _warn_of_overlap(pipeline: Pipeline, request: Request, samples: Samples) -> None:
    """Say which pictures are also among those that accuracy or goldens are measured on."""
    folder = request.validation or pipeline.card.pictures_folder()
    if request.validation is None and not folder.is_dir():
        return
    validation = [image.path for image in list_images(folder)]
    found = same_pictures(samples.files, validation)
    if found:
        names = [one.name for one, _ in found]
        progress(
            f"warning: {len(found)} calibration pictures are also in {folder} (same content): {_few(names)}"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _write_table(table: RangeTable, place: Path) -> bool:
    """Write a table unless the file holds it already."""
    try:
        with replacing(place) as temporary:
            write_ranges(table, temporary)
            changed = not place.is_file() or place.read_bytes() != temporary.read_bytes()
    except FetchError as error:
        raise CalibrateError(error.message) from error
    return changed


def _write_model(
    pipeline: Pipeline, table: RangeTable, request: Request
) -> tuple[Counter[str], Counter[str]]:
    """Quantise, make sure that ONNX Runtime opens the result, write it; node counts before and after."""
    place = request.quantised or DEFAULT_MODEL
    model = onnx.load(pipeline.optimized().file(MODEL))
    quantised = (STATIC if request.static else DYNAMIC)[request.mode](model, table)
    about = {
        "mode": request.mode,
        "static": str(request.static).lower(),
        "method": table.method,
        **{key: str(value) for key, value in table.provenance.items()},
    }
    onnx.helper.set_model_props(quantised, {f"topfive.{key}": value for key, value in about.items()})
    try:
        open_session(quantised.SerializeToString(), fuse_qdq=True)
    except Exception as error:
        raise QuantizeError(
            f"{place}: ONNX Runtime cannot open the {request.mode} model; nothing was written",
            details=str(error),
        ) from error
    try:
        with replacing(place) as temporary:
            save_model(quantised, temporary)
    except FetchError as error:
        raise QuantizeError(error.message) from error
    return operators(model), operators(quantised)
