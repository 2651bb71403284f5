"""The parts of `gemmini_spike` that need no toolchain: tiles, instruction counts, limits, factors."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from topfive.errors import CompileError
from topfive.targets.gemmini.arithmetic import scale_and_saturate
from topfive.targets.gemmini.tiling import NO_POOL
from topfive.targets.gemmini_qemu.windows import Window, window_of
from topfive.targets.gemmini_spike.convolutions import plan_convolution, square
from topfive.targets.gemmini_spike.machine import blocks, limited, parts
from topfive.targets.gemmini_spike.products import blocks_together, plan_addition, plan_product
from topfive.targets.gemmini_spike.scales import (
    ALL_CODES,
    addend_factor,
    largest_sum,
    shown_by_simulator,
    store_factor,
)


def window(size: tuple[int, int], channels: int, kernel: int, stride: int = 1, padding: int = 0) -> Window:
    attrs = {"strides": [stride] * 2, "pads": [padding] * 4}
    return window_of(attrs, (1, channels, *size), (kernel, kernel))


def test_the_instructions_of_a_convolution_of_one_tile() -> None:
    """8 x 8 pixels, 3 x 3 kernel, padding 1: counted by hand."""
    plan = plan_convolution(window((8, 8), 16, 3, padding=1), 16, 1, 16, 16)
    assert plan.tiles == (1, 8, 8, 16, 3, 3, 16)
    assert plan.instructions() == Counter(
        config_ex=1,
        config_st=1,
        config_ld=1 + 2 + 1,
        mvin=8,
        mvin2=9,
        # Bias, zeros to the left and right of eight rows, and two rows of zeros.
        mvin3=8 + 2 * 8 + 2,
        preload=9 * 8,
        compute_preloaded=9,
        compute_accumulated=9 * 7,
        mvout=8,
        fence=2,
    )


def test_the_instructions_of_a_pooled_first_layer() -> None:
    """Three channels: a row of the scratchpad holds five pixels, so one kernel row is one pass."""
    plan = plan_convolution(window((16, 16), 3, 3, padding=1), 16, 1, 3, 16, (2, 2, 0))
    assert plan.pooled == (8, 8)
    found = plan.instructions()
    assert (found["preload"], found["compute_preloaded"], found["mvout"]) == (3 * 16, 3, 1)
    assert (found["mvin"], found["mvin2"], found["config_st"]) == (16, 9, 1)


def test_the_instructions_of_products() -> None:
    """40 x 40 x 40: three blocks a side, one tile."""
    plans = [
        plan_product(flow, rows=40, depth=40, columns=40, weights=np.zeros((40, 40), np.int8))
        for flow in ("ws", "os")
    ]
    common = {"config_ex": 1, "config_st": 1, "config_ld": 3, "mvin": 3, "mvin2": 3, "mvin3": 9, "mvout": 9}
    assert plans[0].instructions() == Counter(
        common, preload=27, compute_preloaded=9, compute_accumulated=18, fence=2
    )
    assert plans[1].instructions() == Counter(
        common, preload=27, compute_preloaded=9, compute_accumulated=18, fence=2
    )
    assert plans[1].together == 3


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=60)
@given(
    size=SIZES,
    channels=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    sides=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 4), st.integers(1, 2)),
    pool=st.one_of(st.just(NO_POOL), st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2))),
)
def test_every_output_of_a_convolution_is_made_once(
    size: tuple[int, int], channels: tuple[int, int], sides: tuple[int, int, int, int], pool: tuple[int, ...]
) -> None:
    kernel, stride, padding, dilation = sides
    assume(padding < kernel and min(size) + 2 * padding >= (kernel - 1) * dilation + 1)
    attrs = {"strides": [stride] * 2, "pads": [padding] * 4, "dilations": [dilation] * 2}
    made = window_of(attrs, (1, channels[0], *size), (kernel, kernel))
    assert square(made) == sides
    if pool != NO_POOL:
        assume(pool[2] < pool[0] <= min(made.out) + 2 * pool[2])
    plan = plan_convolution(made, channels[1], 1, *channels, (pool[0], pool[1], pool[2]))
    found = plan.instructions()
    assert found["preload"] == found["compute_preloaded"] + found["compute_accumulated"]
    # 16 x 16 x 16 products a pass; a pool's windows overlap, so that some sums are made again.
    assert found["preload"] * 16**3 >= np.prod(made.out) * kernel**2 * np.prod(channels) or pool != NO_POOL
    assert found["mvin2"] >= kernel**2 * blocks(channels[0]) * blocks(channels[1], 64)
    if pool == NO_POOL:
        assert found["mvout"] >= made.out[0] * blocks(made.out[1]) * blocks(channels[1])
    assert found["config_ex"] == 1
    assert found["fence"] == 2


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 3000), st.sampled_from(["ws", "os"]))
def test_every_block_of_a_product_is_multiplied_once(i: int, j: int, k: int, flow: str) -> None:
    found = plan_product(flow, rows=i, depth=k, columns=j, weights=None).instructions()
    assert found["preload"] == blocks(i) * blocks(j) * blocks(k)
    assert found["mvout"] == found["mvin3"] == blocks(i) * blocks(j)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_every_block_of_an_addition_is_stored(i: int, j: int) -> None:
    found = plan_addition(i, j).instructions()
    assert found["mvout"] >= blocks(i) * blocks(j)
    assert found["mvin"] == found["mvin2"] >= blocks(i) * blocks(j, 64)


def test_windows_that_are_not_square_have_no_tiles() -> None:
    for attrs, kernel in (({}, (1, 3)), ({"strides": [1, 2]}, (3, 3)), ({"pads": [0, 0, 1, 1]}, (3, 3))):
        other = window_of(attrs, (1, 4, 9, 9), kernel)
        assert square(other) is None
        with pytest.raises(CompileError, match="the same on all sides"):
            plan_convolution(other, 4, 1, 4, 4)
    assert square(window((9, 9), 4, 2, padding=2)) is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CompileError, match="a tile is 9: Gemmini takes at most 8"):
        limited("a tile", 9, 8)
    with pytest.raises(CompileError, match="the pool's size, stride or padding is 4"):
        plan_convolution(window((30, 30), 4, 3), 4, 1, 4, 4, (4, 4, 0))
    with pytest.raises(CompileError, match="pooled columns is 300: Gemmini takes at most 255"):
        plan_convolution(window((8, 600), 1, 1), 1, 1, 1, 1, (2, 2, 0))


@given(st.integers(1, 100), st.integers(1, 30))
def test_parts_cover_a_range(size: int, step: int) -> None:
    assert [at for first, count in parts(size, step) for at in range(first, first + count)] == list(
        range(size)
    )
    assert len(parts(size, step)) == blocks(size, step)


@given(st.integers(1, 300), st.integers(1, 5), st.integers(0, 128), st.integers(1, 20), st.integers(0, 99))
def test_no_sum_that_leaves_the_array_saturates(
    depth: int, columns: int, magnitude: int, tile: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    weights = random.integers(-magnitude, magnitude + 1, (1, depth, columns)).clip(-128, 127).astype(np.int8)
    together = blocks_together(weights, depth, tile)
    assert 1 <= together <= max(tile, 1)
    worst = np.where(weights < 0, -128, 127).astype(np.int64) * weights
    for at, length in parts(depth, tile * 16):
        for first, count in parts(length, together * 16):
            sums = worst[0, at + first : at + first + count].sum(axis=0)
            assert np.abs(sums).max() < 2**19


def test_unknown_weights_leave_the_array_after_every_block() -> None:
    assert blocks_together(None, 1000, 20) == 1
    assert 16 * 128 * 128 < 2**19 <= 2 * 16 * 128 * 128
    assert blocks_together(np.full((1, 64, 1), -128, np.int8), 64, 20) == 1


def test_largest_sums() -> None:
    weights = np.array([[[1], [-2]], [[3], [100]]], np.int8)
    assert largest_sum(weights, np.array([-7], np.int32), 2) == 103 * 128 + 7
    assert largest_sum(None, None, 10) == 10 * 128 * 128


# One ulp below a power of two: the simulator's header makes one too much of it.
QUIRKS = [(2.0**-24, 2**24 - 1, 1), (1 - 2.0**-24, 1, 1), (1 - 2.0**-24, -4, -4), (1 - 2.0**-24, 64, 64)]


@pytest.mark.parametrize(
    ("factor", "total", "code"), QUIRKS, ids=["small", "one", "minus_four", "sixty_four"]
)
def test_the_simulators_rounding_has_its_quirk(factor: float, total: int, code: int) -> None:
    sums, scale = np.array([total], np.int32), np.float32(factor)
    assert scale_and_saturate(sums, scale).item() == code
    assert shown_by_simulator(sums, scale).item() == code + np.sign(code)


@given(st.floats(2.0**-20, 4.0, width=32), st.integers(100, 2_000_000))
def test_factors_make_the_same_codes_in_either_arithmetic(factor: float, most: int) -> None:
    scale = np.float32(factor)
    chosen = store_factor(scale, most)
    if chosen is None:
        return
    last = min(most, int(140 / factor))
    sums = np.arange(-last, last + 1, dtype=np.int32)
    wanted = scale_and_saturate(sums, scale)
    np.testing.assert_array_equal(scale_and_saturate(sums, chosen), wanted)
    np.testing.assert_array_equal(shown_by_simulator(sums, chosen), wanted)


def test_a_dangerous_factor_is_replaced_or_given_up() -> None:
    """What is given up is requantised by the program."""
    random = np.random.default_rng(1)
    results: Counter[str] = Counter()
    for exponent in random.uniform(-7, -4, 1500):
        factor = np.float32(np.exp(exponent))
        last = int(130 / float(factor))
        sums = np.arange(-last, last + 1, dtype=np.int32)
        exact = np.array_equal(shown_by_simulator(sums, factor), scale_and_saturate(sums, factor))
        chosen = store_factor(factor, last)
        assert exact == (chosen == factor)
        results["same" if exact else "given up" if chosen is None else "replaced"] += 1
    assert results["same"] > 1450
    assert results["replaced"] > 0
    assert results["given up"] < 10


@given(st.floats(2.0**-10, 64.0, width=32))
def test_addends_are_the_same_codes_in_either_arithmetic(factor: float) -> None:
    scale = np.float32(factor)
    chosen = addend_factor(scale)
    assert chosen is not None
    wanted = scale_and_saturate(ALL_CODES, scale)
    np.testing.assert_array_equal(scale_and_saturate(ALL_CODES, chosen), wanted)
    np.testing.assert_array_equal(shown_by_simulator(ALL_CODES, chosen), wanted)


def test_an_addend_one_ulp_below_one_becomes_one() -> None:
    assert addend_factor(np.nextafter(np.float32(1), np.float32(0))) != np.nextafter(
        np.float32(1), np.float32(0)
    )
    assert addend_factor(np.float32(1)) == 1
