"""A static plan of memory: where each buffer lies, buffers that never live together sharing bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ALIGNMENT", "Lifetime", "plan"]

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` bytes that is written at step `first` and read for the last time at step `last`."""

    size: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both hold something at one step: a step must not write what it reads."""
        return self.first <= other.last and other.first <= self.last


def plan(buffers: Sequence[Lifetime]) -> tuple[list[int], int]:
    """(offset of each buffer, bytes in all): the largest first, each at the lowest offset that is free.

    Offsets are multiples of ALIGNMENT.
    """
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for index in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, i)):
        neighbours = sorted(
            (offsets[i], offsets[i] + _aligned(buffers[i].size))
            for i in placed
            if buffers[i].overlaps(buffers[index])
        )
        offset = 0
        for start, end in neighbours:
            if offset + _aligned(buffers[index].size) <= start:
                break
            offset = max(offset, end)
        offsets[index] = offset
        placed.append(index)
    total = max((o + _aligned(b.size) for o, b in zip(offsets, buffers, strict=True)), default=0)
    return offsets, total


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
