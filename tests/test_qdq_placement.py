"""Where Q/DQ pairs go, and the formulae of weights and scales."""

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
from topfive.quantize.qdq_placement import PLACEMENTS, WEIGHTS, quantize_channels, quantize_qdq
from topfive.quantize.ranges import RangeTable

WEIGHT = np.random.default_rng(0).normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32)
SHAPE = ("n", 4, 8, 8)


def float_model(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: tuple[Any, ...] = SHAPE, output: str = "y"
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op: str, inputs: str, output: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"{op}.{output}", **attrs)


def conv(inputs: str, output: str, **attrs: Any) -> onnx.NodeProto:
    return node("Conv", inputs, output, pads=[1] * 4, **attrs)


def table(*names: str) -> RangeTable:
    return RangeTable(dict.fromkeys(names, (-2.0, 1.0)))


def quantised(model: onnx.ModelProto) -> set[str]:
    """Tensors that are read as int8."""
    return {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}


RESIDUAL = [
    conv("x w", "a"),
    node("Relu", "a", "b"),
    conv("b w", "c"),
    node("Add", "c b", "d"),
    node("Relu", "d", "e"),
    conv("e w", "y"),
]
NAMES = ("x", "a", "b", "c", "d", "e", "y")


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)),
        elements=st.floats(-1e3, 1e3, width=32),
    ),
    st.sampled_from([None, 0, 1]),
)
def test_weight_codes_are_the_nearest(weights: np.ndarray, axis: int | None) -> None:
    codes, scale = quantize_channels(weights, axis)
    assert codes.dtype == np.int8
    assert codes.shape == weights.shape
    assert scale.dtype == np.float32
    assert scale.shape == (() if axis is None else (weights.shape[axis],))
    assert (scale > 0).all()
    assert codes.min() >= -127
    spread = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(3)])
    error = np.abs(codes.astype(np.float64) * spread - weights)
    assert (error <= 0.5001 * spread + 1e-30).all()
    bound = np.abs(weights).max(axis=None if axis is None else tuple(i for i in range(3) if i != axis))
    usual = bound > 1e-36
    np.testing.assert_allclose(scale[usual] * 127, bound[usual], rtol=1e-6)


@given(hnp.arrays(np.float32, (3, 2, 3, 3), elements=st.floats(-10, 10, width=32)))
def test_a_scale_a_channel_is_never_coarser(weights: np.ndarray) -> None:
    _, one = quantize_channels(weights, None)
    _, each = quantize_channels(weights, 0)
    used = np.abs(weights).reshape(3, -1).max(axis=1) > 1e-36
    assert (each[used] <= one).all()


def test_literal_codes() -> None:
    codes, scale = quantize_channels(np.array([[-1.27, 0.635, 0.005], [0.0, 0.0, 0.0]], np.float32), 0)
    np.testing.assert_array_equal(codes, [[-127, 64, 0], [0, 0, 0]])
    np.testing.assert_allclose(scale, [0.01, 1.0], rtol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_model_is_plain_onnx(placement: str, weights: str) -> None:
    model = float_model(RESIDUAL, {"w": WEIGHT})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE))
    made = quantize_qdq(model, table(*NAMES), placement=placement, weights=weights)
    onnx.checker.check_model(made, full_check=True)
    graph = Graph(made)
    assert graph.constants["w_quantized"].dtype == np.int8
    assert graph.constants["w_quantized.scale"].shape == ((4,) if weights == "per_axis" else ())
    assert graph.constants["x_quantized.scale"] == np.float32(2 / np.float32(127))


def test_tensorrt_fuses_one_addend_and_quantises_the_other() -> None:
    made = quantize_qdq(
        float_model(RESIDUAL, {"w": WEIGHT}), table(*NAMES), placement="tensorrt", weights="per_axis"
    )
    # c goes from its convolution into the add; d is inside the kernel.
    assert quantised(made) == {"x", "b", "e"}
    (add,) = [n for n in made.graph.node if n.op_type == "Add"]
    assert list(add.input) == ["c", "b_dequantized"]


def test_magicmind_quantises_what_convolutions_read_and_nothing_else() -> None:
    made = quantize_qdq(
        float_model(RESIDUAL, {"w": WEIGHT}), table(*NAMES), placement="magicmind", weights="per_axis"
    )
    assert quantised(made) == {"x", "b", "e"}
    (add,) = [n for n in made.graph.node if n.op_type == "Add"]
    assert list(add.input) == ["c", "b"]


