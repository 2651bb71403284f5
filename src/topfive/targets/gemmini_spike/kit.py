"""What programs with Gemmini's instructions are made with."""

from __future__ import annotations

from pathlib import Path

from topfive.targets.gemmini_qemu.kit import RUNTIME as SCALAR_RUNTIME
from topfive.targets.gemmini_qemu.kit import Kit
from topfive.targets.gemmini_spike.rules import rules

__all__ = ["RUNTIME", "kit"]

RUNTIME = Path(__file__).parent / "runtime"
# Of the scalar runtime: what Gemmini does not do.
SCALAR = ("codes.c", "floats.c", "movement.c", "requantize.h", "topfive.h")
# A static program of the C library: the proxy kernel runs no other. No contraction, as in the scalar kit.
HOSTED = "-O2 -static -march=rv64gc -mabi=lp64d -mcmodel=medany -std=gnu11 -Wall -ffp-contract=off"


def kit(dataflow: str) -> Kit:
    """Rules, runtime and flags of a program in this dataflow: "ws" or "os"."""
    own = (path for path in RUNTIME.iterdir() if path.suffix in (".c", ".h"))
    files = sorted([*own, *(SCALAR_RUNTIME / name for name in SCALAR)], key=lambda path: path.name)
    return Kit(rules(dataflow), tuple(files), HOSTED, ("topfive.h", "gemmini_layers.h"), "gemmini_begin();")
