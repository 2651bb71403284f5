"""Modelled cycles and bytes of one convolution, matrix product or residual addition, tile by tile.

Per tile, three engines work at once, each on its own half of a double buffer: the array (compute), the read
DMA (load) and the write DMA (store); a tile takes as long as the slowest of them. docs/gemmini-cycles.md
gives every formula, its source and what is left out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from topfive.targets.gemmini.hardware import Hardware
from topfive.targets.gemmini.layers import Conv, Matmul, ResidualAdd, Work
from topfive.targets.gemmini.tiling import (
    REMEMBERED,
    conv_tiles,
    depthwise_tiles,
    downsamples,
    matmul_tiles,
    output_size,
    resadd_tiles,
)

__all__ = ["WHOLE", "Costs", "work_costs"]

WHOLE = 10_000
"""What shares are counted in."""
# An instruction of fewer rows takes this long: the accumulator's write-after-write hazard.
SHORTEST = 4
# A store configuration is one instruction, which stores wait for.
CONFIGURE = 1


@dataclass(frozen=True)
class Costs:
    """Modelled cycles and bytes of some work.

    compute, load, store: cycles in which each engine is busy, loads at full bus speed. slow_load: loads at
    the calibrated share. bus, estimate: cycles in all, overlapped tile by tile. tiles: how many tiles.
    configs: store configurations beyond the one that every layer has.
    """

    compute: int = 0
    load: int = 0
    store: int = 0
    slow_load: int = 0
    bus: int = 0
    estimate: int = 0
    load_bytes: int = 0
    store_bytes: int = 0
    tiles: int = 0
    configs: int = 0

    def __mul__(self, count: int) -> Costs:
        return Costs(*(getattr(self, f.name) * count for f in fields(self)))

    def __add__(self, other: Costs) -> Costs:
        return Costs(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@lru_cache(REMEMBERED)
def work_costs(work: Work, hardware: Hardware, dataflow: str, library: str, share: int) -> Costs:
    """The costs of some work; share: loads' calibrated part of the bus, per WHOLE.

    Output stationary takes matrix products only. Raises CompileError when nothing fits.
    """
    if isinstance(work, ResidualAdd):
        return _residual_add(work, hardware, library, share)
    more = work.scales - 1
    cycles = CONFIGURE * more
    configured = Costs(store=cycles, bus=cycles, estimate=cycles, configs=more)
    if isinstance(work, Matmul):
        return _matmul(work, hardware, dataflow, library, share) * work.count + configured
    if work.depthwise:
        one = Conv(work.batch, work.in_dim, 1, 1, work.kernel, work.stride, work.padding, bias=work.bias)
        return _conv(one, hardware, "depthwise", share) * work.out_channels + configured
    return _conv(work, hardware, library, share) * work.groups + configured


def _slow(load: int, share: int) -> int:
    return -(-load * WHOLE // share)


def _tile(compute: int, load: int, store: int, share: int, bytes_in: int, bytes_out: int) -> Costs:
    """A double-buffered tile: the slowest engine decides."""
    slow = _slow(load, share)
    bus, estimate = max(compute, load, store), max(compute, slow, store)
    return Costs(compute, load, store, slow, bus, estimate, bytes_in, bytes_out, 1)


def _beats(row_bytes: int, hardware: Hardware) -> int:
    """Bus cycles for one row: requests of at most max_bytes, each rounded up to whole beats."""
    whole, rest = divmod(row_bytes, hardware.max_bytes)
    return whole * -(-hardware.max_bytes // hardware.bus_bytes) + -(-rest // hardware.bus_bytes)


def _pieces(size: int, step: int) -> list[tuple[int, int]]:
    """(length, how many) of a range cut into steps: the whole ones and the rest."""
    whole, rest = divmod(size, step)
    return [(length, count) for length, count in ((step, whole), (rest, 1)) if length and count]


def _depths(size: int, step: int) -> list[tuple[int, int, bool, bool]]:
    """(length, how many, first, last) of the steps of a dimension that is summed over."""
    starts = range(0, size, step)
    found: dict[tuple[int, bool, bool], int] = {}
    for start in starts:
        key = (min(step, size - start), start == 0, start + step >= size)
        found[key] = found.get(key, 0) + 1
    return [(length, count, first, last) for (length, first, last), count in found.items()]


def _rows_cycles(rows: int, dim: int) -> tuple[int, int]:
    """(cycles to pass `rows` rows through the array, dim at a time; cycles that a preload adds to the last).

    An instruction takes a cycle a row, at least SHORTEST; the one that preloads the next weights takes dim.
    """
    whole, rest = divmod(rows, dim)
    full = max(dim, SHORTEST)
    last = max(rest, SHORTEST) if rest else full
    return whole * full + (last if rest else 0), full - last


def _conv(work: Conv, hardware: Hardware, library: str, share: int) -> Costs:
    """One convolution; source of the loop order: tiled_conv and sp_tiled_conv of gemmini.h."""
    sizes = _conv_sizes(work, hardware, library)
    pool = work.pool if work.pool[1] else (1, 1, 0)
    outputs = [output_size(side, *pool) for side in work.out_dim]
    channels = _pieces(work.out_channels, sizes[3])
    depths = [
        _depths(work.kernel, sizes[4]),
        _depths(work.kernel, sizes[5]),
        _depths(work.in_channels, sizes[6]),
    ]
    total = Costs()
    for (batch, batches), (rows, down), (columns, across) in itertools.product(
        _pieces(work.batch, sizes[0]), _pieces(outputs[0], sizes[1]), _pieces(outputs[1], sizes[2])
    ):
        area = _Area(work, hardware, library, batch, rows, columns)
        inner = Costs()
        for (out, outs), *summed in itertools.product(channels, *depths):
            count = outs * summed[0][1] * summed[1][1] * summed[2][1]
            first, last = all(step[2] for step in summed), all(step[3] for step in summed)
            tile = area.tile(out, (summed[0][0], summed[1][0], summed[2][0]), first, last, share)
            inner += tile * count
        total += inner * (batches * down * across)
    return total


def _conv_sizes(work: Conv, hardware: Hardware, library: str) -> tuple[int, ...]:
    if library == "depthwise":
        return depthwise_tiles(
            batch=work.batch,
            in_dim=work.in_dim,
            kernel=work.kernel,
            stride=work.stride,
            padding=work.padding,
            config=hardware,
        )
    return conv_tiles(
        batch=work.batch,
        in_dim=work.in_dim,
        in_channels=work.in_channels,
        out_channels=work.out_channels,
        kernel=work.kernel,
        stride=work.stride,
        padding=work.padding,
        pool_size=work.pool[0],
        pool_stride=work.pool[1],
        pool_padding=work.pool[2],
        dilation=work.dilation,
        config=hardware,
        library=library,
    )


class _Area:
    """Batch, output rows and output columns of a convolution's tile, and what they cost for some channels."""

    def __init__(
        self, work: Conv, hardware: Hardware, library: str, batch: int, rows: int, columns: int
    ) -> None:
        pool = work.pool if work.pool[1] else (1, 1, 0)
        self.work, self.hardware, self.batch = work, hardware, batch
        self.downsample = library != "depthwise" and downsamples(
            work.kernel, work.stride, work.padding, work.pool, work.in_dim
        )
        self.rows = rows * pool[1] + pool[0] - 1
        self.columns = columns * pool[1] + pool[0] - 1
        self.stored = batch * rows * columns
        # A pooled output reads its whole window out of the accumulator, a row a cycle.
        row = _beats(hardware.dim * hardware.element_bytes, hardware)
        self.store_cycles = self.stored * max(pool[0] ** 2, row)
        row_cycles, self.preload = _rows_cycles(self.columns, hardware.dim)
        self.compute = batch * self.rows * row_cycles

    def _inputs(self, kernel_rows: int, kernel_columns: int) -> int:
        """Pixels that are loaded: the tile's window, no larger than the picture."""
        work, sides = self.work, (self.rows, self.columns)
        spans = [
            min((side - 1) * work.stride + (kernel - 1) * work.dilation + 1, whole)
            for side, kernel, whole in zip(sides, (kernel_rows, kernel_columns), work.in_dim, strict=True)
        ]
        if self.downsample:
            spans = [(span + 1) // 2 for span in spans]
        return self.batch * spans[0] * spans[1]

    def _together(self, kernel_columns: int, in_channels: int) -> int:
        """Kernel columns whose channels share one row of the array (the first-layer optimisation)."""
        hardware = self.hardware
        alone = self.downsample or self.work.dilation > 1 or not hardware.first_layer
        return 1 if alone else max(min(hardware.dim // in_channels, kernel_columns), 1)

    def tile(
        self, out_channels: int, window: tuple[int, int, int], first: bool, last: bool, share: int
    ) -> Costs:
        """The costs of one tile; window: (kernel rows, kernel columns, input channels) of it."""
        hardware, (kernel_rows, kernel_columns, in_channels) = self.hardware, window
        dim, element, accumulator = hardware.dim, hardware.element_bytes, hardware.accumulator_bytes
        blocks = -(-out_channels // dim)
        steps = kernel_rows * -(-kernel_columns // self._together(kernel_columns, in_channels))
        compute = blocks * steps * -(-in_channels // dim) * (self.compute + self.preload)
        pixels = self._inputs(kernel_rows, kernel_columns)
        weights = kernel_rows * kernel_columns * in_channels
        load = pixels * _beats(in_channels * element, hardware)
        load += weights * _beats(out_channels * element, hardware)
        moved = (pixels * in_channels + weights * out_channels) * element
        if first and self.work.bias:
            biased, row = self.batch * self.rows * self.columns, out_channels * accumulator
            load += biased * -(-row // hardware.bus_bytes)
            moved += biased * row
        store = blocks * self.store_cycles if last else 0
        stored = self.stored * out_channels * element if last else 0
        return _tile(compute, load, store, share, moved, stored)


def _matmul(work: Matmul, hardware: Hardware, dataflow: str, library: str, share: int) -> Costs:
    """One product; source of the loop order and of the reuse: tiled_matmul_outer of gemmini.h."""
    sizes = matmul_tiles(work.i, work.j, work.k, dataflow=dataflow, config=hardware, library=library)
    steps = [
        _depths(size, tile * hardware.dim) for size, tile in zip((work.i, work.j, work.k), sizes, strict=True)
    ]
    counts = [sum(step[1] for step in dimension) for dimension in steps]
    keeps = dataflow == "ws" and library == "current"
    keep_a, keep_b = keeps and counts[0] * counts[2] <= 2, keeps and counts[1] * counts[2] <= 2
    total = Costs()
    for rows, columns, depth in itertools.product(*steps):
        moved = 0 if keep_a and not columns[2] else rows[0] * depth[0] * hardware.element_bytes
        moved += 0 if keep_b and not rows[2] else depth[0] * columns[0] * hardware.element_bytes
        if work.bias and depth[2]:
            moved += rows[0] * columns[0] * hardware.accumulator_bytes
        tile = _product(rows[0], columns[0], depth[0], moved, depth[3], hardware, dataflow, share)
        total += tile * (rows[1] * columns[1] * depth[1])
    return total


def _product(
    rows: int,
    columns: int,
    depth: int,
    moved: int,
    last: bool,
    hardware: Hardware,
    dataflow: str,
    share: int,
) -> Costs:
    """A tile of a product; `moved`: bytes loaded, which stream over the bus."""
    dim = hardware.dim
    blocks = -(-columns // dim)
    load = -(-moved // hardware.bus_bytes)
    store = rows * blocks * _beats(dim * hardware.element_bytes, hardware) if last else 0
    stored = rows * columns * hardware.element_bytes if last else 0
    if dataflow == "ws":
        row_cycles, preload = _rows_cycles(rows, dim)
        compute = blocks * -(-depth // dim) * (row_cycles + preload)
        return _tile(compute, load, store, share, moved, stored)
    # Output stationary: dim cycles a block, dim more to bring out the result; a tile takes all of both
    # memories, so that nothing overlaps.
    compute = -(-rows // dim) * blocks * (-(-depth // dim) + 1) * max(dim, SHORTEST)
    slow = _slow(load, share)
    bus, estimate = compute + load + store, compute + slow + store
    return Costs(compute, load, store, slow, bus, estimate, moved, stored, 1)


def _residual_add(work: ResidualAdd, hardware: Hardware, library: str, share: int) -> Costs:
    """Both inputs are loaded into the accumulator, the sum is stored; the array does nothing."""
    tile_i, tile_j = resadd_tiles(work.i, work.j, config=hardware, library=library)
    tiles = -(-work.i // tile_i) * -(-work.j // tile_j)
    size = work.i * work.j * hardware.element_bytes
    load = -(-2 * size // hardware.bus_bytes)
    row = _beats(hardware.dim * hardware.element_bytes, hardware)
    store = work.i * -(-work.j // hardware.dim) * row
    return replace(_tile(0, load, store, share, 2 * size, size), tiles=tiles)
