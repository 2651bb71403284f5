"""Recording a trace while batches run, and putting its lanes together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import onnx

from topfive.errors import TraceError
from topfive.graph import Graph
from topfive.suite.environment import library_versions
from topfive.targets.base import Array, Artifact, Runner
from topfive.targets.gemmini.cycles import ModelCycles, model_cycles, model_layers
from topfive.targets.gemmini.execution import Plan, plan
from topfive.targets.gemmini.layers import inferrable
from topfive.targets.gemmini.target import INT8_FILE
from topfive.targets.onnxruntime_runner import MODEL_FILE
from topfive.targets.profiling import Profile
from topfive.trace.events import (
    HOST,
    MODELLED,
    Event,
    description,
    process_names,
    thread_names,
    write_trace,
)
from topfive.trace.host import LANE, host_events
from topfive.trace.modelled import THREADS, modelled_events, modelled_lane_name
from topfive.trace.origins import origins, shown_nodes
from topfive.trace.steps import StepTimes

__all__ = ["TRACED_BATCHES", "Runs", "recorded", "trace_events"]

TRACED_BATCHES = 10
"""Of a long list so many are traced: enough to see the spread, few enough to open in a viewer."""


class Runs(Protocol):
    """What runs batches: a runner, or a recorder in its place."""

    def run(self, batch: Array) -> Array:
        """Run one batch; see Runner.run."""


class _Recorder:
    """Runs the first batches through the runner's profiler, the others through the runner itself."""

    def __init__(self, runner: Runner, most: int) -> None:
        self.runner, self.most = runner, most
        self.profiler = runner.profiler()
        self.count = self.batch = 0

    def run(self, batch: Array) -> Array:
        if self.count == self.most:
            return self.runner.run(batch)
        self.count += 1
        self.batch = len(batch)
        return self.profiler.run(batch)


@contextmanager
def recorded(
    runner: Runner, out: Path | None, about: Mapping[str, Any], most: int = TRACED_BATCHES
) -> Iterator[Runs]:
    """What to run batches with, so that the first `most` of them are in the trace file `out` afterwards.

    out: None for no trace; then this is the runner itself, and nothing is noted. about: further JSON-able
    values for the trace's description. If the block fails no file is written. Raises TraceError, RunError.
    """
    if out is None:
        yield runner
        return
    recorder = _Recorder(runner, most)
    try:
        yield recorder
        profile = recorder.profiler.finish()
    finally:
        recorder.profiler.close()
    if len(profile.runs) < recorder.count:
        noted = f"{len(profile.runs)} of {recorder.count} runs"
        raise TraceError(f"{out}: no trace is written: the runtime noted {noted} only; trace fewer pictures")
    write_trace(trace_events(runner, profile, max(recorder.batch, 1), about), out)


def trace_events(runner: Runner, profile: Profile, batch: int, about: Mapping[str, Any]) -> list[Event]:
    """All events of a trace of batches of `batch` pictures: names, the host lane, the modelled lane."""
    artifact = runner.artifact
    planned, modelled = _gemmini(artifact, batch)
    named = {node.name: node for node in planned.nodes} if planned else {}
    facts: dict[str, Mapping[str, Any]] = {}
    host = _host(artifact, profile, batch, named, facts)
    events: list[Event] = []
    end = 0.0
    for number, run in enumerate(profile.runs, start=1):
        if modelled is not None:
            # Beside the run that it models, unless the lane is still busy with the one before.
            layers, end = modelled_events(modelled, facts, max(end, run.around[0].start), number)
            events += layers
    labels = f"{artifact.model}, {artifact.target}, {artifact.quant}"
    names = process_names(HOST, f"host time, measured: {artifact.target}", labels)
    names += thread_names(HOST, {LANE[1]: "run"})
    if modelled is not None:
        names += process_names(MODELLED, modelled_lane_name(modelled), labels) + thread_names(
            MODELLED, THREADS
        )
    said = _described(runner, planned, modelled, batch, len(profile.runs))
    return [description({**said, **about}), *names, *host, *events]


def _gemmini(artifact: Artifact, batch: int) -> tuple[Plan | None, ModelCycles | None]:
    """The execution plan and the modelled cycles, where the artifact holds an int8 graph of Gemmini's."""
    if not (artifact.path / INT8_FILE).is_file():
        return None, None
    int8 = onnx.load(artifact.path / INT8_FILE)
    stored = artifact.meta.get("execution_plan", {})
    planned = plan(int8, stored["execution"], stored["optimization"], batch) if stored else None
    if planned is None or not stored["chosen"]:
        return planned, model_cycles(model_layers(int8, batch), batch=batch)
    # What -x 0 emulates is modelled as weight stationary.
    dataflow = "os" if planned.dataflow == "os" else "ws"
    return planned, model_cycles(planned.layers(), dataflow=dataflow, batch=batch)


def _host(
    artifact: Artifact,
    profile: Profile,
    batch: int,
    named: Mapping[str, Any],
    facts: dict[str, Mapping[str, Any]],
) -> list[Event]:
    """The host lane; fills `facts` with sizes and shapes by label."""
    file = artifact.path / MODEL_FILE
    if not file.is_file():
        return host_events(profile, (), named, StepTimes(onnx.ModelProto(), {}))
    compiled = onnx.load(file)
    int8 = artifact.path / INT8_FILE
    shown = onnx.load(int8) if int8.is_file() else compiled
    nodes = shown_nodes(shown, batch)
    facts |= {node.label: node.facts for node in nodes}
    shapes = inferrable(Graph(shown), batch).shapes()
    sizes = {
        name: [size for size in shape if isinstance(size, int)]
        for name, shape in shapes.items()
        if all(isinstance(size, int) for size in shape)
    }
    steps = StepTimes(shown, sizes)
    return host_events(profile, origins(compiled, shown, nodes), named, steps)


def _described(
    runner: Runner, planned: Plan | None, modelled: ModelCycles | None, batch: int, runs: int
) -> dict[str, Any]:
    artifact = runner.artifact
    return {
        "model": artifact.model,
        "target": artifact.target,
        "quant": artifact.quant,
        "options": artifact.options,
        "artifact": artifact.key,
        "source_sha256": str(artifact.meta.get("source_sha256", "")),
        "simulated": str(artifact.meta.get("simulated", "")),
        "batch": batch,
        "runs": runs,
        "runner": runner.describe(),
        "versions": library_versions(),
        "execution": {"execution": planned.execution, "optimization": planned.optimization}
        if planned
        else {},
        "modelled": modelled.summary() if modelled else {},
    }
