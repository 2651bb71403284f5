"""The simulator: finding it, asking whether it has Gemmini, and running programs on its proxy kernel."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import which

from topfive.errors import RunError, TopfiveError
from topfive.targets.gemmini_qemu import emulator, toolchain
from topfive.targets.tools import said_about_itself

__all__ = ["SIMULATOR", "find_simulator", "probe", "run_program", "simulator_version", "time_limit"]

SIMULATOR = "spike"
# -p: no demand paging. Otherwise a page fault restarts an instruction of Gemmini that is half done.
OPTIONS = ("--extension=gemmini", "pk", "-p")
MISSING = (
    "spike with the extension 'gemmini' is not installed, and no package has it: build riscv-isa-sim, "
    "ucb-bar/libgemmini and riscv-pk"
)
# What the extension and the proxy kernel print by themselves.
BANNERS = ("bbl loader", "Gemmini extension configured with:", "    dim = ")
QUICK_SECONDS = 60
# A real one does 110 to 130 million products a second, 4096 an instruction: five times as long is allowed.
SECONDS_AN_INSTRUCTION = 2e-4
# Enough for the rest of a picture, which the processor does.
SECONDS_A_PICTURE = 120
# a + b, whose result is known: one of each kind of instruction but the array's.
CHECK = """
#include "gemmini_layers.h"

static int8_t a[16], b[16], y[16];

int topfive_main(int argument_count, char **arguments)
{
    static const gemmini_addition sum = {1, 16, 1, 16, 1.0f, 2.0f};
    (void)argument_count, (void)arguments;
    for (int i = 0; i < 16; i++)
        a[i] = (int8_t)(i - 8), b[i] = (int8_t)(5 * i - 40);
    gemmini_begin();
    gemmini_add(&sum, a, b, y, -128, 127);
    for (int i = 0; i < 16; i++)
        if (y[i] != 11 * i - 88)
            topfive_fail("the simulator adds up to something else");
    topfive_say_done(0);
    return 0;
}
"""
CHECK_FILES = {"gemmini_add.c", "gemmini_store.c", "hosted.c"}
CHECK_FILES |= {"gemmini_isa.h", "gemmini_layers.h", "requantize.h", "topfive.h"}


def find_simulator() -> str | None:
    """The simulator's path, or None."""
    return which(SIMULATOR)


def simulator_version(simulator: str) -> str:
    """The first line that the simulator at this path says about itself."""
    return said_about_itself((simulator, "--help"))


def run_program(program: Path, arguments: Sequence[str], images: int, seconds: float) -> None:
    """Run a program and check its last line, which counts the images that it finished.

    Raises RunError with the command and what was printed, as `emulator.run_program` does.
    """
    simulator = find_simulator()
    if simulator is None:
        raise RunError(MISSING)
    command = [simulator, *OPTIONS, str(program), *arguments]
    emulator.run_to_end(command, images, seconds, "simulator", banners=BANNERS)


def time_limit(instructions: Mapping[str, int], images: int) -> float:
    """Seconds that a run may take: TOPFIVE_SPIKE_SECONDS, else from a picture's instructions of Gemmini."""
    given = emulator.given_limit("TOPFIVE_SPIKE_SECONDS")
    issued = sum(instructions.values())
    return given or QUICK_SECONDS + images * (SECONDS_A_PICTURE + issued * SECONDS_AN_INSTRUCTION)


def probe() -> str:
    """Why programs with Gemmini's instructions cannot be made or run here, or "". Never raises."""
    compiler, simulator = toolchain.find_compiler(), find_simulator()
    reasons = []
    if compiler is None:
        reasons.append(f"{toolchain.COMPILER} is not installed: apt-get install {toolchain.PACKAGE}")
    elif reason := toolchain.library_missing(compiler):
        reasons.append(reason)
    if simulator is None:
        reasons.append(MISSING)
    if compiler is None or simulator is None or reasons:
        return "; ".join(reasons)
    return _tried(compiler, simulator)


@cache
def _tried(compiler: str, simulator: str) -> str:
    """What goes wrong with a small program, or "". Asked once for each pair of tools."""
    from topfive.targets.gemmini_qemu.program import Program
    from topfive.targets.gemmini_spike.kit import kit

    whole = kit("ws")
    small = replace(whole, sources=tuple(path for path in whole.sources if path.name in CHECK_FILES))
    try:
        with tempfile.TemporaryDirectory(prefix="topfive-spike-") as name:
            toolchain.build(Program(CHECK, bytes(1), {}), Path(name), small)
            run_program(Path(name) / toolchain.PROGRAM, [], 0, QUICK_SECONDS)
    except (TopfiveError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line and not line.startswith("$ ")]
        return f"{SIMULATOR} does not run a program with Gemmini's instructions: {'; '.join(lines[:3])}"
    return ""
