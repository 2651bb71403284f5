"""The int8 quantiser: its formulae, the shapes of graph that it rewrites, and what it must not lose."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from topfive.errors import QuantizeError
from topfive.graph import Graph
from topfive.quantize.calibration import calibrated_tensors, minmax
from topfive.quantize.exactness import exact_int8_tensors
from topfive.quantize.ranges import RangeTable
from topfive.quantize.rewriter import quantize_bias
from topfive.quantize.symmetric import activation_scale, quantize_symmetric, quantize_weights
from topfive.sessions import open_exact, open_session
from topfive.targets.gemmini.lowering import lower
from topfive.targets.gemmini.reference import run_reference

floats = st.floats(-1e6, 1e6, width=32)


def float_model(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: tuple[Any, ...], output: str = "y"
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def random_weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@given(floats, floats)
def test_activation_scale_covers_the_range(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    scale = activation_scale(low, high)
    assert scale.dtype == np.float32
    assert scale > 0
    bound = max(abs(min(low, 0)), abs(max(high, 0)))
    if bound >= 1.001e-8:
        assert abs(float(scale) * 127 - bound) <= bound * 1e-6
    elif bound < 0.999e-8:
        assert scale == 1


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [(-1.0, 1.0, 1 / 127), (0.0, 6.0, 6 / 127), (-3.0, 1.0, 3 / 127), (2.0, 4.0, 4 / 127), (0.0, 0.0, 1.0)],
    ids=["symmetric", "relu6", "negative_side", "above_zero", "constant_zero"],
)
def test_activation_scale_literals(low: float, high: float, scale: float) -> None:
    assert activation_scale(low, high) == np.float32(scale)


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-100, 100, width=32)))
def test_weights_are_within_half_a_step(weights: np.ndarray) -> None:
    codes, scale = quantize_weights(weights)
    assert codes.dtype == np.int8
    assert codes.min() >= -127
    assert np.abs(codes * np.float64(scale) - weights).max() <= float(scale) * 0.5000001 + 1e-30


def test_weight_literals() -> None:
    codes, scale = quantize_weights(np.array([1.0, -0.5, 0.25, 0.0], np.float32))
    assert scale == np.float32(2 / 254)
    # 0.5 * 127 = 63.5 and 0.25 * 127 = 31.75
    assert codes.tolist() == [127, -64, 32, 0]
    assert quantize_weights(np.zeros(3, np.float32))[1] == 1


def test_bias_literals_and_overflow() -> None:
    scale = np.float32(0.5)
    codes = quantize_bias(np.array([1.0, -0.125, 0.375], np.float32), scale, scale)
    assert codes.tolist() == [4, 0, 2]
    with pytest.raises(OverflowError):
        quantize_bias(np.array([1.0], np.float32), np.float32(1e-6), np.float32(1e-6))


def quantised(
    model: onnx.ModelProto, shape: tuple[int, ...], seed: int = 1
) -> tuple[onnx.ModelProto, np.ndarray]:
    x = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
    return quantize_symmetric(model, minmax(model, [x])), x


def conv_then(*tail: onnx.NodeProto, constants: dict[str, Any] | None = None) -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1] * 4), *tail]
    values = {"w": random_weights(4, 3, 3, 3), "b": random_weights(4, seed=5), **(constants or {})}
    return float_model(nodes, values, ("batch", 3, 8, 8))


def scale_of(model: onnx.ModelProto, tensor: str) -> float:
    return float(Graph(model).constants[f"{tensor}_quantized.scale"])


def test_relu_folds_the_range_at_zero() -> None:
    model = conv_then(helper.make_node("Relu", ["c"], ["y"], name="relu"))
    int8, x = quantised(model, (2, 3, 8, 8))
    assert ops(int8) == ["QuantizeLinear", "QLinearConv", "Relu", "DequantizeLinear"]
    conv = minmax(model, [x]).ranges["c"]
    assert conv[0] < -conv[1] or conv[0] < 0
    assert scale_of(int8, "c") == pytest.approx(conv[1] / 127, rel=1e-6)


def test_relu_then_max_pool_takes_the_pool_range() -> None:
    relu = helper.make_node("Relu", ["c"], ["r"], name="relu")
    pool = helper.make_node("MaxPool", ["r"], ["y"], name="pool", kernel_shape=[2, 2], strides=[3, 3])
    model = conv_then(relu, pool)
    table = RangeTable({"x": (-1, 1), "c": (-4, 5), "r": (0, 5), "y": (0, 3)})
    assert scale_of(quantize_symmetric(model, table), "c") == pytest.approx(3 / 127, rel=1e-6)


def test_a_conv_read_by_relu_and_others_keeps_its_negative_range() -> None:
    relu = helper.make_node("Relu", ["c"], ["r"], name="relu")
    add = helper.make_node("Add", ["c", "r"], ["y"], name="add")
    model = conv_then(relu, add)
    int8, x = quantised(model, (1, 3, 8, 8))
    low, high = minmax(model, [x]).ranges["c"]
    assert scale_of(int8, "c") == pytest.approx(max(-low, high) / 127, rel=1e-6)
    assert "QLinearAdd" in ops(int8)


@pytest.mark.parametrize(("gain", "clips"), [(30.0, False), (0.5, False)], ids=["saturating", "inside"])
def test_relu6_keeps_its_upper_bound(gain: float, clips: bool) -> None:
    """The original quantiser drops Clip on int8; here no output may exceed 6."""
    bounds = {"low": np.float32(0), "high": np.float32(6), "w": random_weights(4, 3, 3, 3) * gain}
    model = conv_then(helper.make_node("Clip", ["c", "low", "high"], ["y"], name="relu6"), constants=bounds)
    int8, x = quantised(model, (2, 3, 8, 8))
    y = run_reference(int8, x * 3)["y"]
    assert y.max() <= 6.0001
    assert y.min() >= 0
    if gain > 1:
        assert y.max() == pytest.approx(6, rel=1e-5)


def test_a_clip_inside_the_range_is_an_operator() -> None:
    """A range that reaches past the bound on another reader's account: the codes must be clipped."""
    bounds = {"low": np.float32(-0.5), "high": np.float32(0.5)}
    clip = helper.make_node("Clip", ["c", "low", "high"], ["k"], name="clip")
    add = helper.make_node("Add", ["c", "k"], ["y"], name="add")
    int8, x = quantised(conv_then(clip, add, constants=bounds), (1, 3, 8, 8))
    values = run_reference(int8, x)
    scale = scale_of(int8, "c")
    assert np.abs(values["k_quantized"] * scale).max() <= 0.5 + scale
    assert np.abs(values["c_quantized"] * scale).max() > 0.6


