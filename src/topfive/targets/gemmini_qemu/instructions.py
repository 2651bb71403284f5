"""Counting the instructions that a program retires: a metric without noise.

QEMU's user emulation gives host ticks for `rdinstret` and has no instruction counter of its own, but it takes
plugins; ours adds up the instructions of the translated blocks that run.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from topfive.errors import RunError
from topfive.targets.gemmini_qemu import emulator

__all__ = ["count", "per_image"]

PLUGIN = Path(__file__).parent / "plugin" / "count.c"
# Versions of QEMU's plugin interface, of which each QEMU takes some.
PLUGIN_VERSIONS = (1, 2, 3, 4, 5, 6)
HOST_COMPILERS = ("cc", "gcc", "clang")
# The counter makes a run slower.
SLOWER = 4


def per_image(program: Path, layout: Mapping[str, Any]) -> int:
    """Instructions retired for one picture of noise (seed 0), the same number on every machine.

    layout: the program's layout. What the program does once is not counted: a run of no picture. Raises
    RunError where the emulator cannot count, or no compiler of this machine is there to build the counter.
    """
    spec = layout["input"]
    noise = np.random.default_rng(0).normal(0, 1, spec["shape"])
    picture = noise.astype(np.float32) if spec["dtype"] == "float32" else (noise * 40).astype(np.int8)
    none, one = (count(program, picture.tobytes() * n, n, layout["products"]) for n in (0, 1))
    return one - none


def count(program: Path, pictures: bytes, images: int, products: int) -> int:
    """Instructions that a program retires from start to end.

    pictures: the input file's content; products: multiplications a picture, for the time limit.
    """
    compiler = next((path for name in HOST_COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise RunError("counting instructions takes a C compiler of this machine: apt-get install gcc")
    failure = ""
    with tempfile.TemporaryDirectory(prefix="topfive-count-") as name:
        folder = Path(name)
        plugin, counted, source = folder / "count.so", folder / "count.txt", folder / "input.bin"
        source.write_bytes(pictures)
        for version in PLUGIN_VERSIONS:
            _build_plugin(compiler, version, plugin)
            try:
                emulator.run_program(
                    program,
                    [str(source), str(folder / "output.bin")],
                    images,
                    SLOWER * emulator.time_limit(products, images),
                    ["-plugin", f"{plugin},to={counted}"],
                )
            except RunError as error:
                failure = str(error)
                continue
            if counted.is_file():
                return int(counted.read_text(encoding="utf-8"))
    raise RunError("the emulator cannot count instructions", details=failure)


def _build_plugin(compiler: str, version: int, plugin: Path) -> None:
    command = [compiler, "-shared", "-fPIC", "-O2", f"-DVERSION={version}", "-o", str(plugin), str(PLUGIN)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RunError("the counting plugin does not compile", details=made.stderr)
