"""Execution plans: what the imagenet runner does with each node under -x and -O."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from topfive.errors import CompileError, UnknownNameError
from topfive.graph import Graph
from topfive.targets.gemmini.cycles import model_cycles
from topfive.targets.gemmini.execution import Plan, PlannedNode, SubAction, plan
from topfive.targets.gemmini.execution_plan import EXECUTIONS, OPTIMIZATIONS, TO_NCHW, TO_NHWC
from topfive.targets.gemmini.layers import Conv, Matmul, ResidualAdd

import int8_graphs
import random_int8

POOL = random_int8.POOL


def conv_model(
    x_shape: tuple[int, ...] = (1, 4, 8, 8), *, out: int = 6, kernel: tuple[int, int] = (3, 3), **options: Any
) -> onnx.ModelProto:
    depth = x_shape[1] // options.get("group", 1)
    weights = np.ones((out, depth, *kernel), np.int8)
    return int8_graphs.conv(x_shape, weights, options.pop("bias", None), 0.01, **options)


def planned(model: onnx.ModelProto, execution: str = "2", optimization: str = "99", **more: Any) -> Plan:
    return plan(model, execution, optimization, **more)


def node(found: Plan, name: str) -> PlannedNode:
    (one,) = [n for n in found.nodes if n.name == name]
    return one


def chain(nodes: list[onnx.NodeProto], output: str, shape: tuple[int, ...] = (1, 4, 8, 8)) -> onnx.ModelProto:
    constants = {
        **int8_graphs.unit_constants(),
        "w": np.ones((4, 4, 1, 1), np.int8),
        "low": np.int8(0),
        "high": np.int8(127),
        "forty": np.int8(40),
    }
    return int8_graphs.model(nodes, {"x": shape}, output, constants)


def conv(source: str, name: str) -> onnx.NodeProto:
    inputs = [source, "one", "zero", "w", "one", "zero", "one", "zero"]
    return helper.make_node("QLinearConv", inputs, [f"{name}.out"], name=name)


def add(left: str, right: str, name: str) -> onnx.NodeProto:
    inputs = [left, "one", "zero", right, "one", "zero", "one", "zero"]
    return helper.make_node("QLinearAdd", inputs, [f"{name}.out"], name=name, domain=int8_graphs.MICROSOFT)


def op(kind: str, source: str, name: str, *more: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(kind, [source, *more], [f"{name}.out"], name=name, **attrs)


# Where a convolution runs


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        (("0", "99"), "conv_cpu"),
        (("2", "99"), "LoopConv WS"),
        (("0", "1"), "im2col + matmul"),
        (("1", "0"), "im2col + matmul"),
        (("2", "2"), "im2col + matmul"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else v,
)
def test_a_plain_convolution(mode: tuple[str, str], how: str) -> None:
    found = node(planned(conv_model(pads=[1] * 4), *mode), "conv")
    assert (found.provider, found.how, found.reason) == ("Systolic", how, "")
    assert found.layout == ("NHWC" if mode[1] == "99" else "NCHW")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"group": 2}, "2 groups"),
        ({"x_shape": (1, 4, 8, 9)}, "the input is 8x9"),
        ({"pads": [1, 0, 1, 0]}, "the output is 8x6"),
        ({"kernel": (3, 1), "pads": [1, 0, 1, 0]}, "the kernel is 3x1"),
        ({"dilations": [2, 2], "pads": [2] * 4}, "dilation 2x2"),
        ({"pads": [1, 1, 0, 0]}, "unequal pads [1, 1, 0, 0]"),
        ({"kernel": (1, 1), "strides": [2, 2], "pads": [0, 0, 1, 1]}, "unequal pads [0, 0, 1, 1]"),
        ({"kernel": (1, 1), "x_shape": (1, 4, 1, 1), "strides": [1, 2]}, "unequal strides"),
        ({"pool": {**POOL, "kernel_shape": [3, 2]}}, "the pool's kernel is 3x2"),
        ({"pool": {**POOL, "strides": [2, 1]}}, "the pool's strides are [2, 1]"),
        ({"pool": {**POOL, "pads": [1, 0, 1, 0]}}, "the pool's pads are [1, 0, 1, 0]"),
    ],
    ids=lambda v: v.replace(" ", "_") if isinstance(v, str) else "",
)
def test_what_the_direct_convolution_leaves_to_im2col(options: dict[str, Any], reason: str) -> None:
    found = node(planned(conv_model(**options)), "conv")
    assert found.how == "im2col + matmul"
    assert reason in found.reason
    assert found.layout == "NHWC"
    assert isinstance(found.work, Matmul)
    # A pool of such a convolution is fused all the same, and done on the CPU.
    assert found.pool_on == ("CPU" if "pool" in options else "")


def test_equal_padding_worked_out_from_auto_pad_is_direct_when_it_is_equal() -> None:
    same = node(planned(conv_model(auto_pad="SAME_UPPER")), "conv")
    assert same.how == "LoopConv WS"
    assert isinstance(same.work, Conv)
    assert same.work.padding == 1
    even = node(planned(conv_model(kernel=(2, 2), auto_pad="SAME_LOWER")), "conv")
    assert "[1, 1, 0, 0]" in even.reason


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_products_and_additions_are_systolics(optimization: str) -> None:
    found = planned(int8_graphs.matmul((1, 5, 7), np.ones((7, 3), np.int8), 0.1), "1", optimization)
    (product_,) = found.nodes
    assert (product_.provider, product_.how, product_.work) == ("Systolic", "matmul", Matmul(5, 3, 7))
    found = planned(int8_graphs.add((1, 4, 5, 5), 1, 1, 1, relu=True), "2", optimization)
    assert node(found, "add").how == "residual add"
    assert node(found, "add").work == ResidualAdd(25, 4)
    assert node(found, "relu").fused_into == "add"


# Steps inside a convolution


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bias", [False, True], ids=["no_bias", "bias"])
def test_steps_of_an_nchw_convolution_are_a_picture_and_group_each(batch: int, bias: bool) -> None:
    values = np.zeros(6, np.int32) if bias else None
    model = conv_model(("n", 4, 8, 8), group=2, pads=[1] * 4, bias=values)
    found = node(planned(model, "2", "1", batch=batch), "conv")
    times = batch * 2
    splat = (SubAction("bias splat", times),) if bias else ()
    matmul = SubAction("matmul", times, (3, 64, 18))
    assert found.steps == (SubAction("im2col", times), *splat, matmul)
    assert found.work == Matmul(3, 64, 18, times, bias)


def test_steps_of_an_nhwc_convolution_unroll_a_picture_at_once() -> None:
    model = conv_model(("n", 4, 8, 8), group=2, pads=[1] * 4, bias=np.zeros(6, np.int32))
    found = node(planned(model, "2", "99", batch=3), "conv")
    assert found.steps == (SubAction("im2col", 3), SubAction("matmul", 6, (3, 64, 18)))
    assert found.work == Matmul(64, 3, 18, 6, bias=True)
    assert node(planned(conv_model(pads=[1] * 4)), "conv").steps == ()


@pytest.mark.parametrize(
    ("options", "unrolled"),
    [({}, False), ({"strides": [2, 2]}, True), ({"pads": [1] * 4}, True)],
    ids=["plain", "stride", "padding"],
)
def test_a_pointwise_convolution_needs_no_im2col(options: dict[str, Any], unrolled: bool) -> None:
    found = node(planned(conv_model(kernel=(1, 1), **options), "0", "0"), "conv")
    assert [s.name for s in found.steps] == (["im2col"] if unrolled else []) + ["matmul"]
    assert found.how == ("im2col + matmul" if unrolled else "matmul")


# Fusions


@pytest.mark.parametrize("mode", list(product(EXECUTIONS, OPTIMIZATIONS)), ids="-".join)
def test_a_relu_with_one_producer_and_reader_is_fused(mode: tuple[str, str]) -> None:
    found = planned(conv_model(relu=True), *mode)
    assert node(found, "conv").relu == "relu"
    assert node(found, "conv").output == "relu"
    assert (node(found, "relu").how, node(found, "relu").fused_into) == ("fused", "conv")


@pytest.mark.parametrize(
    ("bounds", "fused"),
    [(["low", "high"], True), (["low"], True), (["low", "forty"], False), (["", "high"], False)],
    ids=["0_to_127", "0_up", "0_to_40", "up_to_127"],
)
def test_a_clip_is_fused_where_it_is_a_relu(bounds: list[str], fused: bool) -> None:
    model = chain([conv("x", "c"), op("Clip", "c.out", "clip", *bounds)], "clip.out")
    found = planned(model, "2", "1")
    assert bool(node(found, "clip").fused_into) is fused
    assert node(found, "clip").provider == ("Systolic" if fused else "CPU")


def test_a_relu_whose_input_has_another_reader_is_not_fused() -> None:
    model = chain([conv("x", "c"), op("Relu", "c.out", "r"), add("c.out", "r.out", "a")], "a.out")
    for optimization in OPTIMIZATIONS:
        found = planned(model, "2", optimization)
        assert node(found, "c").relu == ""
        assert node(found, "r").provider == "CPU"
        assert "other readers" in node(found, "r").reason
    assert found.reorders() == {TO_NHWC: 1, TO_NCHW: 1}


def test_a_relu_of_a_graphs_output_is_not_fused() -> None:
    model = chain([conv("x", "c"), op("Relu", "c.out", "r")], "r.out")
    model.graph.output.append(helper.make_tensor_value_info("c.out", TensorProto.INT8, None))
    assert node(planned(model), "c").relu == ""


def test_a_relu_after_a_product_stays_on_the_cpu() -> None:
    model = int8_graphs.matmul((1, 5, 7), np.ones((7, 3), np.int8), 0.1)
    model.graph.node.append(helper.make_node("Relu", ["y"], ["z"], name="r"))
    model.graph.output[0].name = "z"
    assert "takes no ReLU" in node(planned(model), "r").reason


@pytest.mark.parametrize("relu", [False, True], ids=["bare", "relu"])
@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_a_max_pool_is_fused_at_99_only(optimization: str, relu: bool) -> None:
    found = planned(conv_model(relu=relu, pool=POOL), "2", optimization)
    first, pool = node(found, "conv"), node(found, "pool")
    if optimization == "99":
        assert (first.pool, first.pool_on, first.output) == ("pool", "Systolic", "pool")
        assert (pool.how, pool.fused_into) == ("fused", "conv")
        assert isinstance(first.work, Conv)
        assert first.work.pool == (3, 2, 1)
        assert (found.zero_padded, found.padded_on_cpu) == ({"pool"}, ())
    else:
        assert first.pool == ""
        assert (pool.provider, pool.fused_into) == ("CPU", "")
        assert "-O 99 only" in pool.reason
        assert (found.zero_padded, found.padded_on_cpu) == (set(), ("pool",))


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        ({"ceil_mode": 1}, "ceil_mode"),
        ({"dilations": [2, 2]}, "dilations"),
        ({"storage_order": 1}, "storage_order"),
        ({"auto_pad": "SAME_UPPER"}, "auto_pad SAME_UPPER"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_max_pools_that_the_transform_leaves(attrs: dict[str, Any], reason: str) -> None:
    pool = {**POOL, **attrs}
    if "auto_pad" in attrs:
        del pool["pads"]
    found = planned(conv_model(pool=pool))
    assert (node(found, "conv").pool, node(found, "pool").provider) == ("", "CPU")
    assert reason in node(found, "pool").reason
    assert found.padded_on_cpu == ("pool",)
    assert not found.refusals


def test_a_pool_that_is_done_on_the_cpu_after_its_convolution_ignores_padding() -> None:
    found = planned(conv_model(group=2, pool=POOL))
    assert (node(found, "conv").pool_on, found.zero_padded, found.padded_on_cpu) == ("CPU", set(), ("pool",))


# Layouts


def test_transposes_stand_where_the_layout_changes() -> None:
    """x -> a -> b and, beside it, a -> clip -> c; b + c: one transpose a tensor and direction."""
    nodes = [
        conv("x", "a"),
        conv("a.out", "b"),
        op("Clip", "a.out", "clip", "low", "forty"),
        conv("clip.out", "c"),
        conv("clip.out", "d"),
        add("b.out", "c.out", "bc"),
        add("bc.out", "d.out", "bcd"),
    ]
    found = planned(chain(nodes, "bcd.out"))
    names = [n.name for n in found.nodes]
    assert names == [
        "ReorderToNHWC x", "a", "b", "ReorderToNCHW a.out", "clip", "ReorderToNHWC clip.out", "c", "d",
        "bc", "bcd", "ReorderToNCHW bcd.out",
    ]  # fmt: skip
    assert found.reorders() == {TO_NHWC: 2, TO_NCHW: 2}
    assert {n.provider for n in found.nodes if n.op_type == "Transpose"} == {"CPU"}
    assert planned(chain(nodes, "bcd.out"), "2", "2").reorders() == {TO_NHWC: 0, TO_NCHW: 0}


def test_an_addition_of_one_nhwc_tensor_is_done_in_nchw() -> None:
    found = planned(chain([conv("x", "a"), add("a.out", "x", "sum")], "sum.out"))
    assert node(found, "sum").layout == "NCHW"
    assert [n.name for n in found.nodes] == ["ReorderToNHWC x", "a", "ReorderToNCHW a.out", "sum"]


@pytest.mark.parametrize("optimization", ["0", "99"])
def test_weights_that_are_no_constant_keep_a_convolution_in_nchw(optimization: str) -> None:
    inputs = ["x", "one", "zero", "weights", "one", "zero", "one", "zero"]
    model = int8_graphs.model(
        [helper.make_node("QLinearConv", inputs, ["y"], name="conv")],
        {"x": (1, 4, 8, 8), "weights": (2, 4, 3, 3)}, "y", int8_graphs.unit_constants(),
    )  # fmt: skip
    found = node(planned(model, "1", optimization), "conv")
    assert (found.how, found.layout) == ("im2col + matmul", "NCHW")


# What the runner cannot run


def two_readers() -> onnx.ModelProto:
    nodes = [conv("x", "c"), op("MaxPool", "c.out", "p", **POOL), op("MaxPool", "c.out", "q", **POOL)]
    return chain([*nodes, add("p.out", "q.out", "a")], "a.out")


def read_by_two() -> onnx.ModelProto:
    keep = {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes = [conv("x", "c"), op("MaxPool", "c.out", "p", **keep), add("c.out", "p.out", "a")]
    return chain(nodes, "a.out")


def pooled_twice() -> onnx.ModelProto:
    nodes = [conv("x", "c"), op("MaxPool", "c.out", "p", **POOL), op("MaxPool", "p.out", "q", **POOL)]
    return chain(nodes, "q.out")


def pooled_sum() -> onnx.ModelProto:
    nodes = [conv("x", "c"), conv("x", "d"), add("c.out", "d.out", "a"), op("MaxPool", "a.out", "p", **POOL)]
    return chain(nodes, "p.out")


def unequal_ends() -> onnx.ModelProto:
    return conv_model(kernel=(1, 1), pool={"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 2, 2]})


def broadcast() -> onnx.ModelProto:
    inputs = ["a", "one", "zero", "b", "one", "zero", "one", "zero"]
    node_ = helper.make_node("QLinearAdd", inputs, ["y"], name="sum", domain=int8_graphs.MICROSOFT)
    shapes = {"a": (1, 4, 8, 8), "b": (1, 4, 1, 1)}
    return int8_graphs.model([node_], shapes, "y", int8_graphs.unit_constants())


def scale_per_channel() -> onnx.ModelProto:
    model = conv_model()
    scales = onnx.numpy_helper.from_array(np.full(6, 0.01, np.float32), "ws")
    (at,) = [i for i, t in enumerate(model.graph.initializer) if t.name == "ws"]
    model.graph.initializer[at].CopyFrom(scales)
    return model


REFUSED = [
    ("a convolution, output stationary", conv_model(), "1", "99", "conv", "no output-stationary form"),
    ("a sum, output stationary", int8_graphs.add((1, 4, 5, 5), 1, 1, 1, relu=False), "1", "0", "add", "-x 0"),
    ("two pools of one map", two_readers(), "0", "99", "p", "other readers"),
    ("a map that is pooled and read", read_by_two(), "2", "99", "p", "other readers"),
    ("a pool of a pool", pooled_twice(), "2", "99", "q", "over the max pool there"),
    ("a pool of a sum", pooled_sum(), "2", "99", "p", "would be lost"),
    ("pads unequal at the end", unequal_ends(), "2", "99", "pool", "another size"),
    ("a scale per channel", scale_per_channel(), "2", "0", "conv", "a scale per channel"),
    ("shapes that broadcast", broadcast(), "2", "1", "sum", "do not broadcast"),
]


@pytest.mark.parametrize(
    ("model", "execution", "optimization", "name", "reason"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_what_the_runner_cannot_run(
    model: onnx.ModelProto, execution: str, optimization: str, name: str, reason: str
) -> None:
    found = planned(model, execution, optimization)
    assert any(repr(name) in r.node and reason in r.reason for r in found.refusals)
    with pytest.raises(CompileError) as caught:
        found.check()
    assert f"-x {execution} -O {optimization}" in caught.value.message
    assert reason in caught.value.message


@pytest.mark.parametrize("case", [c for c in REFUSED if c[3] == "99"], ids=lambda c: c[0])
def test_what_99_cannot_run_a_lower_level_can(case: tuple[str, Any, str, str, str, str]) -> None:
    assert not planned(case[1], "2", "2").refusals


def test_many_refusals_are_said_by_reason() -> None:
    nodes = [conv("x", "c0")]
    for i in range(6):
        nodes.append(add(nodes[-1].output[0], "x", f"a{i}"))
    with pytest.raises(CompileError) as caught:
        planned(chain(nodes, "a5.out"), "1", "99").check()
    text = str(caught.value)
    assert "QLinearConv 'c0': an NHWC convolution" in text
    assert "QLinearAdd 'a0', QLinearAdd 'a1', QLinearAdd 'a2' and 3 more: a residual addition" in text


def test_output_stationary_runs_grouped_convolutions_in_nhwc_as_products() -> None:
    assert not planned(conv_model(group=2), "1", "99").refusals


@pytest.mark.parametrize(
    ("mode", "error"),
    [(("3", "0"), UnknownNameError), (("0", "3"), UnknownNameError)],
    ids=["execution", "optimization"],
)
def test_unknown_modes(mode: tuple[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        plan(conv_model(), *mode)
    with pytest.raises(CompileError, match="at least 1"):
        plan(conv_model(), "0", "0", batch=0)


# All plans


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
@settings(max_examples=120)
def test_every_node_finds_its_inputs_in_its_layout(seed: int, steps: int) -> None:
    """Walk each plan as a machine would: what is read must be there, in the layout of the reader."""
    model = random_int8.draw(seed, steps).model()
    names = [n.name for n in Graph(model).nodes]
    for execution, optimization in product(EXECUTIONS, OPTIMIZATIONS):
        found = planned(model, execution, optimization)
        # After these the runner's transform leaves no sound graph.
        unsound = any("NHWC transform" in r.reason for r in found.refusals)
        assert [n.name for n in found.nodes if n.op_type != "Transpose"] == names
        there = {("x", "NCHW")}
        for n in found.nodes:
            if n.fused_into:
                continue
            if n.how in (TO_NHWC, TO_NCHW):
                assert optimization == "99"
                reads = "NCHW" if n.how == TO_NHWC else "NHWC"
                assert (n.output, n.layout) not in there
            else:
                reads = n.layout
            assert unsound or {(name, reads) for name in n.inputs} <= there
            there.add((n.output, n.layout))
        output = model.graph.output[0].name
        assert unsound or (output, "NCHW") in there


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
@settings(max_examples=60)
def test_the_cycle_model_takes_every_plan(seed: int, steps: int) -> None:
    model = random_int8.draw(seed, steps).model()
    macs = set()
    for optimization in OPTIMIZATIONS:
        found = planned(model, "2", optimization)
        macs.add(model_cycles(found.layers(), dataflow=found.dataflow).macs)
    assert len(macs) == 1, "a layout changes no arithmetic"


def test_output_stationary_cycles_are_those_of_the_products() -> None:
    found = planned(conv_model(pads=[1] * 4, bias=np.zeros(6, np.int32)), "1", "0")
    direct = [node(found, "conv").work]
    assert direct == [Matmul(6, 64, 36, bias=True)]
    assert model_cycles(found.layers(), dataflow="os").cycles("bus") > 0
