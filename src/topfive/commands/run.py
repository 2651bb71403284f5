"""`topfive run`: pictures through a model, printed as the Gemmini imagenet runner prints them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import topfive
from topfive.cards import Card
from topfive.commands import print_json
from topfive.commands.build import default_quant, progress
from topfive.commands.explain import explanation, runner_options, save_model
from topfive.errors import CardError, RunError
from topfive.golden import output_labels
from topfive.images import Profile, load_profile, preprocess
from topfive.pipeline import resolve_card
from topfive.targets.base import Artifact, Runner
from topfive.trace.events import check_place

if TYPE_CHECKING:
    from topfive.trace.recording import Runs

__all__ = ["Job", "Settings", "classify", "prepare", "runner_text"]

DEFAULT_TARGET = "cpu"


@dataclass(frozen=True)
class Settings:
    """What `topfive run` is told besides the model and the pictures; None or empty for the defaults.

    execution, optimization: the runner's -x and -O, which choose `gemmini_sim` if no target is named.
    log_level: ONNX Runtime's, 0 to 4. explain: print where each layer runs. save_to: where to write the
    model that runs. trace: where to write a trace, of `trace_pictures` pictures at most.
    """

    profile: str | None = None
    target: str | None = None
    quant: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    execution: str | None = None
    optimization: str | None = None
    threads: int | None = None
    log_level: int | None = None
    explain: bool = False
    save_to: Path | None = None
    trace: Path | None = None
    trace_pictures: int | None = None
    cards: Sequence[Path] = ()
    cache: Path | None = None
    as_json: bool = False

    def logging(self) -> AbstractContextManager[None]:
        """Sessions opened inside log as `log_level` says."""
        from topfive.sessions import log_level

        return nullcontext() if self.log_level is None else log_level(self.log_level)

    @contextmanager
    def tracing(self, runner: Runner, pictures: Sequence[Path]) -> Iterator[Runs]:
        """What to run the pictures with, one at a time: the runner, or what traces it."""
        if self.trace is None:
            yield runner
            return
        from topfive.trace.recording import TRACED_BATCHES, recorded

        count = min(self.trace_pictures or TRACED_BATCHES, len(pictures))
        about = {
            "command": shlex.join(["topfive", *sys.argv[1:]]),
            "pictures": [str(picture) for picture in pictures[:count]],
        }
        with recorded(runner, self.trace, about, count) as runs:
            yield runs
        progress(f"trace of {count} picture{'s' if count > 1 else ''}: {self.trace}")


@dataclass(frozen=True)
class Job:
    """A model that is built, and how its pictures are prepared."""

    card: Card
    profile: Profile
    labels: tuple[str, ...]
    artifact: Artifact
    explained: bool = False

    def scores(self, runner: Runs, picture: Path) -> NDArray[Any]:
        """The model's output for one picture, [entries].

        Raises ImageError naming the file, CardError if the profile's tensors do not fit the model, RunError
        for a NaN, which has no place among the five best.
        """
        tensor = preprocess(picture, self.profile, self.card.input.size)
        _check_layout(self.card, tensor.shape, self.profile.name)
        output: NDArray[Any] = runner.run(tensor[None])[0].reshape(-1)
        if np.isnan(output).any():
            error = RunError(f"the output for {picture} holds NaN: look for the layer with `topfive diff`")
            raise self.artifact.located(error)
        return output

    def described(self) -> dict[str, Any]:
        """What runs, as JSON-able values."""
        return {
            "model": self.card.name,
            "target": self.artifact.target,
            "quant": self.artifact.quant,
            "profile": self.profile.name,
            "options": self.artifact.options,
            **({"execution_plan": self.artifact.meta["execution_plan"]} if self.explained else {}),
        }


def prepare(card: Card, settings: Settings) -> Job:
    """Load the profile (default: the card's), build the model, and do what was asked about it.

    Quant mode by default: `default_quant`. Raises OptionError for options that the target does not have,
    TraceError where no trace can be.
    """
    if settings.trace is not None:
        check_place(settings.trace)
    chosen = load_profile(settings.profile or card.input.profile)
    runner_given = (settings.execution, settings.optimization)
    target, options = runner_options(settings.target, *runner_given, settings.options)
    target = target or DEFAULT_TARGET
    mode = settings.quant or default_quant(card, target)
    labels = output_labels(card)
    artifact = topfive.build(
        card, target=target, quant=mode, cache=settings.cache, progress=progress, options=options
    )
    if settings.save_to is not None:
        save_model(artifact, settings.save_to)
    if settings.explain:
        text = explanation(artifact)
        sys.stdout.write("" if settings.as_json else text)
    return Job(card, chosen, labels, artifact, settings.explain)


def classify(model: str, images: Sequence[Path], settings: Settings) -> None:
    """Run pictures one at a time and print each one's five best; scores are the model's output as it is."""
    job = prepare(resolve_card(model, settings.cards), settings)
    rows: list[dict[str, Any]] = []
    with (
        settings.logging(),
        topfive.open(job.artifact, threads=settings.threads) as runner,
        settings.tracing(runner, images) as runs,
    ):
        for image in images:
            output = job.scores(runs, image)
            best = topfive.top5(output, job.labels)
            if not settings.as_json:
                sys.stdout.write(runner_text(len(output), best))
            rows.append({"image": str(image), "elements": len(output), "top5": best})
    if settings.as_json:
        print_json({**job.described(), "images": rows})


def runner_text(elements: int, best: Sequence[tuple[int, str, float]]) -> str:
    """The runner's words: scores ascending, the best last; a class without a label shows its index."""
    lines = [f"{score:f} {label or index}" for index, label, score in reversed(best)]
    return "\n".join([f"Element count {elements}. Top {len(best)} classes:", *lines, ""])


def _check_layout(card: Card, shape: tuple[int, ...], profile: str) -> None:
    if shape != (3, *card.input.size):
        raise CardError(
            f"profile {profile!r} gives tensors of shape {list(shape)}, model {card.name} wants "
            f"{[3, *card.input.size]}: choose a profile of layout NCHW"
        )
