"""What a target is: the smallest interface through which the rest of topfive compiles and runs.

A target module never imports pytest, and nothing else changes when one is added: it is found through the
entry point group `topfive.targets`.
"""

from __future__ import annotations

import copy
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from topfive.errors import OptionError, RunError, StageError
from topfive.quantize.quantiser import QUANTISERS, Quantiser
from topfive.targets.profiling import Profiler

if TYPE_CHECKING:
    import onnx

    from topfive.quantize.samples import Samples

__all__ = [
    "CHOOSES",
    "QUANT_MODES",
    "Array",
    "Artifact",
    "DeviceFigures",
    "Runner",
    "Target",
    "TargetOption",
    "read_artifact",
    "variant_name",
]

QUANT_MODES = ("force_float32", "force_float16", "int8", "int8_dw", "qint8_mixed_float16", "as_is")
ARTIFACT_FILE = "artifact.json"
# Between the name of a target and the options that make it a variant, and between these.
CHOOSES = "+"
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

    @property
    def options(self) -> dict[str, str]:
        """The target's options that this artifact was built with; {} for the target as it comes."""
        return dict(self.meta.get("options", {}))

    @property
    def case(self) -> dict[str, str]:
        """Model, target and quant mode as records name them: options make a target a variant."""
        target = variant_name(self.target, self.options)
        return {"model": self.model, "target": target, "quant": self.quant}

    def located(self, error: StageError) -> StageError:
        """Add to an error where it happened: this artifact."""
        return error.located(self.model, self.target, self.quant, self.options)


def variant_name(target: str, options: Mapping[str, str]) -> str:
    """The name of a target with these options: TARGET+OPTION=VALUE..., options in order; see `targets`."""
    return CHOOSES.join([target, *(f"{option}={options[option]}" for option in sorted(options))])


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


@dataclass(frozen=True)
class DeviceFigures:
    """What a device's own tool measured; see `Runner.device_figures`.

    batch: pictures an inference. images_per_s: of all that ran at once. mean, p50, p90, p95, p99: seconds
    from submitting an inference to its end, over `inferences` of them. warnings: what a reader must know.
    details: more of it, as JSON-able values.
    """

    batch: int
    images_per_s: float
    inferences: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


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

    def profiler(self) -> Profiler:
        """What runs batches as `run` does and notes when each node ran, where a target can tell."""
        return Profiler(self)

    def device_figures(self) -> DeviceFigures | None:
        """Measure with the device's own tool, alone on the device, where it has one; None where it has not.

        For a device whose figures a clock around `run` cannot give, because the tool starts anew for each
        batch. Raises RunError, never a guess, when the tool fails or says what cannot be understood.
        """
        return None

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
            text = f"input {wanted['name']!r} wants {dtype} {list(shape)}, got "
            raise self.artifact.located(RunError(f"{text}{batch.dtype} {list(batch.shape)}"))

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class TargetOption:
    """One way to configure a target: what may be chosen, what is when nothing is, a line of help.

    pattern: a regular expression of more values than those listed; form: what messages call them. running:
    whether it decides how an artifact runs, not what is compiled: then it is no part of the artifact's key.
    """

    values: tuple[str, ...]
    default: str
    help: str
    pattern: str = ""
    form: str = ""
    running: bool = False

    def allows(self, value: str) -> bool:
        """Whether this is one of its values."""
        return value in self.values or bool(self.pattern and re.fullmatch(self.pattern, value))

    @property
    def choices(self) -> tuple[str, ...]:
        """Its values as messages list them."""
        return (*self.values, self.form) if self.form else self.values


