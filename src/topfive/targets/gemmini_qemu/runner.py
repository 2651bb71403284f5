"""Opening an artifact that is a program: batches in files to it, its tensors back."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.errors import RunError
from topfive.targets.base import Array, Artifact, Runner
from topfive.targets.gemmini_qemu import emulator
from topfive.targets.gemmini_qemu.toolchain import PROGRAM

__all__ = ["LAYOUT_FILE", "ProgramRunner", "QemuRunner"]

LAYOUT_FILE = "layout.json"
INPUT, OUTPUT = "input.bin", "output.bin"


class ProgramRunner(Runner):
    """A program started for every batch: a process a thread, each with its share of the pictures."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        super().__init__(artifact, threads)
        try:
            self._layout = json.loads((artifact.path / LAYOUT_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._located(
                RunError(f"{artifact.path} holds no readable {LAYOUT_FILE}", details=str(error))
            ) from None
        self._program = artifact.path / PROGRAM

    @abstractmethod
    def _execute(self, arguments: Sequence[str], images: int) -> None:
        """Run the program; RunError unless it finishes this many pictures."""

    def callable(self) -> Callable[[Array], Array]:
        """A function of one batch; starting the emulator is part of it."""
        name = self._layout["outputs"][0]["name"]

        def infer(batch: Array) -> Array:
            return self._fetch(batch, self._layout["outputs"], all_tensors=False)[name]

        return infer

    def exact_outputs(self, batch: Array) -> dict[str, NDArray[np.int8]]:
        """The int8 tensors that no inexact float operator comes before, last ones only."""
        every = self.tensors(batch)
        return {name: every[name] for name in self.artifact.meta.get("exact_tensors", ())}

    def tensors(self, batch: Array) -> dict[str, Array]:
        """Every tensor between nodes, by name in running order, in the model's own axes."""
        self._check(batch)
        return self._fetch(batch, [*self._layout["tensors"], *self._layout["outputs"]], all_tensors=True)

    def describe(self) -> dict[str, Any]:
        """Compiler, memory, products."""
        return {
            "threads": self.threads,
            "compiler": self.artifact.meta["compiler"],
            "activation_bytes": self._layout["arena_bytes"],
            "products_per_image": self._layout["products"],
        }

    def _located(self, error: RunError) -> RunError:
        error.located(self.artifact.model, self.artifact.target, self.artifact.quant)
        return error

    def _fetch(self, batch: Array, specs: Sequence[dict[str, Any]], *, all_tensors: bool) -> dict[str, Array]:
        """Run a batch in as many processes as there are threads and join their pictures."""
        images, rest = divmod(batch.shape[0], self._layout["input"]["shape"][0])
        if rest or not images:
            raise self._located(RunError(f"a batch of {batch.shape[0]} is no whole number of pictures"))
        shares = np.array_split(np.ascontiguousarray(batch), min(self.threads, images))
        if len(shares) == 1:
            return self._run_share(shares[0], specs, all_tensors)
        with ThreadPoolExecutor(len(shares)) as pool:
            parts = list(pool.map(lambda share: self._run_share(share, specs, all_tensors), shares))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run_share(
        self, share: Array, specs: Sequence[dict[str, Any]], all_tensors: bool
    ) -> dict[str, Array]:
        """One process. Its files are kept when it fails, and named."""
        folder = Path(tempfile.mkdtemp(prefix="topfive-program-"))
        images = share.shape[0] // self._layout["input"]["shape"][0]
        try:
            (folder / INPUT).write_bytes(share.tobytes())
            arguments = [str(folder / INPUT), str(folder / OUTPUT), *(["all"] if all_tensors else [])]
            self._execute(arguments, images)
            tensors = _read_tensors(folder / OUTPUT, specs, images)
        except RunError as error:
            kept = f"{error.details}\nprogram and its sources: {self.artifact.path}\ninput kept in {folder}"
            raise self._located(RunError(error.message, details=kept)) from None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        return tensors


class QemuRunner(ProgramRunner):
    """A program under QEMU's user emulation."""

    def _execute(self, arguments: Sequence[str], images: int) -> None:
        limit = emulator.time_limit(self._layout["products"], images)
        emulator.run_program(self._program, arguments, images, limit)

    def describe(self) -> dict[str, Any]:
        """Also the emulator, and the retired instructions a picture that were counted when built."""
        found = emulator.find_emulator()
        return super().describe() | {
            "kernels": "scalar C",
            "emulator": emulator.emulator_version(found) if found else "absent",
            "instructions_per_image": self.artifact.meta["instructions_per_image"],
        }


def _read_tensors(path: Path, specs: Sequence[dict[str, Any]], images: int) -> dict[str, Array]:
    """The tensors of every picture, in ONNX's axes; RunError when the file has another length."""
    sizes = [math.prod(s["shape"]) * np.dtype(s["dtype"]).itemsize for s in specs]
    content = np.fromfile(path, np.uint8)
    if content.size != images * sum(sizes):
        raise RunError(f"the program's output is truncated: {content.size} bytes, not {images * sum(sizes)}")
    pictures = content.reshape(images, sum(sizes))
    tensors: dict[str, Array] = {}
    start = 0
    for spec, size in zip(specs, sizes, strict=True):
        order, shape = spec["order"], spec["shape"]
        raw = np.ascontiguousarray(pictures[:, start : start + size]).view(spec["dtype"])
        stored = raw.reshape(images, *(shape[a] for a in order))
        value = stored.transpose(0, *(order.index(a) + 1 for a in range(len(shape))))
        tensors[spec["name"]] = np.ascontiguousarray(value).reshape(-1, *shape[1:])
        start += size
    return tensors
