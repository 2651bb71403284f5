"""Tile sizes: against tables of the C functions' own answers, and what must hold for any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from topfive.errors import CompileError, UnknownNameError
from topfive.targets.gemmini.hardware import Hardware, load_hardware
from topfive.targets.gemmini.tiling import (
    conv_rows,
    conv_tiles,
    depthwise_tiles,
    downsamples,
    matmul_tiles,
    output_size,
    resadd_tiles,
)

# What the C functions of both headers answered, compiled natively. resnet50: [batch, side, input and output
# channels, kernel, stride, padding, pool size, pool stride, pool padding], current, seed. convs: [dim, banks,
# bank rows, accumulator rows], library, arguments, answer. matmuls: hardware, [i, j, k], ws, os. resadds:
# hardware, [i, j], current, seed.
TABLES = json.loads((Path(__file__).parent / "data" / "gemmini_tiles.json").read_text())


def hardware(dim: int, banks: int, bank_rows: int, accumulator_rows: int) -> Hardware:
    base = vars(load_hardware("default"))
    sizes = {"dim": dim, "banks": banks, "bank_rows": bank_rows, "accumulator_rows": accumulator_rows}
    return Hardware(**{**base, **sizes})


def conv_arguments(row: list[int]) -> dict[str, Any]:
    window = ("kernel", "stride", "padding", "pool_size", "pool_stride", "pool_padding")
    names = ("batch", "in_dim", "in_channels", "out_channels", *window)
    return dict(zip(names, row, strict=True))


def shown(row: list[int]) -> str:
    return "-".join(map(str, row))


@pytest.mark.parametrize(("row", "current", "seed"), TABLES["resnet50"], ids=shown)
def test_resnet50_convolutions(row: list[int], current: list[int], seed: list[int]) -> None:
    assert conv_tiles(**conv_arguments(row)) == tuple(current)
    assert conv_tiles(**conv_arguments(row), library="seed") == tuple(seed)


def test_the_two_answers_that_the_library_is_known_for() -> None:
    stage = conv_arguments([1, 56, 64, 64, 3, 1, 1, 0, 0, 0])
    assert conv_tiles(**stage) == (1, 22, 23, 16, 3, 3, 64)
    assert conv_tiles(**stage, library="seed") == (1, 16, 16, 32, 12, 11, 25)


@pytest.mark.parametrize("case", TABLES["convs"], ids=lambda case: f"{shown(case[0])}-{shown(case[2])}")
def test_convolutions_of_other_hardware(case: list[Any]) -> None:
    sizes, library, row, expected = case
    found = conv_tiles(**conv_arguments(row), config=hardware(*sizes), library=library)
    assert found == tuple(expected)


@pytest.mark.parametrize("case", TABLES["matmuls"], ids=lambda case: f"{shown(case[0])}-{shown(case[1])}")
def test_matrix_products(case: list[Any]) -> None:
    sizes, (i, j, k), ws, os = case
    config = hardware(*sizes)
    assert matmul_tiles(i, j, k, config=config) == tuple(ws)
    assert matmul_tiles(i, j, k, config=config, library="seed") == tuple(ws)
    assert matmul_tiles(i, j, k, dataflow="os", config=config) == tuple(os)


@pytest.mark.parametrize("case", TABLES["resadds"], ids=lambda case: f"{shown(case[0])}-{shown(case[1])}")
def test_residual_additions(case: list[Any]) -> None:
    sizes, (i, j), current, seed = case
    assert resadd_tiles(i, j, config=hardware(*sizes)) == tuple(current)
    assert resadd_tiles(i, j, config=hardware(*sizes), library="seed") == tuple(seed)


HARDWARE = st.builds(
    lambda dim, banks, rows, accumulator: hardware(dim, banks, dim * rows, dim * accumulator),
    st.sampled_from([2, 4, 8, 16, 32]),
    st.integers(1, 8),
    st.integers(8, 300),
    st.integers(8, 100),
)
CONVS = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 6),
        "in_dim": st.integers(1, 90),
        "in_channels": st.integers(1, 300),
        "out_channels": st.integers(1, 300),
        "kernel": st.integers(1, 7),
        "stride": st.integers(1, 3),
        "padding": st.integers(0, 3),
        "pool_size": st.integers(1, 3),
        "pool_stride": st.integers(0, 3),
    }
)


def true_sizes(conv: dict[str, int]) -> tuple[int, ...]:
    side = output_size(conv["in_dim"], conv["kernel"], conv["stride"], conv["padding"])
    if conv["pool_stride"]:
        side = output_size(side, conv["pool_size"], conv["pool_stride"], 0)
    kernel = conv["kernel"]
    return (conv["batch"], side, side, conv["out_channels"], kernel, kernel, conv["in_channels"])


def fits_at_all(config: Hardware, stride: int, pool: tuple[int, int, int]) -> bool:
    scratchpad, accumulator = conv_rows((1,) * 7, config.dim, stride, pool)
    return scratchpad <= config.scratchpad_rows // 2 and accumulator <= config.accumulator_rows // 2


@given(config=HARDWARE, conv=CONVS, library=st.sampled_from(["current", "seed"]))
def test_a_tile_fits_and_nothing_more_does(config: Hardware, conv: dict[str, int], library: str) -> None:
    most = true_sizes(conv)
    assume(min(most) >= 1)
    pool = (conv["pool_size"], conv["pool_stride"], 0) if conv["pool_stride"] else (0, 0, 0)
    try:
        tiles = conv_tiles(**conv, config=config, library=library)
    except CompileError:
        assert not fits_at_all(config, conv["stride"], pool)
        return
    side = (conv["in_dim"],) * 2
    halved = library == "current" and downsamples(conv["kernel"], conv["stride"], conv["padding"], pool, side)

    def fits(sizes: list[int]) -> bool:
        scratchpad, accumulator = conv_rows(sizes, config.dim, conv["stride"], pool, downsample=halved)
        return scratchpad <= config.scratchpad_rows // 2 and accumulator <= config.accumulator_rows // 2

    assert fits(list(tiles))
    assert min(tiles) >= 1
    if library == "current":
        assert all(size <= whole for size, whole in zip(tiles, most, strict=True))
    for at in range(7):
        if library == "seed" or tiles[at] < most[at]:
            assert not fits([size + (at == place) for place, size in enumerate(tiles)])


@given(
    config=HARDWARE,
    sizes=st.tuples(*[st.integers(1, 3000)] * 3),
    dataflow=st.sampled_from(["ws", "os"]),
)
def test_a_product_fits(config: Hardware, sizes: tuple[int, int, int], dataflow: str) -> None:
    try:
        i, j, k = matmul_tiles(*sizes, dataflow=dataflow, config=config)
    except CompileError:
        # The accumulator's blocks, as many as fit, are wider than the scratchpad has rows for.
        assert config.accumulator_rows > 2 * config.dim
        return
    share = 2 if dataflow == "ws" else 1
    assert (i + j) * k * config.dim <= config.scratchpad_rows // share
    assert i * j * config.dim <= config.accumulator_rows // share
    assert all(1 <= tile <= -(-size // config.dim) for tile, size in zip((i, j, k), sizes, strict=True))


@given(config=HARDWARE, i=st.integers(1, 5000), j=st.integers(1, 5000))
def test_a_residual_addition_fits(config: Hardware, i: int, j: int) -> None:
    for library, share in (("current", 2), ("seed", 1)):
        rows, columns = resadd_tiles(i, j, config=config, library=library)
        assert 1 <= rows <= i
        assert 1 <= columns <= j
        blocks = -(-rows // config.dim) * config.dim * -(-columns // config.dim)
        assert blocks <= config.accumulator_rows // share


def test_an_explicit_pool_of_one_is_still_a_pool() -> None:
    conv = conv_arguments([8, 14, 221, 2048, 1, 2, 0, 0, 0, 0])
    big = hardware(32, 4, 4096, 1024)
    assert conv_tiles(**conv, config=big) == (8, 7, 7, 32, 1, 1, 221)
    assert conv_tiles(**{**conv, "pool_size": 1, "pool_stride": 1}, config=big) == (8, 7, 7, 32, 1, 1, 160)


def test_rectangles_and_dilation() -> None:
    conv = {**conv_arguments([1, 0, 64, 64, 3, 1, 1, 0, 0, 0]), "in_dim": (20, 100)}
    assert conv_tiles(**conv) == (1, 20, 25, 16, 3, 3, 64)
    assert conv_tiles(**conv, dilation=2)[1:3] == (18, 28)


def test_depthwise_is_one_channel_at_a_time() -> None:
    assert depthwise_tiles(batch=1, in_dim=112, kernel=3, stride=1, padding=1) == (1, 22, 23, 1, 3, 3, 1)


def test_names_give_the_same_as_descriptions() -> None:
    conv = conv_arguments([1, 28, 128, 128, 3, 1, 1, 0, 0, 0])
    assert conv_tiles(**conv, config="dim32") == conv_tiles(**conv, config=load_hardware("dim32"))
    assert conv_tiles(**conv, config="dim32") != conv_tiles(**conv)


def test_unknown_names() -> None:
    conv = conv_arguments([1, 28, 128, 128, 3, 1, 1, 0, 0, 0])
    with pytest.raises(UnknownNameError, match=r"unknown Gemmini library 'curent': did you mean current\?"):
        conv_tiles(**conv, library="curent")
    with pytest.raises(UnknownNameError, match=r"unknown Gemmini hardware 'defalt': did you mean default"):
        conv_tiles(**conv, config="defalt")
    with pytest.raises(UnknownNameError, match="unknown dataflow 'rs'"):
        matmul_tiles(1, 1, 1, dataflow="rs")


@pytest.mark.parametrize("name", ["batch", "in_dim", "in_channels", "out_channels", "kernel", "stride"])
def test_sizes_must_be_positive(name: str) -> None:
    conv = conv_arguments([1, 28, 128, 128, 3, 1, 1, 0, 0, 0])
    with pytest.raises(CompileError, match="every size must be at least 1"):
        conv_tiles(**{**conv, name: 0})


def test_what_cannot_be_tiled() -> None:
    with pytest.raises(CompileError, match="no output: the window is larger than the padded input"):
        conv_tiles(**conv_arguments([1, 4, 3, 3, 7, 1, 1, 0, 0, 0]))
    with pytest.raises(CompileError, match="does not fit: one output takes more than 32 scratchpad rows"):
        conv_tiles(**conv_arguments([1, 99, 3, 3, 3, 3, 0, 3, 3, 0]), config=hardware(16, 1, 64, 64))
    with pytest.raises(CompileError, match="give it more rows"):
        matmul_tiles(4096, 4096, 64, config=hardware(2, 1, 8, 4096))
    with pytest.raises(CompileError, match="residual addition 0x4: every size must be at least 1"):
        resadd_tiles(0, 4)
