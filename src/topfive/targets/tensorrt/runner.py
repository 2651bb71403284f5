"""Running an engine: through TensorRT's Python API with cuda-python, or through trtexec."""

from __future__ import annotations

import shutil
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from topfive.cache import file_sha256
from topfive.errors import RunError
from topfive.targets.base import Array, Artifact, DeviceFigures, Runner
from topfive.targets.tensorrt import library
from topfive.targets.tensorrt.building import load_plugins, logger
from topfive.targets.tensorrt.cuda import Cuda, Pair
from topfive.targets.tensorrt.target import ENGINE, environment
from topfive.targets.tensorrt.trtexec import infer_command, measure_command, parse_output, parse_summary
from topfive.targets.tools import run_tool

__all__ = ["ApiRunner", "EngineRunner", "TrtexecRunner"]

PERCENTS = (50, 90, 95, 99)
LIBRARY = "cuda-python (cuda.bindings.runtime)"


class EngineRunner(Runner):
    """What both ways share: an engine runs only where it was built, and only batches of its profile."""

    def __init__(self, artifact: Artifact, setting: Mapping[str, str]) -> None:
        super().__init__(artifact, 1)
        self._setting = setting
        self._built: Mapping[str, Any] = artifact.meta["tensorrt"]
        self._number = int(setting["device"])
        self._check_place()
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
    """Engine, context and pinned buffers, open until `close`."""

    def __init__(self, artifact: Artifact, setting: Mapping[str, str]) -> None:
        super().__init__(artifact, setting)
        trt = library.tensorrt()
        self._log = logger(trt)
        load_plugins(trt, self._log, self._plugins, RunError)
        self._cuda = Cuda(self._number)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine((artifact.path / ENGINE).read_bytes())
        if self._engine is None:
            raise RunError("TensorRT cannot read the engine", details="\n".join(self._log.messages))
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RunError("TensorRT makes no execution context", details="\n".join(self._log.messages))
        self._names(trt)
        self._pairs: dict[str, Pair] = {}
        self._now: tuple[int, ...] = ()
        self._output_shape: tuple[int, ...] = ()

    def _names(self, trt: Any) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if n not in inputs]
        if inputs != [self.artifact.meta["input"]["name"]] or len(outputs) != 1:
            raise RunError(f"the engine has inputs {inputs} and outputs {outputs}, not the model's")
        self._input, self._output = inputs[0], outputs[0]
        self._output_type = np.dtype(trt.nptype(engine.get_tensor_dtype(self._output)))

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Make context and buffers fit a shape of the input."""
        if shape == self._now:
            return
        if not self._context.set_input_shape(self._input, shape):
            raise RunError(f"TensorRT refuses the input shape {list(shape)}", details=self._said())
        self._output_shape = tuple(int(size) for size in self._context.get_tensor_shape(self._output))
        sizes = {
            self._input: 4 * int(np.prod(shape)),
            self._output: self._output_type.itemsize * int(np.prod(self._output_shape)),
        }
        for name, size in sizes.items():
            if name not in self._pairs or self._pairs[name].size < size:
                if name in self._pairs:
                    self._pairs.pop(name).free()
                self._pairs[name] = Pair(self._cuda, size)
            if not self._context.set_tensor_address(name, self._pairs[name].device):
                raise RunError(f"TensorRT refuses the buffer of {name!r}", details=self._said())
        self._now = shape

    def _said(self) -> str:
        return "\n".join(self._log.messages)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(int(self._cuda.stream)):
            raise RunError("TensorRT cannot run the engine", details=self._said())

    def callable(self) -> Callable[[Array], Array]:
        """A function of one batch: into pinned memory, to the GPU, run, back."""

        def infer(batch: Array) -> Array:
            self._prepare(batch.shape)
            source, found = self._pairs[self._input], self._pairs[self._output]
            size = int(np.prod(self._output_shape)) * self._output_type.itemsize
            source.host[: batch.nbytes] = np.ascontiguousarray(batch).view(np.uint8).reshape(-1)
            source.send(batch.nbytes)
            self._execute()
            found.fetch(size)
            self._cuda.wait()
            values = found.host[:size].view(self._output_type)
            return np.array(values.reshape(self._output_shape))

        return infer

    def _measure(self) -> DeviceFigures:
        """Batches one after another, each between CUDA events, after a warm-up."""
        batch = self._measured_batch
        self._prepare(tuple(self._shape(batch)))
        self.callable()(np.zeros(self._shape(batch), np.float32))
        self._repeat(1, int(self._setting["warm_up"]) / 1e3)
        start = time.perf_counter()
        rows = self._repeat(int(self._setting["iterations"]), float(self._setting["time"]))
        wall = time.perf_counter() - start
        latency = rows.sum(axis=1)
        p50, p90, p95, p99 = (float(np.quantile(latency, percent / 100)) for percent in PERCENTS)
        means = dict(zip(("H2D", "compute", "D2H"), rows.mean(axis=0).tolist(), strict=True))
        return DeviceFigures(
            batch=batch,
            images_per_s=batch * len(rows) / wall,
            inferences=len(rows),
            mean=float(latency.mean()),
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            details={"timed by": f"CUDA events of {LIBRARY}", "mean seconds": means, "wall seconds": wall},
        )

    def _repeat(self, least: int, seconds: float) -> Any:
        """[batches, 3]: seconds of copy, compute, copy, of at least so many batches and so long."""
        source, found = self._pairs[self._input], self._pairs[self._output]
        size = int(np.prod(self._output_shape)) * self._output_type.itemsize
        events = [self._cuda.event() for _ in range(4)]
        rows: list[list[float]] = []
        end = time.perf_counter() + seconds
        while len(rows) < least or time.perf_counter() < end:
            self._cuda.record(events[0])
            source.send(4 * int(np.prod(self._now)))
            self._cuda.record(events[1])
            self._execute()
            self._cuda.record(events[2])
            found.fetch(size)
            self._cuda.record(events[3])
            self._cuda.wait()
            rows.append([self._cuda.milliseconds(a, b) / 1e3 for a, b in pairwise(events)])
        for event in events:
            self._cuda.call("cudaEventDestroy", event)
        return np.asarray(rows)

    def close(self) -> None:
        """Give buffers, context and stream back."""
        for pair in self._pairs.values():
            pair.free()
        self._pairs = {}
        self._now = ()
        self._cuda.call("cudaStreamDestroy", self._cuda.stream)


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
            output = self._started(
                command, folder, 0.0, lambda said: parse_output(folder / "output.json", len(batch))
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
            found = parse(f"{run.stdout}\n{run.stderr}")
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
