"""Running an engine: through TensorRT's Python API with cuda-python, or through trtexec."""

from __future__ import annotations

import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topfive.cache import file_sha256
from topfive.errors import RunError
from topfive.targets.base import Array, Artifact, DeviceFigures, Runner
from topfive.targets.device_session import open_session
from topfive.targets.tensorrt import library
from topfive.targets.tensorrt.session import OPENER
from topfive.targets.tensorrt.target import ENGINE, environment
from topfive.targets.tensorrt.trtexec import (
    check_device,
    infer_command,
    measure_command,
    parse_output,
    parse_summary,
)
from topfive.targets.tools import check_compiled, run_tool

__all__ = ["ApiRunner", "EngineRunner", "TrtexecRunner"]

LIBRARY = "cuda-python (cuda.bindings.runtime)"


class EngineRunner(Runner):
    """What both ways share: an engine runs only where it was built, and only batches of its profile."""

    def __init__(self, artifact: Artifact, setting: Mapping[str, str]) -> None:
        super().__init__(artifact, 1)
        self._setting = setting
        self._built: Mapping[str, Any] = artifact.meta["tensorrt"]
        self._number = int(setting["device"])
        self._check_place()
        check_compiled(artifact.path / ENGINE, self._built["sha256"])
        self._plugins = [str(self._library(entry)) for entry in self._built["plugins"]]

    def _check_place(self) -> None:
        here = environment(self._setting["way"], self._number)
        other = {key: value for key, value in here.items() if self._built[key] != value}
        if other:
            built = ", ".join(f"{key} {self._built[key]}" for key in other)
            found = ", ".join(f"{key} {value}" for key, value in other.items())
            raise RunError(f"the engine was built for {built}; here is {found}: build it again here")

    def _library(self, entry: Mapping[str, str]) -> Path:
        path = self.artifact.path / entry["file"]
        if not path.is_file() or file_sha256(path) != entry["sha256"]:
            raise RunError(f"{path} is not the library of plugins that the engine was built with")
        return path

    def _shape(self, batch: int) -> list[int]:
        return [batch, *self.artifact.meta["input"]["shape"][1:]]

    @property
    def _measured_batch(self) -> int:
        first = self.artifact.meta["input"]["shape"][0]
        return first if isinstance(first, int) else int(self._setting["batch_size"])

    def run(self, batch: Array) -> Array:
        """Run one batch; see Runner.run. Raises RunError also for a batch outside the engine's profile."""
        self._check(batch)
        profile = self._built["profile"]
        if profile is not None and not profile[0][0] <= len(batch) <= profile[2][0]:
            text = f"batch size {len(batch)} is outside the engine's {profile[0][0]} to {profile[2][0]}"
            raise self.artifact.located(RunError(f"{text}: build with --option max_batch={len(batch)}"))
        try:
            output = self.callable()(batch)
        except RunError as error:
            raise self.artifact.located(error) from None
        if output.shape[:1] != batch.shape[:1] or not np.isfinite(output).all():
            what = f"{list(output.shape)} for a batch of {len(batch)}, or NaN or infinity"
            raise self.artifact.located(RunError(f"TensorRT gave an output that cannot be: {what}"))
        return output

    def device_figures(self) -> DeviceFigures:
        """Measure alone on the GPU: see Runner.device_figures. Latency: copy, compute, copy of one batch."""
        try:
            return self._measure()
        except RunError as error:
            raise self.artifact.located(error) from None

    @abstractmethod
    def _measure(self) -> DeviceFigures:
        """The figures of the measured batch size."""

    def describe(self) -> dict[str, Any]:
        """Way, library, GPU, driver."""
        bound = {key: self._built[key] for key in ("tensorrt", "name", "driver", "capability")}
        return {"threads": self.threads, "kernels": "TensorRT", "way": self._setting["way"], **bound}


