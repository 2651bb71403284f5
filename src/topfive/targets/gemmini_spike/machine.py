"""What the program's C code assumes of Gemmini, and how its instructions are counted."""

from __future__ import annotations

from collections import Counter

from topfive.errors import CompileError
from topfive.targets.gemmini.hardware import Hardware, load_hardware

__all__ = ["DIM", "HARDWARE", "WIDEST", "Instructions", "blocks", "limited", "parts"]

# Fixed when Gemmini and libgemmini are built: gemmini_isa.h has the same numbers.
HARDWARE: Hardware = load_hardware("default")
DIM = HARDWARE.dim
WIDEST = DIM * HARDWARE.max_block_length
"""Most columns of codes in one mvin."""

Instructions = Counter[str]
"""How often each instruction is issued; "fence" is the processor's own."""


def blocks(count: int, size: int = DIM) -> int:
    """How many blocks of `size` it takes to cover `count`."""
    return -(-count // size)


def parts(size: int, step: int) -> list[tuple[int, int]]:
    """(beginning, length) of the pieces of a range that is cut every `step`."""
    return [(at, min(step, size - at)) for at in range(0, size, step)]


def limited(what: str, value: int, most: int) -> None:
    """CompileError if a value is more than the hardware, or a field of an instruction, can hold."""
    if not 0 <= value <= most:
        raise CompileError(f"{what} is {value}: Gemmini takes at most {most}")
