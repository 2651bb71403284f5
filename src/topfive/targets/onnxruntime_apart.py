"""One of ONNX Runtime's providers, which may hang or die in its driver, run with a time limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from topfive.errors import RunError
from topfive.sessions import default_threads, log_level, session_options
from topfive.targets.base import Array, Artifact, Runner, read_artifact
from topfive.targets.device_session import DeviceSession, open_session
from topfive.targets.onnxruntime_profile import OnnxRuntimeProfiler
from topfive.targets.onnxruntime_runner import OnnxRuntimeRunner
from topfive.targets.profiling import NodeTime, Profile, Profiler, RunTime, Span

__all__ = [
    "OPENER",
    "ProviderProfiler",
    "ProviderRunner",
    "ProviderSession",
    "open_provider",
    "profile_from_json",
]

OPENER = "topfive.targets.onnxruntime_apart:ProviderSession"
LIBRARY = "ONNX Runtime"


def open_provider(
    model: Path | onnx.ModelProto,
    threads: int,
    *,
    profile: Path | None = None,
    provider: str,
    options: Mapping[str, str],
) -> ort.InferenceSession:
    """A session of a provider and, for nodes that it cannot run, the CPU; RunError where it did not start."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(
        source,
        session_options(threads=threads, fuse_qdq=True, profile=profile),
        providers=[(provider, dict(options)), "CPUExecutionProvider"],
    )
    if session.get_providers()[0] != provider:
        raise RunError(f"{LIBRARY} did not start {provider}: is there a GPU, are its libraries?")
    return session


class ProviderSession(DeviceSession):
    """job: `artifact` (its folder), `provider`, `options` (the provider's), `threads`, `log_level`, and
    `profiled`: whether it notes when nodes run, which `measure` then gives.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        provider = job["provider"]
        opener = partial(open_provider, provider=provider, options=job["options"])
        artifact = read_artifact(Path(job["artifact"]))
        self._profiler: OnnxRuntimeProfiler | None = None
        with log_level(job["log_level"]):
            self._runner = OnnxRuntimeRunner(artifact, job["threads"], opener, provider)
            if job["profiled"]:
                self._profiler = self._runner.profiler()
        self._infer = self._runner.callable() if self._profiler is None else self._profiler.run

    def infer(self, batch: Array) -> Array:
        """One batch."""
        try:
            return self._infer(batch)
        except RunError:
            raise
        except Exception as error:
            raise RunError(f"{LIBRARY} failed", details=str(error)) from error

    def tensors(self, batch: Array) -> dict[str, Array]:
        """From a second session, which gives all of them."""
        try:
            return self._runner.tensors(batch)
        except RunError:
            raise
        except Exception as error:
            raise RunError(f"{LIBRARY} failed", details=str(error)) from error

    def measure(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """The profile of the batches so far, as `profile_from_json` reads it; the plan says nothing."""
        if self._profiler is None:
            return super().measure(plan)
        return asdict(self._profiler.finish())

    def close(self) -> None:
        """Drop the sessions."""
        if self._profiler is not None:
            self._profiler.close()
        self._runner.close()


def profile_from_json(found: Mapping[str, Any]) -> Profile:
    """A Profile whose fields went through JSON."""

    def spans(rows: list[dict[str, Any]]) -> tuple[Span, ...]:
        return tuple(Span(**row) for row in rows)

    runs = (
        RunTime(spans(run["around"]), tuple(NodeTime(**node) for node in run["nodes"]))
        for run in found["runs"]
    )
    return Profile(spans(found["session"]), tuple(runs))


class ProviderProfiler(Profiler):
    """A second session, which notes when each node runs."""

    def __init__(self, artifact: Artifact, session: DeviceSession) -> None:
        self._artifact, self._session = artifact, session

    def run(self, batch: Array) -> Array:
        """Run one batch as `Runner.run` does, its nodes noted."""
        try:
            return self._session.infer(batch)
        except RunError as error:
            raise self._artifact.located(error) from None

    def finish(self) -> Profile:
        """See Profiler.finish. Raises RunError when ONNX Runtime wrote no readable profile."""
        try:
            return profile_from_json(self._session.measure({}))
        except RunError as error:
            raise self._artifact.located(error) from None
        finally:
            self.close()

    def close(self) -> None:
        """End the session."""
        self._session.close()


class ProviderRunner(Runner):
    """An artifact in a session of a provider, open until `close`.

    options: the provider's. process, seconds: see `open_session`. device: its number, for `describe`.
    """

    def __init__(
        self,
        artifact: Artifact,
        threads: int | None,
        *,
        provider: str,
        options: Mapping[str, str],
        process: str,
        seconds: float,
    ) -> None:
        super().__init__(artifact, threads or default_threads())
        self._provider, self._options = provider, dict(options)
        self._process, self._seconds = process, seconds
        self._session = self._opened(profiled=False)

    def _opened(self, *, profiled: bool) -> DeviceSession:
        job = {
            "artifact": str(self.artifact.path),
            "provider": self._provider,
            "options": self._options,
            "threads": self.threads,
            "log_level": session_options().log_severity_level,
            "profiled": profiled,
        }
        library = f"{LIBRARY}'s {self._provider}"
        try:
            return open_session(OPENER, job, library=library, process=self._process, seconds=self._seconds)
        except RunError as error:
            raise self.artifact.located(error) from None

    def callable(self) -> Callable[[Array], Array]:
        """A function of one batch: to the session's process and back."""
        return self._session.infer

    def run(self, batch: Array) -> Array:
        """Run one batch; see Runner.run."""
        self._check(batch)
        try:
            return self.callable()(batch)
        except RunError as error:
            raise self.artifact.located(error) from None

    def tensors(self, batch: Array) -> dict[str, Array]:
        """Every tensor between nodes, by name in running order. Raises RunError."""
        self._check(batch)
        try:
            return self._session.tensors(batch)
        except RunError as error:
            raise self.artifact.located(error) from None

    def profiler(self) -> ProviderProfiler:
        """A second session that notes when each node runs. Raises RunError."""
        return ProviderProfiler(self.artifact, self._opened(profiled=True))

    def describe(self) -> dict[str, Any]:
        """Threads, provider, device, version."""
        return {
            "threads": self.threads,
            "kernels": self._provider,
            "device": int(self._options["device_id"]),
            "onnxruntime": ort.__version__,
        }

    def close(self) -> None:
        """End the session."""
        self._session.close()
