"""Single layers of the RISC-V program against the numpy arithmetic: many layers in one program each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from topfive import targets
from topfive.errors import CompileError
from topfive.targets.gemmini.arithmetic import scale_and_saturate
from topfive.targets.gemmini_qemu.program import emit

from layer_graphs import MICROSOFT, Layers, random_conv

TARGET = targets.get("gemmini_qemu")
emulated = pytest.mark.skipif(bool(TARGET.probe()), reason=TARGET.probe())


@emulated
@pytest.mark.parametrize(
    ("channels", "size"), [(1, 9), (6, 8), (20, 7)], ids=["1_channel", "6_channels", "20_channels"]
)
def test_convolutions(channels: int, size: int, tmp_path: Path) -> None:
    layers = Layers((1, channels, size, size + 1), seed=channels)
    for _ in range(30):
        random_conv(layers, channels, size)
    layers.check(TARGET, tmp_path)


@emulated
def test_largest_sums_stay_in_their_lanes(tmp_path: Path) -> None:
    """All codes -128 or 127: a lane that overflowed, or leaked into its neighbour, would show."""
    layers = Layers((1, 70, 4, 5), seed=3)
    for sign in (-128, 127, 1):
        weights = np.full((9, 70, 3, 3), sign, np.int8)
        weights[::2] = -128
        layers.conv(weights, 1e-5, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        layers.conv(weights[:, :, :1, :1], 1e-4, np.full(9, 2**30, np.int32))
    pictures = np.stack([np.full((70, 4, 5), code, np.int8) for code in (-128, 127, 0)])
    pictures[2, ::2] = -128
    layers.check(TARGET, tmp_path, pictures)


@emulated
def test_requantisation_of_every_kind_of_accumulator(tmp_path: Path) -> None:
    """Weights of 0 make the bias the accumulator: ties, their neighbours, and both ends of int32."""
    layers = Layers((1, 1, 1, 1), seed=5)
    scales = [1.0, 0.5, 2.0**-7, 2.0**-31, 0.3, 0.1, 0.7, 0.0037, 1e-3, 3e-7, 1e-9, 1e-20, 300.0, 2.0**20]
    edges = np.array([0, 1, -1, 2**24, 2**24 + 1, -(2**24) - 1, 2**31 - 1, -(2**31), -(2**31) + 1], np.int64)
    for scale in scales:
        ties = (np.arange(-150, 150) + 0.5) / scale
        near = (np.rint(ties)[:, None] + np.arange(-2, 3)).ravel()
        spread = layers.random.uniform(-200, 200, 800) / scale
        accumulators = np.clip(np.concatenate([edges, near, spread]), -(2**31), 2**31 - 1).astype(np.int64)
        bias = accumulators.astype(np.int32)
        name = layers.conv(np.zeros((bias.size, 1, 1, 1), np.int8), scale, bias)
        layers.constants[f"expected {name}"] = scale_and_saturate(bias, np.float32(scale))
    seen = layers.check(TARGET, tmp_path, np.zeros((1, 1, 1, 1), np.int8))
    for name, value in seen.items():
        np.testing.assert_array_equal(value.ravel(), layers.constants[f"expected {name}"])


@emulated
def test_quantising_every_kind_of_float(tmp_path: Path) -> None:
    """Ties and their neighbours, zeros of both signs, subnormal, huge and infinite numbers."""
    layers = Layers((1, 1), seed=19)
    nothing = layers.dequantize("x", 1.0)
    edges = np.array(
        [0.0, -0.0, 1e-45, -1e-40, 1e-38, 3e38, -3e38, np.inf, -np.inf, 2.0**31, 1.0], np.float32
    )
    for scale in (1.0, 0.5, 2.0**-9, 0.1, 0.3, 0.037, 1e-3, 3e-7, 1e-30, 1e-38, 1e30, 12345.0):
        ties = (np.arange(-140, 140) + 0.5).astype(np.float32) * np.float32(scale)
        near = [np.nextafter(ties, np.float32(end)) for end in (-np.inf, np.inf)]
        spread = layers.random.uniform(-300, 300, 1500).astype(np.float32) * np.float32(scale)
        values = np.concatenate([edges, ties, *near, spread]).astype(np.float32)
        layers.quantize(layers.add("Add", [layers.constant(values[None]), nothing]), scale)
    layers.check(TARGET, tmp_path, np.zeros((1, 1), np.int8))


@emulated
def test_matrix_products(tmp_path: Path) -> None:
    layers = Layers((1, 4, 10, 12), seed=7)
    layers.matmul("x", layers.constant(layers.codes(12, 7)), 0.002)
    layers.matmul("x", layers.constant(layers.codes(4, 12, 5)), 0.002)
    turned = layers.add("Transpose", ["x"], perm=[0, 1, 3, 2])
    product = layers.matmul("x", turned, 0.003)
    layers.matmul(product, "x", 0.003)
    flat = layers.add("Reshape", ["x", layers.constant(np.array([40, -1], np.int64))])
    layers.add("Relu", [layers.matmul(flat, layers.constant(layers.codes(12, 9)), 0.01)])
    layers.check(TARGET, tmp_path, count=1)


@emulated
def test_sums_activations_tables_and_pools(tmp_path: Path) -> None:
    layers = Layers((1, 6, 9, 11), seed=11)
    other = layers.conv(layers.codes(6, 6, 1, 1), 0.002)
    for scales in ((0.3, 0.7, 0.5), (1.0, 1.0, 1.0), (0.02, 1.3, 0.2), (0.5, 0.5, 1.0)):
        a, b, y = (layers.constant(np.float32(s)) for s in scales)
        total = layers.add("QLinearAdd", ["x", a, "zero", other, b, "zero", y, "zero"], MICROSOFT)
        if scales[0] < 0.4:
            layers.add("Relu", [total])
    layers.add("Clip", ["x", layers.constant(np.int8(-7)), layers.constant(np.int8(90))])
    layers.add("Relu", ["x"])
    scale = layers.constant(np.float32(0.05))
    layers.add("QLinearLeakyRelu", ["x", scale, "zero", scale, "zero"], MICROSOFT, alpha=0.1)
    layers.add(
        "QLinearSigmoid", ["x", scale, "zero", layers.constant(np.float32(1 / 127)), "zero"], MICROSOFT
    )
    for kernel, stride, pads in (
        ([3, 3], [2, 2], [1] * 4),
        ([2, 3], [1, 2], [0, 1, 1, 0]),
        ([2, 2], [2, 2], [0] * 4),
    ):
        layers.add("MaxPool", ["x"], kernel_shape=kernel, strides=stride, pads=pads)
    layers.add("MaxPool", ["x"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    layers.add("MaxPool", ["x"], kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1)
    layers.check(TARGET, tmp_path)


@emulated
def test_data_movement(tmp_path: Path) -> None:
    layers = Layers((1, 6, 4, 5), seed=13)
    conv = layers.conv(layers.codes(8, 6, 1, 1), 0.003)
    numbers: Callable[..., str] = lambda *n: layers.constant(np.array(n, np.int64))  # noqa: E731
    shaped = layers.add("Reshape", [conv, numbers(0, 2, 4, 4, 5)])
    turned = layers.add("Transpose", [shaped], perm=[0, 2, 1, 3, 4])
    shuffled = layers.add("Reshape", [turned, numbers(0, 8, 4, 5)])
    layers.conv(layers.codes(3, 8, 3, 3), 0.002, x=shuffled, pads=[1] * 4)
    layers.add("Flatten", [conv], axis=1)
    layers.add("Flatten", [layers.add("Transpose", ["x"], perm=[0, 2, 3, 1])], axis=2)
    layers.add("Unsqueeze", [conv, numbers(0, 3)])
    layers.add("Squeeze", [layers.add("Slice", [conv, numbers(3), numbers(4), numbers(1)]), numbers(1)])
    floats = layers.dequantize(conv, 0.1)
    source = layers.dequantize("x", 0.1)
    joined = layers.add("Concat", [floats, source], axis=1)
    layers.quantize(joined, 0.2)
    layers.add("Concat", [layers.constant(np.ones((1, 6, 1, 5), np.float32)), source], axis=2)
    layers.add("Slice", [joined, numbers(-1, 0), numbers(-100, 3), numbers(1, 3), numbers(-2, 2)])
    layers.add("Gather", [joined, numbers(3, 0, -1)], axis=1)
    layers.add("Gather", [source, layers.constant(np.int64(2))], axis=2)
    layers.add("Pad", [joined, numbers(0, 1, 0, 2, 0, 0, 1, 1), layers.constant(np.float32(0.5))])
    layers.add(
        "Expand", [layers.add("Slice", [source, numbers(0), numbers(1), numbers(2)]), numbers(1, 6, 3, 5)]
    )
    layers.nodes.append(
        helper.make_node("Split", [joined, numbers(5, 9)], ["left", "right"], name="split", axis=1)
    )
    layers.check(TARGET, tmp_path, count=1)


@emulated
def test_float_operators(tmp_path: Path) -> None:
    layers = Layers((1, 6, 4, 5), seed=17)
    constant = layers.constant
    real = layers.random.normal
    x = layers.dequantize("x", 0.03)
    last = layers.dequantize(layers.conv(layers.codes(6, 6, 1, 1), 0.003), 0.02)
    for op in ("Add", "Sub", "Mul"):
        layers.add(op, [x, last])
    layers.add("Div", [x, constant(np.float32(1.7))])
    layers.add("Add", [constant(real(0, 1, (6, 1, 1)).astype(np.float32)), last])
    layers.add("Mul", [x, constant(real(0, 1, (5,)).astype(np.float32))])
    for op in ("Erf", "Exp", "Sigmoid", "Tanh", "Relu"):
        layers.add(op, [x])
    layers.add("LeakyRelu", [last], alpha=0.2)
    layers.add("Clip", [x, constant(np.float32(-0.5)), constant(np.float32(1.5))])
    layers.add("Sqrt", [layers.add("Pow", [x, constant(np.float32(2))])])
    for axis in (-1, 1):
        layers.add("Softmax", [last], axis=axis)
    for value in (x, last):
        pooled = layers.add("GlobalAveragePool", [value])
        flat = layers.add("Flatten", [pooled])
        weights = constant(real(0, 1, (9, 6)).astype(np.float32))
        layers.add("Gemm", [flat, weights, constant(real(0, 1, 9).astype(np.float32))], transB=1, alpha=0.5)
        layers.add("ReduceMean", [value], axes=[1], keepdims=0)
        layers.add("ReduceMean", [value], axes=[1, 3], keepdims=1)
        layers.add("LRN", [value], size=5, alpha=0.01, beta=0.75, bias=1.0)
        layers.add("MaxPool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        layers.add("AveragePool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        layers.add("AveragePool", [value], kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1)
    layers.add("MatMul", [x, constant(real(0, 1, (5, 3)).astype(np.float32))])
    layers.add("MatMul", [x, layers.add("Transpose", [last], perm=[0, 1, 3, 2])])
    norm = [constant(real(1, 0.1, 5).astype(np.float32)), constant(real(0, 1, 5).astype(np.float32))]
    layers.add("LayerNormalization", [x, *norm], axis=-1)
    layers.add("LayerNormalization", [last, norm[0]], axis=-1, epsilon=1e-3)
    statistics = [constant(layers.random.uniform(0.5, 2, 6).astype(np.float32)) for _ in range(4)]
    layers.add("BatchNormalization", [last, *statistics])
    layers.check(TARGET, tmp_path)


def unsupported(op: str, **attrs: Any) -> onnx.ModelProto:
    layers = Layers((1, 6, 4, 5), seed=0)
    layers.add(op, [layers.dequantize("x", 0.1)], **attrs)
    return layers.model()


def test_an_operator_without_a_c_form_is_named() -> None:
    with pytest.raises(CompileError, match=r"Softplus 'Softplus_1' has no C form"):
        emit(unsupported("Softplus"), "t")


def test_a_form_of_an_operator_that_is_missing_is_named() -> None:
    layers = Layers((1, 6, 4, 5), seed=0)
    layers.add("Pow", [layers.dequantize("x", 0.1), layers.constant(np.float32(3))])
    with pytest.raises(CompileError, match=r"Pow 'Pow_1': only the powers 2 and 0\.5 .*not 3"):
        emit(layers.model(), "t")


def test_sums_that_could_overflow_are_refused() -> None:
    layers = Layers((1, 131_072, 1, 1), seed=0)
    layers.conv(np.ones((1, 131_072, 1, 1), np.int8), 1.0)
    with pytest.raises(CompileError, match=r"QLinearConv .*131072 products could overflow int32"):
        emit(layers.model(), "t")
