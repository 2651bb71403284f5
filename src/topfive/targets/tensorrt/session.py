"""An engine in TensorRT's runtime, with pinned buffers and one stream of cuda-python."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from topfive.errors import RunError
from topfive.targets.base import Array
from topfive.targets.device_session import DeviceSession
from topfive.targets.tensorrt import library
from topfive.targets.tensorrt.building import load_plugins, logger
from topfive.targets.tensorrt.cuda import Cuda, Pair

__all__ = ["OPENER", "PERCENTS", "ApiSession"]

OPENER = "topfive.targets.tensorrt.session:ApiSession"
PERCENTS = (50, 90, 95, 99)


class ApiSession(DeviceSession):
    """job: `engine` (the plan's file), `plugins` (paths), `device` (its number), `gpu` (see Cuda), `input`
    (its name).
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        trt = library.tensorrt()
        self._log = logger(trt)
        load_plugins(trt, self._log, job["plugins"], RunError)
        self._cuda = Cuda(job["device"], job["gpu"])
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(Path(job["engine"]).read_bytes())
        if self._engine is None:
            raise RunError("TensorRT cannot read the engine", details="\n".join(self._log.messages))
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RunError("TensorRT makes no execution context", details="\n".join(self._log.messages))
        self._names(trt, job["input"])
        self._pairs: dict[str, Pair] = {}
        self._now: tuple[int, ...] = ()
        self._output_shape: tuple[int, ...] = ()

    def _names(self, trt: Any, name: str) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if n not in inputs]
        if inputs != [name] or len(outputs) != 1:
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

    def infer(self, batch: Array) -> Array:
        """One batch: into pinned memory, to the GPU, run, back."""
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

    def measure(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Batches one after another, each between CUDA events, after a warm-up.

        plan: `shape` of the input, `warm_up` and `time` (least seconds of each), `iterations` (least).
        Returns `inferences`, `wall` (seconds of all), `parts` (mean seconds of copy in, compute, copy out)
        and, in seconds, `mean` and `percentiles` (those of PERCENTS) of their sum.
        """
        self.infer(np.zeros(plan["shape"], np.float32))
        self._repeat(1, plan["warm_up"])
        start = time.perf_counter()
        rows = self._repeat(plan["iterations"], plan["time"])
        wall = time.perf_counter() - start
        latency = rows.sum(axis=1)
        return {
            "inferences": len(rows),
            "wall": wall,
            "parts": rows.mean(axis=0).tolist(),
            "mean": float(latency.mean()),
            "percentiles": [float(np.quantile(latency, percent / 100)) for percent in PERCENTS],
        }

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
