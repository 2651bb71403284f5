"""LoadGen runs as tests: one for each scenario and mode of a case."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from topfive.cards import Card
from topfive.loadgen import Plan, Run, described, parse_command_key, run_scenario, unavailable_reason
from topfive.loadgen.samples import SampleSet, sample_set
from topfive.suite.measuring import device_lock
from topfive.suite.workshop import Workshop
from topfive.targets.base import Artifact, Target

__all__ = ["SAMPLES", "ScenarioCheck"]

SAMPLES = 100
"""Pictures of a card that LoadGen draws from; its accuracy runs answer each of them."""


class ScenarioCheck:
    """Runs a command key of a case: check("performance-offline") fails unless LoadGen says VALID.

    Each is run once, Server gently: the tests ask whether a scenario runs, on machines that do other work,
    too; `topfive scenario` asks how fast. An accuracy run must answer each picture as the artifact does by
    itself. Logs stay in `folder`.
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
        artifact = self._workshop.artifact(self._card.name, self._target.name, quant)
        self._record(simulated=str(artifact.meta.get("simulated", "")))
        with device_lock(self._workshop.cache, self._target):
            run = self._run(Plan(scenario, mode, gentle=True), artifact, samples)
        self._record(**_shown(run), answers=samples.answers(run.top5))
        if run.top5 is not None:
            self._compare(run, run.top5, quant, samples)
        elif not run.valid and run.performance is not None:
            lines = "\n".join((*run.performance.errors, *run.performance.advice))
            pytest.fail(f"{key} is INVALID (logs: {run.folder})\n{lines}", pytrace=False)

    def _run(self, plan: Plan, artifact: Artifact, samples: SampleSet) -> Run:
        folder = self._folder / f"{plan.mode}-{plan.scenario}"
        shutil.rmtree(folder, ignore_errors=True)
        return run_scenario(
            plan,
            artifact,
            samples.crops,
            samples.labels,
            profile=self._card.input.profile,
            background=self._card.output.background,
            folder=folder,
            threads=self._workshop.threads,
        )

    def _compare(self, run: Run, top5: NDArray[np.int32], quant: str, samples: SampleSet) -> None:
        from topfive.images import load_profile, normalise

        profile = load_profile(self._card.input.profile)
        runner = self._workshop.runner(self._card.name, self._target.name, quant)
        background = int(self._card.output.background)
        for crop, answered, name in zip(samples.crops, top5[:, 0], samples.names, strict=True):
            own = int(runner.run(normalise(crop[None], profile)).reshape(-1).argmax()) - background
            if own != answered:
                pytest.fail(
                    f"{name}: LoadGen was answered class {answered}, the artifact by itself says {own} "
                    f"(logs: {run.folder})",
                    pytrace=False,
                )


def _shown(run: Run) -> dict[str, Any]:
    """LoadGen's figures by the names that are compared, seconds for the streams, and the run whole."""
    row = described(run, 1)
    if run.accuracy is not None:
        return {"top1": run.accuracy.fraction, "pictures": run.accuracy.total, "loadgen": row}
    name = run.plan.scenario.lower()
    return {f"loadgen_{name}": row["metric"], f"loadgen_{name}_queries": row["queries"], "loadgen": row}
