"""Running a MagicMind model through its runtime, and measuring it with mm_run."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from topfive.errors import RunError
from topfive.targets.base import Array, Artifact, DeviceFigures, Runner
from topfive.targets.device_session import open_session
from topfive.targets.mlu370 import library
from topfive.targets.mlu370.configuration import batch_refusal
from topfive.targets.mlu370.figures import MmRunLog, as_details, check_log, parse_log
from topfive.targets.mlu370.session import OPENER
from topfive.targets.tools import check_compiled, run_tool

__all__ = ["MODEL_FILE", "MluRunner", "measure_command"]

MODEL_FILE = "magicmind_model"
BATCH_FLAGS = ("--batch_size", "--batch")
"""How mm_run names the batch size since 1.4, and in 0.13."""
HELP_SECONDS = 60.0


def measure_command(
    tool: str, model: str, *, flag: str, batch: int, iterations: int, device: int
) -> list[str]:
    """The command of benchmark/perf.sh (Cambricon/magicmind_cloud). flag: one of BATCH_FLAGS."""
    return [
        tool,
        *("--magicmind_model", model),
        *("--iterations", str(iterations)),
        *(flag, str(batch)),
        *("--threads", "1"),
        *("--devices", str(device)),
    ]


class MluRunner(Runner):
    """A session of MagicMind's runtime, open until `close`."""

    def __init__(self, artifact: Artifact, setting: Mapping[str, str]) -> None:
        super().__init__(artifact, 1)
        self._setting = setting
        self._model = artifact.path / MODEL_FILE
        check_compiled(self._model, artifact.meta["magicmind"]["sha256"])
        job = {"model": str(self._model), "device": int(setting["device_id"])}
        limit = float(setting["run_limit"])
        self._session = open_session(
            OPENER, job, library="MagicMind", process=setting["process"], seconds=limit
        )

    def callable(self) -> Callable[[Array], Array]:
        """A function of one batch: to the session's process, to the device, enqueue, wait, back."""
        return self._session.infer

    def run(self, batch: Array) -> Array:
        """Run one batch; see Runner.run. Raises RunError also for a batch outside dim_range."""
        self._check(batch)
        reason = batch_refusal(len(batch), self._setting)
        if reason:
            raise self.artifact.located(RunError(reason))
        try:
            output = self.callable()(batch)
        except RunError as error:
            raise self.artifact.located(error) from None
        if output.shape[:1] != batch.shape[:1] or not np.isfinite(output).all():
            what = f"{list(output.shape)} for a batch of {len(batch)}, or NaN or infinity"
            raise self.artifact.located(RunError(f"MagicMind gave an output that cannot be: {what}"))
        return output

    def device_figures(self) -> DeviceFigures:
        """Measure with mm_run: see Runner.device_figures. Latency is the MLU's, without copies."""
        try:
            log, line = self._measured()
        except RunError as error:
            raise self.artifact.located(error) from None
        spread = log.latencies["MLU Compute Latency (ms)"]
        return DeviceFigures(
            batch=int(self._setting["batch_size"]),
            images_per_s=log.throughput,
            inferences=log.iterations,
            mean=spread.mean / 1e3,
            p50=spread.median / 1e3,
            p90=spread.percentiles[90] / 1e3,
            p95=spread.percentiles[95] / 1e3,
            p99=spread.percentiles[99] / 1e3,
            warnings=("latency is the MLU's compute time of one inference, without copies to and from it",),
            details={"command": line, **as_details(log)},
        )

    def _measured(self) -> tuple[MmRunLog, str]:
        """The checked log of mm_run and its command. Its files stay when it fails, or if `work` says so."""
        tool = library.find_mm_run()
        if tool is None:
            raise RunError(library.missing())
        place = self._setting["work"]
        if place:
            Path(place).expanduser().mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="mm_run-", dir=Path(place).expanduser() if place else None))
        common: dict[str, Any] = {"folder": folder, "logs": folder, "error": RunError}
        batch = int(self._setting["batch_size"])
        said = run_tool([tool, "-h"], name="help", seconds=HELP_SECONDS, check=False, **common)
        words = re.findall(r"--\w+", said.stdout + said.stderr)
        flag = next((name for name in BATCH_FLAGS if name in words), None)
        if flag is None:
            raise RunError(f"mm_run's help names neither {' nor '.join(BATCH_FLAGS)}", details=said.shown())
        command = measure_command(
            tool,
            str(self._model),
            flag=flag,
            batch=batch,
            iterations=int(self._setting["iterations"]),
            device=int(self._setting["device_id"]),
        )
        run = run_tool(command, name="mm_run", seconds=float(self._setting["run_limit"]), **common)
        built = self.artifact.meta["magicmind"]
        try:
            # The tool's log and its libraries' messages go to either stream.
            log = parse_log(run.stdout if "Performance Summary" in run.stdout else run.stderr + run.stdout)
            check_log(log, batch=batch, shape=tuple(built["shape"]), clusters=tuple(built["clusters"]))
        except RunError as error:
            raise RunError(error.message, details=f"{error.details}\n{run.shown()}".strip()) from None
        if not place:
            shutil.rmtree(folder, ignore_errors=True)
        return log, run.text

    def describe(self) -> dict[str, Any]:
        """Library, options and device."""
        return {
            "threads": self.threads,
            "kernels": "MagicMind",
            "device": int(self._setting["device_id"]),
            **library.identities(),
        }

    def close(self) -> None:
        """Give the device back."""
        self._session.close()
