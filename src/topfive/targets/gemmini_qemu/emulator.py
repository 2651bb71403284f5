"""Running a program under QEMU's user emulation, and proof that it ran to its end."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from topfive.errors import RunError

__all__ = [
    "EMULATORS",
    "PACKAGE",
    "emulator_version",
    "find_emulator",
    "run_program",
    "time_limit",
]

EMULATORS = ("qemu-riscv64", "qemu-riscv64-static")
PACKAGE = "qemu-user"
DONE = re.compile(r"^topfive: done (\d+) images$")
QUICK_SECONDS = 60


def find_emulator() -> str | None:
    """The emulator's path, or None."""
    return next((path for name in EMULATORS if (path := shutil.which(name))), None)


@cache
def emulator_version(emulator: str) -> str:
    """The first line that the emulator at this path says about itself."""
    try:
        said = subprocess.run(
            [emulator, "--version"], capture_output=True, text=True, timeout=QUICK_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "does not run"
    return (said.stdout.splitlines() or ["says nothing"])[0]


def run_program(
    program: Path, arguments: Sequence[str], images: int, seconds: float, options: Sequence[str] = ()
) -> None:
    """Run a program and check its last line, which counts the images that it finished.

    program: the executable; arguments: its arguments; options: more of the emulator's. Raises RunError with
    the command and what was printed: on a missing emulator, a signal, an exit status, after `seconds`, or
    when the line is missing or counts other images (a program that dies may exit with 0).
    """
    emulator = find_emulator()
    if emulator is None:
        raise RunError(f"{EMULATORS[0]} is not installed: apt-get install {PACKAGE}")
    command = [emulator, *options, str(program), *arguments]
    repeat = f"$ {shlex.join(command)}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"the program did not end within {seconds:g} s", details=repeat) from None
    except OSError as error:
        raise RunError(f"the emulator cannot be started: {error}", details=repeat) from None
    details = "\n".join(text for text in (repeat, done.stderr.strip(), done.stdout.strip()) if text)
    if done.returncode < 0:
        raise RunError(f"the emulator died of signal {-done.returncode}", details=details)
    if done.returncode:
        raise RunError(f"the program failed with exit status {done.returncode}", details=details)
    counted = [int(match[1]) for line in done.stdout.splitlines() if (match := DONE.match(line))]
    if counted != [images]:
        said = f"it counts {counted[-1]} images" if counted else "its last line is missing"
        raise RunError(f"the program did not finish {images} images: {said}", details=details)


def time_limit(products: int, images: int) -> float:
    """Seconds that a run may take: TOPFIVE_QEMU_SECONDS, else a minute and 20 million products a second."""
    given = os.environ.get("TOPFIVE_QEMU_SECONDS", "")
    try:
        return float(given)
    except ValueError:
        return 60.0 + images * products / 20e6
