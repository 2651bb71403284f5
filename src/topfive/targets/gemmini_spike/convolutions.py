"""Convolutions for Gemmini: tiles, the C descriptor, and the instructions that they come to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from topfive.errors import CompileError
from topfive.targets.gemmini.tiling import (
    NO_POOL,
    ConvTiles,
    Pool,
    conv_tiles,
    depthwise_tiles,
    downsamples,
    output_size,
)
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

__all__ = ["Convolution", "plan_convolution", "square"]

HALF_SCRATCHPAD = HARDWARE.scratchpad_rows // 2
HALF_ACCUMULATOR = HARDWARE.accumulator_rows // 2
# Widths of fields: two bits for a pool's sizes, eight for lengths, 16 for steps between rows.
MOST_POOL, MOST_POOLED, MOST_STEP = 3, 255, 2**16 - 1
MOST_STRIDE = 2**32 - 1


def square(window: Window) -> tuple[int, int, int, int] | None:
    """(kernel, stride, padding, dilation) of a window that is the same on all sides, as tiles are chosen for.

    None for any other, and for padding that is wider than the kernel.
    """
    end = (window.end[0] - window.size[0], window.end[1] - window.size[1])
    values = [{*window.kernel}, {*window.stride}, {*window.pad, *end}, {*window.dilation}]
    if any(len(value) != 1 for value in values) or window.pad[0] >= window.kernel[0]:
        return None
    return window.kernel[0], window.stride[0], window.pad[0], window.dilation[0]


@dataclass(frozen=True)
class Convolution:
    """A weight-stationary convolution: the numbers of gemmini_convolution in gemmini_layers.h.

    tiles: of one group, in pooled outputs. skip: every how many pixels are loaded.
    """

    window: Window
    out_channels: int
    groups: int
    group_in: int
    group_out: int
    pool: Pool
    tiles: ConvTiles
    skip: int

    @property
    def pooled(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        if self.pool == NO_POOL:
            return self.window.out
        rows, columns = (output_size(side, *self.pool) for side in self.window.out)
        return rows, columns

    @property
    def shares(self) -> bool:
        """Whether neighbouring pixels of a few channels share a row (the first-layer optimisation)."""
        return self.window.dilation == (1, 1) and self.skip == 1 and HARDWARE.first_layer

    def initialiser(self, weights: str, bias: str, out: str) -> str:
        """The C initialiser of a gemmini_convolution; weights, bias: addresses; out: its field's text."""
        _, *tiles = self.tiles
        numbers = [self.out_channels, self.groups, self.group_in, self.group_out]
        numbers += [*self.pool, *self.pooled, *tiles, self.skip, int(self.shares)]
        listed = ", ".join(str(n) for n in numbers)
        return f"{{{self.window.initialiser()},\n    {listed},\n    {weights}, {bias}, {out}}}"

    def instructions(self) -> Instructions:
        """How many instructions the layer issues, of each kind."""
        total = Instructions(config_ex=1, fence=2)
        whole = _Group(self, self.group_in, self.group_out).instructions()
        rest_in = self.window.channels - (self.groups - 1) * self.group_in
        rest_out = self.out_channels - (self.groups - 1) * self.group_out
        for name, count in whole.items():
            total[name] += count * (self.groups - 1)
        total.update(_Group(self, rest_in, rest_out).instructions())
        return total

    def check(self) -> None:
        """CompileError if a tile or a field is larger than Gemmini takes."""
        _, rows, columns, outs, *kernel, ins = self.tiles
        height = _unpooled(self, 0, 0, rows)[1] + self.pool[2]
        width = _unpooled(self, 1, 0, columns)[1] + self.pool[2]
        tile = _Tile(self, 0, height, 0, width, outs, (0, 0), (kernel[0], kernel[1]), ins)
        inputs = blocks(ins) * tile.in_rows * tile.in_columns
        weights = blocks(outs) * kernel[0] * kernel[1] * ins
        limited("scratchpad rows of a tile", inputs + weights, HALF_SCRATCHPAD)
        limited("accumulator rows of a tile", blocks(outs) * height * width, HALF_ACCUMULATOR)
        limited("rows between blocks of pixels", tile.in_rows * tile.in_columns, MOST_STEP)
        limited("bytes between pixels", self.window.channels * self.skip, MOST_STRIDE)
        limited("bytes between outputs", 4 * self.out_channels, MOST_STRIDE)
        limited("columns between outputs' inputs", self.window.stride[1] // self.skip, MOST_STEP)
        if self.pool != NO_POOL:
            limited("the pool's size, stride or padding", max(self.pool), MOST_POOL)
            limited("rows or columns of a pooled tile", max(height, width), MOST_POOLED)
            limited("pooled columns", self.pooled[1], MOST_POOLED)


@dataclass(frozen=True)
class _Tile:
    """One loaded tile: outputs from (row, column), a part of the kernel from `corner`, `ins` channels."""

    conv: Convolution
    row: int
    rows: int
    column: int
    columns: int
    outs: int
    corner: tuple[int, int]
    kernel: tuple[int, int]
    ins: int

    @property
    def in_rows(self) -> int:
        """Rows of input that it loads."""
        return self._length(self.rows, 0)

    @property
    def in_columns(self) -> int:
        """Columns of input that it loads."""
        return self._length(self.columns, 1)

    def _length(self, outputs: int, axis: int) -> int:
        window = self.conv.window
        step = window.stride[axis] // self.conv.skip
        return (outputs - 1) * step + (self.kernel[axis] - 1) * window.dilation[axis] + 1

    def _inside(self, axis: int) -> tuple[int, int, int]:
        """Inputs before the picture, in it, and behind it, along one axis."""
        window, skip = self.conv.window, self.conv.skip
        output, length = (self.row, self.in_rows) if axis == 0 else (self.column, self.in_columns)
        begin = output * window.stride[axis] + self.corner[axis] * window.dilation[axis] - window.pad[axis]
        places = [begin + n * skip for n in range(length)]
        before = sum(place < 0 for place in places)
        behind = sum(place >= window.size[axis] for place in places)
        return before, length - before - behind, behind

    def instructions(self) -> Instructions:
        """Loading inputs and weights, and multiplying."""
        before, inside, behind = self._inside(0)
        left, middle, right = self._inside(1)
        widths = blocks(self.ins, WIDEST)
        moves = blocks(self.ins)
        pixels = min(DIM // self.ins, self.kernel[1]) if self.conv.shares and self.ins <= DIM else 1
        held = blocks(self.outs) * self.kernel[0] * blocks(self.kernel[1], pixels) * moves
        passes = held * self.rows * blocks(self.columns)
        zeros = inside * (blocks(left) + blocks(right)) + (before + behind) * blocks(self.in_columns)
        return Instructions(
            config_ld=3,
            mvin=inside * blocks(middle) * widths,
            mvin3=zeros * widths,
            mvin2=blocks(self.outs, WIDEST) * self.kernel[0] * self.kernel[1] * moves,
            preload=passes,
            compute_preloaded=held,
            compute_accumulated=passes - held,
        )


@dataclass(frozen=True)
class _Group:
    """One group of a convolution, of `ins` and `outs` channels."""

    conv: Convolution
    ins: int
    outs: int

    def _tiles(self) -> Iterator[tuple[tuple[int, int], tuple[int, int], int]]:
        """((first row, rows), (first column, columns), output channels) of each tile of outputs."""
        _, rows, columns, outs, *_ = self.conv.tiles
        for row, height in parts(self.conv.pooled[0], rows):
            for column, width in parts(self.conv.pooled[1], columns):
                for _, count in parts(self.outs, outs):
                    down = _unpooled(self.conv, 0, row, height)
                    across = _unpooled(self.conv, 1, column, width)
                    yield down, across, count

    def instructions(self) -> Instructions:
        pooled = self.conv.pool != NO_POOL
        total = Instructions(config_st=int(not pooled))
        *_, kernel_rows, kernel_columns, depth = self.conv.tiles
        kernel = self.conv.window.kernel
        for (row, rows), (column, columns), outs in self._tiles():
            moves = rows * blocks(columns) * blocks(outs)
            total.update(config_ld=1, mvin3=moves)
            for top, height in parts(kernel[0], kernel_rows):
                for left, width in parts(kernel[1], kernel_columns):
                    for _, ins in parts(self.ins, depth):
                        tile = _Tile(
                            self.conv, row, rows, column, columns, outs, (top, left), (height, width), ins
                        )
                        total.update(tile.instructions())
            total.update(config_st=int(pooled), mvout=blocks(outs) if pooled else moves)
        return total


def _unpooled(conv: Convolution, axis: int, at: int, count: int) -> tuple[int, int]:
    """(first, number) of the outputs that `count` pooled ones from `at` are made of, along one axis."""
    if conv.pool == NO_POOL:
        return at, count
    size, stride, padding = conv.pool
    begin = at * stride - padding
    end = min(conv.window.out[axis], begin + (count - 1) * stride + size)
    return max(begin, 0), end - max(begin, 0)


@lru_cache(4096)
def plan_convolution(
    window: Window, out_channels: int, groups: int, group_in: int, group_out: int, pool: Pool = NO_POOL
) -> Convolution:
    """Tiles of the library's choice for one group, and what follows from them.

    group_in, group_out: channels of a group; the last one may have fewer. Raises CompileError if the window
    is not the same on all sides, or something does not fit.
    """
    sides = square(window)
    if sides is None:
        raise CompileError("tiles are chosen for windows that are the same on all sides")
    kernel, stride, padding, dilation = sides
    if group_in == group_out == 1 and dilation == 1 and pool == NO_POOL:
        tiles = depthwise_tiles(
            batch=1, in_dim=window.size, kernel=kernel, stride=stride, padding=padding, config=HARDWARE
        )
        skip = 1
    else:
        tiles = conv_tiles(
            batch=1,
            in_dim=window.size,
            in_channels=group_in,
            out_channels=group_out,
            kernel=kernel,
            stride=stride,
            padding=padding,
            pool_size=pool[0],
            pool_stride=pool[1],
            pool_padding=pool[2],
            dilation=dilation,
            config=HARDWARE,
        )
        skip = 2 if downsamples(kernel, stride, padding, pool, window.size) else 1
    made = Convolution(window, out_channels, groups, group_in, group_out, pool, tiles, skip)
    made.check()
    return made
