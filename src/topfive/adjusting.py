"""Where a build's adjustments come from: a committed file, or a recipe that is run now (a cached stage).

The committed file of a quant mode lies beside the card's range table: `<table>.<quant mode>.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from topfive.cache import Entry, file_sha256
from topfive.code_hashes import code_hash
from topfive.errors import CalibrateError, CardError, StageError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from topfive.pipeline import Pipeline
    from topfive.quantize.passes.recipe import Recipe
    from topfive.quantize.passes.select import Selection
    from topfive.quantize.passes.values import Session

__all__ = [
    "ADJUSTMENTS",
    "adjustments",
    "choose",
    "committed",
    "described",
    "fitted",
    "open_exactly",
    "pictures_of",
]

ADJUSTMENTS = "adjustments.json"
CODE = (
    "topfive.graph",
    "topfive.quantize.adjusted",
    "topfive.quantize.adjustments",
    "topfive.quantize.calibration",
    "topfive.quantize.passes",
    "topfive.quantize.rewriter",
    "topfive.quantize.samples",
    "topfive.quantize.symmetric",
    "topfive.targets.gemmini.lowering",
)


def open_exactly(model: onnx.ModelProto) -> Session:
    """A session of an int8 graph in Gemmini's exact arithmetic."""
    from topfive.sessions import open_exact
    from topfive.targets.gemmini.lowering import lower

    session: Session = open_exact(lower(model).model)
    return session


def committed(pipeline: Pipeline) -> Path | None:
    """The file beside the card's range table, if there is one of this quant mode.

    Raises CalibrateError for a malformed file, and for one of another model or mode.
    """
    from topfive.quantize.adjustments import read_adjustments

    table = pipeline.card.calibration_table()
    place = table.with_name(f"{table.stem}.{pipeline.quant}.json") if table is not None else None
    if place is None or not place.is_file():
        return None
    try:
        found = read_adjustments(place)
    except StageError as error:
        raise pipeline.at(error) from None
    again = f"find them again with `topfive calibrate {pipeline.card.name} --recipe {found.recipe}`"
    if found.mode != pipeline.quant:
        raise pipeline.at(CalibrateError(f"{place} holds adjustments for quant mode {found.mode}: {again}"))
    if found.provenance.get("model") not in (None, pipeline.identity()):
        raise pipeline.at(CalibrateError(f"{place} was found on another version of the model: {again}"))
    return place


def adjustments(pipeline: Pipeline) -> tuple[str, Callable[[], Path]] | None:
    """(key, how to get the file) of what this build adjusts, None for the plain mode.

    The pipeline's recipe: "" for the committed file if there is one, "plain" for none, else one to run.
    """
    from topfive.quantize.passes.recipe import AUTO, PLAIN, load_recipe

    if pipeline.recipe == PLAIN:
        return None
    if pipeline.recipe == AUTO:
        raise CardError(
            "a build cannot choose a recipe: "
            f"run `topfive calibrate {pipeline.card.name} --recipe auto` first, then build without --recipe"
        )
    if pipeline.recipe:
        entry = fitted(pipeline, load_recipe(pipeline.recipe))
        return entry.key, lambda: entry.file(ADJUSTMENTS)
    place = committed(pipeline)
    return None if place is None else (file_sha256(place), lambda: place)


def described(pipeline: Pipeline, quantized: Entry) -> dict[str, str]:
    """What an artifact says of its adjustments: the recipe and the file's key; {} for the plain mode."""
    from topfive.quantize.adjustments import read_adjustments

    key = quantized.fields.get("adjustments")
    found = adjustments(pipeline) if key else None
    return {"recipe": read_adjustments(found[1]()).recipe, "adjustments": str(key)} if found else {}


def fitted(pipeline: Pipeline, recipe: Recipe, selection: Selection | None = None) -> Entry:
    """A recipe run on the card's calibration pictures: an entry that holds ADJUSTMENTS.

    selection: what `choose` found, for the provenance. Raises CalibrateError for pictures that do not do.
    """
    import numpy
    import onnx

    from topfive.pipeline import MODEL
    from topfive.quantize.adjustments import write_adjustments
    from topfive.quantize.passes.fit import Fitter

    samples = pipeline.calibration_samples()
    chosen = selection.described() if selection is not None else None
    about = {"model": pipeline.identity(), **samples.provenance()}
    if chosen is not None:
        about["chosen"] = chosen

    def make(out: Path) -> None:
        model = onnx.load(pipeline.optimized().file(MODEL))
        fitter = Fitter(model, pictures_of(pipeline), open_exactly, pipeline.counted)
        found = fitter.fit(pipeline.quant, recipe)
        write_adjustments(replace(found, provenance=about), out / ADJUSTMENTS)

    fields = {
        **pipeline.calibration_fields(samples),
        "quant": pipeline.quant,
        "recipe": [recipe.name, recipe.passes],
        "chosen": chosen,
        "numpy": numpy.__version__,
        "code": code_hash(CODE),
    }
    return pipeline.stage(CalibrateError, fields, make)


def pictures_of(pipeline: Pipeline) -> NDArray[np.float32]:
    """The card's calibration pictures in the model's input layout, all in memory."""
    import numpy

    return numpy.concatenate(list(pipeline.calibration_samples().batches()))


def choose(pipeline: Pipeline, modes: Sequence[str], recipes: Sequence[Recipe]) -> Selection:
    """Try recipes in quant modes on the card's calibration pictures; see `passes.select`."""
    import onnx

    from topfive.pipeline import MODEL
    from topfive.quantize.passes.select import select

    model = onnx.load(pipeline.optimized().file(MODEL))
    pictures = pictures_of(pipeline)
    return select(model, pictures, modes, recipes, open_integer=open_exactly, progress=pipeline.counted)
