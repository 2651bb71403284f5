"""Running a program under QEMU's user emulation, and proof that it ran to its end."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from topfive.errors import OptionError, RunError
from topfive.targets.tools import said_about_itself

__all__ = [
    "EMULATORS",
    "PACKAGE",
    "emulator_version",
    "find_emulator",
    "given_limit",
    "run_program",
    "run_to_end",
    "time_limit",
]

EMULATORS = ("qemu-riscv64", "qemu-riscv64-static")
PACKAGE = "qemu-user"
DONE = re.compile(r"^topfive: done (\d+) images$")


def find_emulator() -> str | None:
    """The emulator's path, or None."""
    return next((path for name in EMULATORS if (path := shutil.which(name))), None)


def emulator_version(emulator: str) -> str:
    """The first line that the emulator at this path says about itself."""
    return said_about_itself((emulator, "--version"))


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
    run_to_end([emulator, *options, str(program), *arguments], images, seconds, "emulator")


def run_to_end(
    command: Sequence[str], images: int, seconds: float, machine: str, *, banners: tuple[str, ...] = ()
) -> None:
    """Run the command that runs a program and check the program's last line.

    machine: what messages call that which runs it. banners: beginnings of lines that it prints by itself,
    which messages leave out. Raises RunError as `run_program` does.
    """
    repeat = f"$ {shlex.join(command)}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"the program did not end within {seconds:g} s", details=repeat) from None
    except OSError as error:
        raise RunError(f"the {machine} cannot be started: {error}", details=repeat) from None
    printed = (*done.stderr.splitlines(), *done.stdout.splitlines())
    kept = [line for line in printed if line.strip() and not (banners and line.startswith(banners))]
    details = "\n".join((repeat, *kept))
    if done.returncode < 0:
        raise RunError(f"the {machine} died of signal {-done.returncode}", details=details)
    if done.returncode:
        raise RunError(f"the program failed with exit status {done.returncode}", details=details)
    counted = [int(match[1]) for line in done.stdout.splitlines() if (match := DONE.match(line))]
    if counted != [images]:
        said = f"it counts {counted[-1]} images" if counted else "its last line is missing"
        raise RunError(f"the program did not finish {images} images: {said}", details=details)


def time_limit(products: int, images: int) -> float:
    """Seconds that a run may take: TOPFIVE_QEMU_SECONDS, else a minute and 20 million products a second."""
    return given_limit("TOPFIVE_QEMU_SECONDS") or 60.0 + images * products / 20e6


def given_limit(variable: str) -> float | None:
    """The seconds in an environment variable; None if it is not set. OptionError for what is no time."""
    text = os.environ.get(variable, "")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise OptionError(f"{variable}={text} is no limit: give seconds above 0, or leave it unset")
    return seconds
