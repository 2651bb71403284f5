"""How `cpu` opens other people's quantised models where kernels saturate; forced, so it runs anywhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from topfive.sessions import has_signed_activations, open_session, shift_weights, unshare_int8
from topfive.targets import cpu_sessions
from topfive.targets.gemmini.arithmetic import conv

import int8_graphs

SCALE = np.float32(1e-3)
RNG = np.random.default_rng(7)
SHAPES = {"signed": (12, 16, 3, 3), "unsigned": (8, 12, 3, 3), "last": (8, 8, 3, 3)}
WEIGHTS = {name: RNG.integers(-128, 128, shape).astype(np.int8) for name, shape in SHAPES.items()}
PICTURE = RNG.integers(-128, 128, (2, 16, 9, 9)).astype(np.int8)


def convolutions(*, signed_first: bool = True) -> onnx.ModelProto:
    """int8 activations, then the same codes as uint8 with zero point 128 twice more; weights of full range.

    All weights share one constant as their zero point.
    """
    constants = {
        **int8_graphs.unit_constants(),
        **{"half": np.uint8(128), "scale": SCALE},
        **WEIGHTS,
    }
    first = ["x", "one", "zero", "signed", "scale", "zero", "one", "zero"]
    second = ["codes", "one", "half", "unsigned", "scale", "zero", "one", "half"]
    third = ["b", "one", "half", "last", "scale", "zero", "one", "half"]
    nodes = [
        helper.make_node("QLinearConv", first, ["a"], name="signed_conv"),
        helper.make_node("DequantizeLinear", ["a", "one", "zero"], ["f"]),
        helper.make_node("QuantizeLinear", ["f", "one", "half"], ["codes"]),
        helper.make_node("QLinearConv", second, ["b"], name="unsigned_conv"),
        helper.make_node("QLinearConv", third, ["c"], name="last_conv"),
        helper.make_node("DequantizeLinear", ["c", "one", "half"], ["g"]),
        helper.make_node("QuantizeLinear", ["g", "one", "zero"], ["y"]),
    ]
    shapes = {"x": PICTURE.shape} if signed_first else {"a": (2, 12, 7, 7)}
    return int8_graphs.model(nodes if signed_first else nodes[1:], shapes, "y", constants)


def exact(codes: np.ndarray, name: str) -> np.ndarray:
    found = conv(codes.transpose(0, 2, 3, 1), WEIGHTS[name].transpose(2, 3, 1, 0), None, scale=SCALE)
    return found.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("signed_first", [True, False], ids=["mixed", "unsigned"])
def test_sums_are_whole_where_kernels_saturate(signed_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_sessions, "native_kernels_are_exact", lambda: False)
    model = convolutions(signed_first=signed_first)
    assert has_signed_activations(model) == signed_first
    middle = exact(PICTURE, "signed")
    given = {"x": PICTURE} if signed_first else {"a": middle}
    (found,) = cpu_sessions.open_foreign(model, 1).run(None, given)
    wanted = exact(exact(middle, "unsigned"), "last")
    assert np.ptp(wanted.astype(int)) > 100
    np.testing.assert_array_equal(found, wanted)


def test_no_two_operators_read_an_int8_constant() -> None:
    model = unshare_int8(convolutions())
    int8 = {t.name for t in model.graph.initializer if t.data_type == TensorProto.INT8}
    read = [name for node in model.graph.node for name in node.input if name in int8]
    assert len(read) == len(set(read)) > 5
    (found,) = open_session(model.SerializeToString(), optimise=False).run(None, {"x": PICTURE})
    (given,) = open_session(convolutions().SerializeToString(), optimise=False).run(None, {"x": PICTURE})
    np.testing.assert_array_equal(found, given)


def test_only_weights_beside_uint8_are_shifted() -> None:
    shifted = shift_weights(convolutions())
    types = {tensor.name: tensor.data_type for tensor in shifted.graph.initializer}
    named = {node.name: node for node in shifted.graph.node if node.op_type == "QLinearConv"}
    assert types[named["signed_conv"].input[3]] == TensorProto.INT8
    assert types[named["unsigned_conv"].input[3]] == TensorProto.UINT8
    assert types[named["unsigned_conv"].input[5]] == TensorProto.UINT8
