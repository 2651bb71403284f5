"""Running a compiled program with qaic-runner: for the results of batches, and for the device's figures."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topfive.errors import RunError
from topfive.targets.aic100.agreement import Agreement, check_agreement, compare, float32_output
from topfive.targets.aic100.compiling import seeded_input
from topfive.targets.aic100.configuration import Configuration
from topfive.targets.aic100.device import DeviceState, wait_until_ready
from topfive.targets.aic100.figures import (
    ROUND_TRIP,
    Latencies,
    Statistics,
    check_statistics,
    little_warning,
    parse_statistics,
    read_latencies,
    short_warning,
)
from topfive.targets.aic100.toolchain import (
    RUNNER,
    binary_folder,
    find_tools,
    inference_command,
    output_folder,
    privileged,
    query_device,
    run_command,
)
from topfive.targets.aic100.work import (
    MODEL,
    OUTPUT,
    PROGRAM,
    input_flags,
    new_folder,
    opened,
    write_commands,
    write_input,
)
from topfive.targets.base import Array, Artifact, DeviceFigures, Runner
from topfive.targets.tools import ToolRun, check_compiled, run_tool

if TYPE_CHECKING:
    from topfive.targets.aic100.target import Aic100Target

__all__ = ["Aic100Runner", "BatchRunner", "check_tools", "clipped_warning"]

LATENCY_FILES = "aic-profiling-program-*-latency.txt"


def check_tools(artifact: Artifact, simulation: str, runs: str) -> None:
    """What tables say of an artifact must be true of what runs it: RunError when only one is emulated."""
    stored = str(artifact.meta.get("simulated", ""))
    if stored != simulation:
        raise RunError(
            f"it was compiled with {stored or 'the real tools'}, but {runs} is now that of "
            f"{simulation or 'the real tools'}: build the model again"
        )


def clipped_warning(clipped: Mapping[str, int]) -> str:
    """Which tensors have weights that were clipped to float16's range, and how many; "" for none."""
    named = ", ".join(f"{count} of {name}" for name, count in clipped.items())
    return f"weights beyond float16 were clipped to +-65504: {named}" if named else ""


