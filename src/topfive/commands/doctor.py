"""`topfive doctor`: whether this processor's default int8 kernels can be trusted, and what to do if not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from topfive.cache import Cache, cache_root
from topfive.cards import Card
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.hazard import KernelFinding, ModelFinding, advice, measure_kernels, measure_model
from topfive.images import list_images, load_profile
from topfive.pipeline import Pipeline, resolve_card
from topfive.quantize.samples import PictureSamples, Samples
from topfive.sessions import default_threads
from topfive.suite.environment import cpu_features, cpu_governors, library_versions

__all__ = ["examine"]


def examine(
    model: str | None,
    images: Sequence[Path],
    *,
    count: int,
    cards: Sequence[Path],
    cache: Path | None,
    as_json: bool,
) -> None:
    """Measure the kernels, and the model if one is named, and print what was found with advice.

    images: pictures, or folders of them (default: the card's calibration set), the first `count`.
    """
    kernels = measure_kernels()
    found = None
    if model is not None:
        card = resolve_card(model, cards)
        found = measure_model(
            card, _samples(card, images, count, cache).batches(), cache=cache, progress=progress
        )
    if as_json:
        said = {"machine": _machine(), "kernels": [asdict(finding) for finding in kernels]}
        print_json({**said, "model": asdict(found) if found else None, "advice": advice(kernels, found)})
        return
    sys.stdout.write(_text(_machine(), kernels, found))


def _machine() -> dict[str, Any]:
    return {
        "cpu_features": list(cpu_features()),
        "cpu_governors": list(cpu_governors()),
        "threads": default_threads(),
        "versions": library_versions(),
    }


def _samples(card: Card, images: Sequence[Path], count: int, cache: Path | None) -> Samples:
    """The first `count` pictures of the card's calibration set, or of what is named."""
    pipeline = Pipeline(card, "cpu", "as_is" if card.quantised else "int8", Cache(cache_root(cache)))
    paths = [path for place in images for path in _pictures(place)]
    chosen = tuple(paths or pipeline.calibration_samples().files)[:count]
    return PictureSamples(chosen, load_profile(card.input.profile), card.input.size)


def _pictures(place: Path) -> list[Path]:
    return [image.path for image in list_images(place)] if place.is_dir() else [place]


def _text(machine: dict[str, Any], kernels: Sequence[KernelFinding], model: ModelFinding | None) -> str:
    lines = [
        f"processor: {', '.join(machine['cpu_features']) or 'features unknown'}",
        f"frequency governor: {', '.join(machine['cpu_governors']) or 'not known'}",
        f"threads of a session: {machine['threads']}",
        f"versions: {', '.join(f'{name} {version}' for name, version in machine['versions'].items())}",
        "",
        "wrong outputs of uint8 x int8 kernels on full-range codes, %:",
        f"{'kernel':<14} {'default':>8} {'x64quantprecision=1':>20} {'uint8 weights':>14}",
    ]
    lines += [
        f"{k.kernel:<14} {100 * k.default:>8.2f} {100 * k.precise:>20.2f} {100 * k.uint8_weights:>14.2f}"
        for k in kernels
    ]
    if model is not None:
        lines += [
            "",
            f"{model.model}, {model.quant}, {model.pictures} pictures, default kernels against exact ones:",
            f"  outputs changed: {100 * model.outputs:.2f} %, by at most {100 * model.largest:.3g} % of the "
            "largest",
            f"  codes of the last int8 tensors changed: {100 * model.codes:.2f} %",
            f"  pictures whose best class changed: {model.top1}",
        ]
    return "\n".join([*lines, "", *advice(kernels, model), ""])