class ApiRunner(EngineRunner):
    """A session of TensorRT's runtime, open until `close`."""

    def __init__(self, artifact: Artifact, setting: Mapping[str, str]) -> None:
        super().__init__(artifact, setting)
        job = {
            "engine": str(artifact.path / ENGINE),
            "plugins": self._plugins,
            "device": self._number,
            "gpu": {key: self._built[key] for key in ("name", "capability")},
            "input": artifact.meta["input"]["name"],
        }
        limit = float(setting["run_limit"])
        self._session = open_session(
            OPENER, job, library="TensorRT", process=setting["process"], seconds=limit
        )

    def callable(self) -> Callable[[Array], Array]:
        """A function of one batch: to the session's process, to the GPU, run, back."""
        return self._session.infer

    def _measure(self) -> DeviceFigures:
        """By the session, with CUDA events."""
        batch = self._measured_batch
        warm_up, seconds = int(self._setting["warm_up"]) / 1e3, float(self._setting["time"])
        plan = {
            "shape": self._shape(batch),
            "iterations": int(self._setting["iterations"]),
            "warm_up": warm_up,
            "time": seconds,
            "seconds": warm_up + seconds,
        }
        found = self._session.measure(plan)
        p50, p90, p95, p99 = found["percentiles"]
        means = dict(zip(("H2D", "compute", "D2H"), found["parts"], strict=True))
        return DeviceFigures(
            batch=batch,
            images_per_s=batch * found["inferences"] / found["wall"],
            inferences=found["inferences"],
            mean=found["mean"],
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            details={
                "timed by": f"CUDA events of {LIBRARY}",
                "mean seconds": means,
                "wall seconds": found["wall"],
            },
        )

    def close(self) -> None:
        """Give buffers, context and stream back."""
        self._session.close()


class TrtexecRunner(EngineRunner):
    """A process a batch; outputs have about six digits, as --exportOutput writes them."""

    def __init__(self, artifact: Artifact, setting: Mapping[str, str]) -> None:
        super().__init__(artifact, setting)
        self._tool = library.find_trtexec() or library.TRTEXEC
        self._engine = str(artifact.path / ENGINE)
        self._name = artifact.meta["input"]["name"]

    def callable(self) -> Callable[[Array], Array]:
        """A function of one batch; starting trtexec is part of it."""

        def infer(batch: Array) -> Array:
            folder = self._folder("infer")
            (folder / "input.bin").write_bytes(np.ascontiguousarray(batch, "<f4").tobytes())
            command = infer_command(
                self._tool,
                self._engine,
                name=self._name,
                shape=batch.shape,
                device=self._number,
                plugins=self._plugins,
            )
            indices = self.artifact.meta["output"]["kind"] == "classes"
            output = self._started(
                command,
                folder,
                0.0,
                lambda said: parse_output(folder / "output.json", len(batch), indices=indices),
            )
            return np.asarray(output)

        return infer

    def _folder(self, name: str) -> Path:
        place = self._setting["work"]
        if place:
            Path(place).expanduser().mkdir(parents=True, exist_ok=True)
        parent = Path(place).expanduser() if place else None
        return Path(tempfile.mkdtemp(prefix=f"trtexec-{name}-", dir=parent))

    def _started(
        self, command: Sequence[str], folder: Path, seconds: float, parse: Callable[[str], Any]
    ) -> Any:
        """What `parse` makes of the output of a run. Its folder stays when it fails, or if `work` says so."""
        limit = seconds + float(self._setting["run_limit"])
        run = run_tool(command, folder=folder, logs=folder, name="trtexec", seconds=limit, error=RunError)
        try:
            said = f"{run.stdout}\n{run.stderr}"
            check_device(said, self._built["name"])
            found = parse(said)
        except RunError as error:
            raise RunError(error.message, details=f"{error.details}\n{run.shown()}".strip()) from None
        if not self._setting["work"]:
            shutil.rmtree(folder, ignore_errors=True)
        return found

    def _measure(self) -> DeviceFigures:
        """By trtexec itself. Throughput is batches a second times their size."""
        batch, seconds = self._measured_batch, int(self._setting["time"])
        command = measure_command(
            self._tool,
            self._engine,
            name=self._name,
            shape=self._shape(batch),
            device=self._number,
            plugins=self._plugins,
            iterations=int(self._setting["iterations"]),
            seconds=seconds,
            warm_up=int(self._setting["warm_up"]),
        )
        summary = self._started(command, self._folder("measure"), seconds, parse_summary)
        spread = summary.spreads["Latency"]
        return DeviceFigures(
            batch=batch,
            images_per_s=summary.queries_per_s * batch,
            inferences=summary.queries,
            mean=spread.mean / 1e3,
            p50=spread.median / 1e3,
            p90=spread.p90 / 1e3,
            p95=spread.p95 / 1e3,
            p99=spread.p99 / 1e3,
            warnings=summary.warnings,
            details={"command": " ".join(command), **summary.as_json()},
        )
