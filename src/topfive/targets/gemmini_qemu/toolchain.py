"""The cross compiler: finding it, what it is told, and what it says when it fails."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

from topfive.errors import CompileError
from topfive.targets.gemmini_qemu.kit import SCALAR, Kit
from topfive.targets.gemmini_qemu.program import Program
from topfive.targets.tools import ask_tool, said_about_itself

__all__ = [
    "COMPILER",
    "PACKAGE",
    "PROGRAM",
    "build",
    "command",
    "compiler_version",
    "library_missing",
    "runtime_hash",
]

COMPILER = "riscv64-linux-gnu-gcc"
PACKAGE = "gcc-riscv64-linux-gnu"
LIBRARY_PACKAGE = "libc6-dev-riscv64-cross"
PROGRAM = "program"
DATA = """    .section .rodata
    .balign 64
    .globl topfive_data
topfive_data:
    .incbin "data.bin"
    .section .note.GNU-stack, "", @progbits
"""
BUILD_SECONDS = 600


def runtime_hash(kit: Kit = SCALAR) -> str:
    """What identifies a runtime: part of the artifact's key."""
    digest = hashlib.sha256(kit.flags.encode())
    for path in kit.sources:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def compiler_version(compiler: str | None) -> str:
    """The first line that the compiler at this path says about itself; "absent" without one."""
    return "absent" if compiler is None else said_about_itself((compiler, "--version"))


def find_compiler() -> str | None:
    """The cross compiler's path, or None."""
    return shutil.which(COMPILER)


@cache
def library_missing(compiler: str) -> str:
    """Why programs of the C library cannot be compiled, or "": Debian's compiler comes without it."""
    try:
        done = ask_tool((compiler, "-E", "-include", "stdio.h", "-x", "c", os.devnull))
    except OSError as error:
        return f"{COMPILER} does not run: {error}"
    absent = done.returncode and "No such file" in done.stderr
    return f"{COMPILER} has no C library: apt-get install {LIBRARY_PACKAGE}" if absent else ""


def command(kit: Kit = SCALAR) -> list[str]:
    """The command that makes the program, in the artifact's folder."""
    files = [path.name for path in kit.sources if path.suffix == ".c"]
    return [COMPILER, *kit.flags.split(), "-o", PROGRAM, "program.c", "data.S", *files, "-lgcc"]


def build(program: Program, out: Path, kit: Kit = SCALAR) -> str:
    """Write the program's sources into `out`, compile them there, and return the command line.

    Raises CompileError with the compiler's own words when it is missing, fails, or takes too long.
    """
    compiler = find_compiler()
    if compiler is None:
        raise CompileError(f"{COMPILER} is not installed: apt-get install {PACKAGE}")
    if kit.hosted and (reason := library_missing(compiler)):
        raise CompileError(reason)
    (out / "program.c").write_text(program.text, encoding="utf-8")
    (out / "data.bin").write_bytes(program.data)
    (out / "data.S").write_text(DATA, encoding="utf-8")
    for path in kit.sources:
        shutil.copyfile(path, out / path.name)
    line = shlex.join(command(kit))
    try:
        done = subprocess.run(
            command(kit), cwd=out, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CompileError(f"{COMPILER} took more than {BUILD_SECONDS} s", details=f"$ {line}") from None
    except OSError as error:
        raise CompileError(f"{COMPILER} cannot be started: {error}", details=f"$ {line}") from None
    if done.returncode or not (out / PROGRAM).is_file():
        raise CompileError(
            f"{COMPILER} failed with exit status {done.returncode}",
            details=f"$ {line}\n{done.stderr.strip()}",
        )
    return line