def test_average_pool_becomes_a_convolution_of_ones() -> None:
    pool = helper.make_node("AveragePool", ["c"], ["y"], name="pool", kernel_shape=[4, 4], strides=[4, 4])
    model = conv_then(pool)
    int8, x = quantised(model, (1, 3, 8, 8))
    assert ops(int8) == ["QuantizeLinear", "QLinearConv", "QLinearConv", "DequantizeLinear"]
    expected = open_session(model.SerializeToString()).run(None, {"x": x})[0]
    assert np.abs(run_reference(int8, x)["y"] - expected).max() < 3 * scale_of(int8, "c")


@pytest.mark.parametrize(
    "attrs",
    [{"pads": [1, 1, 1, 1]}, {"ceil_mode": 1}],
    ids=["padding_not_counted", "ceil_mode"],
)
def test_average_pools_that_ones_cannot_do_stay_float(attrs: dict[str, Any]) -> None:
    pool = helper.make_node(
        "AveragePool", ["c"], ["y"], name="pool", kernel_shape=[3, 3], strides=[2, 2], **attrs
    )
    int8, _ = quantised(conv_then(pool), (1, 3, 8, 8))
    assert ops(int8).count("QLinearConv") == 1
    assert "AveragePool" in ops(int8)


def test_classifier_and_global_average_stay_float() -> None:
    tail = [
        helper.make_node("GlobalAveragePool", ["c"], ["g"], name="gap"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fw"], ["y"], name="fc"),
    ]
    int8, _ = quantised(conv_then(*tail, constants={"fw": random_weights(4, 5)}), (1, 3, 8, 8))
    assert ops(int8)[-4:] == ["DequantizeLinear", "GlobalAveragePool", "Flatten", "Gemm"]


def test_adds_that_broadcast_stay_float() -> None:
    gap = helper.make_node("GlobalAveragePool", ["c"], ["g"], name="gap")
    add = helper.make_node("Add", ["c", "g"], ["y"], name="add")
    int8, _ = quantised(conv_then(gap, add), (1, 3, 8, 8))
    assert "QLinearAdd" not in ops(int8)


def test_a_missing_range_names_the_tensor() -> None:
    with pytest.raises(QuantizeError, match="'c'"):
        quantize_symmetric(
            conv_then(helper.make_node("Relu", ["c"], ["y"], name="r")), RangeTable({"x": (-1, 1)})
        )


def test_a_bias_that_does_not_fit_names_the_node() -> None:
    model = conv_then(
        helper.make_node("Relu", ["c"], ["y"], name="r"),
        constants={"w": np.full((4, 3, 3, 3), 1e-12, np.float32), "b": np.full(4, 1e6, np.float32)},
    )
    with pytest.raises(QuantizeError, match="Conv 'conv'"):
        quantised(model, (1, 3, 8, 8))


@given(st.integers(0, 2**32 - 1))
def test_int8_stays_close_to_float(seed: int) -> None:
    """End to end on random small nets: 8 bits keep the signal (SQNR above 20 dB)."""
    residual = [
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], ["d"], name="conv2", pads=[1] * 4),
        helper.make_node("Add", ["d", "r"], ["y"], name="add"),
    ]
    constants = {"w": random_weights(4, 3, 3, 3, seed=seed), "w2": random_weights(4, 4, 3, 3, seed=seed + 1)}
    model = conv_then(*residual, constants=constants)
    int8, x = quantised(model, (2, 3, 8, 8), seed)
    expected = open_session(model.SerializeToString()).run(None, {"x": x})[0]
    result = run_reference(int8, x)["y"]
    assert np.square(expected).sum() / np.square(result - expected).sum() > 100
    lowered = open_exact(lower(int8).model).run(None, {"x": x})[0]
    np.testing.assert_array_equal(lowered, result)


def test_the_exact_tensors_are_the_last_before_inexact_operators() -> None:
    tail = [
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="gap"),
        helper.make_node("Conv", ["g", "w2"], ["y"], name="conv2"),
    ]
    int8, _ = quantised(conv_then(*tail, constants={"w2": random_weights(2, 4, 1, 1)}), (1, 3, 8, 8))
    # Everything after the float average may differ in its last bit between processors.
    assert exact_int8_tensors(int8) == ["r_quantized"]


def test_calibration_asks_for_activations_only() -> None:
    model = conv_then(helper.make_node("Relu", ["c"], ["y"], name="r"))
    assert calibrated_tensors(Graph(model)) == ["x", "c", "y"]
