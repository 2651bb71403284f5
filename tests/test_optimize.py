"""The optimize stage keeps what a float model computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from topfive.errors import OptimizeError
from topfive.quantize.float16 import quantize_float16
from topfive.quantize.optimize import optimize
from topfive.sessions import open_session


def conv_norm_model(
    seed: int, *, bias: bool = True, opset: int = 9, epsilon: float = 1e-3
) -> onnx.ModelProto:
    random = np.random.default_rng(seed)
    constants = {
        "w": random.normal(0, 0.5, (4, 3, 3, 3)),
        "b": random.normal(0, 0.5, 4),
        "gamma": random.normal(1, 0.3, 4),
        "beta": random.normal(0, 0.3, 4),
        "mean": random.normal(0, 0.3, 4),
        "var": random.uniform(0.1, 2, 4),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", *(["b"] if bias else [])], ["c"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], epsilon=epsilon),
        helper.make_node("Identity", ["n"], ["i"]),
        helper.make_node("Dropout", ["i"], ["d"]),
        helper.make_node("Sum", ["d", "c" if not bias else "d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 3, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", 4, 6, 6))],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return open_session(model.SerializeToString(), threads=1, optimise=False).run(None, {"x": x})[0]


@given(st.integers(0, 2**32 - 1), st.sampled_from([9, 11, 13, 17]))
def test_folding_leaves_the_result(seed: int, opset: int) -> None:
    model = conv_norm_model(seed, opset=opset)
    x = np.random.default_rng(seed).normal(0, 1, (2, 3, 6, 6)).astype(np.float32)
    optimized = optimize(model)
    assert [n.op_type for n in optimized.graph.node] == ["Conv", "Add"]
    np.testing.assert_allclose(run(optimized, x), run(model, x), rtol=2e-4, atol=2e-5)


def test_a_conv_read_elsewhere_keeps_its_norm() -> None:
    optimized = optimize(conv_norm_model(1, bias=False))
    assert [n.op_type for n in optimized.graph.node] == ["Conv", "BatchNormalization", "Add"]


def test_folded_weights_are_float64_products() -> None:
    """Bit for bit, whatever the machine: the product in float64, rounded once."""
    model = conv_norm_model(7)
    given_ = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    factor = given_["gamma"] / np.sqrt(given_["var"] + np.float64(np.float32(1e-3)))
    folded = {t.name: numpy_helper.to_array(t) for t in optimize(model).graph.initializer}
    weight = next(v for k, v in folded.items() if k.endswith("folded_weight"))
    np.testing.assert_array_equal(weight, (given_["w"] * factor[:, None, None, None]).astype(np.float32))


def test_every_node_has_a_name() -> None:
    names = [n.name for n in optimize(conv_norm_model(1)).graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_an_old_opset_is_refused() -> None:
    model = conv_norm_model(1)
    model.opset_import[0].version = 5
    with pytest.raises(OptimizeError, match="opset 5"):
        optimize(model)


def test_float16_clips_weights_beyond_its_range() -> None:
    model = conv_norm_model(1, opset=17)
    big = numpy_helper.to_array(model.graph.initializer[0]).copy()
    big[0, 0, 0, 0] = 1e6
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(big, "w"))
    converted = quantize_float16(optimize(model))
    halves = [t for t in converted.graph.initializer if t.data_type == TensorProto.FLOAT16]
    assert halves
    assert all(np.isfinite(numpy_helper.to_array(t)).all() for t in halves)
    assert converted.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
