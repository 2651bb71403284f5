"""Tensors of the program: a shape as ONNX has it, and the order in which its axes lie in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from topfive.errors import CompileError

__all__ = ["CHANNELS_LAST", "RANK", "Loop", "Order", "Tensor", "plain", "walk"]

Order = tuple[int, ...]
CHANNELS_LAST: Order = (0, 2, 3, 1)
# TOPFIVE_RANK of topfive.h.
RANK = 6
ITEM_SIZE = {"int8": 1, "float32": 4}


def plain(rank: int) -> Order:
    """ONNX's own order: the last axis innermost."""
    return tuple(range(rank))


@dataclass(frozen=True)
class Tensor:
    """A tensor and where it is: `address` is C text. `storage` is the buffer's number, -1 for constants.

    order: the axes in memory, outermost first.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    order: Order
    address: str
    storage: int

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * ITEM_SIZE[self.dtype]

    @property
    def steps(self) -> tuple[int, ...]:
        """Elements between neighbours along each axis, in ONNX's axis order."""
        steps = [0] * len(self.shape)
        step = 1
        for axis in reversed(self.order):
            steps[axis] = step
            step *= self.shape[axis]
        return tuple(steps)

    def lies_as(self, order: Order) -> bool:
        """Whether the elements already lie in this order: axes of one element may stand anywhere."""
        return [a for a in self.order if self.shape[a] != 1] == [a for a in order if self.shape[a] != 1]


@dataclass(frozen=True)
class Loop:
    """One loop of a walk: how often, and the steps in elements of the target and of up to two sources."""

    count: int
    to: int
    a: int
    b: int = 0

    def continues(self, inner: Loop) -> bool:
        """Whether this loop and the next inner one are a single longer loop."""
        pairs = ((self.to, inner.to), (self.a, inner.a), (self.b, inner.b))
        return all(outer == step * inner.count for outer, step in pairs)


def walk(loops: list[Loop]) -> str:
    """The C initialiser of a topfive_walk, outermost loop first; neighbouring loops are joined.

    Raises CompileError if more than RANK loops remain.
    """
    joined: list[Loop] = []
    for loop in loops:
        if loop.count == 1:
            continue
        if joined and joined[-1].continues(loop):
            joined.append(Loop(joined.pop().count * loop.count, loop.to, loop.a, loop.b))
        else:
            joined.append(loop)
    if len(joined) > RANK:
        raise CompileError(f"a tensor needs {len(joined)} nested loops, {RANK} are there")
    joined = [Loop(1, 0, 0)] * (RANK - len(joined)) + joined
    columns = ("count", "to", "a", "b")
    rows = (", ".join(str(getattr(loop, column)) for loop in joined) for column in columns)
    return "{" + ", ".join(f"{{{row}}}" for row in rows) + "}"
