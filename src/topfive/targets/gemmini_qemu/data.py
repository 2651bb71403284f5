"""The program's constants: one block of bytes that the assembler includes as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.targets.gemmini_qemu.memory import ALIGNMENT

__all__ = ["DataSection", "scalings"]

# topfive_scaling of topfive.h.
SCALING = np.dtype([("multiplier", "<i4"), ("shift", "<i4"), ("scale", "<f4")])
SIGNIFICANT_BITS = 24
SHIFTS = range(16, 61)


class DataSection:
    """Arrays one after the other, each aligned; equal bytes are stored once."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._offsets: dict[bytes, int] = {}
        self._size = 0

    def add(self, array: NDArray[Any]) -> str:
        """Store an array in row-major order and return the C text of its address."""
        block = np.ascontiguousarray(array).tobytes()
        if block not in self._offsets:
            padding = -len(block) % ALIGNMENT
            self._offsets[block] = self._size
            self._blocks.append(block + bytes(padding))
            self._size += len(block) + padding
        return f"D({self._offsets[block]})"

    def content(self) -> bytes:
        """The whole section; never empty, so that it can be included."""
        return b"".join(self._blocks) or bytes(ALIGNMENT)


def scalings(factors: NDArray[np.float32]) -> NDArray[Any]:
    """Requantisation factors as the runtime wants them.

    factors: float32 [n]. Each is also given as multiplier * 2**-shift, which is the same number exactly;
    shift 0 where it lies outside 16..60 and only the float form applies. Returns SCALING [n].
    """
    fraction, exponent = np.frexp(np.asarray(factors, np.float32).ravel())
    stored = np.zeros(fraction.size, SCALING)
    shift = SIGNIFICANT_BITS - exponent
    usable = (shift >= SHIFTS.start) & (shift < SHIFTS.stop)
    stored["multiplier"] = np.ldexp(fraction.astype(np.float64), SIGNIFICANT_BITS)
    stored["shift"] = np.where(usable, shift, 0)
    stored["scale"] = np.asarray(factors, np.float32).ravel()
    return stored
