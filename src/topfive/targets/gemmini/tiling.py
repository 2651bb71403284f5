"""Tile sizes as Gemmini's C library chooses them, exactly.

Sources: tiled_matmul_auto, tiled_conv_stride_auto, tiled_conv_dw_auto and tiled_resadd_stride_auto of
gemmini-rocc-tests' gemmini.h ("current"), and their forms of early 2021 in the header of onnxruntime-riscv
that the imagenet runner was built with ("seed"). Weight-stationary tiles fill half of the scratchpad and half
of the accumulator, so that the other halves can be loaded meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from topfive.errors import CompileError, UnknownNameError
from topfive.targets.gemmini.hardware import DATAFLOWS, Hardware, as_hardware

__all__ = [
    "LIBRARIES",
    "ConvTiles",
    "MatmulTiles",
    "conv_rows",
    "conv_tiles",
    "depthwise_tiles",
    "downsamples",
    "matmul_tiles",
    "output_size",
    "resadd_tiles",
]

LIBRARIES = ("current", "seed")
ConvTiles = tuple[int, int, int, int, int, int, int]
"""(batch, pooled output rows, pooled output columns, output channels, kernel rows, kernel columns, kernel
channels)."""
MatmulTiles = tuple[int, int, int]
"""(rows of A, columns of B, columns of A), each in blocks of dim."""
Pool = tuple[int, int, int]
"""(size, stride, padding); a stride of 0 means no pool."""

NO_POOL = (0, 0, 0)
# Places in ConvTiles.
ROWS, COLUMNS, OUT_CHANNELS, IN_CHANNELS = 1, 2, 3, 6
REMEMBERED = 1 << 16


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Output length of a convolution or pool along one side, rounded down."""
    return (size + 2 * padding - kernel) // stride + 1


def downsamples(kernel: int, stride: int, padding: int, pool: Pool, sides: tuple[int, int]) -> bool:
    """Whether the library loads every second row and column only: 1x1, stride 2, unpadded, even input."""
    return (kernel, stride, padding, pool) == (1, 2, 0, NO_POOL) and not (sides[0] % 2 or sides[1] % 2)


def conv_tiles(
    *,
    batch: int,
    in_dim: int | tuple[int, int],
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    padding: int,
    pool_size: int = 0,
    pool_stride: int = 0,
    pool_padding: int = 0,
    dilation: int = 1,
    config: Hardware | str = "default",
    library: str = "current",
) -> ConvTiles:
    """Tile sizes of a convolution: (batch, pooled output rows, pooled output columns, output channels, kernel
    rows, kernel columns, kernel channels).

    in_dim: input height and width in pixels, one number for a square. pool_stride 0: no pool, as in C. The
    seed's tiles may exceed the true sizes: its growth is not bounded by them.
    Raises UnknownNameError for an unknown library or hardware, CompileError when nothing fits.
    """
    _known("Gemmini library", library, LIBRARIES)
    sides = (in_dim, in_dim) if isinstance(in_dim, int) else in_dim
    pool = (pool_size, pool_stride, pool_padding) if pool_stride else NO_POOL
    channels, window = (in_channels, out_channels), (kernel, stride, padding, dilation)
    return _conv_tiles(batch, sides, channels, window, pool, _limits(config), library)


def depthwise_tiles(
    *,
    batch: int,
    in_dim: int | tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    config: Hardware | str = "default",
) -> ConvTiles:
    """Tile sizes of a depthwise convolution, which the library (tiled_conv_dw_auto) runs channel by channel.

    As `conv_tiles` with one input and one output channel; never downsampled. Raises CompileError when nothing
    fits.
    """
    sides = (in_dim, in_dim) if isinstance(in_dim, int) else in_dim
    return _conv_tiles(
        batch, sides, (1, 1), (kernel, stride, padding, 1), NO_POOL, _limits(config), "depthwise"
    )


