"""The numpy form against literals, a scalar re-reading of the formulae, and the real header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topfive.targets.gemmini import arithmetic

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "facts" / "gemmini_vectors"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"reference vectors are not at {VECTORS}")

FUNCTIONS = {
    "matmul": (arithmetic.matmul, "C"),
    "conv": (arithmetic.conv, "output"),
    "conv_dw": (arithmetic.depthwise_conv, "output"),
    "resadd": (arithmetic.resadd, "C"),
    "global_average": (arithmetic.global_average, "output"),
    "scale_unit": (arithmetic.scale_and_saturate, "out_seed"),
    "mvin_scale_unit": (arithmetic.mvin_scale, "out"),
}
NOT_ARGUMENTS = {"has_bias", "out"}


@needs_vectors
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_reference_vectors(name: str) -> None:
    function, output = FUNCTIONS[name]
    stored = np.load(VECTORS / f"{name}.npz")
    assert len(stored["cases"])
    for case in stored["cases"]:
        fields = {k.split("/", 1)[1]: stored[k] for k in stored.files if k.startswith(f"{case}/")}
        expected = fields.pop(output)
        arguments = {k: v if v.ndim else v.item() for k, v in fields.items() if k not in NOT_ARGUMENTS}
        np.testing.assert_array_equal(function(**arguments), expected, err_msg=f"{name}/{case}")


LITERALS = {
    "half_rounds_to_even_down": (1, 0.5, 0, 0),
    "half_rounds_to_even_up": (3, 0.5, 0, 2),
    "negative_half": (-3, 0.5, 0, -2),
    "saturates_high": (1000, 1.0, 0, 127),
    "saturates_low": (-1000, 1.0, 0, -128),
    "relu_after_saturation": (-1000, 1.0, 1, 0),
    "int32_minimum": (-(2**31), 1.0, 0, -128),
    "int32_maximum": (2**31 - 1, 1.0, 0, 127),
    # 16777215 * 2**-24 is 1 - 2**-24: the newer header's rounding macro gives 2 here, the hardware 1.
    "one_less_an_ulp": (16777215, 2.0**-24, 0, 1),
    # 16777217 is not a float32: it becomes 16777216 before the product.
    "accumulator_is_rounded_to_float32": (16777217, 2.5 * 2.0**-24, 0, 2),
}


@pytest.mark.parametrize("case", sorted(LITERALS))
def test_scale_and_saturate_literals(case: str) -> None:
    acc, scale, act, expected = LITERALS[case]
    assert arithmetic.scale_and_saturate(np.array([acc], np.int32), np.float32(scale), act)[0] == expected


def test_the_product_is_float32_not_float64() -> None:
    acc = np.arange(-1300, 1300, dtype=np.int32)
    float64 = np.clip(np.rint(acc * float(np.float32(0.1))), -128, 127).astype(np.int8)
    float32 = arithmetic.scale_and_saturate(acc, np.float32(0.1))
    assert (float32 != float64).any()
    by_hand = [round(float(np.float32(np.float32(a) * np.float32(0.1)))) for a in acc]
    np.testing.assert_array_equal(float32, np.clip(by_hand, -128, 127))


def test_resadd_rounds_and_saturates_each_addend() -> None:
    a, b = np.array([1, 1, 127, -128], np.int8), np.array([1, 2, -100, 127], np.int8)
    half = np.float32(0.5)
    # 0.5 + 0.5 is 1, but each half rounds to 0 first; 0.5 rounds to 0, 1.0 stays.
    assert arithmetic.resadd(a, b, A_scale=half, B_scale=half).tolist() == [0, 1, 64 - 50, -64 + 64]
    # 127 * 2 saturates to 127 before -100 is added.
    assert arithmetic.resadd(a, b, A_scale=np.float32(2)).tolist() == [3, 4, 27, -1]
    assert arithmetic.resadd(a, b, A_scale=np.float32(2), relu=1).tolist() == [3, 4, 27, 0]


def test_max_pool_counts_padding_as_zero() -> None:
    x = np.full((1, 2, 2, 1), -5, np.int8)
    assert arithmetic.max_pool(x, 2, 2, 1)[0, :, :, 0].tolist() == [[0, 0], [0, 0]]
    assert arithmetic.max_pool(x, 2, 2, 0)[0, :, :, 0].tolist() == [[-5]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1, 1, 1, 0), 1), ((-1, -1, -1, 0), 0), ((-2, -2, -2, -2), -1), ((-3, -3, -3, -3), -2)],
    ids=["rounds_up", "truncates_towards_zero", "negative", "negative_exact"],
)
def test_global_average_divides_like_c(values: tuple[int, ...], expected: int) -> None:
    x = np.array(values, np.int8).reshape(1, 2, 2, 1)
    assert arithmetic.global_average(x)[0, 0] == expected


def scalar_requantise(acc: int, scale: np.float32, act: int) -> int:
    product = float(np.float32(np.float32(acc) * scale))
    code = max(-128, min(127, round(product)))
    return max(code, 0) if act else code


int8s = hnp.arrays(np.int8, st.tuples(st.integers(1, 5), st.integers(1, 6)))
scales = st.floats(2.0**-20, 4.0, width=32).map(np.float32)


@given(hnp.arrays(np.int32, st.integers(1, 40)), scales, st.sampled_from([0, 1]))
def test_scale_and_saturate_is_its_scalar_reading(acc: np.ndarray, scale: np.float32, act: int) -> None:
    expected = [scalar_requantise(int(a), scale, act) for a in acc]
    assert arithmetic.scale_and_saturate(acc, scale, act).tolist() == expected


@given(st.data(), scales, st.sampled_from([0, 1]), st.booleans(), st.booleans())
def test_matmul_is_its_scalar_reading(
    data: st.DataObject, scale: np.float32, act: int, trans_a: bool, trans_b: bool
) -> None:
    i, j, k = (data.draw(st.integers(1, 5)) for _ in range(3))
    a, b = data.draw(hnp.arrays(np.int8, (i, k))), data.draw(hnp.arrays(np.int8, (k, j)))
    d = data.draw(hnp.arrays(np.int32, (1, j), elements=st.integers(-(2**20), 2**20)))
    got = arithmetic.matmul(
        a.T if trans_a else a, b.T if trans_b else b, d,
        scale=scale, act=act, transA=trans_a, transB=trans_b, repeating_bias=1,
    )  # fmt: skip
    for row in range(i):
        for column in range(j):
            acc = sum(int(a[row, n]) * int(b[n, column]) for n in range(k)) + int(d[0, column])
            assert got[row, column] == scalar_requantise(acc, scale, act)


@given(
    st.data(),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 2),
    scales,
)
def test_conv_is_its_scalar_reading(
    data: st.DataObject, kernel: int, stride: int, padding: int, dilation: int, scale: np.float32
) -> None:
    size = data.draw(st.integers((kernel - 1) * dilation + 1, 7))
    x = data.draw(hnp.arrays(np.int8, (1, size, size, 2)))
    w = data.draw(hnp.arrays(np.int8, (kernel, kernel, 2, 2)))
    got = arithmetic.conv(x, w, stride=stride, padding=padding, dilation=dilation, scale=scale)
    out = (size + 2 * padding - (kernel - 1) * dilation - 1) // stride + 1
    assert got.shape == (1, out, out, 2)
    for row in range(out):
        for column in range(out):
            for channel in range(2):
                acc = 0
                for r in range(kernel):
                    for c in range(kernel):
                        y, z = row * stride + r * dilation - padding, column * stride + c * dilation - padding
                        if 0 <= y < size and 0 <= z < size:
                            acc += sum(int(x[0, y, z, i]) * int(w[r, c, i, channel]) for i in range(2))
                assert got[0, row, column, channel] == scalar_requantise(acc, scale, 0)


@given(int8s, scales)
def test_mvin_scale_equals_requantising_the_code(x: np.ndarray, scale: np.float32) -> None:
    np.testing.assert_array_equal(
        arithmetic.mvin_scale(x, scale), arithmetic.scale_and_saturate(x.astype(np.int32), scale)
    )


def test_grouped_and_depthwise_agree() -> None:
    random = np.random.default_rng(3)
    x = random.integers(-128, 128, (2, 6, 6, 4)).astype(np.int8)
    w = random.integers(-128, 128, (4, 3, 3)).astype(np.int8)
    bias = random.integers(-1000, 1000, 4).astype(np.int32)
    settings = {"stride": 2, "padding": 1, "scale": np.float32(0.01), "act": 1}
    grouped = arithmetic.conv(x, w.transpose(1, 2, 0)[:, :, None], bias, groups=4, **settings)
    np.testing.assert_array_equal(arithmetic.depthwise_conv(x, w, bias, **settings), grouped)
