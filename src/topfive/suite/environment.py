"""What has to be known of a machine to read its numbers."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["commit_of", "cpu_features", "cpu_governors", "fingerprint", "library_versions", "machine"]

CPUINFO = Path("/proc/cpuinfo")
CPUS = Path("/sys/devices/system/cpu")
# The instruction sets that decide which integer and float kernels run.
FEATURES = (
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "avx_vnni_int8",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
LIBRARIES = ("topfive", "numpy", "onnx", "onnxruntime", "pillow")


@cache
def cpu_features(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """Those of FEATURES that the processor has, named as in /proc/cpuinfo; () where there is no such file."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            has = set(value.split())
            return tuple(feature for feature in FEATURES if feature in has)
    return ()


def cpu_governors(cpus: Path = CPUS) -> tuple[str, ...]:
    """The frequency governors in use, sorted; () where the system does not tell (virtual machines)."""
    found = set()
    for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            found.add(path.read_text(encoding="utf-8").strip())
        except OSError:
            continue
    return tuple(sorted(found))


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for name in LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    return tuple(found)


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that decide results."""
    return dict(_versions())


@cache
def _cpu_model(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name, or "" where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "Model", "cpu model", "Hardware")
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(**more: Any) -> dict[str, Any]:
    """What a record keeps of the machine, as JSON values, and `more`. load: 1, 5 and 15 minutes."""
    described = {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_features": list(cpu_features()),
        "processors": _processors(),
        "governors": list(cpu_governors()),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "python": platform.python_version(),
        "versions": library_versions(),
    }
    return {**described, "fingerprint": fingerprint(described), **more}


def fingerprint(described: Mapping[str, Any]) -> str:
    """Hash of what makes times comparable: processor, instruction sets, how many processors, governors."""
    kept = [described.get(name) for name in ("cpu", "cpu_features", "processors", "governors")]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]


def commit_of(folder: Path) -> dict[str, Any]:
    """The commit that a folder's files are of: id, branch, dirty; {} outside git or without it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    try:
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {
            "id": git("rev-parse", "HEAD"),
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
            "dirty": dirty,
        }
    except (OSError, subprocess.SubprocessError):
        return {}