def test_of_two_convolutions_the_later_is_fused() -> None:
    nodes = [conv("x w", "a"), conv("x w", "b"), node("Add", "b a", "d"), conv("d w", "y")]
    made = quantize_qdq(
        float_model(nodes, {"w": WEIGHT}), table("x", "a", "b", "d"), placement="tensorrt", weights="per_axis"
    )
    assert quantised(made) == {"x", "a", "d"}


def test_an_addend_that_others_read_too_is_not_fused() -> None:
    nodes = [
        conv("x w", "a"),
        conv("a w", "b"),
        node("Add", "a b", "d"),
        node("Add", "d b", "e"),
        conv("e w", "y"),
    ]
    made = quantize_qdq(
        float_model(nodes, {"w": WEIGHT}),
        table("x", "a", "b", "d", "e"),
        placement="tensorrt",
        weights="per_axis",
    )
    assert quantised(made) == {"x", "a", "b", "d", "e"}


def test_an_add_that_no_int8_kernel_reads_stays_float() -> None:
    """A transformer's residual stream: normalised in float before the next matrix product."""
    scale = np.ones(8, np.float32)
    nodes = [
        node("MatMul", "x m", "a"),
        node("Add", "a x", "b"),
        node("LayerNormalization", "b s s", "c"),
        node("MatMul", "c m", "y"),
    ]
    model = float_model(nodes, {"m": np.eye(8, dtype=np.float32), "s": scale}, ("n", 8))
    made = quantize_qdq(model, table("x", "a", "b", "c"), placement="tensorrt", weights="per_axis")
    assert quantised(made) == {"x", "c"}


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        (node("GlobalAveragePool", "a", "y"), {"x", "a"}),
        (node("AveragePool", "a", "y", kernel_shape=[2, 2]), {"x", "a"}),
        (node("MaxPool", "a", "y", kernel_shape=[2, 2]), {"x"}),
        (node("Softmax", "a", "y", axis=1), {"x"}),
    ],
    ids=lambda v: v.op_type if isinstance(v, onnx.NodeProto) else "",
)
def test_average_pools_are_int8_kernels_of_tensorrt(last: onnx.NodeProto, wanted: set[str]) -> None:
    model = float_model([conv("x w", "a"), last], {"w": WEIGHT})
    assert quantised(quantize_qdq(model, table("x", "a"), placement="tensorrt", weights="per_axis")) == wanted
    assert quantised(quantize_qdq(model, table("x", "a"), placement="magicmind", weights="per_axis")) == {"x"}


def test_products_of_two_activations_read_both_as_int8() -> None:
    model = float_model([node("MatMul", "x x", "y")], {}, ("n", 8, 8))
    made = quantize_qdq(model, table("x"), placement="magicmind", weights="per_tensor")
    (product,) = [n for n in made.graph.node if n.op_type == "MatMul"]
    assert list(product.input) == ["x_dequantized", "x_dequantized"]


@pytest.mark.parametrize(
    "attrs", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}], ids=["alpha", "beta", "transA"]
)
def test_a_gemm_with_factors_stays_float(attrs: dict[str, Any]) -> None:
    constants = {"m": np.eye(8, dtype=np.float32), "b": np.ones(8, np.float32)}
    model = float_model([node("Gemm", "x m b", "y", **attrs)], constants, (8, 8))
    assert not quantised(quantize_qdq(model, table("x"), placement="tensorrt", weights="per_axis"))


def test_shared_weights_are_quantised_once() -> None:
    made = quantize_qdq(
        float_model(RESIDUAL, {"w": WEIGHT}), table(*NAMES), placement="tensorrt", weights="per_axis"
    )
    assert [n.output[0] for n in made.graph.node if n.op_type == "DequantizeLinear"].count(
        "w_dequantized"
    ) == 1


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_missing_range_is_named(placement: str) -> None:
    with pytest.raises(QuantizeError, match=r"no calibrated range for tensor 'b'"):
        quantize_qdq(
            float_model(RESIDUAL, {"w": WEIGHT}), table("x", "e"), placement=placement, weights="per_axis"
        )
