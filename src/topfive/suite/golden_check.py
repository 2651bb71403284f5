"""The golden of one case, for the test that asserts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import topfive.golden as goldens
from topfive import targets
from topfive.cards import Card
from topfive.errors import RunError
from topfive.images import decoder_version
from topfive.report.mismatch import drift_text, mismatch_text
from topfive.suite.environment import library_versions
from topfive.suite.pictures import Pictures
from topfive.suite.provenance import built_from
from topfive.targets.base import Artifact, Runner

__all__ = ["GoldenCheck"]


@dataclass(frozen=True)
class GoldenCheck:
    """Asserts a golden, or updates it.

    root: the folder of goldens. repeat: the command that runs this one test. record: takes values of the
    session's table. cache: where a diagnosis builds what it compares with (default: `cache_root`). target: as
    the case names it, if it is a variant.
    """

    card: Card
    root: Path
    updating: bool
    repeat: str
    record: Callable[..., None]
    cache: Path | None = None
    target: str = ""

    def check(self, runner: Runner, pictures: Pictures) -> None:
        """Run the pictures and judge them. Raises GoldenMismatchError, GoldenError, RunError, ImageError."""
        artifact = runner.artifact
        target = self.target or artifact.target
        path = goldens.golden_path(self.root, artifact.model, target, artifact.quant)
        if not self.updating and not path.exists() and (said := _not_a_device(artifact)):
            raise artifact.located(RunError(f"{path} is missing: make it on a device; here are {said}"))
        golden = None if self.updating else goldens.read_golden(path)
        observed = goldens.observe(self.card, runner, pictures)
        # The few pictures of a slow target are no accuracy.
        found = targets.get(artifact.target)
        top1 = None if found.emulated or found.slow_start else goldens.fixture_top1(self.card, observed)
        kept = goldens.evidence(self.card, artifact, observed)
        self.record(top1=top1, **described(runner), **modelled(runner, 1), **kept)
        if golden is None:
            self._update(path, runner, observed)
            return
        comparison = goldens.compare(
            golden, observed, goldens.output_labels(self.card), path, _notes(golden, runner)
        )
        self.record(golden=comparison.verdict, note=drift_text(comparison))
        if comparison.verdict == "fail":
            divergence = self._divergence(comparison, runner, pictures)
            text = mismatch_text(comparison, _relative(path), first_divergence=divergence, repeat=self.repeat)
            raise goldens.GoldenMismatchError(text)
        self._check_cycles(golden, runner, path)

    def _check_cycles(self, golden: goldens.Golden, runner: Runner, path: Path) -> None:
        """Modelled cycles have no noise: one cycle more or less is a change."""
        now = runner.artifact.meta.get("modelled_cycles", {})
        if now == golden.modelled_cycles:
            return
        then = golden.modelled_cycles
        lines = [
            f"  batch {batch}, {figure}: golden {then.get(batch, {}).get(figure)}, now {cycles}"
            for batch, figures in now.items()
            for figure, cycles in figures.items()
            if then.get(batch, {}).get(figure) != cycles
        ]
        self.record(golden="fail")
        text = f"modelled cycles differ from {_relative(path)}:"
        raise goldens.GoldenMismatchError("\n".join([text, *lines, f"repeat with: {self.repeat}"]))

    def _update(self, path: Path, runner: Runner, observed: list[goldens.Observed]) -> None:
        artifact = runner.artifact
        if said := _not_a_device(artifact):
            raise artifact.located(RunError(f"no golden is made with {said}"))
        try:
            fresh = goldens.make_golden(self.card, artifact, observed, decoder_version(), library_versions())
            fresh = replace(fresh, target=self.target or artifact.target)
        except ValueError as error:
            raise RunError(f"no golden can be made: {error}").located(
                artifact.model, artifact.target, artifact.quant
            ) from None
        done = goldens.update(path, fresh, observed)
        self.record(golden="updated" if done.written else "exact", note=done.text if done.written else "")

    def _divergence(self, comparison: goldens.Comparison, runner: Runner, pictures: Pictures) -> str:
        """Where the layers part, on the first picture that fails, or what stopped the diagnosis."""
        from topfive.diagnose import first_divergence

        failed = comparison.of("fail")[0].file
        number = next(n for n, shown in enumerate(pictures.shown) if shown.file == failed)
        try:
            batch = pictures.tensor(number)
            return first_divergence(runner.artifact, batch, card=self.card, cache=self.cache)
        except Exception as error:  # the mismatch must be told whatever happens here
            return f"no diagnosis of the layers: {type(error).__name__}: {error}"


def _not_a_device(artifact: Artifact) -> str:
    """What stands in for a device here, where the target is one's: "" on the device, and for a twin."""
    target = targets.get(artifact.target)
    # What is installed now, and what the artifact's own options chose.
    said = (target.simulation(), str(artifact.meta.get("simulated", target.simulated)))
    return next((words for words in said if words != target.simulated), "")


def described(runner: Runner) -> dict[str, Any]:
    """What the table says of a runner."""
    return {
        "artifact": runner.artifact.key,
        "threads": runner.threads,
        "kernels": str(runner.describe().get("kernels", "")),
        "simulated": str(runner.artifact.meta.get("simulated", "")),
        "instructions": runner.artifact.meta.get("gemmini_instructions"),
        "built": built_from(runner.artifact),
    }


def modelled(runner: Runner, batch: int) -> dict[str, Any]:
    """Modelled cycles of a batch, "bus" and "estimate", for the table; {} where there are none."""
    figures = runner.artifact.meta.get("modelled_cycles", {}).get(str(batch))
    return {"modelled_bus": figures["bus"], "modelled_estimate": figures["estimate"]} if figures else {}


def _notes(golden: goldens.Golden, runner: Runner) -> tuple[str, ...]:
    """What changed since the golden was made, besides the numbers."""
    source = str(runner.artifact.meta.get("source_sha256", ""))
    notes = []
    if source != golden.source_sha256:
        notes.append(
            f"the model file is another one: sha256 {source[:12]}, golden {golden.source_sha256[:12]}"
        )
    if runner.artifact.meta.get("profile") != golden.profile:
        notes.append(f"the profile is {runner.artifact.meta.get('profile')}, golden {golden.profile}")
    changed = {
        name: (golden.versions[name], version)
        for name, version in library_versions().items()
        if golden.versions.get(name, version) != version
    }
    notes += [f"{name} is {now}, golden {then}" for name, (then, now) in changed.items()]
    if golden.decoder != decoder_version():
        notes.append(f"the decoder is {decoder_version()}, golden {golden.decoder}")
    return tuple(notes)


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
