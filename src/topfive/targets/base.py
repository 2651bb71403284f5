"""What a target is: the smallest interface through which the rest of topfive compiles and runs.

A target module never imports pytest, and nothing else changes when one is added: it is found through the
entry point group `topfive.targets`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from topfive.errors import RunError

if TYPE_CHECKING:
    import onnx

__all__ = ["QUANT_MODES", "Array", "Artifact", "Runner", "Target", "read_artifact"]

QUANT_MODES = ("force_float32", "force_float16", "int8", "as_is")
ARTIFACT_FILE = "artifact.json"
Array = NDArray[Any]


@dataclass(frozen=True)
class Artifact:
    """A compiled model: a directory with what the target needs to run it, and what it was made from."""

    path: Path
    key: str
    model: str
    target: str
    quant: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether some int8 tensors of this artifact are the same bits on every machine."""
        return bool(self.meta.get("exact_tensors"))


def read_artifact(path: Path) -> Artifact:
    """Read the artifact in a directory; RunError if it is not one."""
    try:
        stored = json.loads((path / ARTIFACT_FILE).read_text(encoding="utf-8"))
        return Artifact(
            path, stored["key"], stored["model"], stored["target"], stored["quant"], stored["meta"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is not a topfive artifact: build one with topfive.build", details=str(error)
        ) from None


class Runner(ABC):
    """An open artifact. Use as a context manager; one runner belongs to one thread at a time."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self.artifact = artifact
        self.threads = threads

    @abstractmethod
    def callable(self) -> Callable[[Array], Array]:
        """A function from one batch to the model's output, with as little around it as can be."""

    def run(self, batch: Array) -> Array:
        """Run one batch.

        batch: the model's input layout and dtype, first dimension the batch. Returns the model's output,
        [N, classes]. Raises RunError when the shape or dtype is not the model's.
        """
        self._check(batch)
        return self.callable()(batch)

    def exact_outputs(self, batch: Array) -> dict[str, NDArray[np.int8]]:
        """The int8 tensors, by name, that must be the same bits on every machine; {} for a float target."""
        return {}

    def run_exact(self, batch: Array) -> tuple[Array, dict[str, NDArray[np.int8]]]:
        """`run` and `exact_outputs` of one batch, in one run where a target can do that."""
        return self.run(batch), self.exact_outputs(batch)

    def tensors(self, batch: Array) -> dict[str, Array]:
        """Every tensor between the model's nodes, by name in running order; {} where a target cannot tell."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What runs: kernels, threads, versions."""
        return {"threads": self.threads}

    def close(self) -> None:
        """Give back what the runner holds."""

    def _check(self, batch: Array) -> None:
        wanted = self.artifact.meta["input"]
        shape, dtype = tuple(wanted["shape"]), wanted["dtype"]
        fits = batch.ndim == len(shape) and all(
            isinstance(w, str) or w == g for w, g in zip(shape, batch.shape, strict=False)
        )
        if not fits or str(batch.dtype) != dtype:
            raise RunError(
                f"input {wanted['name']!r} wants {dtype} {list(shape)}, got {batch.dtype} {list(batch.shape)}"
            ).located(self.artifact.model, self.artifact.target, self.artifact.quant)

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Target(ABC):
    """A place where artifacts run. The name is also its pytest marker."""

    name: ClassVar[str]
    quants: ClassVar[tuple[str, ...]]
    # Run instruction by instruction: by default only bundled models, few pictures and few rounds.
    emulated: ClassVar[bool] = False
    # Non-empty when what runs is not the device itself; printed in every table.
    simulated: ClassVar[str] = ""

    def probe(self) -> str:
        """Why this target cannot run here, or "" if it can. Never raises."""
        return ""

    def refuses(self, quant: str) -> str:
        """Why this target has no such quant mode, or ""."""
        return "" if quant in self.quants else f"{self.name} runs {', '.join(self.quants)}"

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Tool versions that decide what `compile` makes: part of the artifact's key."""

    @abstractmethod
    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Write what `open` needs into the directory `out` and return the artifact's meta fields.

        model: the output of the quantize stage. Raises CompileError.
        """

    @abstractmethod
    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open an artifact of this target. Raises RunError."""
