"""What has to be known of a machine to read its numbers."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["cpu_features", "library_versions"]

CPUINFO = Path("/proc/cpuinfo")
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
