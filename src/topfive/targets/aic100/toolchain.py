"""Qualcomm's tools: where they are, which they are, and the command lines that they are given.

The command lines are those of run_cv_classifier.py (quic/cloud-ai-sdk, models/vision/classification): the
same flags in the same order.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from topfive.cache import file_sha256
from topfive.errors import RunError
from topfive.targets.aic100.configuration import Configuration
from topfive.targets.aic100.device import DeviceState, parse_query
from topfive.targets.tools import find_tool, is_emulated, run_tool, said_about_itself

__all__ = [
    "RUNNER",
    "SIMULATED",
    "Tools",
    "binary_folder",
    "compile_command",
    "find_tools",
    "inference_command",
    "output_folder",
    "privileged",
    "query_device",
    "run_command",
]

EXEC_FOLDER = "/opt/qti-aic/exec"
TOOLS_FOLDER = "/opt/qti-aic/tools"
COMPILERS = ("qaic-exec", "qaic-compile")
RUNNER, UTILITY = "qaic-runner", "qaic-util"
SIMULATED = "emulated tools, float16 on the CPU; throughput and times are the CPU's, not an AI 100's"
_PLATFORM = "install the Cloud AI Platform SDK"
MISSING = {
    "compiler": f"{' or '.join(COMPILERS)} is not in PATH or {EXEC_FOLDER}: install the Cloud AI Apps SDK",
    "runner": f"{RUNNER} is not in PATH or {EXEC_FOLDER}: {_PLATFORM}",
    "utility": f"{UTILITY} is not in PATH or {TOOLS_FOLDER}: {_PLATFORM}",
}
AUTO, NEVER = "auto", "no"
QUERY_SECONDS = 60.0
# More samples than there are: all are kept.
ALL_SAMPLES = 999999


@dataclass(frozen=True)
class Tools:
    """Paths of the tools that are installed; None for one that is not."""

    compiler: str | None
    runner: str | None
    utility: str | None

    def missing(self, *names: str) -> str:
        """Which of "compiler", "runner", "utility" are missing and what they come with, or ""."""
        return "; ".join(MISSING[name] for name in names if getattr(self, name) is None)

    def identities(self) -> dict[str, str]:
        """What each installed tool is: its name, the first line of its help, its SDK, its file's SHA-256."""
        found = {"compiler": self.compiler, "runner": self.runner, "utility": self.utility}
        return {name: _identity(path) for name, path in found.items() if path is not None}

    def simulation(self) -> str:
        """What is emulated, if one of them says that it is."""
        paths = [path for path in (self.compiler, self.runner, self.utility) if path is not None]
        return SIMULATED if any(is_emulated(said_about_itself((path, "-h"))) for path in paths) else ""


def find_tools() -> Tools:
    """The tools in PATH, else where the SDKs install them."""
    compilers = (find_tool(name, (EXEC_FOLDER,)) for name in COMPILERS)
    return Tools(
        compiler=next((path for path in compilers if path), None),
        runner=find_tool(RUNNER, (EXEC_FOLDER,)),
        utility=find_tool(UTILITY, (TOOLS_FOLDER,)),
    )


def _identity(path: str) -> str:
    status = Path(path).stat()
    return _identified(path, status.st_size, status.st_mtime_ns)


@cache
def _identified(path: str, size: int, changed: int) -> str:
    said = said_about_itself((path, "-h"))
    parts = [Path(path).name, said, _sdk(path), f"sha256 {file_sha256(Path(path))[:16]}"]
    return ", ".join(part for part in parts if part)


def _sdk(path: str) -> str:
    """Version and build of the SDK that a tool was installed with; "" where that is not said."""
    versions = Path(path).resolve().parent.parent / "versions"
    name = "platform" if Path(path).name in (RUNNER, UTILITY) else "apps"
    try:
        text = (versions / f"{name}.xml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    found = [re.search(rf"<{tag}>\s*([^<\s]+)\s*</{tag}>", text) for tag in ("base_version", "build_id")]
    return f"SDK {'.'.join(match[1] for match in found if match)}" if all(found) else ""


def privileged(setting: str) -> list[str]:
    """What a command that needs the device begins with. auto: sudo, as documented, unless this is root."""
    if setting == NEVER or (setting == AUTO and os.geteuid() == 0):
        return []
    return ["sudo"] if setting == AUTO else shlex.split(setting)


def binary_folder(configuration: Configuration) -> str:
    """Where the compiled program goes, from the working directory."""
    return f"./compiled-bin-fp16-{configuration.motif}"


def output_folder(configuration: Configuration) -> str:
    """Where outputs and latency files go, from the working directory."""
    return f"./outputFiles/fp16-{configuration.motif}"


def compile_command(tool: str, configuration: Configuration, symbols: Mapping[str, int]) -> list[str]:
    """The command that compiles ./model/model.onnx. symbols: what its symbolic dimensions stand for."""
    chosen = configuration
    return [
        tool,
        "-m=./model/model.onnx",
        *(f"-onnx-define-symbol={name},{value}" for name, value in symbols.items()),
        "-aic-hw",
        "-aic-hw-version=2.0",
        f"-aic-num-cores={chosen.cores}",
        f"-ols={chosen.ols}",
        "-convert-to-fp16",
        "-compile-only",
        f"-aic-binary-dir={binary_folder(chosen)}",
        f"-stats-batchsize={chosen.batch_size}",
        *chosen.extra,
        *([f"-mos={chosen.mos}"] if chosen.mos else []),
    ]


def run_command(
    tool: str, configuration: Configuration, *, seconds: int, device: int, inputs: Sequence[str]
) -> list[str]:
    """The command that measures: all instances, for so many seconds. inputs: flags that name the input."""
    folder = output_folder(configuration)
    return [
        tool,
        *("-t", binary_folder(configuration)),
        *("-a", str(configuration.instances)),
        *("--time", str(seconds)),
        *("--aic-profiling-type", "latency"),
        *("--aic-profiling-num-samples", str(ALL_SAMPLES)),
        *("--aic-profiling-out-dir", folder),
        *("-write-output-dir", folder),
        *("-S", str(configuration.set_size)),
        *("-d", str(device)),
        *inputs,
    ]


def inference_command(
    tool: str, configuration: Configuration, *, device: int, inputs: Sequence[str]
) -> list[str]:
    """The command that runs one batch once, on one instance."""
    return [
        tool,
        *("-t", binary_folder(configuration)),
        *("-a", "1"),
        *("-n", "1"),
        *("-write-output-dir", output_folder(configuration)),
        *("-S", "1"),
        *("-d", str(device)),
        *inputs,
    ]


def query_device(utility: str, prefix: Sequence[str], device: int, logs: Path) -> DeviceState:
    """Ask for one device. Raises RunError when the tool fails, says what is not documented, or lacks it."""
    run = run_tool(
        [*prefix, utility, "-q", "-d", str(device)],
        folder=logs,
        logs=logs,
        name="qaic-util",
        seconds=QUERY_SECONDS,
        error=RunError,
        tool=UTILITY,
    )
    try:
        found = parse_query(run.stdout)
    except RunError as error:
        raise RunError(error.message, details=f"{error.details}\n{run.shown()}") from None
    if device not in found:
        raise RunError(f"qaic-util shows no AI 100 of number {device}", details=run.shown())
    return found[device]
