"""`topfive calibrate --recipe`: int8 parameters found by passes, as a file that builds use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from topfive.adjusting import ADJUSTMENTS, choose, fitted
from topfive.cache import Cache, cache_root
from topfive.cards import Card
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.commands.progress_bar import CountedProgress
from topfive.errors import CalibrateError, CardError, FetchError, UnknownNameError
from topfive.graph import Graph
from topfive.images import list_images
from topfive.images.calibration_set import same_pictures
from topfive.pipeline import MODEL, Pipeline, resolve_card
from topfive.quantize.passes.fit import MODES
from topfive.quantize.passes.recipe import AUTO, Recipe, load_recipe, recipes
from topfive.quantize.passes.select import Selection
from topfive.quantize.symmetric import is_depthwise
from topfive.sources.atomic import replacing

__all__ = ["find_parameters"]

TARGET = "gemmini_sim"


def find_parameters(
    model: str,
    recipe: str,
    *,
    quant: str | None,
    output: Path | None,
    cards: Sequence[Path],
    cache: Path | None,
    as_json: bool,
) -> None:
    """Run a recipe, or choose one, on the card's calibration pictures and write what it finds.

    recipe: a name, a TOML file, or "auto". quant: the mode (default: int8; with "auto" the better one).
    output: the file (default: beside the card's range table, where builds look for it). Raises CardError if
    there is no place for it, UnknownNameError for another mode or recipe, CalibrateError for the pictures.
    """
    if quant is not None and quant not in MODES:
        raise UnknownNameError("quant mode of a recipe", quant, MODES)
    card = resolve_card(model, cards)
    if output is None and card.calibration_table() is None:
        raise CardError(f"{card.path} names no [calibration] table: say where to write with --output")
    store = Cache(cache_root(cache))
    mode, selection = quant or "int8", None
    if recipe == AUTO:
        selection = _chosen(card, quant, store)
        mode, chosen = selection.chosen.mode, load_recipe(selection.chosen.recipe)
    else:
        chosen = load_recipe(recipe)
    place = output or _beside_table(card, mode)
    with CountedProgress(f"{card.name} {mode} {chosen.name}: layers") as counted:
        pipeline = Pipeline(card, TARGET, mode, store, progress, counted=counted.show)
        _warn_of_overlap(pipeline)
        found = fitted(pipeline, chosen, selection).file(ADJUSTMENTS)
    written = _write(found, place)
    if as_json:
        print_json(_described(card, mode, chosen, selection, place, written))
        return
    lines = _table(selection) if selection is not None else []
    lines.append(f"{place}: {'written' if written else 'unchanged'} ({mode}, recipe {chosen.name})")
    sys.stdout.write("\n".join([*lines, ""]))


def _chosen(card: Card, quant: str | None, store: Cache) -> Selection:
    with CountedProgress(f"{card.name}: recipes tried") as counted:
        pipeline = Pipeline(card, TARGET, quant or "int8", store, progress, counted=counted.show)
        graph = Graph(onnx.load(pipeline.optimized().file(MODEL)))
        depthwise = any(is_depthwise(node, graph) for node in graph.nodes)
        modes = [quant] if quant else [mode for mode in MODES if depthwise or mode == "int8"]
        return choose(pipeline, modes, [recipe for recipe in recipes() if recipe.auto])


def _beside_table(card: Card, mode: str) -> Path:
    table = card.calibration_table() or Path()
    return table.with_name(f"{table.stem}.{mode}.json")


def _write(found: Path, place: Path) -> bool:
    """Copy a file unless it is there already."""
    if place.is_file() and place.read_bytes() == found.read_bytes():
        return False
    try:
        with replacing(place) as temporary:
            temporary.write_bytes(found.read_bytes())
    except FetchError as error:
        raise CalibrateError(error.message) from error
    return True


def _warn_of_overlap(pipeline: Pipeline) -> None:
    """Say how many calibration pictures the card's goldens and accuracies are measured on, too."""
    folder = pipeline.card.pictures_folder()
    if folder.is_dir():
        files = pipeline.calibration_samples().files
        common = same_pictures(files, [image.path for image in list_images(folder)])
        if common:
            progress(f"warning: {len(common)} of {len(files)} calibration pictures are also in {folder}")


def _table(selection: Selection) -> list[str]:
    """The candidates, the sentence that explains the choice."""
    lines = [f"fitted on {selection.fitted} pictures, judged on {selection.judged} others:"]
    lines.append(f"  {'mode':8} {'recipe':18} {'SQNR dB':>8} {'agreement':>9} {'seconds':>8}")
    for one in selection.candidates:
        mark = "*" if one is selection.chosen else " "
        lines.append(
            f"{mark} {one.mode:8} {one.recipe:18} {one.sqnr_db:8.2f} {one.agreement:9.3f} {one.seconds:8.1f}"
        )
    return [*lines, f"chosen: {selection.reason}"]


def _described(
    card: Card, mode: str, recipe: Recipe, selection: Selection | None, place: Path, written: bool
) -> dict[str, Any]:
    said: dict[str, Any] = {
        "model": card.name,
        "quant": mode,
        "recipe": recipe.name,
        "passes": recipe.passes,
        "file": str(place),
        "written": written,
    }
    if selection is not None:
        seconds = [round(one.seconds, 1) for one in selection.candidates]
        said["chosen"] = {**selection.described(), "seconds": seconds}
    return said