def matmul_tiles(
    i: int,
    j: int,
    k: int,
    *,
    dataflow: str = "ws",
    config: Hardware | str = "default",
    library: str = "current",
) -> MatmulTiles:
    """Tile sizes of A[i, k] x B[k, j] in blocks of dim: (tile_i, tile_j, tile_k).

    Both libraries choose the same. Raises UnknownNameError for an unknown dataflow, library or hardware,
    CompileError when nothing fits.
    """
    _known("dataflow", dataflow, DATAFLOWS)
    _known("Gemmini library", library, LIBRARIES)
    _positive(f"matmul {i}x{j}x{k}", i, j, k)
    hardware = as_hardware(config)
    dim = hardware.dim
    share = 2 if dataflow == "ws" else 1
    scratchpad, accumulator = hardware.scratchpad_rows // share, hardware.accumulator_rows // share
    widest = math.isqrt(accumulator // dim)
    deepest = hardware.scratchpad_rows // 2 // share // dim // widest
    blocks_i, blocks_j, blocks_k = -(-i // dim), -(-j // dim), -(-k // dim)
    tile_i, tile_j, tile_k = min(blocks_i, widest), min(blocks_j, widest), min(blocks_k, deepest)

    def fits(rows: int, columns: int, depth: int) -> bool:
        return (rows + columns) * depth * dim <= scratchpad and rows * columns * dim <= accumulator

    grown = True
    while grown:
        grown = False
        if tile_j < blocks_j and fits(tile_i, tile_j + 1, tile_k):
            tile_j, grown = tile_j + 1, True
        if tile_i < blocks_i and fits(tile_i + 1, tile_j, tile_k):
            tile_i, grown = tile_i + 1, True
        if tile_k < blocks_k and fits(tile_i, tile_j, tile_k + 1):
            tile_k, grown = tile_k + 1, True
    if not tile_k:
        raise CompileError(
            f"matmul {i}x{j}x{k} does not fit hardware {hardware.name!r}: {tile_i}x{tile_j} blocks of the "
            "accumulator leave no room in the scratchpad; give it more rows"
        )
    return tile_i, tile_j, tile_k


def resadd_tiles(
    i: int, j: int, *, config: Hardware | str = "default", library: str = "current"
) -> tuple[int, int]:
    """Tile of a residual addition of two [i, j] matrices: (rows, columns) in elements.

    Source: tiled_resadd_stride_auto (half the accumulator, halving rows or dropping dim columns) and the
    seed's tiled_resadd_auto (all of it, one row or column at a time).
    Raises UnknownNameError for an unknown library or hardware.
    """
    _known("Gemmini library", library, LIBRARIES)
    _positive(f"residual addition {i}x{j}", i, j)
    hardware = as_hardware(config)
    dim, seed = hardware.dim, library == "seed"
    most = hardware.accumulator_rows if seed else hardware.accumulator_rows // 2
    while -(-i // dim) * dim * -(-j // dim) > most:
        if seed:
            i, j = (i - 1, j) if i >= j else (i, j - 1)
        else:
            i, j = (i // 2, j) if i >= j or j <= dim else (i, j - dim)
    return i, j


def conv_rows(
    tiles: Sequence[int],
    dim: int,
    stride: int,
    pool: Pool = NO_POOL,
    dilation: int = 1,
    downsample: bool = False,
) -> tuple[int, int]:
    """(scratchpad rows, accumulator rows) that a tile takes; tiles: the seven numbers of ConvTiles.

    Source: tiled_conv_total_spad_rows of gemmini.h. Input: a row a pixel for every dim channels, the kernel's
    borders included; weights: a row an input channel and kernel position for every dim output channels.
    """
    batch, pooled_rows, pooled_columns, out_channels, kernel_rows, kernel_columns, in_channels = tiles
    size, step = pool[:2] if pool[1] else (1, 1)
    rows = pooled_rows * step + size - 1
    columns = pooled_columns * step + size - 1
    in_rows = rows * stride + (kernel_rows - 1) * dilation >> downsample
    in_columns = columns * stride + (kernel_columns - 1) * dilation >> downsample
    out_blocks = -(-out_channels // dim)
    pixels = -(-in_channels // dim) * batch * in_rows * in_columns
    return (
        pixels + out_blocks * kernel_columns * kernel_rows * in_channels,
        out_blocks * batch * rows * columns,
    )


def _known(kind: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise UnknownNameError(kind, name, names)


def _positive(what: str, *sizes: int) -> None:
    if min(sizes) < 1:
        raise CompileError(f"{what}: every size must be at least 1")


def _limits(config: Hardware | str) -> tuple[int, int, int]:
    """(dim, scratchpad rows, accumulator rows) that a double-buffered tile may take."""
    hardware = as_hardware(config)
    return hardware.dim, hardware.scratchpad_rows // 2, hardware.accumulator_rows // 2


@lru_cache(REMEMBERED)
def _conv_tiles(
    batch: int,
    sides: tuple[int, int],
    channels: tuple[int, int],
    window: tuple[int, int, int, int],
    pool: Pool,
    limits: tuple[int, int, int],
    library: str,
) -> ConvTiles:
    kernel, stride, padding, dilation = window
    what = f"conv {kernel}x{kernel} of {sides[0]}x{sides[1]} pixels"
    _positive(what, batch, *sides, *channels, kernel, stride, padding + 1, dilation)
    outputs = [output_size(side, (kernel - 1) * dilation + 1, stride, padding) for side in sides]
    if pool != NO_POOL:
        _positive(f"pool after {what}", *pool[:2], pool[2] + 1)
        outputs = [output_size(side, *pool) for side in outputs]
    if min(outputs) < 1:
        raise CompileError(f"{what} has no output: the window is larger than the padded input")
    dim, scratchpad, accumulator = limits
    downsample = library == "current" and downsamples(kernel, stride, padding, pool, sides)
    most = [batch, *outputs, channels[1], kernel, kernel, channels[0]]

    def fits(tiles: list[int]) -> bool:
        taken = conv_rows(tiles, dim, stride, pool, dilation, downsample)
        return taken[0] <= scratchpad and taken[1] <= accumulator

    tiles = list(most)
    while not fits(tiles):
        if max(tiles) == 1:
            raise CompileError(
                f"{what} does not fit: one output takes more than {scratchpad} scratchpad rows or "
                f"{accumulator} accumulator rows, half of what there is"
            )
        if library == "seed":
            tiles[tiles.index(max(tiles))] -= 1
        else:
            _shrink(tiles, dim)
    if library != "seed":
        _grow(tiles, (COLUMNS,), fits, most)
    _grow(tiles, range(7), fits, most if library != "seed" else None)
    return (tiles[0], tiles[1], tiles[2], tiles[3], tiles[4], tiles[5], tiles[6])


def _shrink(tiles: list[int], dim: int) -> None:
    """Make the largest size smaller, the first of equals; columns are kept while they fill the array."""
    keep_columns = tiles[COLUMNS] <= dim and tiles[ROWS] > 1
    largest = max(range(7), key=lambda at: -1 if at == COLUMNS and keep_columns else tiles[at])
    size = tiles[largest]
    if largest in (OUT_CHANNELS, IN_CHANNELS):
        tiles[largest] = max((size - 1) // dim * dim, 1)
    else:
        tiles[largest] = size - 1


def _grow(
    tiles: list[int], order: Iterable[int], fits: Callable[[list[int]], bool], most: list[int] | None
) -> None:
    """Sweep over the sizes, adding 1 wherever it fits, until a sweep changes nothing."""
    grown = True
    while grown:
        grown = False
        for at in order:
            if most is not None and tiles[at] >= most[at]:
                continue
            tiles[at] += 1
            if fits(tiles):
                grown = True
            else:
                tiles[at] -= 1
