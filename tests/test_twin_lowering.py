"""The numeric twins against plain numpy, bit for bit where they are exact, and the rules of float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from topfive.errors import CompileError
from topfive.quantize.qdq_placement import WEIGHTS, quantize_qdq
from topfive.quantize.ranges import RangeTable
from topfive.sessions import SHIFT
from topfive.targets.cpu_sessions import open_as_written, open_float
from topfive.targets.twins.float16 import rounded_constant
from topfive.targets.twins.lowering import LoweredTwin, lower_twin

import twin_oracle

WIDE = (-3.0, 3.0)


def float_model(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: tuple[Any, ...]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op: str, inputs: str, output: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"{op}.{output}", **attrs)


def everything(model: onnx.ModelProto, bound: float = 3.0) -> RangeTable:
    """One range for every tensor."""
    names = [model.graph.input[0].name, *(o for n in model.graph.node for o in n.output)]
    return RangeTable(dict.fromkeys(names, (-bound, bound)))


def all_tensors(lowered: LoweredTwin, batch: np.ndarray, *, optimised: bool = False) -> dict[str, np.ndarray]:
    """Every tensor between the nodes of a lowered model, int8 ones as int8."""
    model = onnx.ModelProto()
    model.CopyFrom(lowered.model)
    names = [name for n in model.graph.node for name in n.output if name]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = (open_float if optimised else open_as_written)(model, 1)
    found = dict(zip(names, session.run(names, {model.graph.input[0].name: batch}), strict=True))
    for name in lowered.int8_tensors:
        found[name] = (found[name].astype(np.int16) - SHIFT).astype(np.int8)
    return found


def float16(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


def check_against_numpy(
    model: onnx.ModelProto, batch: np.ndarray, *, half: bool, placement: str, weights: str, bound: float = 3.0
) -> LoweredTwin:
    """All tensors that both have, bit for bit: there is nothing inexact in the graphs that come here."""
    qdq = quantize_qdq(model, everything(model, bound), placement=placement, weights=weights)
    lowered = lower_twin(qdq, half=half)
    seen, wanted = all_tensors(lowered, batch), twin_oracle.run(qdq, batch, half=half)
    compared = [name for name in wanted if name in seen and not name.endswith("_dequantized")]
    output = qdq.graph.output[0].name
    assert output in compared
    assert not half or np.array_equal(seen[output], float16(seen[output]))
    for name in compared:
        if half and seen[name].dtype == np.float32 and not np.array_equal(seen[name], float16(seen[name])):
            continue  # rounded after the ReLU, clip or pool that reads it
        np.testing.assert_array_equal(seen[name], wanted[name], err_msg=name, strict=True)
    return lowered


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, np.ndarray]:
    """A small network of everything that has an integer form, and a batch for it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = 2 * draw(st.integers(1, 3))
    size = draw(st.integers(8, 10))
    groups = draw(st.sampled_from([1, 2, channels]))
    kernel, stride, dilation = draw(st.sampled_from([(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2)]))
    pad = draw(st.integers(0, kernel // 2))
    constants: dict[str, Any] = {
        "w1": rng.normal(0, 0.5, (channels, 3, 3, 3)),
        "b1": rng.normal(0, 1, channels),
        "w2": rng.normal(0, 0.5, (channels, channels // groups, kernel, kernel)),
        "b2": rng.normal(0, 1, channels),
        "w3": rng.normal(0, 0.5, (channels, channels, 3, 3)),
        "low": 0.0,
        "high": 2.0,
        "m": rng.normal(0, 0.5, (2 * channels, 5)),
        "mb": rng.normal(0, 1, 5),
    }
    activation = draw(st.sampled_from(["Relu", "Clip", "LeakyRelu"]))
    attrs = {"alpha": 0.125} if activation == "LeakyRelu" else {}
    average = draw(st.sampled_from(["GlobalAveragePool", "pool", "padded", "included"]))
    pooled: dict[str, Any] = {
        "GlobalAveragePool": {},
        "pool": {"kernel_shape": [2, 2]},
        "padded": {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]},
        "included": {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1},
    }[average]
    nodes = [
        node("Conv", "x w1 b1", "a", pads=[1] * 4),
        node(activation, "a low high" if activation == "Clip" else "a", "b", **attrs),
        node(
            "Conv",
            "b w2 b2",
            "c",
            group=groups,
            strides=[stride] * 2,
            dilations=[dilation] * 2,
            pads=[pad] * 4,
        ),
        node("MaxPool", "c", "d", kernel_shape=[2, 2], strides=[1, 1]),
        node("Conv", "d w3", "e", pads=[1] * 4),
        node("Add", "e d", "f"),
        node("Relu", "f", "g"),
        node("Concat", "g d", "h", axis=1),
        node(average if not pooled else "AveragePool", "h", "i", **pooled),
        node("GlobalAveragePool", "i", "j"),
        node("Flatten", "j", "k"),
        node("Gemm", "k m mb", "y", transB=0),
    ]
    floats = {k: np.asarray(v, np.float32) for k, v in constants.items()}
    batch = rng.normal(0, 1.5, (2, 3, size, size)).astype(np.float32)
    return float_model(nodes, floats, ("n", 3, size, size)), batch


@settings(max_examples=25)
@given(networks(), st.sampled_from(WEIGHTS))
def test_int8_of_tensorrt_is_numpy_to_the_bit(made: tuple[onnx.ModelProto, np.ndarray], weights: str) -> None:
    lowered = check_against_numpy(*made, half=False, placement="tensorrt", weights=weights)
    assert lowered.exact_tensors == ("k_quantized",)


@settings(max_examples=25)
@given(networks(), st.sampled_from(WEIGHTS))
def test_qint8_mixed_float16_is_numpy_to_the_bit(
    made: tuple[onnx.ModelProto, np.ndarray], weights: str
) -> None:
    model, batch = made
    # Windowed averages of float16 values are float sums: not exact, and not in this comparison.
    kept = [n for n in model.graph.node if n.op_type != "AveragePool"]
    if len(kept) < len(model.graph.node):
        kept[[n.output[0] for n in kept].index("j")].input[0] = "h"
    else:
        del kept[[n.output[0] for n in kept].index("i")]
        kept[[n.output[0] for n in kept].index("j")].input[0] = "h"
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    model = float_model(kept, constants, ("n", *batch.shape[1:]))
    lowered = check_against_numpy(model, batch, half=True, placement="magicmind", weights=weights)
    assert lowered.exact_tensors == ("k_quantized",)


@pytest.mark.parametrize("operator", ["Conv", "MatMul"])
def test_the_largest_sums_do_not_saturate(operator: str) -> None:
    """Codes of -128 (from -inf side clipping) and 127 against weights of +-127, over a long sum."""
    depth = 4096
    rng = np.random.default_rng(0)
    signs = np.where(rng.random((6, depth)) < 0.5, -1, 1).astype(np.float32)
    signs[0], signs[1] = 1, -1
    if operator == "Conv":
        model = float_model([node("Conv", "x w", "y")], {"w": signs[:, :, None, None]}, ("n", depth, 2, 1))
        batch = np.empty((1, depth, 2, 1), np.float32)
        batch[:, :, 0], batch[:, :, 1] = 9.0, -9.0
    else:
        model = float_model([node("MatMul", "x w", "y")], {"w": np.ascontiguousarray(signs.T)}, ("n", depth))
        batch = np.stack([np.full(depth, 9.0, np.float32), np.full(depth, -9.0, np.float32)])
    for weights in WEIGHTS:
        check_against_numpy(model, batch, half=False, placement="tensorrt", weights=weights)


def test_products_of_two_activations() -> None:
    rng = np.random.default_rng(1)
    batch = rng.normal(0, 1, (2, 4, 6, 6)).astype(np.float32)
    model = float_model([node("MatMul", "x x", "y")], {}, ("n", 4, 6, 6))
    for half, placement in ((False, "tensorrt"), (True, "magicmind")):
        check_against_numpy(model, batch, half=half, placement=placement, weights="per_tensor")


@pytest.mark.parametrize("bias", ["", " b"], ids=["plain", "bias"])
def test_a_transposed_gemm(bias: str) -> None:
    rng = np.random.default_rng(2)
    constants = {
        "m": rng.normal(0, 1, (5, 8)).astype(np.float32),
        "b": rng.normal(0, 1, 5).astype(np.float32),
    }
    constants = constants if bias else {"m": constants["m"]}
    model = float_model([node("Gemm", f"x m{bias}", "y", transB=1)], constants, ("n", 8))
    batch = rng.normal(0, 1, (3, 8)).astype(np.float32)
    for weights in WEIGHTS:
        check_against_numpy(model, batch, half=True, placement="magicmind", weights=weights)


# float16


def elementwise(op: str, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model = float_model([node(op, "x c", "y")], {"c": b.astype(np.float32)}, a.shape)
    seen = all_tensors(lower_twin(model, half=True), a.astype(np.float32))["y"]
    with np.errstate(all="ignore"):
        wanted = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[op](a, b)
    return seen, wanted.astype(np.float32)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_elementwise_operators_are_float16_arithmetic(op: str) -> None:
    """All 65536 patterns against others: rounding a float32 result twice changes nothing."""
    bits = np.arange(65536, dtype=np.uint16)
    rng = np.random.default_rng(3)
    for _ in range(3):
        a, b = bits.view(np.float16), rng.permutation(bits).view(np.float16)
        finite = np.isfinite(a) & np.isfinite(b)
        seen, wanted = elementwise(op, a[finite], b[finite])
        np.testing.assert_array_equal(seen, wanted)


@settings(max_examples=15)
@given(networks(), st.booleans())
def test_every_float_tensor_is_float16_values(
    made: tuple[onnx.ModelProto, np.ndarray], optimised: bool
) -> None:
    """Also after ONNX Runtime's optimiser, which must not take the casts away."""
    model, batch = made
    lowered = lower_twin(model, half=True)
    seen = all_tensors(lowered, batch, optimised=optimised)
    consts = {t.name: numpy_helper.to_array(t) for t in lowered.model.graph.initializer}
    rounded = [name.removesuffix(".float16") for name in seen if name.endswith(".float16")]
    assert {"x.rounded", "e", "y"} <= set(rounded)
    for name in rounded:
        np.testing.assert_array_equal(seen[name], seen[name].astype(np.float16).astype(np.float32))
    for name, value in consts.items():
        if name.endswith(".float16"):
            np.testing.assert_array_equal(value, value.astype(np.float16).astype(np.float32))


def test_convolutions_accumulate_in_float32() -> None:
    """4096 times 1 + 2**-11, which float16 accumulation would lose, arrives; the output is rounded once."""
    x = np.full((1, 4096, 1, 1), 0.25, np.float32)
    w = np.full((1, 4096, 1, 1), 0.125, np.float32)
    w[0, 0] = 2.0**-7
    lowered = lower_twin(float_model([node("Conv", "x w", "y")], {"w": w}, x.shape), half=True)
    y = all_tensors(lowered, x)["y"].item()
    exact = 4095 * 0.25 * 0.125 + 0.25 * 2.0**-7
    assert y == float(np.float16(exact)) == 128.0
    running = np.float16(0)
    for weight in w.ravel():
        running = np.float16(running + np.float16(0.25) * np.float16(weight))
    assert float(running) != y


@settings(max_examples=15)
@given(networks())
def test_float16_convolutions_are_right_to_one_step(made: tuple[onnx.ModelProto, np.ndarray]) -> None:
    model, batch = made
    seen = all_tensors(lower_twin(model, half=True), batch)
    first = helper.make_model(
        helper.make_graph(
            [model.graph.node[0]],
            "g",
            model.graph.input,
            [onnx.ValueInfoProto(name="a")],
            model.graph.initializer,
        ),
        opset_imports=model.opset_import,
    )
    wanted = twin_oracle.run(first, batch, half=True)["a"]
    step = np.spacing(np.abs(wanted).astype(np.float16)).astype(np.float32)
    got = np.asarray(seen["a"]).astype(np.float16).astype(np.float32)
    # Where terms cancel, float32's own order of summation is more than a step of the small result.
    weights = numpy_helper.to_array(
        next(t for t in model.graph.initializer if t.name == model.graph.node[0].input[1])
    )
    terms = np.abs(weights.reshape(len(weights), -1)).sum(axis=1).max() * np.abs(batch).max()
    assert (np.abs(got - wanted) <= step + 4 * np.finfo(np.float32).eps * terms).all()


def test_relu_and_pooling_do_not_hide_a_rounding() -> None:
    """A convolution's output is rounded after ReLU and max pool: the same result, fewer casts."""
    rng = np.random.default_rng(4)
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("MaxPool", "b", "y", kernel_shape=[2, 2])]
    model = float_model(nodes, {"w": rng.normal(0, 1, (4, 4, 1, 1)).astype(np.float32)}, (1, 4, 6, 6))
    lowered = lower_twin(model, half=True)
    assert [n.op_type for n in lowered.model.graph.node].count("Cast") == 4  # the input's and the pool's
    batch = rng.normal(0, 1, (1, 4, 6, 6)).astype(np.float32)
    seen = all_tensors(lowered, batch)
    each = seen["a"].astype(np.float16).astype(np.float32)
    pooled = np.maximum(each, 0).reshape(1, 4, 6, 6)
    windows = np.lib.stride_tricks.sliding_window_view(pooled, (2, 2), axis=(2, 3))
    np.testing.assert_array_equal(seen["y"], windows.max(axis=(-2, -1)))


def test_the_mean_of_float16_values_is_exact() -> None:
    """Values whose float32 sum depends on the order."""
    rng = np.random.default_rng(5)
    values = (rng.normal(0, 1, (1, 8, 7, 7)) * 10.0 ** rng.integers(-4, 4, (1, 8, 7, 7))).astype(np.float16)
    lowered = lower_twin(float_model([node("GlobalAveragePool", "x", "y")], {}, (1, 8, 7, 7)), half=True)
    seen = all_tensors(lowered, values.astype(np.float32))["y"]
    exact = values.astype(np.float64).mean(axis=(2, 3), keepdims=True)
    np.testing.assert_array_equal(seen, exact.astype(np.float32).astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("values", "rounded", "clipped"),
    [
        ([65504.0, -65504.0], [65504.0, -65504.0], 0),
        ([1e6, -7e4, 65505.0], [65504.0, -65504.0, 65504.0], 3),
        ([np.inf, 1.0], [65504.0, 1.0], 1),
        ([2.0**-24, 2.0**-26, 1 + 2.0**-11, 1 + 3 * 2.0**-11], [2.0**-24, 0.0, 1.0, 1 + 2.0**-9], 0),
    ],
    ids=["largest", "beyond", "infinite", "small"],
)
def test_constants_are_rounded_and_clipped(values: list[float], rounded: list[float], clipped: int) -> None:
    made, count = rounded_constant(np.array(values, np.float32))
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, rounded)
    assert count == clipped


def test_clipped_weights_are_reported_by_tensor() -> None:
    w = np.full((2, 3, 1, 1), 1e5, np.float32)
    w[0] = 0.1
    lowered = lower_twin(float_model([node("Conv", "x w", "y")], {"w": w}, ("n", 3, 4, 4)), half=True)
    assert lowered.clipped == {"w": 3}


def test_shapes_and_parameters_keep_their_types() -> None:
    """A Resize by 1.1, which is no float16 value, and a Reshape to a computed shape."""
    constants = {
        "scales": np.array([1, 1, 1.1, 1.1], np.float32),
        "two": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["r"], name="r", mode="nearest"),
        node("Shape", "r", "s"),
        node("Slice", "s zero one", "first"),
        node("Concat", "first minus", "to", axis=0),
        node("Reshape", "r to", "y"),
    ]
    constants |= {"zero": np.array([0]), "one": np.array([1]), "minus": np.array([-1])}
    model = float_model(nodes, constants, (1, 2, 10, 10))
    assert all_tensors(lower_twin(model, half=True), np.ones((1, 2, 10, 10), np.float32))["y"].shape == (
        1,
        242,
    )


def test_a_tensor_of_unknown_type_is_refused() -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["y"], name="m", domain="own")]
    model = float_model(nodes, {}, ("n", 4))
    model.opset_import.append(helper.make_opsetid("own", 1))
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name="y"))
    with pytest.raises(CompileError, match=r"Mystery 'm': the type of its output 'y' is unknown"):
        lower_twin(model, half=True)


# Which tensors are claimed to be exact


@pytest.mark.parametrize(
    ("nodes", "exact"),
    [
        ([node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "b w", "y")], ("b_quantized",)),
        ([node("Sigmoid", "x", "a"), node("Conv", "a w", "y")], ()),
        (
            [node("Conv", "x w", "a"), node("Sigmoid", "a", "b"), node("Conv", "b w", "y")],
            ("x_quantized",),
        ),
        (
            [
                node("Conv", "x w", "a"),
                node("Conv", "x w", "b"),
                node("Add", "a b", "c"),
                node("Conv", "c w", "y"),
            ],
            ("c_quantized",),
        ),
    ],
    ids=["chain", "inexact_first", "inexact_between", "residual"],
)
def test_exact_tensors_end_where_a_library_function_begins(
    nodes: list[onnx.NodeProto], exact: tuple[str, ...]
) -> None:
    w = np.random.default_rng(0).normal(0, 1, (4, 4, 1, 1)).astype(np.float32)
    model = float_model(nodes, {"w": w}, ("n", 4, 5, 5))
    qdq = quantize_qdq(model, everything(model), placement="tensorrt", weights="per_axis")
    assert lower_twin(qdq, half=False).exact_tensors == exact
