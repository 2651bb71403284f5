"""What `--explain`, `-x`, `-O` and `-s` of `topfive run` and `build` do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from topfive import targets
from topfive.errors import OptionError, RunError, TopfiveError
from topfive.graph import save_model as write_model
from topfive.targets.base import Artifact
from topfive.targets.gemmini.execution_text import plan_text
from topfive.targets.onnxruntime_runner import MODEL_FILE

__all__ = ["explanation", "runner_options", "save_model"]

RUNNERS_TARGET = "gemmini_sim"
PLAN = "execution_plan"


def runner_options(
    target: str | None, execution: str | None, optimization: str | None, options: Mapping[str, str]
) -> tuple[str | None, dict[str, str]]:
    """(target, all its options) with the runner's -x and -O, which choose gemmini_sim if none is named.

    Raises OptionError for a target without them, and for an option that is given twice.
    """
    given = {
        name: (flag, value)
        for name, flag, value in (("execution", "-x", execution), ("optimization", "-O", optimization))
        if value is not None
    }
    chosen = target or (RUNNERS_TARGET if given else None)
    merged = dict(options)
    for name, (flag, value) in given.items():
        if chosen is not None and name not in targets.get(chosen).options:
            raise OptionError(
                f"{flag} {value} chooses how Gemmini computes, which target {chosen} does not do: "
                f"leave {flag} out, or take --target {RUNNERS_TARGET}"
            )
        if merged.setdefault(name, value) != value:
            raise OptionError(f"{flag} {value} and --option {name}={merged[name]} differ: give one of them")
    return chosen, merged


def explanation(artifact: Artifact) -> str:
    """Where each layer of an artifact runs, as text; OptionError for a target that stores no such plan."""
    stored = artifact.meta.get(PLAN)
    if stored is None:
        raise OptionError(
            f"--explain tells what Gemmini runs and what the CPU: target {artifact.target} has no such plan, "
            f"take --target {RUNNERS_TARGET}"
        )
    return plan_text(stored)


def save_model(artifact: Artifact, out: Path) -> None:
    """Write the ONNX model that an artifact runs, with its options in the model's metadata.

    Raises RunError for a target that runs no ONNX model, TopfiveError if the file cannot be written.
    """
    file = artifact.path / MODEL_FILE
    if not file.is_file():
        raise artifact.located(RunError(f"{artifact.target} runs no ONNX model: leave --save-model out"))
    model = onnx.load(file)
    about = {"model": artifact.model, "target": artifact.target, "quant": artifact.quant, **artifact.options}
    onnx.helper.set_model_props(model, {f"topfive.{name}": value for name, value in about.items()})
    try:
        write_model(model, out)
    except OSError as error:
        raise TopfiveError(f"--save-model {out}: cannot be written: {error.strerror or error}") from error