class Target(ABC):
    """A place where artifacts run. The name is also its pytest marker."""

    name: ClassVar[str]
    quants: ClassVar[tuple[str, ...]]
    # Run instruction by instruction: by default only bundled models, few pictures and few rounds.
    emulated: ClassVar[bool] = False
    # Only its results mean something: it is timed at one batch size, for a moment.
    functional: ClassVar[bool] = False
    # Each run starts a tool anew: few golden pictures and few rounds, beside what its own tool measures.
    slow_start: ClassVar[bool] = False
    # Whose libraries of custom operators it loads: "onnxruntime", "tensorrt" or "".
    plugins: ClassVar[str] = "onnxruntime"
    # Non-empty when what runs is not the device itself; printed in every table.
    simulated: ClassVar[str] = ""
    # What can be chosen with `configured`, by name.
    options: ClassVar[Mapping[str, TargetOption]] = MappingProxyType({})
    # What was chosen, without what is the default; empty for the target as it comes.
    settings: Mapping[str, str] = MappingProxyType({})
    # The name of the card that it is configured for; "" where nobody said.
    model: str = ""
    # What `compile` may calibrate on; None unless `calibrates`.
    samples: Samples | None = None

    def configured(self, chosen: Mapping[str, str]) -> Target:
        """A copy of this target with options chosen; those that are the default are as if not chosen.

        Raises OptionError naming what is allowed, for an unknown option or value.
        """
        for name, value in chosen.items():
            option = self.options.get(name)
            if option is None:
                known = ", ".join(self.options) or "none"
                raise OptionError(f"target {self.name} has no option {name!r}: its options are {known}")
            if not option.allows(value):
                raise OptionError(
                    f"option {name!r} of target {self.name} cannot be {value!r}: "
                    f"choose {', '.join(option.choices)}"
                )
        made = copy.copy(self)
        made.settings = {
            name: chosen[name] for name in sorted(chosen) if chosen[name] != self.options[name].default
        }
        return made

    def for_model(self, name: str) -> Target:
        """A copy of this target that knows which model it is for: some devices are tuned model by model."""
        made = copy.copy(self)
        made.model = name
        return made

    def for_samples(self, samples: Samples) -> Target:
        """A copy of this target that holds the model's calibration data."""
        made = copy.copy(self)
        made.samples = samples
        return made

    def calibrates(self, quant: str) -> bool:
        """Whether the vendor's own compiler chooses ranges: `compile` then needs the calibration data."""
        return False

    def setting(self, name: str) -> str:
        """The value of an option: the chosen one, else the default.

        One that only decides how it runs is looked for in the environment, too, before the default: for
        option max-wait of target aic100 in TOPFIVE_AIC100_MAX_WAIT. Raises OptionError for a value there
        that the option does not take.
        """
        option = self.options[name]
        if name in self.settings or not option.running:
            return self.settings.get(name, option.default)
        variable = f"TOPFIVE_{self.name}_{name}".upper().replace("-", "_")
        value = os.environ.get(variable, "") or option.default
        if value != option.default and not option.allows(value):
            raise OptionError(f"{variable} cannot be {value!r}: choose {', '.join(option.choices)}")
        return value

    @property
    def build_settings(self) -> dict[str, str]:
        """Those of `settings` that decide what is compiled."""
        return {name: value for name, value in self.settings.items() if not self.options[name].running}

    def simulation(self) -> str:
        """What of it is not the device itself, as it is installed here; "" for a device."""
        return self.simulated

    def tuned(self, kind: str) -> Mapping[str, str]:
        """The options that tests of a kind ("latency", "throughput") measure it with; {} for its defaults."""
        return {}

    def batches(self) -> tuple[int, ...]:
        """The batch sizes that it is measured at, as it is configured; () for those of the suite."""
        return ()

    def probe(self) -> str:
        """Why this target cannot run here, or "" if it can. Never raises."""
        return ""

    def refuses(self, quant: str) -> str:
        """Why this target has no such quant mode, or ""."""
        return "" if quant in self.quants else f"{self.name} runs {', '.join(self.quants)}"

    def quantiser(self, quant: str) -> Quantiser | None:
        """What makes a float model one of this quant mode here; None: `compile` gets it as it is."""
        return QUANTISERS.get(quant)

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
