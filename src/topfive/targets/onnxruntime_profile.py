"""ONNX Runtime's own profile of a compiled model, each kernel assigned to the node that it computes.

Source of the file's form: ONNX Runtime's profiler (trace events of category "Session" and "Node", times in
whole microseconds since the session began). Its optimiser renames, fuses and adds nodes, so the model is
opened as a copy whose nodes are numbered by name.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import onnx
import onnxruntime as ort

from topfive.errors import RunError
from topfive.targets.base import Array, Artifact, Runner
from topfive.targets.profiling import NodeTime, Profile, Profiler, RunTime, Span

__all__ = ["OnnxRuntimeProfiler", "Opener", "numbered", "parse_profile"]

PREFIX = "topfive_node_"
_NUMBER = re.compile(PREFIX + r"(\d+)")
_TOKEN = re.compile(r"_token_\d+$")
KERNEL, BLOCKED = "_kernel_time", "_nchwc"
RUN, EXECUTE = "model_run", "SequentialExecutor::Execute"
OPENING = ("model_loading_array", "model_loading_uri", "model_loading_proto", "session_initialization")
SIZES = ("activation_size", "parameter_size", "output_size")
SHAPES = ("input_type_shape", "output_type_shape")


def numbered(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose node i is named topfive_node_i."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for index, node in enumerate(copy.graph.node):
        node.name = f"{PREFIX}{index}"
    return copy


class Opener(Protocol):
    """Opens a file or a model: the functions of `cpu_sessions`."""

    def __call__(
        self, model: Path | onnx.ModelProto, threads: int, *, profile: Path | None = None
    ) -> ort.InferenceSession:
        """A session of so many threads; profile: see `topfive.sessions.session_options`."""


class OnnxRuntimeProfiler(Profiler):
    """A second session of an artifact, with ONNX Runtime's profiling on.

    open_runner: makes a runner whose sessions are opened by the function that it is given. The first batch
    runs once more before, unnoted: the first run of a session also allocates its memory.
    """

    def __init__(
        self,
        artifact: Artifact,
        open_session: Opener,
        open_runner: Callable[[Opener], Runner],
    ) -> None:
        self._artifact = artifact
        self._folder = Path(tempfile.mkdtemp(prefix="topfive-profile-"))
        self._outputs: dict[str, int] = {}
        self._warm = False

        def opener(
            model: Path | onnx.ModelProto, threads: int, *, profile: Path | None = None
        ) -> ort.InferenceSession:
            loaded = onnx.load(model) if isinstance(model, Path) else model
            self._outputs = {name: i for i, node in enumerate(loaded.graph.node) for name in node.output}
            noted = profile or self._folder / "profile"
            self._session = open_session(numbered(loaded), threads, profile=noted)
            return self._session

        try:
            self._runner = open_runner(opener)
        except BaseException:
            self.close()
            raise

    def run(self, batch: Array) -> Array:
        """Run one batch as `Runner.run` does, its nodes noted."""
        if not self._warm:
            self._runner.run(batch)
            self._warm = True
        return self._runner.run(batch)

    def finish(self) -> Profile:
        """The profile without the first run. Raises RunError when ONNX Runtime wrote no readable profile."""
        try:
            text = Path(self._session.end_profiling()).read_text(encoding="utf-8")
            profile = parse_profile(json.loads(text), self._outputs)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._artifact.located(
                RunError("ONNX Runtime wrote no readable profile", details=f"{type(error).__name__}: {error}")
            ) from error
        finally:
            self.close()
        return Profile(profile.session, profile.runs[1:])

    def close(self) -> None:
        """Remove the profile's folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


def parse_profile(events: Iterable[Mapping[str, Any]], outputs: Mapping[str, int]) -> Profile:
    """The runs in a profile that ONNX Runtime wrote of a numbered model.

    outputs: the place of the node that makes each tensor. Runs are told apart by their "model_run" spans; a
    span is lengthened by the microsecond that rounding may cost it, so that what is in it stays in it.
    """
    session: list[Span] = []
    nodes: list[NodeTime] = []
    around: list[Span] = []
    runs: list[RunTime] = []
    for event in events:
        name, start, duration = event["name"], int(event["ts"]), int(event["dur"])
        if event["cat"] == "Node" and name.endswith(KERNEL):
            nodes.append(_kernel(event, outputs))
        elif name in (RUN, EXECUTE):
            around.append(Span(name, start, duration))
            if name == RUN:
                runs.append(_run(around, nodes))
                around, nodes = [], []
        elif name in OPENING:
            session.append(Span(name, start, duration))
    return Profile(tuple(session), tuple(runs))


def _run(around: Iterable[Span], nodes: Iterable[NodeTime]) -> RunTime:
    found = tuple(sorted(nodes, key=lambda node: node.start))
    first = min((node.start for node in found), default=None)
    last = max((node.end for node in found), default=None)
    spans: list[Span] = []
    # ONNX Runtime writes inner spans first: what is around them must hold them.
    for span in around:
        start = span.start if first is None else min(span.start, first)
        end = span.end if last is None else max(span.end, last)
        first, last = start, end
        spans.insert(0, Span(span.name, start, end - start))
    return RunTime(tuple(spans), found)


def _kernel(event: Mapping[str, Any], outputs: Mapping[str, int]) -> NodeTime:
    args = event["args"]
    name = event["name"].removesuffix(KERNEL)
    number = _NUMBER.search(name)
    # The blocked form of a convolution or pool is named by the tensor that it makes.
    node = int(number[1]) if number else outputs.get(_TOKEN.sub("", name).removesuffix(BLOCKED))
    facts: dict[str, Any] = {key: int(args[key]) for key in SIZES if key in args}
    facts |= {key: args[key] for key in SHAPES if key in args}
    return NodeTime(name, int(event["ts"]), int(event["dur"]), args["op_name"], node, facts)