class BatchRunner(Runner):
    """A program for batches of one size: others are cut and filled up with their last picture."""

    def __init__(self, artifact: Artifact, target: Aic100Target) -> None:
        super().__init__(artifact, 1)
        self.target = target
        try:
            self.configuration = Configuration.from_json(artifact.meta["configuration"])
            self.shape = tuple(int(side) for side in artifact.meta["input"]["shape"])
            self.output_shape = tuple(int(side) for side in artifact.meta["output_shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{artifact.path} is no artifact of aic100", details=repr(error)) from None

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run exactly one batch of the compiled size."""
        raise NotImplementedError

    def callable(self) -> Callable[[Array], Array]:
        """A function of any number of pictures."""
        size = self.shape[0]

        def run_all(batch: Array) -> Array:
            try:
                parts = [batch[start : start + size] for start in range(0, len(batch), size)]
                filled = [np.concatenate([p, np.repeat(p[-1:], size - len(p), axis=0)]) for p in parts]
                return np.concatenate([self.infer(part) for part in filled])[: len(batch)]
            except RunError as error:
                raise self.artifact.located(error) from None

        return run_all

    def _check(self, batch: Array) -> None:
        """Any number of pictures is fine, but none."""
        wanted = self.shape[1:]
        if batch.dtype != np.float32 or batch.shape[1:] != wanted or not len(batch):
            text = f"the input wants float32 {['batch', *wanted]}, got {batch.dtype} {list(batch.shape)}"
            raise self.artifact.located(RunError(text))


class Aic100Runner(BatchRunner):
    """A program on a device. Each batch is one run of qaic-runner, in a working directory of its own."""

    def __init__(self, artifact: Artifact, target: Aic100Target) -> None:
        super().__init__(artifact, target)
        tools = find_tools()
        if reason := tools.missing("runner", "utility"):
            raise RunError(reason)
        self.runner, self.utility = str(tools.runner), str(tools.utility)
        self._check_program()
        check_tools(artifact, tools.simulation(), RUNNER)
        self.identities = tools.identities()
        self.prefix = privileged(target.setting("sudo"))
        self.device = int(target.setting("device"))
        self.state = self._wait(self.configuration.cores, measuring=False)

    def _check_program(self) -> None:
        """The program must be the one that was compiled: not one made over it later."""
        program = self.artifact.path / binary_folder(self.configuration) / PROGRAM
        stored = self.artifact.meta.get("program_sha256")
        if stored is None:
            raise RunError(
                "it was built for ONNX Runtime's provider alone: build it with the compiler installed"
            )
        check_compiled(program, stored)

    def _wait(self, nsps: int, *, measuring: bool) -> DeviceState:
        """Wait for the device; what it said last is kept when it is never ready."""
        most = float(self.target.setting("max-wait"))
        with new_folder(self.artifact.model) as folder:
            return wait_until_ready(
                lambda: query_device(self.utility, self.prefix, self.device, folder),
                nsps,
                measuring=measuring,
                most_seconds=most,
            )

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """One batch, once, on one instance."""
        flags = input_flags(self.target.setting("input"), batch.shape)
        command = inference_command(self.runner, self.configuration, device=self.device, inputs=flags)
        with opened(self.artifact.path, self.configuration, self.artifact.model) as folder:
            run = self._run(folder, batch, command, 0)
            with _explained(run):
                check_statistics(parse_statistics(run.stdout), self.shape[0])
                return self._output(folder)

    def device_figures(self) -> DeviceFigures:
        """All instances for the time of option `time`, on seeded random pictures, checked in every way."""
        try:
            return self._measured()
        except RunError as error:
            raise self.artifact.located(error) from None

    def _measured(self) -> DeviceFigures:
        seconds, batch = int(self.target.setting("time")), seeded_input(self.shape)
        flags = input_flags(self.target.setting("input"), batch.shape)
        command = run_command(
            self.runner, self.configuration, seconds=seconds, device=self.device, inputs=flags
        )
        wanted = self.configuration.cores * self.configuration.instances
        state = self._wait(wanted, measuring=True)
        keep = self.target.setting("work")
        with opened(self.artifact.path, self.configuration, self.artifact.model, keep) as folder:
            run = self._run(folder, batch, command, seconds)
            with _explained(run):
                statistics = parse_statistics(run.stdout)
                check_statistics(statistics, self.shape[0])
                latencies = self._latencies(folder)
                agreement, said = self._agreement(folder, batch)
        return self._figures(run, statistics, latencies, agreement, state, said)

    def _figures(
        self,
        run: ToolRun,
        statistics: Statistics,
        latencies: Latencies,
        agreement: Agreement,
        state: DeviceState,
        said: str,
    ) -> DeviceFigures:
        chosen = self.configuration
        little = little_warning(
            statistics.images_per_s,
            latencies.mean,
            batch=statistics.batch,
            instances=chosen.instances,
            set_size=chosen.set_size,
        )
        odd = (
            "" if state.temperature is not None else "the device does not say its temperature",
            short_warning(statistics, len(latencies.seconds), int(self.target.setting("time"))),
            clipped_warning(self.artifact.meta.get("clipped_weights", {})),
        )
        return DeviceFigures(
            batch=statistics.batch,
            images_per_s=statistics.images_per_s,
            inferences=len(latencies.seconds),
            mean=latencies.mean,
            p50=latencies.percentile(50),
            p90=latencies.percentile(90),
            p95=latencies.percentile(95),
            p99=latencies.percentile(99),
            warnings=tuple(filter(None, (*chosen.notes, little, said, *odd))),
            details={
                "command": run.text,
                "summary": self._summary(agreement, latencies),
                "folder": str(run.folder) if self.target.setting("work") else "",
                "statistics": asdict(statistics),
                "latency_column": latencies.column,
                "agreement": asdict(agreement),
                "device": asdict(state),
                "configuration": chosen.as_json(),
                "tools": self.identities,
            },
        )

    def _summary(self, agreement: Agreement, latencies: Latencies) -> dict[str, str]:
        """What a person wants to read besides the figures."""
        chosen = self.configuration
        found = {
            "configuration": f"{chosen.motif}, set size {chosen.set_size}, image size {chosen.image_size}",
            "difference from float32": f"{agreement.largest_difference:.4g}, {agreement.relative:.2g} of the "
            f"largest output; top-1 the same for {agreement.same_top1} of {agreement.pictures} pictures, "
            f"top-5 for {agreement.same_top5}",
        }
        if latencies.column != ROUND_TRIP:
            found["latency"] = f"read from column {latencies.column!r}: there is no {ROUND_TRIP}"
        if chosen.published:
            images, milliseconds = chosen.published
            found["the table's row"] = f"{images:g} images/s, 95th percentile {milliseconds:g} ms"
        return found

    def describe(self) -> dict[str, Any]:
        """Tools, configuration, device."""
        return super().describe() | {
            "kernels": f"qaic-runner {self.configuration.motif}",
            "tools": self.identities,
            "configuration": self.configuration.as_json(),
            "device": asdict(self.state),
        }

    def _run(self, folder: Path, batch: NDArray[np.float32], command: Sequence[str], seconds: int) -> ToolRun:
        """Run a command on a batch in a working directory, with the file that repeats it."""
        write_input(folder, batch)
        whole = [*self.prefix, *command]
        write_commands(folder, self.configuration, [self.artifact.meta["command"], shlex.join(whole)])
        limit = seconds + float(self.target.setting("run-limit"))
        return run_tool(
            whole, folder=folder, logs=folder, name="run", seconds=limit, error=RunError, tool=RUNNER
        )

    def _latencies(self, folder: Path) -> Latencies:
        """Those of all instances, a file each."""
        paths = sorted((folder / output_folder(self.configuration)).glob(LATENCY_FILES))
        if len(paths) != self.configuration.instances:
            raise RunError(
                f"qaic-runner wrote {len(paths)} files {LATENCY_FILES}, not one for each of "
                f"{self.configuration.instances} instances"
            )
        return read_latencies(paths)

    def _agreement(self, folder: Path, batch: NDArray[np.float32]) -> tuple[Agreement, str]:
        """How far the instance that is furthest from float32 is from it, and what a reader must know."""
        reference = float32_output(folder / MODEL, batch)
        found = [compare(self._output(folder), reference)]
        for number in range(1, self.configuration.instances):
            # Documentation promises only the first one's.
            if self._output_path(folder, number).is_file():
                found.append(compare(self._output(folder, number), reference))
        furthest = max(range(len(found)), key=lambda number: found[number].relative)
        try:
            said = check_agreement(found[furthest], float(self.target.setting("tolerance")))
        except RunError as error:
            where = f"instance {furthest} of {self.configuration.instances}: " if furthest else ""
            raise RunError(f"{where}{error.message}") from None
        return found[furthest], said

    def _output_path(self, folder: Path, instance: int) -> Path:
        name = f"{OUTPUT}-activation-{instance}-inf-0.bin"
        return folder / output_folder(self.configuration) / name

    def _output(self, folder: Path, instance: int = 0) -> NDArray[np.float32]:
        """The first inference's output of an instance."""
        path = self._output_path(folder, instance)
        if not path.is_file():
            raise RunError(f"qaic-runner wrote no {path.name}")
        wanted, size = 4 * math.prod(self.output_shape), path.stat().st_size
        if size != wanted:
            text = f"{path.name} has {size} bytes, not {wanted}"
            raise RunError(f"{text}: float32 {list(self.output_shape)} is wanted")
        return np.fromfile(path, "<f4").reshape(self.output_shape)


@contextmanager
def _explained(run: ToolRun) -> Iterator[None]:
    """Add to an error what the tool was told and what it said."""
    try:
        yield
    except RunError as error:
        details = "\n".join(part for part in (error.details, run.shown()) if part)
        raise RunError(error.message, details=details) from None
