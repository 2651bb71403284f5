"""LoadGen runs as tests: one for each scenario and mode of a case."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from topfive.cards import Card
from topfive.loadgen import Plan, Run, described, parse_command_key, run_scenario, unavailable_reason
from topfive.loadgen.samples import SampleSet, sample_set
from topfive.loadgen.search import until_valid
from topfive.suite.measuring import device_lock
from topfive.suite.workshop import Workshop
from topfive.targets.base import Target

__all__ = ["SAMPLES", "ScenarioCheck"]

SAMPLES = 100
"""Pictures of a card that LoadGen draws from; its accuracy runs answer each of them."""


class ScenarioCheck:
    """Runs a command key of a case: check("performance-offline") fails unless LoadGen says VALID.

    An accuracy run must answer exactly what the artifact answers by itself. Logs stay in `folder`.
    """

    def __init__(
        self, card: Card, target: Target, workshop: Workshop, folder: Path, record: Callable[..., None]
    ) -> None:
        self._card, self._target, self._workshop = card, target, workshop
        self._folder, self._record = folder, record

    def check(self, key: str, quant: str) -> None:
        """Run it; pytest fails with LoadGen's advice if the run is INVALID."""
        if reason := unavailable_reason():
            pytest.skip(reason)
        scenario, mode = parse_command_key(key)
        samples = sample_set(
            self._card, count=min(SAMPLES, self._card.pictures.count), threads=self._workshop.threads
        )
        with device_lock(self._workshop.cache, self._target):
            run, tries = until_valid(
                Plan(scenario, mode), lambda plan, number: self._run(plan, number, quant, samples)
            )
        simulated = self._target.simulation()
        self._record(**_shown(run, tries), simulated=simulated, answers=samples.answers(run.top5))
        if run.accuracy is not None:
            self._compare(run, quant, samples)
        elif not run.valid and run.performance is not None:
            lines = "\n".join((*run.performance.errors, *run.performance.advice))
            pytest.fail(f"{key} is INVALID after {tries} tries (logs: {run.folder})\n{lines}", pytrace=False)

    def _run(self, plan: Plan, number: int, quant: str, samples: SampleSet) -> Run:
        folder = self._folder / f"{plan.mode}-{plan.scenario}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        return run_scenario(
            replace(plan),
            self._workshop.artifact(self._card.name, self._target.name, quant),
            samples.crops,
            samples.labels,
            profile=self._card.input.profile,
            background=self._card.output.background,
            folder=folder,
            threads=self._workshop.threads,
        )

    def _compare(self, run: Run, quant: str, samples: SampleSet) -> None:
        from topfive.images import load_profile, normalise

        profile = load_profile(self._card.input.profile)
        runner = self._workshop.runner(self._card.name, self._target.name, quant)
        right = 0
        for crop, label in zip(samples.crops, samples.labels, strict=True):
            best = int(runner.run(normalise(crop[None], profile)).reshape(-1).argmax())
            right += best - int(self._card.output.background) == label
        if run.accuracy is not None and run.accuracy.right != right:
            pytest.fail(
                f"LoadGen's answers are right for {run.accuracy.right} of {run.accuracy.total} pictures, the "
                f"artifact's own for {right} (logs: {run.folder})",
                pytrace=False,
            )


def _shown(run: Run, tries: int) -> dict[str, Any]:
    """LoadGen's figures by the names that are compared, seconds for the streams, and the run whole."""
    row = described(run, tries)
    if run.accuracy is not None:
        return {"top1": run.accuracy.fraction, "pictures": run.accuracy.total, "loadgen": row}
    name = run.plan.scenario.lower()
    return {f"loadgen_{name}": row["metric"], f"loadgen_{name}_queries": row["queries"], "loadgen": row}
