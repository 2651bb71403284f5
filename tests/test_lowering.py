"""The fast form is the numpy form, bit for bit: reference vectors and layers that hypothesis makes.

Each graph runs through ONNX Runtime with int8 weights where this processor's kernels are exact, and with
weights shifted to uint8 always, at one and two threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from topfive.errors import CompileError
from topfive.sessions import native_kernels_are_exact, open_session, saturating_kernels, shift_weights
from topfive.targets.gemmini import arithmetic
from topfive.targets.gemmini.lowering import lower
from topfive.targets.gemmini.reference import run_reference

import int8_graphs

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "facts" / "gemmini_vectors"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"reference vectors are not at {VECTORS}")


def run_lowered(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """(which form, its result) for every form that must be exact here."""
    lowered = lower(model).model
    forms = {"uint8 weights": shift_weights(lowered)}
    if native_kernels_are_exact():
        forms["int8 weights"] = lowered
    for label, form in forms.items():
        for threads in (1, 2):
            session = open_session(form.SerializeToString(), threads=threads)
            yield f"{label}, {threads} threads", session.run(None, feeds)[0]


def assert_exact(model: onnx.ModelProto, feeds: dict[str, np.ndarray], expected: np.ndarray) -> None:
    for label, result in run_lowered(model, feeds):
        np.testing.assert_array_equal(result, expected, err_msg=label, strict=True)


def fields_of(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    stored = np.load(VECTORS / f"{name}.npz")
    for case in stored["cases"]:
        yield str(case), {k.split("/", 1)[1]: stored[k] for k in stored.files if k.startswith(f"{case}/")}


def nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


@needs_vectors
@pytest.mark.parametrize("name", ["conv", "conv_dw"])
def test_reference_convolutions_through_the_lowered_graph(name: str) -> None:
    for case, f in fields_of(name):
        x = nchw(f["input"])
        depthwise = name == "conv_dw"
        weights = f["weights"][:, None] if depthwise else f["weights"].transpose(3, 2, 0, 1)
        padding, dilation = int(f["padding"]), int(f.get("dilation", 1))
        pool = None
        if int(f.get("pool_size", 0)):
            pool = {
                "kernel_shape": [int(f["pool_size"])] * 2,
                "strides": [int(f["pool_stride"])] * 2,
                "pads": [int(f["pool_padding"])] * 4,
            }
        model = int8_graphs.conv(
            x.shape,
            np.ascontiguousarray(weights),
            f.get("bias"),
            f["scale"],
            relu=bool(f["act"]),
            pool=pool,
            strides=[int(f["stride"])] * 2,
            pads=[padding] * 4,
            dilations=[dilation] * 2,
            group=x.shape[1] if depthwise else 1,
        )
        for label, result in run_lowered(model, {"x": x}):
            np.testing.assert_array_equal(result, nchw(f["output"]), err_msg=f"{name}/{case} {label}")


@needs_vectors
def test_reference_matmuls_through_the_lowered_graph() -> None:
    """QLinearMatMul has no bias: biased ones run as a 1x1 convolution, which is the same product."""
    plain = 0
    for case, f in fields_of("matmul"):
        if f["A_scale"] != 1 or f["B_scale"] != 1 or int(f["act"]) or int(f["has_bias"]):
            continue
        plain += 1
        a = np.ascontiguousarray(f["A"].T if f["transA"] else f["A"])
        b = np.ascontiguousarray(f["B"].T if f["transB"] else f["B"])
        model = int8_graphs.matmul(a.shape, b, float(f["scale"]))
        for label, result in run_lowered(model, {"a": a}):
            np.testing.assert_array_equal(result, f["C"], err_msg=f"matmul/{case} {label}")
    assert plain


@needs_vectors
def test_reference_biased_matmuls_as_pointwise_convolutions() -> None:
    tried = 0
    for case, f in fields_of("matmul"):
        row_bias = not int(f["has_bias"]) or f["D"].shape[0] == 1
        if f["A_scale"] != 1 or f["B_scale"] != 1 or not row_bias:
            continue
        tried += 1
        a = f["A"].T if f["transA"] else f["A"]
        b = f["B"].T if f["transB"] else f["B"]
        bias = f["D"][0] if int(f["has_bias"]) else None
        x = np.ascontiguousarray(a)[:, :, None, None]
        weights = np.ascontiguousarray(b.T)[:, :, None, None]
        model = int8_graphs.conv(x.shape, weights, bias, float(f["scale"]), relu=bool(f["act"]))
        for label, result in run_lowered(model, {"x": x}):
            np.testing.assert_array_equal(result[:, :, 0, 0], f["C"], err_msg=f"matmul/{case} {label}")
    assert tried


@needs_vectors
def test_reference_residual_adds_through_the_lowered_graph() -> None:
    for case, f in fields_of("resadd"):
        assert f["C_scale"] == 1
        model = int8_graphs.add(f["A"].shape, f["A_scale"], f["B_scale"], 1.0, relu=bool(f["relu"]))
        for label, result in run_lowered(model, {"a": f["A"], "b": f["B"]}):
            np.testing.assert_array_equal(result, f["C"], err_msg=f"resadd/{case} {label}")


seeds = st.integers(0, 2**32 - 1)


def codes(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """int8 codes; half the time only the extremes, where saturating kernels go wrong."""
    if random.random() < 0.5:
        return random.choice(np.array([-128, -127, 127], np.int8), shape)
    return random.integers(-128, 128, shape).astype(np.int8)


@given(
    seeds,
    st.sampled_from([1, 2, 3, 5, 7]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([(1, 3), (1, 16), (2, 4), (4, 4), (7, 1)]),
    st.booleans(),
)
@settings(max_examples=60)
def test_convolutions(
    seed: int, kernel: int, stride: int, dilation: int, pad: int, groups: tuple[int, int], relu: bool
) -> None:
    random = np.random.default_rng(seed)
    group, depth = groups
    size = (kernel - 1) * dilation + 1 + int(random.integers(0, 6))
    out_channels = group * int(random.integers(1, 5))
    x = codes(random, (int(random.integers(1, 3)), group * depth, size, size + 1))
    weights = codes(random, (out_channels, depth, kernel, kernel))
    bias = random.integers(-(2**18), 2**18, out_channels).astype(np.int32)
    scale = np.float32(10 ** random.uniform(-5, -1))
    pads = random.integers(0, pad + 1, 4).tolist()
    where = {"strides": [stride, stride], "dilations": [dilation, dilation], "pads": pads, "group": group}
    model = int8_graphs.conv(x.shape, weights, bias, float(scale), relu=relu, **where)
    if group == x.shape[1] == out_channels:
        expected = arithmetic.depthwise_conv(
            x.transpose(0, 2, 3, 1), weights[:, 0], bias,
            stride=stride, padding=tuple(pads), dilation=dilation, scale=scale, act=int(relu),
        )  # fmt: skip
    else:
        expected = arithmetic.conv(
            x.transpose(0, 2, 3, 1), weights.transpose(2, 3, 1, 0), bias, groups=group,
            stride=stride, padding=tuple(pads), dilation=dilation, scale=scale, act=int(relu),
        )  # fmt: skip
    assert_exact(model, {"x": x}, nchw(expected))


@given(seeds, st.integers(2, 3), st.integers(1, 3), st.booleans())
@settings(max_examples=30)
def test_pooled_convolutions_count_padding_as_zero(seed: int, size: int, stride: int, relu: bool) -> None:
    random = np.random.default_rng(seed)
    pad = int(random.integers(0, size))
    x, weights = codes(random, (1, 4, 9, 9)), codes(random, (6, 4, 1, 1))
    # A strongly negative bias: whole windows below zero, where the padding decides.
    bias = random.integers(-(2**15), 0, 6).astype(np.int32)
    pool = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [pad] * 4}
    model = int8_graphs.conv(x.shape, weights, bias, 0.01, relu=relu, pool=pool)
    expected = arithmetic.conv(
        x.transpose(0, 2, 3, 1), weights.transpose(2, 3, 1, 0), bias,
        scale=np.float32(0.01), act=int(relu), pool_size=size, pool_stride=stride, pool_padding=pad,
    )  # fmt: skip
    assert_exact(model, {"x": x}, nchw(expected))


@given(seeds, st.booleans(), st.integers(1, 40), st.integers(1, 200), st.integers(1, 40))
@settings(max_examples=40)
def test_matmuls(seed: int, constant: bool, i: int, k: int, j: int) -> None:
    random = np.random.default_rng(seed)
    batch = (int(random.integers(1, 4)),)
    a = codes(random, (*batch, i, k))
    b = codes(random, (k, j) if constant else (*batch, k, j))
    scale = np.float32(10 ** random.uniform(-5, -1))
    model = int8_graphs.matmul(a.shape, b if constant else b.shape, float(scale))
    feeds = {"a": a} if constant else {"a": a, "b": b}
    assert_exact(model, feeds, arithmetic.matmul(a, b, scale=scale))


addend_scales = st.floats(2.0**-7, 8, width=32)


@given(
    seeds,
    addend_scales,
    addend_scales,
    addend_scales,
    st.booleans(),
)
@settings(max_examples=60)
def test_residual_adds(seed: int, a_scale: float, b_scale: float, y_scale: float, relu: bool) -> None:
    random = np.random.default_rng(seed)
    shape = (1, int(random.integers(1, 9)), 5, 5)
    a, b = codes(random, shape), random.integers(-128, 128, shape).astype(np.int8)
    model = int8_graphs.add(shape, a_scale, b_scale, y_scale, relu=relu)
    left, right = (np.float32(np.float32(s) / np.float32(y_scale)) for s in (a_scale, b_scale))
    expected = arithmetic.resadd(a, b, A_scale=left, B_scale=right, relu=relu)
    assert_exact(model, {"a": a, "b": b}, expected)


@given(seeds, addend_scales, addend_scales)
@settings(max_examples=30)
def test_residual_adds_of_convolutions(seed: int, a_scale: float, y_scale: float) -> None:
    """After a convolution the channels are known, and an addend is requantised another way."""
    random = np.random.default_rng(seed)
    x, weights = codes(random, (1, 3, 4, 4)), codes(random, (3, 3, 1, 1))
    constants = {
        **int8_graphs.unit_constants(),
        "w": weights,
        "ws": np.float32(0.01),
        "as": np.float32(a_scale),
        "ys": np.float32(y_scale),
    }
    conv = ["x", "one", "zero", "w", "ws", "zero", "one", "zero"]
    add = ["c", "as", "zero", "x", "one", "zero", "ys", "zero"]
    nodes = [
        helper.make_node("QLinearConv", conv, ["c"], name="conv"),
        helper.make_node("QLinearAdd", add, ["y"], name="add", domain=int8_graphs.MICROSOFT),
    ]
    c = arithmetic.conv(x.transpose(0, 2, 3, 1), weights.transpose(2, 3, 1, 0), scale=np.float32(0.01))
    left, right = (np.float32(np.float32(s) / np.float32(y_scale)) for s in (a_scale, 1.0))
    expected = arithmetic.resadd(nchw(c), x, A_scale=left, B_scale=right)
    assert_exact(int8_graphs.model(nodes, {"x": x.shape}, "y", constants), {"x": x}, expected)


@pytest.mark.parametrize("factor", [0.5, 0.1, 0.3, 0.7, 1.0, 1.37, 0.01])
def test_an_addend_is_scaled_like_every_mvin(factor: float) -> None:
    """All 256 codes: the lowered addend is mvin_scale, ties included."""
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 16, 16)
    model = int8_graphs.add(every.shape, factor, 1.0, 1.0, relu=False)
    expected = arithmetic.mvin_scale(every, np.float32(factor))
    assert_exact(model, {"a": every, "b": np.zeros_like(every)}, expected)


@pytest.mark.parametrize("bounds", [(0, 127), (-128, 40), (0, 50), (-20, 20), (-128, 127)], ids=str)
def test_clip(bounds: tuple[int, int]) -> None:
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    constants = {"low": np.int8(bounds[0]), "high": np.int8(bounds[1])}
    model = int8_graphs.model(
        [helper.make_node("Clip", ["x", "low", "high"], ["y"])], {"x": (1, 256)}, "y", constants
    )
    assert_exact(model, {"x": every}, np.clip(every, *bounds))


def test_the_graph_and_its_oracle_read_the_same_model() -> None:
    """run_reference, which the model tests rely on, agrees with the arithmetic it claims to apply."""
    random = np.random.default_rng(1)
    x, weights = codes(random, (1, 3, 6, 6)), codes(random, (5, 3, 3, 3))
    model = int8_graphs.conv(x.shape, weights, None, 0.002, relu=True, pads=[1] * 4)
    expected = arithmetic.conv(
        x.transpose(0, 2, 3, 1), weights.transpose(2, 3, 1, 0), padding=1, scale=np.float32(0.002), act=1
    )
    np.testing.assert_array_equal(run_reference(model, x)["relu"], nchw(expected))


def test_shifting_weights_changes_no_result_and_every_int8_weight() -> None:
    random = np.random.default_rng(2)
    model = lower(int8_graphs.conv((1, 4, 5, 5), codes(random, (3, 4, 3, 3)), None, 0.001)).model
    shifted = shift_weights(model)
    types = {t.name: t.data_type for t in shifted.graph.initializer}
    conv = next(n for n in shifted.graph.node if n.op_type == "QLinearConv")
    assert types[conv.input[3]] == types[conv.input[5]] == onnx.TensorProto.UINT8


def test_the_probe_names_kernels_by_what_they_compute() -> None:
    assert set(saturating_kernels()) <= {
        "general", "pointwise", "one_pixel", "grouped", "depthwise", "first_layer"
    }  # fmt: skip
    assert native_kernels_are_exact() == (not saturating_kernels())


def test_an_operator_without_an_int8_form_is_refused_by_name() -> None:
    model = int8_graphs.model([helper.make_node("Abs", ["x"], ["y"], name="oddity")], {"x": (1, 4)}, "y", {})
    with pytest.raises(CompileError, match="Abs 'oddity'"):
        lower(model)
