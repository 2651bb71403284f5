"""Matrix products and residual additions for Gemmini: tiles, C descriptors, and their instructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topfive.targets.gemmini.tiling import MatmulTiles, matmul_tiles, resadd_tiles
from topfive.targets.gemmini_qemu.windows import Window
from topfive.targets.gemmini_spike.machine import (
    DIM,
    HARDWARE,
    WIDEST,
    Instructions,
    blocks,
    limited,
    parts,
)

__all__ = ["Addition", "Product", "blocks_together", "plan_addition", "plan_product"]

MOST_STRIDE = 2**32 - 1
MOST_STEP = 2**16 - 1
# What leaves the array is 20 bits wide (outputType of the default configuration) and saturates.
ARRAY_MOST = 2**19 - 1
LARGEST_CODE = 128


@dataclass(frozen=True)
class Product:
    """y [rows, columns] = a [rows, depth] x b [depth, columns], a group: gemmini_product in gemmini_layers.h.

    window: where a's rows are gathered from; None if a lies in memory. together: see `blocks_together`.
    """

    dataflow: str
    rows: int
    depth: int
    columns: int
    groups: int
    out_channels: int
    group_in: int
    a_step: int
    window: Window | None
    tiles: MatmulTiles
    together: int

    @property
    def gathered_bytes(self) -> int:
        """Scratch memory for the rows of a tile, in whole words."""
        if self.window is None:
            return 0
        return -(-min(self.tiles[0] * DIM, self.rows) * self.depth // 4) * 4

    def initialiser(self, bias: str, out: str) -> str:
        """The C initialiser of a gemmini_product; bias: its address; out: its field's text."""
        window = self.window or Window.of_rows(self.rows, self.depth)
        numbers = [int(self.window is not None), self.group_in]
        numbers += [self.rows, self.depth, self.columns, self.groups, self.out_channels]
        numbers += [self.a_step, self.out_channels, *self.tiles, int(self.dataflow == "os"), self.together]
        listed = ", ".join(str(n) for n in numbers)
        return f"{{{window.initialiser()},\n    {listed},\n    {bias}, {out}}}"

    def instructions(self) -> Instructions:
        """How many instructions the layer issues, of each kind."""
        total = Instructions(config_ex=1, fence=2)
        rest = self.out_channels - (self.groups - 1) * self.columns
        for name, count in self._group(self.columns).items():
            total[name] += count * (self.groups - 1)
        total.update(self._group(rest))
        return total

    def _group(self, columns: int) -> Instructions:
        total = Instructions(config_st=1)
        for _, rows in parts(self.rows, self.tiles[0] * DIM):
            total.update(fence=2 * (self.window is not None))
            for _, width in parts(columns, self.tiles[1] * DIM):
                moves = blocks(rows) * blocks(width)
                total.update(config_ld=1, mvin3=moves, mvout=moves)
                for _, depth in parts(self.depth, self.tiles[2] * DIM):
                    total.update(self._tile(rows, width, depth))
        return total

    def _tile(self, rows: int, columns: int, depth: int) -> Instructions:
        passes = blocks(rows) * blocks(columns) * blocks(depth)
        if self.dataflow == "os":
            fresh = blocks(rows) * blocks(columns) * blocks(blocks(depth), self.together)
        else:
            fresh = blocks(columns) * blocks(depth)
        return Instructions(
            config_ld=2,
            mvin=blocks(rows) * blocks(depth, WIDEST),
            mvin2=blocks(depth) * blocks(columns, WIDEST),
            preload=passes,
            compute_preloaded=fresh,
            compute_accumulated=passes - fresh,
        )

    def check(self) -> None:
        """CompileError if a tile or a field is larger than Gemmini takes."""
        halves = 1 if self.dataflow == "os" else 2
        rows, columns, depth = self.tiles
        limited(
            "scratchpad rows of a tile", (rows + columns) * depth * DIM, HARDWARE.scratchpad_rows // halves
        )
        limited("accumulator rows of a tile", rows * columns * DIM, HARDWARE.accumulator_rows // halves)
        limited("bytes between rows of a", max(self.a_step, self.depth), MOST_STRIDE)
        limited("bytes between rows of sums", 4 * self.out_channels, MOST_STRIDE)


def blocks_together(weights: NDArray[np.int8] | None, depth: int, tile_depth: int) -> int:
    """How many blocks of 16 products the array may sum up before its output could saturate.

    weights: [..., depth, columns], None if they are not known: then any codes; activations are any codes.
    tile_depth: blocks of a tile, which begins a new sum. The output-stationary array keeps 32 bits and gives
    away 20 (PE.scala).
    """
    if weights is None:
        return max(ARRAY_MOST // LARGEST_CODE**2 // DIM, 1)
    sums = np.abs(weights.reshape(-1, depth, weights.shape[-1]).astype(np.int64))
    together = min(tile_depth, blocks(depth))
    while together > 1:
        tiles = range(0, depth, tile_depth * DIM)
        ends = [*tiles[1:], depth]
        edges = [at for tile, end in zip(tiles, ends, strict=True) for at in range(tile, end, together * DIM)]
        largest = np.add.reduceat(sums, edges, axis=1).max(initial=0)
        if largest * LARGEST_CODE <= ARRAY_MOST:
            break
        together -= 1
    return together


def plan_product(
    dataflow: str,
    *,
    rows: int,
    depth: int,
    columns: int,
    weights: NDArray[np.int8] | None,
    groups: int = 1,
    out_channels: int = 0,
    group_in: int = 0,
    a_step: int = 0,
    window: Window | None = None,
) -> Product:
    """Tiles of the library's choice for one group's product, and what follows from them.

    out_channels, a_step, group_in: as in gemmini_product; 0: those of one group that lies by itself. Raises
    CompileError if something does not fit.
    """
    tiles = matmul_tiles(rows, columns, depth, dataflow=dataflow, config=HARDWARE)
    together = blocks_together(weights, depth, tiles[2]) if dataflow == "os" else 1
    made = Product(
        dataflow,
        rows,
        depth,
        columns,
        groups,
        out_channels or columns,
        group_in or depth,
        a_step or depth,
        window,
        tiles,
        together,
    )
    made.check()
    return made


@dataclass(frozen=True)
class Addition:
    """The sum of two matrices of codes [rows, columns]; tiles in elements."""

    rows: int
    columns: int
    tiles: tuple[int, int]

    def initialiser(self, scales: Sequence[str]) -> str:
        """The C initialiser of a gemmini_addition; scales: float literals."""
        return "{" + ", ".join(map(str, (self.rows, self.columns, *self.tiles, *scales))) + "}"

    def instructions(self) -> Instructions:
        """How many instructions the layer issues, of each kind."""
        total = Instructions(fence=2, config_st=1)
        for _, rows in parts(self.rows, self.tiles[0]):
            for _, columns in parts(self.columns, self.tiles[1]):
                moves = blocks(rows) * blocks(columns, WIDEST)
                total.update(config_ld=2, mvin=moves, mvin2=moves, mvout=blocks(rows) * blocks(columns))
        return total


def plan_addition(rows: int, columns: int) -> Addition:
    """Tiles of the library's choice; CompileError if something does not fit."""
    tiles = resadd_tiles(rows, columns, config=HARDWARE)
    taken = blocks(tiles[0]) * DIM * blocks(tiles[1])
    limited("accumulator rows of a tile", taken, HARDWARE.accumulator_rows // 2)
    limited("rows between blocks of columns", blocks(tiles[0]) * DIM, MOST_STEP)
    limited("bytes between rows", columns, MOST_STRIDE)
    return Addition(rows, columns, tiles)
