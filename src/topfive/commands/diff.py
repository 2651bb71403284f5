"""`topfive diff`: two artifacts of one model, layer by layer."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import topfive
from topfive.cards import Card
from topfive.case_text import FORM, OF_MODEL, NamedCase, parse_case
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.errors import OptionError
from topfive.images import list_images, load_profile, preprocess_batch
from topfive.layer_diff import LayerDifference, compare_layers
from topfive.pipeline import resolve_card
from topfive.report.layer_plot import layer_plot
from topfive.targets.base import Artifact, read_artifact

__all__ = ["diff_layers"]

DEFAULT_SHOWN = 20


def diff_layers(
    model: str | None,
    left: str,
    right: str,
    *,
    images: Sequence[Path],
    show: int,
    plot: Path | None,
    cards: Sequence[Path],
    cache: Path | None,
    as_json: bool,
) -> bool:
    """Print how far `right` is from `left`, layer by layer, worst first; True if no int8 code differs.

    left, right: artifacts' folders, or TARGET:QUANT[:OPTION=VALUE...], with MODEL: before it where `model` is
    None. model: None for that of `left`. images: pictures (default: the first of the card's set).
    Raises OptionError for sides of another form or of two models.
    """
    (card, first), (named, second) = (_side(side, model, cards) for side in (left, right))
    if card.name != named.name:
        raise OptionError(
            f"{left} is of {card.name}, {right} of {named.name}: compare artifacts of one model"
        )
    reference, other = (
        made if isinstance(made, Artifact) else _built(card, made, cache) for made in (first, second)
    )
    left, right = _names((left, reference), (right, other))
    profile = load_profile(card.input.profile)
    paths = list(images) or [list_images(card.pictures_folder(), map_file=card.pictures_map())[0].path]
    batch = preprocess_batch(paths, profile, card.input.size)
    found = compare_layers(reference, other, batch)
    if plot is not None:
        plot.write_text(layer_plot(found.layers, f"{card.name}: {right} against {left}"), encoding="utf-8")
    if as_json:
        print_json(_json(found))
    else:
        sys.stdout.write(_text(found, left, right, show))
    return found.first_code is None


def _side(side: str, model: str | None, cards: Sequence[Path]) -> tuple[Card, Artifact | NamedCase]:
    """The card of one side, and its artifact, or target, quant mode and options to build."""
    if Path(side).is_dir():
        artifact = read_artifact(Path(side))
        card = resolve_card(model or artifact.model, cards)
        if card.name != artifact.model:
            raise OptionError(f"{side} is an artifact of {artifact.model}, not of {card.name}")
        return card, artifact
    case = parse_case(side, model or "")
    if case is None:
        form = OF_MODEL if model else FORM
        raise OptionError(f"{side!r} is neither an artifact's folder nor {form}, such as gemmini_sim:int8")
    return resolve_card(case.model, cards), case


def _names(*sides: tuple[str, Artifact]) -> list[str]:
    """What to call the sides: a folder by its target and quant mode, unless both are the same."""
    short = [
        ":".join([made.target, made.quant, *(f"{k}={v}" for k, v in made.options.items())])
        if Path(side).is_dir()
        else side
        for side, made in sides
    ]
    return short if len(set(short)) == len(short) else [side for side, _ in sides]


def _built(card: Card, case: NamedCase, cache: Path | None) -> Artifact:
    return topfive.build(
        card, target=case.target, quant=case.quant, cache=cache, progress=progress, options=case.options
    )


def _text(found: LayerDifference, left: str, right: str, show: int) -> str:
    lines = []
    code = found.first_code
    if code is not None:
        behind = f", accumulator {code.accumulator}" if code.accumulator is not None else ""
        lines += [
            f"first node that differs: {code.node}",
            f"first int8 code that differs: {code.tensor}{list(code.index)}: "
            f"{left} {code.left}, {right} {code.right}{behind}",
            f"there {code.wrong} of {code.total} codes differ",
        ]
    elif found.compared_codes:
        lines.append(f"all {found.compared_codes} int8 codes that both have are equal")
    worst = sorted(found.layers, key=lambda q: q.sqnr)
    lines.append(f"{len(worst)} layers of {right} against {left}, worst first:")
    lines.append(f"{'SQNR dB':>8} {'cosine':>9} {'max error':>10}  tensor")
    lines += [f"{q.sqnr:8.1f} {q.cosine:9.5f} {q.max_error:10.4g}  {q.tensor}" for q in worst[:show]]
    if len(worst) > show:
        lines.append(f"and {len(worst) - show} better ones (--show {len(worst)})")
    return "\n".join([*lines, ""])


def _json(found: LayerDifference) -> dict[str, object]:
    layers = [dataclasses.asdict(q) for q in found.layers]
    for layer in layers:
        layer["sqnr"] = layer["sqnr"] if np.isfinite(layer["sqnr"]) else None
    return {
        "layers": layers,
        "first_code": dataclasses.asdict(found.first_code) if found.first_code else None,
        "compared_codes": found.compared_codes,
    }
