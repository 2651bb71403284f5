"""A stand-in for `spike --extension=gemmini pk -p PROGRAM ...`: not spike, and it says so.

The program runs as it is under QEMU's user emulation; Gemmini's instructions are executed by the emulator
beside this file, which stops at what the ISA forbids. For tests without spike; no proof for hardware.

TOPFIVE_GEMMINI_COUNTS=FILE: append what was executed between fences, a line each.
TOPFIVE_GEMMINI_ROUNDING=simulator: round as libgemmini's header does.
TOPFIVE_GEMMINI_EMULATORS=FOLDER: where the compiled emulator is kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAME = "topfive's stand-in for spike: Gemmini's instructions emulated under QEMU, not spike"
HERE = Path(__file__).resolve().parent
COMPILER = "riscv64-linux-gnu-gcc"
EMULATORS = ("qemu-riscv64", "qemu-riscv64-static")
FLAGS = (
    "-O2 -static -march=rv64gc -mabi=lp64d -mcmodel=medany -std=gnu11 -Wall -Wextra -Werror -ffreestanding "
    "-nostdlib -fno-pic -no-pie -mno-relax -fno-stack-protector -fno-tree-loop-distribute-patterns "
    "-ffp-contract=off -Wl,-Ttext-segment=0x40000000"
)
BANNER = "Gemmini extension configured with:\n    dim = 16\n"


def fail(message: str) -> int:
    print(f"{NAME}\n{message}", file=sys.stderr)
    return 2


def build() -> Path:
    """The emulator, compiled once for these sources."""
    files = sorted(path for path in HERE.iterdir() if path.suffix in (".c", ".h"))
    digest = hashlib.sha256(FLAGS.encode() + b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    folder = Path(os.environ.get("TOPFIVE_GEMMINI_EMULATORS", tempfile.gettempdir()))
    made = folder / f"topfive-gemmini-isa-{os.getuid()}-{digest}"
    if not made.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            new = Path(name) / "emulator"
            sources = [str(path) for path in files if path.suffix == ".c"]
            subprocess.run([COMPILER, *FLAGS.split(), "-o", str(new), *sources, "-lgcc"], check=True)
            new.replace(made)
    return made


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--help"]:
        print(NAME)
        return 0
    extension, kernel, paging, *program = [*arguments, "", "", ""][: max(len(arguments), 3)]
    if not extension.startswith("--extension="):
        return fail(f"unrecognised option {extension!r}")
    if extension != "--extension=gemmini":
        return fail(f"couldn't find extension {extension.partition('=')[2]!r}")
    if kernel != "pk":
        return fail(f"could not open {kernel}; only the proxy kernel pk is there")
    if paging != "-p":
        return fail("pk without -p restarts instructions at page faults: give -p")
    if not program or program[0].startswith("-"):
        return fail("pk: tell me what to run")
    machine = next((path for name in EMULATORS if (path := shutil.which(name))), None)
    if machine is None:
        return fail(f"{EMULATORS[0]} is not installed")
    options = []
    if os.environ.get("TOPFIVE_GEMMINI_COUNTS"):
        options += ["--counts", os.environ["TOPFIVE_GEMMINI_COUNTS"]]
    if os.environ.get("TOPFIVE_GEMMINI_ROUNDING") == "simulator":
        options += ["--simulator-rounding"]
    command = [machine, str(build()), *options, *program]
    print(BANNER, end="", flush=True)
    return os.execv(machine, command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
