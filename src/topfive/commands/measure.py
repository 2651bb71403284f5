"""`topfive measure`: what a device's own tool says of a model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import topfive
from topfive import targets
from topfive.cache import cache_root
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.errors import OptionError, StageError
from topfive.suite.measuring import device_lock
from topfive.targets.base import Artifact, DeviceFigures

__all__ = ["measure_model"]


def measure_model(
    model: str,
    target: str,
    quant: str,
    cards: Sequence[Path],
    cache: Path | None,
    *,
    options: Mapping[str, str],
    as_json: bool,
) -> None:
    """Build, measure with the device's own tool, alone on the device, and print its figures.

    Raises OptionError for a target without such a tool.
    """
    artifact = topfive.build(
        model, target=target, quant=quant, cards=cards, cache=cache, progress=progress, options=options
    )
    try:
        with topfive.open(artifact) as runner, device_lock(cache_root(cache), targets.get(target)):
            figures = runner.device_figures()
    except StageError as error:
        error.command = "measure"
        raise
    if figures is None:
        raise OptionError(
            f"target {target} has no tool of its own that measures: "
            f"run `pytest bench -m 'latency or throughput' --targets {target} --models {model}`"
        )
    if as_json:
        about = {
            "model": artifact.model,
            "target": artifact.target,
            "quant": artifact.quant,
            "options": artifact.options,
            "artifact": artifact.key,
            "simulated": str(artifact.meta.get("simulated", "")),
        }
        print_json({**about, **asdict(figures)})
        return
    sys.stdout.write(_text(artifact, figures))


def _text(artifact: Artifact, figures: DeviceFigures) -> str:
    """The figures, a line each; what is simulated comes first."""
    simulated = artifact.meta.get("simulated")
    latencies = ((name, getattr(figures, name)) for name in ("mean", "p50", "p90", "p95", "p99"))
    folder = figures.details.get("folder")
    lines = [
        f"{artifact.model} {artifact.target} {artifact.quant}, batch {figures.batch}",
        *([f"SIMULATED: {simulated}"] if simulated else []),
        f"$ {figures.details['command']}" if "command" in figures.details else "",
        f"throughput: {figures.images_per_s:.3f} images/s",
        f"latency of {figures.inferences} inferences of {figures.batch} pictures, ms: "
        + ", ".join(f"{name} {1e3 * seconds:.3f}" for name, seconds in latencies),
        *(f"{name}: {value}" for name, value in figures.details.get("summary", {}).items()),
        *(f"WARNING: {warning}" for warning in figures.warnings),
        f"working directory: {folder}" if folder else "",
    ]
    return "".join(f"{line}\n" for line in lines if line)
