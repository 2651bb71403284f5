"""`topfive gemmini diff`: one model in several of the imagenet runner's modes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import topfive
from topfive.cards import Card
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.errors import OptionError
from topfive.images import list_images, load_profile, preprocess_batch
from topfive.layer_diff import CodeDifference, code_differences
from topfive.pipeline import resolve_card
from topfive.targets.base import Array, Artifact
from topfive.targets.gemmini.execution_text import node_text

__all__ = ["compare_modes"]

TARGET = "gemmini_sim"


@dataclass(frozen=True)
class _Mode:
    """A model in one mode and what it computed for the pictures."""

    execution: str
    optimization: str
    artifact: Artifact
    tensors: Mapping[str, Array]
    output: Array

    def __str__(self) -> str:
        return f"-x {self.execution} -O {self.optimization}"

    def node(self, tensor: str) -> Mapping[str, Any]:
        """The node of the plan that leaves a tensor, or the one that it is fused into; {} for none."""
        nodes: Sequence[Mapping[str, Any]] = self.artifact.meta["execution_plan"]["nodes"]
        return next((node for node in nodes if node["output"] == tensor), {})


def compare_modes(
    model: str,
    *,
    executions: str,
    optimizations: str,
    images: Sequence[Path],
    quant: str | None,
    show: int,
    cards: Sequence[Path],
    cache: Path | None,
    as_json: bool,
) -> bool:
    """Print which int8 tensors of each mode differ from the first mode's, and where; True if none does.

    executions, optimizations: values of -x and -O, comma-separated; every combination is a mode. images:
    pictures (default: the first of the card's set). Raises OptionError for an unknown or a single mode, and
    CompileError with the reasons for a mode that the runner could not run.
    """
    chosen = list(product(_values(executions, "--x"), _values(optimizations, "--O")))
    if len(chosen) < 2:
        raise OptionError(f"--x {executions} --O {optimizations} is one mode: name at least two")
    card = resolve_card(model, cards)
    paths = list(images) or [list_images(card.pictures_folder(), map_file=card.pictures_map())[0].path]
    batch = preprocess_batch(paths, load_profile(card.input.profile), card.input.size)
    mode_of_quant = quant or ("as_is" if card.quantised else "int8")
    # All are built before any runs: a mode that cannot run is known at once.
    artifacts = [_artifact(card, mode_of_quant, *mode, cache) for mode in chosen]
    modes = [_run(artifact, *mode, batch) for artifact, mode in zip(artifacts, chosen, strict=True)]
    first, others = modes[0], modes[1:]
    found = [(other, list(code_differences(first.tensors, other.tensors))) for other in others]
    if as_json:
        print_json({"model": card.name, "modes": [_json(first, *pair) for pair in found]})
    else:
        sys.stdout.write("".join(_text(first, *pair, show) for pair in found))
    return not any(differences for _, differences in found)


def _values(text: str, flag: str) -> list[str]:
    values = [part.strip() for part in text.split(",")]
    if len(set(values)) < len(values):
        raise OptionError(f"{flag} {text} names a mode twice")
    return values


def _artifact(card: Card, quant: str, execution: str, optimization: str, cache: Path | None) -> Artifact:
    options = {"execution": execution, "optimization": optimization}
    return topfive.build(card, target=TARGET, quant=quant, cache=cache, progress=progress, options=options)


def _run(artifact: Artifact, execution: str, optimization: str, batch: Array) -> _Mode:
    with topfive.open(artifact) as runner:
        return _Mode(execution, optimization, artifact, runner.tensors(batch), runner.run(batch))


def _int8_codes(mode: _Mode) -> tuple[int, int]:
    """(tensors, codes) that are int8."""
    sizes = [value.size for value in mode.tensors.values() if value.dtype == np.int8]
    return len(sizes), sum(sizes)


def _furthest(first: _Mode, other: _Mode) -> float:
    return float(np.abs(first.output.astype(np.float64) - other.output.astype(np.float64)).max(initial=0))


def _text(first: _Mode, other: _Mode, differences: Sequence[CodeDifference], show: int) -> str:
    tensors, codes = _int8_codes(first)
    if not differences:
        return f"{other} against {first}: all {codes} codes of {tensors} int8 tensors are equal\n"
    at = differences[0]
    lines = [
        f"{other} against {first}: {len(differences)} of {tensors} int8 tensors differ, "
        f"the outputs by up to {_furthest(first, other):.4g}",
        f"first {at.tensor}{list(at.index)}: {at.right} instead of {at.left}",
    ]
    for mode in (first, other):
        node = mode.node(at.tensor)
        lines.append(f"  {mode}: {node.get('name', '?')}, {node.get('provider', '?')}: {node_text(node)}")
    lines += [f"{d.wrong:10} of {d.total:10} codes differ  {d.tensor}" for d in differences[:show]]
    if len(differences) > show:
        lines.append(f"and {len(differences) - show} tensors more (--show {len(differences)})")
    return "\n".join([*lines, ""])


def _json(first: _Mode, other: _Mode, differences: Sequence[CodeDifference]) -> dict[str, Any]:
    tensors, codes = _int8_codes(first)
    rows = []
    for difference in differences:
        row = asdict(difference)
        del row["accumulator"]
        rows.append(row)
    return {
        "reference": {"execution": first.execution, "optimization": first.optimization},
        "mode": {"execution": other.execution, "optimization": other.optimization},
        "tensors": tensors,
        "codes": codes,
        "output_max_difference": _furthest(first, other),
        "differences": rows,
        "first": [
            {"mode": str(mode), **mode.node(differences[0].tensor)} for mode in (first, other) if differences
        ],
    }
