"""uint8 with zero points: the runner's formulae, and what becomes of each operator."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from topfive.errors import QuantizeError
from topfive.graph import Graph
from topfive.quantize.asymmetric import activation_parameters, quantize_asymmetric, quantize_uint8_weights
from topfive.quantize.calibration import minmax
from topfive.quantize.dynamic import quantize_dynamic
from topfive.quantize.ranges import RangeTable
from topfive.sessions import open_session

SHAPE = (2, 3, 8, 8)


def float_model(nodes: list[onnx.NodeProto], constants: dict[str, Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", *SHAPE[1:]))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.05, 0.3, shape).astype(np.float32)


def conv_then(*tail: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c" if tail else "y"], name="conv", pads=[1] * 4),
        *tail,
    ]
    return float_model(nodes, {"w": weights(4, 3, 3, 3), "b": weights(4, seed=5), **constants})


def batch(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.2, 1, SHAPE).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of a model."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output]
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(shown.SerializeToString(), threads=1, optimise=False)
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [
        (-1.0, 1.0, 2 / 255, 127),  # just below 127.5: in float32, 2 / 255 is a little larger
        (0.0, 6.0, 6 / 255, 0),
        (-3.0, 0.0, 3 / 255, 255),
        (2.0, 4.0, 4 / 255, 0),
        (-4.0, -2.0, 4 / 255, 255),
        (-1.0, 254.0, 1.0, 1),
        (-2.5, 252.5, 1.0, 2),  # 2.5 rounds to the even 2
        (0.0, 0.0, 1.0, 0),
        (-4e-9, 4e-9, 1.0, 0),
    ],
    ids=["symmetric", "relu6", "negative", "above", "below", "one_step", "half", "constant", "tiny"],
)
def test_parameter_literals(low: float, high: float, scale: float, zero: int) -> None:
    assert activation_parameters(low, high) == (np.float32(scale), zero)


@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32))
def test_the_range_is_covered_and_zero_is_a_code(a: float, b: float) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale, zero = activation_parameters(min(a, b), max(a, b))
    assert scale.dtype == np.float32
    assert 0 <= zero <= 255
    if high - low >= 1e-8:
        step = float(scale)
        assert -zero * step <= low + step * 0.501
        assert (255 - zero) * step >= high - step * 0.501


def test_weight_literals() -> None:
    found = quantize_uint8_weights(np.array([-1.0, 0.0, 0.5, 1.55], np.float32))
    # (1.55 + 1) / 255 = 0.01: zero 100, codes 0, 100, 150, 255
    assert found.scale == np.float32(0.01)
    assert (found.zero, found.codes.tolist()) == (100, [0, 100, 150, 255])
    assert quantize_uint8_weights(np.zeros(3, np.float32)).codes.tolist() == [0, 0, 0]


def test_a_code_of_256_does_not_wrap() -> None:
    """Steps of 1: 1.5 rounds to the zero point 2, and 253.5 to 254, which makes 256."""
    found = quantize_uint8_weights(np.array([-1.5, 253.5], np.float32))
    assert found.zero == 2
    assert found.codes.tolist() == [0, 255]


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-100, 100, width=32)))
def test_weights_are_within_a_step(values: np.ndarray) -> None:
    found = quantize_uint8_weights(values)
    assert found.codes.dtype == np.uint8
    back = (found.codes.astype(np.float64) - found.zero) * float(found.scale)
    if np.ptp([*values, 0.0]) >= 1e-8:
        # Half a step, and half another where a code of 256 is cut to 255.
        assert np.abs(back - values).max() <= float(found.scale) * 1.0001 + 1e-30


def quantised(model: onnx.ModelProto, x: np.ndarray) -> onnx.ModelProto:
    return quantize_asymmetric(model, minmax(model, [x]))


def parameters(model: onnx.ModelProto, tensor: str) -> tuple[float, int]:
    constants = Graph(model).constants
    return float(constants[f"{tensor}.scale"]), int(constants[f"{tensor}.zero_point"])


def test_a_convolution_is_integer_arithmetic_with_zero_points() -> None:
    """The whole layer in numpy: int64 sums of codes less their zero points, one float32 product, rint."""
    model, x = conv_then(), batch()
    uint8 = quantised(model, x)
    assert ops(uint8) == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    constants, seen = Graph(uint8).constants, run(uint8, x)
    (xs, xz), (ys, yz) = parameters(uint8, "x_quantized"), parameters(uint8, "y_quantized")
    w, wz = constants["conv.weight_quantized"], int(constants["conv.weight_quantized.zero_point"])
    assert w.dtype == np.uint8
    codes = seen["x_quantized"].astype(np.int64) - xz
    np.testing.assert_array_equal(
        seen["x_quantized"], np.clip(np.rint(x / np.float32(xs)) + xz, 0, 255).astype(np.uint8)
    )
    padded = np.pad(codes, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.int64) - wz)
    sums += constants["conv.bias_quantized"].astype(np.int64)[None, :, None, None]
    scale = np.float32(np.float32(xs) * constants["conv.weight_scale"]) / np.float32(ys)
    expected = np.clip(np.rint(sums.astype(np.float32) * scale) + yz, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(seen["y_quantized"], expected)


def test_the_bias_is_rounded_at_the_product_of_the_scales() -> None:
    model, x = conv_then(), batch()
    constants = Graph(quantised(model, x)).constants
    scale = np.float32(constants["x_quantized.scale"] * constants["conv.weight_scale"])
    expected = np.rint(weights(4, seed=5) / scale).astype(np.int32)
    np.testing.assert_array_equal(constants["conv.bias_quantized"], expected, strict=True)


def test_relu_needs_no_operator_after_its_own_range() -> None:
    model, x = conv_then(helper.make_node("Relu", ["c"], ["y"], name="relu")), batch()
    uint8 = quantised(model, x)
    assert ops(uint8) == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    assert parameters(uint8, "c_quantized")[1] == 0
    y = run(uint8, x * 3)["y"]
    assert y.min() == 0


def test_relu_of_a_tensor_that_others_read_is_an_operator() -> None:
    tail = [
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Add", ["c", "r"], ["y"], name="add"),
    ]
    model, x = conv_then(*tail), batch()
    uint8 = quantised(model, x)
    assert ops(uint8) == ["QuantizeLinear", "QLinearConv", "Clip", "QLinearAdd", "DequantizeLinear"]
    seen, (_, zero) = run(uint8, x), parameters(uint8, "c_quantized")
    assert 0 < zero < 255
    np.testing.assert_array_equal(seen["r_quantized"], np.maximum(seen["c_quantized"], zero))


def test_relu6_keeps_its_upper_bound() -> None:
    bounds = {"low": np.float32(0), "high": np.float32(6), "w": weights(4, 3, 3, 3) * 30}
    model = conv_then(helper.make_node("Clip", ["c", "low", "high"], ["y"], name="relu6"), **bounds)
    y = run(quantised(model, batch()), batch() * 3)["y"]
    assert y.max() == pytest.approx(6, rel=1e-6)
    assert y.min() == 0


def test_average_pool_max_pool_and_data_movement() -> None:
    tail = [
        helper.make_node("MaxPool", ["c"], ["m"], name="max", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("AveragePool", ["m"], ["a"], name="mean", kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["a"], ["y"], name="flat"),
    ]
    model, x = conv_then(*tail), batch()
    uint8 = quantised(model, x)
    assert ops(uint8) == [
        "QuantizeLinear",
        "QLinearConv",
        "MaxPool",
        "QLinearConv",
        "Flatten",
        "DequantizeLinear",
    ]
    step = parameters(uint8, "y_quantized")[0] + parameters(uint8, "c_quantized")[0]
    expected = open_session(model.SerializeToString()).run(None, {"x": x})[0]
    assert np.abs(run(uint8, x)["y"] - expected).max() < 2 * step


def residual(seed: int) -> onnx.ModelProto:
    tail = [
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], ["d"], name="conv2", pads=[1] * 4),
        helper.make_node("Add", ["d", "r"], ["s"], name="add"),
        helper.make_node("GlobalAveragePool", ["s"], ["g"], name="gap"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "fc"], ["y"], name="fc"),
    ]
    constants = {"w2": weights(4, 4, 3, 3, seed=seed), "fc": weights(4, 5, seed=seed + 1)}
    return conv_then(*tail, w=weights(4, 3, 3, 3, seed=seed + 2), **constants)


SCHEMES = {
    "uint8": quantize_asymmetric,
    "dynamic_int8": partial(quantize_dynamic, signed=True),
    "dynamic_uint8": partial(quantize_dynamic, signed=False),
}


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_eight_bits_keep_the_signal(scheme: str, seed: int) -> None:
    """End to end on random small nets: SQNR above 20 dB."""
    model, x = residual(seed), batch(seed)
    table = minmax(model, [x])
    expected = open_session(model.SerializeToString()).run(None, {"x": x})[0]
    found = open_session(SCHEMES[scheme](model, table).SerializeToString()).run(None, {"x": x})[0]
    assert np.square(expected).sum() / np.square(found - expected).sum() > 100


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_a_missing_range_names_the_tensor(scheme: str) -> None:
    model = conv_then(helper.make_node("Relu", ["c"], ["y"], name="r"))
    with pytest.raises(QuantizeError, match="'c'"):
        SCHEMES[scheme](model, RangeTable({"x": (-1, 1)}))


# Dynamic


def dynamic(model: onnx.ModelProto, x: np.ndarray, *, signed: bool) -> onnx.ModelProto:
    return quantize_dynamic(model, minmax(model, [x]), signed=signed)


@pytest.mark.parametrize("gain", [1.0, 0.01, 250.0], ids=["as_calibrated", "smaller", "larger"])
def test_int8_input_scales_follow_the_input_and_biases_are_rounded_down(gain: float) -> None:
    model = conv_then()
    int8 = dynamic(model, batch(), signed=True)
    x = (batch(9) * gain).astype(np.float32)
    seen, constants = run(int8, x), Graph(int8).constants
    scale = np.float32(np.abs(x).max() / np.float32(127))
    assert seen["x_quantized.scale"] == scale
    np.testing.assert_array_equal(seen["x_quantized"], np.rint(x / scale).astype(np.int8))
    steps = np.float32(scale * constants["conv.weight_scale"])
    np.testing.assert_array_equal(
        seen["conv.bias_quantized"], np.floor(weights(4, seed=5) / steps).astype(np.int32), strict=True
    )
    assert (seen["conv.bias_quantized"] != np.rint(weights(4, seed=5) / steps)).any()


def test_only_conv_and_matmul_are_quantised() -> None:
    int8 = dynamic(residual(3), batch(), signed=True)
    found = ops(int8)
    assert [op for op in found if op.startswith("QLinear")] == ["QLinearConv", "QLinearConv", "QLinearMatMul"]
    assert {"Relu", "Add", "GlobalAveragePool", "Flatten"} <= set(found)
    assert "QLinearAdd" not in found


def test_a_tensor_is_measured_once_for_all_its_readers() -> None:
    tail = [
        helper.make_node("Conv", ["x", "w"], ["d"], name="conv2", pads=[1] * 4),
        helper.make_node("Add", ["c", "d"], ["y"], name="add"),
    ]
    int8 = dynamic(conv_then(*tail), batch(), signed=True)
    assert ops(int8).count("ReduceMax") == 1
    assert ops(int8).count("QuantizeLinear") == 1


def test_codes_go_from_a_convolution_straight_to_the_next() -> None:
    """As in the original: that scale is known, and the bias of the second is rounded to the nearest."""
    tail = helper.make_node("Conv", ["c", "w2", "b2"], ["y"], name="conv2")
    model = conv_then(tail, w2=weights(2, 4, 1, 1), b2=weights(2, seed=8))
    int8 = dynamic(model, batch(), signed=True)
    assert ops(int8)[-3:] == ["QLinearConv", "QLinearConv", "DequantizeLinear"]
    constants = Graph(int8).constants
    scale = np.float32(constants["c_quantized.scale"] * constants["conv2.weight_scale"])
    np.testing.assert_array_equal(
        constants["conv2.bias_quantized"], np.rint(weights(2, seed=8) / scale).astype(np.int32)
    )


@pytest.mark.parametrize("signed", [True, False], ids=["int8", "uint8"])
def test_an_input_of_zeros_gives_the_bias(signed: bool) -> None:
    """The original divides by a scale of 0 here."""
    model = conv_then()
    zeros = np.zeros(SHAPE, np.float32)
    found = run(dynamic(model, batch(), signed=signed), zeros)["y"]
    expected = open_session(model.SerializeToString()).run(None, {"x": zeros})[0]
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() < 0.05


def test_a_bias_beyond_int32_saturates() -> None:
    model = conv_then(b=np.array([1e30, -1e30, 0.5, 0], np.float32))
    int8 = dynamic(model, batch(), signed=True)
    codes = run(int8, batch())["conv.bias_quantized"]
    assert codes[0] == 2147483520
    assert codes[1] == -2147483520


def test_uint8_zero_points_follow_the_input() -> None:
    int8 = dynamic(conv_then(), batch(), signed=False)
    assert ops(int8)[0] == "DynamicQuantizeLinear"
    x = batch(9) + 2
    seen = run(int8, x)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale, zero = activation_parameters(low, high)
    assert seen["x_quantized.scale"] == pytest.approx(scale, rel=1e-6)
    assert abs(int(seen["x_quantized.zero_point"]) - zero) <= 1
