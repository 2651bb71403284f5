"""The few calls of the CUDA runtime that running an engine needs, through cuda-python, each one checked."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.errors import RunError

__all__ = ["SAME_ORDER", "Cuda", "Pair"]

SAME_ORDER = "set CUDA_DEVICE_ORDER=PCI_BUS_ID, and unset CUDA_VISIBLE_DEVICES"
"""What makes CUDA count GPUs as nvidia-smi does."""


class Cuda:
    """The runtime on one device. Handles are integers or cuda-python's objects."""

    def __init__(self, device: int, gpu: Mapping[str, str]) -> None:
        """Make a device the current one.

        gpu: `name` and `capability` as nvidia-smi says. Raises RunError when CUDA means another GPU by the
        number: its order is by speed unless CUDA_DEVICE_ORDER says PCI_BUS_ID, and CUDA_VISIBLE_DEVICES hides
        some.
        """
        self._runtime: Any = importlib.import_module("cuda.bindings.runtime")
        self.call("cudaSetDevice", device)
        found = self.call("cudaGetDeviceProperties", device)
        name = found.name.decode(errors="replace") if isinstance(found.name, bytes) else str(found.name)
        here = (name.rstrip("\0").strip(), f"{found.major}.{found.minor}")
        if here != (gpu["name"], gpu["capability"]):
            text = f"nvidia-smi's is {gpu['name']} {gpu['capability']}: {SAME_ORDER}"
            raise RunError(f"CUDA's device {device} is {' '.join(here)}, {text}")
        self.stream = self.call("cudaStreamCreate")

    def call(self, name: str, *arguments: Any) -> Any:
        """What a function of the runtime returns besides its status; RunError naming it unless that is 0."""
        status, *found = getattr(self._runtime, name)(*arguments)
        if int(status) != 0:
            raise RunError(f"CUDA's {name} failed: {getattr(status, 'name', status)}")
        return found[0] if found else None

    def copy(self, to: int, source: int, size: int, *, to_device: bool) -> None:
        """Copy bytes between pinned host memory and the device, in the stream's order."""
        kinds = self._runtime.cudaMemcpyKind
        kind = kinds.cudaMemcpyHostToDevice if to_device else kinds.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", to, source, size, kind, self.stream)

    def wait(self) -> None:
        """Until everything in the stream is done."""
        self.call("cudaStreamSynchronize", self.stream)

    def event(self) -> Any:
        """A new event."""
        return self.call("cudaEventCreate")

    def record(self, event: Any) -> None:
        """Note when the stream comes to this point."""
        self.call("cudaEventRecord", event, self.stream)

    def milliseconds(self, start: Any, end: Any) -> float:
        """Between two events that have happened."""
        return float(self.call("cudaEventElapsedTime", start, end))


class Pair:
    """A buffer on the device and its pinned counterpart on the host, of the same size in bytes."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda = cuda
        self.size = size
        self.device = int(cuda.call("cudaMalloc", size))
        self._host = int(cuda.call("cudaMallocHost", size))
        self.host: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self._host))

    def send(self, size: int) -> None:
        """Copy the first bytes to the device."""
        self._cuda.copy(self.device, self._host, size, to_device=True)

    def fetch(self, size: int) -> None:
        """Copy the first bytes back."""
        self._cuda.copy(self._host, self.device, size, to_device=False)

    def free(self) -> None:
        """Give both back."""
        self._cuda.call("cudaFree", self.device)
        self._cuda.call("cudaFreeHost", self._host)
