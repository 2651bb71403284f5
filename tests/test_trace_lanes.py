"""What a trace is made of: ONNX Runtime's profile, origins of lowered nodes, steps, modelled layers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from topfive.errors import RunError, TraceError
from topfive.sessions import open_exact, open_session
from topfive.targets.base import Artifact, Runner
from topfive.targets.gemmini import arithmetic
from topfive.targets.gemmini.cycles import model_cycles
from topfive.targets.gemmini.execution import PlannedNode, SubAction, plan
from topfive.targets.gemmini.layers import Conv, Layer, Matmul, ResidualAdd
from topfive.targets.gemmini.lowering import lower
from topfive.targets.onnxruntime_profile import OnnxRuntimeProfiler, numbered, parse_profile
from topfive.targets.profiling import NodeTime, Profile, Profiler, RunTime, Span
from topfive.trace import steps
from topfive.trace.events import MODELLED, complete
from topfive.trace.host import host_events
from topfive.trace.modelled import LAYERS, modelled_events, modelled_lane_name
from topfive.trace.origins import origins, shown_nodes
from topfive.trace.recording import recorded
from topfive.trace.steps import StepTimes, divided, im2col, product
from topfive.trace.validation import problems, read_trace

import int8_graphs

STRICT = 0.0005


# ONNX Runtime's profile


def kernel(name: str, start: int, duration: int, op: str) -> dict[str, Any]:
    args = {"op_name": op, "provider": "CPUExecutionProvider", "activation_size": "8", "output_size": "4"}
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": start,
        "dur": duration,
        "ph": "X",
        "args": args,
    }


def session(name: str, start: int, duration: int) -> dict[str, Any]:
    return {"cat": "Session", "name": name, "ts": start, "dur": duration, "ph": "X", "args": {}}


PROFILE = [
    session("model_loading_array", 5, 100),
    session("session_initialization", 110, 200),
    kernel("topfive_node_1_token_4", 405, 10, "QLinearConv"),
    kernel("topfive_node_0", 400, 4, "QuantizeLinear"),
    kernel("Transpose_token_7", 416, 3, "Transpose"),
    kernel("relu.out_nchwc", 420, 30, "Conv"),
    kernel("topfive_node_12/MatMulAddFusion", 450, 6, "Gemm"),
    session("SequentialExecutor::Execute", 399, 56),
    session("model_run", 390, 66),
    kernel("topfive_node_0", 500, 4, "QuantizeLinear"),
    session("SequentialExecutor::Execute", 499, 8),
    session("model_run", 498, 10),
]


def test_a_profile_is_told_apart_by_run_and_node() -> None:
    profile = parse_profile(PROFILE, {"relu.out": 5})
    assert [span.name for span in profile.session] == ["model_loading_array", "session_initialization"]
    first, second = profile.runs
    assert [(n.node, n.op, n.start, n.duration) for n in first.nodes] == [
        (0, "QuantizeLinear", 400, 4),
        (1, "QLinearConv", 405, 10),
        (None, "Transpose", 416, 3),
        (5, "Conv", 420, 30),
        (12, "Gemm", 450, 6),
    ]
    assert [n.node for n in second.nodes] == [0]
    # The last node ends at 456, a microsecond after what holds it: rounding. What holds it is made longer.
    assert [(s.name, s.start, s.end) for s in first.around] == [
        ("model_run", 390, 456),
        ("SequentialExecutor::Execute", 399, 456),
    ]
    assert first.nodes[1].facts == {"activation_size": 8, "output_size": 4}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1), st.integers(0, 2))
def test_what_is_around_nodes_holds_them(spans: list[tuple[int, int]], cut: int) -> None:
    events, at = [], 100
    for gap, duration in spans:
        at += gap
        events.append(kernel("topfive_node_0", at, duration, "Conv"))
        at += duration
    events.append(session("SequentialExecutor::Execute", 100, max(at - 100 - cut, 0)))
    events.append(session("model_run", 99, max(at - 99 - cut, 0)))
    (run,) = parse_profile(events, {}).runs
    outer, inner = run.around
    assert outer.start <= inner.start <= run.nodes[0].start
    assert run.nodes[-1].end <= inner.end <= outer.end
    assert outer.duration - max(at - 99 - cut, 0) <= cut


def profiled(model: onnx.ModelProto, feeds: dict[str, Any], folder: Path) -> Profile:
    """A real profile of a lowered model, run once."""
    opened = open_exact(numbered(model), threads=1, profile=folder / "p")
    opened.run(None, feeds)
    outputs = {name: i for i, node in enumerate(model.graph.node) for name in node.output}
    return parse_profile(json.loads(Path(opened.end_profiling()).read_text()), outputs)


def test_every_node_of_a_real_profile_has_its_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-8, 8, (8, 4, 3, 3)).astype(np.int8)
    int8 = int8_graphs.conv((1, 4, 9, 9), weights, None, 0.1, relu=True, pads=[1, 1, 1, 1])
    model = lower(int8).model
    (run,) = profiled(model, {"x": rng.integers(-128, 127, (1, 4, 9, 9)).astype(np.int8)}, tmp_path).runs
    found = Counter(node.node for node in run.nodes)
    ops = {model.graph.node[i].op_type for i in found if i is not None}
    assert {"QLinearConv", "Clip", "QuantizeLinear", "DequantizeLinear"} <= ops
    for node in run.nodes:
        if node.node is not None:
            assert node.op.removeprefix("Nhwc") == model.graph.node[node.node].op_type
    assert all(count == 1 for number, count in found.items() if number is not None)


class _Failing(Runner):
    def callable(self) -> Any:
        raise RunError("it fails")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not JSON", "JSONDecodeError"),
        ("[{}]", "KeyError"),
        ("[3]", "TypeError"),
        (None, "FileNotFoundError"),
    ],
    ids=["text", "fields", "kind", "no_file"],
)
def test_a_profile_that_cannot_be_read_is_said(text: str | None, words: str, tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "key", "net", "cpu", "int8")

    class Session:
        def end_profiling(self) -> str:
            path = tmp_path / "profile.json"
            if text is not None:
                path.write_text(text)
            return str(path)

    profiler = OnnxRuntimeProfiler(
        artifact,
        lambda *_, **__: Session(),
        lambda opener: (opener(onnx.ModelProto(), 1), _Failing(artifact, 1))[1],
    )
    folder = profiler._folder
    assert folder.is_dir()
    with pytest.raises(RunError, match="no readable profile") as error:
        profiler.finish()
    assert words in error.value.details
    assert (error.value.model, error.value.target) == ("net", "cpu")
    assert not folder.exists()


def test_a_session_that_cannot_be_opened_leaves_no_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def refuse(_: Any) -> Runner:
        raise RunError("no")

    with pytest.raises(RunError, match="no"):
        OnnxRuntimeProfiler(Artifact(tmp_path, "k", "m", "t", "q"), lambda: None, refuse)
    assert not list(tmp_path.iterdir())


# Origins


def names_of(int8: onnx.ModelProto, batch: int = 1) -> list[tuple[str, str, str, str]]:
    """(lowered operator, shown node, its operator, piece) of each lowered node."""
    model = lower(int8).model
    found = origins(model, int8, shown_nodes(int8, batch))
    return [
        (node.op_type, origin.node.label, origin.node.op_type, origin.piece)
        for node, origin in zip(model.graph.node, found, strict=True)
    ]


def test_the_pieces_of_a_residual_addition() -> None:
    assert names_of(int8_graphs.add((1, 4, 2, 2), 0.5, 0.25, 1.0, relu=True)) == [
        ("DequantizeLinear", "add", "QLinearAdd", "a.to_float"),
        ("QuantizeLinear", "add", "QLinearAdd", "a.to_uint8"),
        ("DequantizeLinear", "add", "QLinearAdd", "b.to_float"),
        ("QuantizeLinear", "add", "QLinearAdd", "b.to_uint8"),
        ("QLinearLeakyRelu", "add", "QLinearAdd", "left"),
        ("QLinearLeakyRelu", "add", "QLinearAdd", "right"),
        ("QLinearAdd", "add", "QLinearAdd", ""),
        ("Clip", "relu", "Relu", ""),
        ("DequantizeLinear", "relu", "Relu", "y.to_float"),
        ("QuantizeLinear", "relu", "Relu", ""),
    ]


def test_the_padding_of_a_pool_belongs_to_it() -> None:
    weights = np.ones((4, 4, 1, 1), np.int8)
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    found = names_of(int8_graphs.conv((1, 4, 8, 8), weights, None, 0.1, pool=pool))
    assert ("Pad", "pool", "MaxPool", "pad") in found
    assert ("QLinearConv", "conv", "QLinearConv", "") in found
    assert ("MaxPool", "pool", "MaxPool", "") in found


def test_nodes_without_a_name_go_by_their_outputs() -> None:
    int8 = int8_graphs.add((1, 4, 2, 2), 0.5, 0.25, 1.0, relu=True)
    for node in int8.graph.node:
        node.name = ""
    found = names_of(int8)
    assert {label for _, label, _, _ in found} == {"sum", "y"}
    assert [piece for _, label, _, piece in found if label == "sum"].count("") == 1


def test_a_shown_output_with_another_reader_keeps_its_maker() -> None:
    int8 = int8_graphs.add((1, 4, 2, 2), 1.0, 1.0, 1.0, relu=True)
    int8.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.INT8, None))
    found = [entry for entry in names_of(int8) if entry[0] == "QLinearAdd"]
    assert found == [("QLinearAdd", "add", "QLinearAdd", "")]


def test_sizes_and_shapes_of_shown_nodes() -> None:
    weights, bias = np.ones((6, 4, 3, 3), np.int8), np.ones(6, np.int32)
    int8 = int8_graphs.conv(("n", 4, 8, 8), weights, bias, 0.1, pads=[1, 1, 1, 1])
    (node,) = shown_nodes(int8, 2)
    # Weights, bias, three scales of 4 bytes and three zero points of 1.
    assert node.facts == {
        "activation_size": 2 * 4 * 8 * 8,
        "parameter_size": 6 * 4 * 9 + 6 * 4 + 3 * 4 + 3,
        "output_size": 2 * 6 * 8 * 8,
        "input_type_shape": [{"int8": [2, 4, 8, 8]}],
        "output_type_shape": [{"int8": [2, 6, 8, 8]}],
    }


def test_the_graph_that_runs_is_its_own_origin() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="r")
    model = int8_graphs.model([node], {"x": (1, 3)}, "y", {}, dtype=TensorProto.FLOAT)
    (origin,) = origins(model, model, shown_nodes(model, 1))
    assert (origin.node.label, origin.piece, origin.node.facts["output_size"]) == ("r", "", 12)
    assert origin.node.facts["output_type_shape"] == [{"float": [1, 3]}]


# The host lane


def planned(name: str, op: str, *steps: SubAction, **fields: Any) -> PlannedNode:
    return PlannedNode(name, op, "Systolic", "im2col + matmul", (), "out", steps=steps, **fields)


STEPS = (SubAction("im2col", 2), SubAction("bias splat", 2), SubAction("matmul", 2, (4, 64, 36)))


def conv_graph() -> onnx.ModelProto:
    weights, bias = np.ones((8, 4, 3, 3), np.int8), np.ones(8, np.int32)
    return int8_graphs.conv((1, 4, 8, 8), weights, bias, 0.1, relu=True, pads=[1, 1, 1, 1])


def host_lane(nodes: list[NodeTime], plan_nodes: dict[str, PlannedNode]) -> list[dict[str, Any]]:
    int8 = conv_graph()
    compiled = lower(int8).model
    found = origins(compiled, int8, shown_nodes(int8, 1))
    last = nodes[-1].end
    run = RunTime((Span("model_run", 90, last - 90),), tuple(nodes))
    shapes = {"x": [1, 4, 8, 8], "w": [8, 4, 3, 3]}
    return host_events(Profile((), (run,)), found, plan_nodes, StepTimes(int8, shapes))


def test_the_host_lane_names_quantised_operators_and_providers() -> None:
    int8 = conv_graph()
    place = {node.op_type: i for i, node in enumerate(lower(int8).model.graph.node)}
    nodes = [
        NodeTime("Transpose_token_1", 100, 5, "Transpose", None, {"output_size": 4}),
        NodeTime("a", 105, 50, "QLinearConv", place["QLinearConv"], {"activation_size": 1}),
        NodeTime("b", 160, 10, "Clip", place["Clip"]),
    ]
    conv = replace(planned("conv", "QLinearConv", *STEPS), relu="relu")
    relu = replace(planned("relu", "Relu"), fused_into="conv")
    events = host_lane(nodes, {"conv": conv, "relu": relu})
    assert problems(events, STRICT) == []
    kernels = {e["name"]: e for e in events if "op_name" in e["args"]}
    assert list(kernels) == ["Transpose_token_1_kernel_time", "conv_kernel_time", "relu_kernel_time"]
    said = {name: (e["args"]["op_name"], e["args"]["provider"]) for name, e in kernels.items()}
    assert said == {
        "Transpose_token_1_kernel_time": ("Transpose", "CPU"),
        "conv_kernel_time": ("QLinearConv", "Systolic"),
        "relu_kernel_time": ("Relu", "Systolic"),
    }
    assert kernels["Transpose_token_1_kernel_time"]["args"]["made_by"] == "onnxruntime"
    assert kernels["relu_kernel_time"]["args"]["kernel"] == "Clip"
    assert kernels["relu_kernel_time"]["args"]["fused_into"] == "conv"
    assert kernels["conv_kernel_time"]["args"]["activation_size"] == 4 * 8 * 8
    assert kernels["conv_kernel_time"]["args"]["graph_index"] == 0
    steps = [e for e in events if "sub_action" in e["args"]]
    assert [e["name"] for e in steps] == [
        "conv_kernel_im2col_time",
        "conv_kernel_bias_splat_time",
        "conv_kernel_matmul_time",
    ]
    assert [e["args"]["sub_action"] for e in steps] == ["im2col", "bias splat", "matmul"]
    assert all(e["args"]["parent_op"] == "QLinearConv" and "op_name" not in e["args"] for e in steps)
    assert steps[2]["args"]["dimensions"] == "4, 64, 36"
    assert steps[2]["args"]["relu_fused"] == "yes"
    assert steps[0]["ts"] == 105
    assert steps[2]["ts"] + steps[2]["dur"] == pytest.approx(155, abs=STRICT)
    assert sum(e["dur"] for e in steps) == pytest.approx(50, abs=STRICT)


def test_a_kernel_that_the_runtime_made_of_another_operator_goes_by_its_own() -> None:
    events = host_lane([NodeTime("x", 100, 5, "FusedConv", 0, {"activation_size": 7})], {})
    (event,) = [e for e in events if "op_name" in e["args"]]
    assert event["args"]["op_name"] == "FusedConv"
    assert event["args"]["activation_size"] == 7


def test_steps_that_cannot_be_told_apart_are_left_out() -> None:
    int8 = conv_graph()
    index = next(i for i, n in enumerate(lower(int8).model.graph.node) if n.op_type == "QLinearConv")
    node = NodeTime("x", 100, 5, "QLinearConv", index)
    compiled = lower(int8).model
    found = origins(compiled, int8, shown_nodes(int8, 1))
    profile = Profile((), (RunTime((Span("model_run", 90, 20),), (node,)),))
    plan_nodes = {"conv": planned("conv", "QLinearConv", *STEPS)}
    events = host_events(profile, found, plan_nodes, StepTimes(int8, {}))
    assert not [e for e in events if "sub_action" in e["args"]]
    single = {"conv": planned("conv", "QLinearConv", STEPS[2])}
    events = host_events(profile, found, single, StepTimes(int8, {}))
    assert [(e["ts"], e["dur"]) for e in events if "sub_action" in e["args"]] == [(100, 5)]


# Steps


times = st.floats(1e-3, 1e6)


@given(st.floats(0, 1e7), st.lists(st.tuples(times, st.integers(1, 64)), min_size=1, max_size=3))
def test_shares_add_up_and_are_in_proportion(duration: float, alone: list[tuple[float, int]]) -> None:
    steps = [SubAction(f"s{i}", count) for i, (_, count) in enumerate(alone)]
    known = {f"s{i}": time for i, (time, _) in enumerate(alone)}
    shares = divided(duration, steps, known)
    assert sum(shares) == pytest.approx(duration, rel=1e-9, abs=1e-12)
    weights = [time * count for time, count in alone]
    expected = [duration * weight / sum(weights) for weight in weights]
    assert shares == pytest.approx(expected, rel=1e-9, abs=1e-9 * duration + 1e-12)
    assert all(share >= -1e-9 * duration - 1e-12 for share in shares)


def test_one_step_takes_everything() -> None:
    assert divided(12.5, [SubAction("matmul", 7)], {}) == [12.5]


@pytest.mark.parametrize(
    "attributes",
    [{}, {"strides": [2, 1]}, {"pads": [1, 0, 2, 1]}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}],
    ids=["plain", "strides", "pads", "dilations"],
)
def test_steps_are_timed_at_the_layers_own_sizes(attributes: dict[str, Any], monkeypatch: Any) -> None:
    int8 = int8_graphs.conv(
        (1, 4, 11, 12), np.ones((6, 2, 3, 3), np.int8), np.ones(6, np.int32), 0.1, group=2, **attributes
    )
    found = plan(int8, "2", "1")
    node = next(n for n in found.nodes if n.name == "conv")
    assert [step.name for step in node.steps] == ["im2col", "bias splat", "matmul"]
    products, made = [], []

    def noted_product(channels: int, depth: int) -> onnx.ModelProto:
        products.append((channels, depth))
        return product(channels, depth)

    def noted_columns(*arguments: Any) -> Any:
        columns = im2col(*arguments)
        made.append(columns.shape)
        return columns

    steps._alone.cache_clear()
    monkeypatch.setattr(steps, "product", noted_product)
    monkeypatch.setattr(steps, "im2col", noted_columns)
    alone = StepTimes(int8, {"x": [1, 4, 11, 12], "w": [6, 2, 3, 3]}).of(node)
    steps._alone.cache_clear()
    assert list(alone) == ["im2col", "bias splat", "matmul"]
    assert all(time > 0 for time in alone.values())
    channels, pixels, depth = node.steps[2].dimensions
    assert products == [(channels, depth)]
    # The columns that im2col makes are what the product reads.
    assert set(made) == {(pixels, depth)}


def test_the_product_that_is_timed_multiplies() -> None:
    session = open_session(product(3, 5).SerializeToString(), threads=1)
    (out,) = session.run(None, {"columns": np.full((7, 5), 4, np.uint8)})
    assert out.tolist() == [[10] * 3] * 7


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    st.tuples(st.integers(7, 10), st.integers(7, 10), st.integers(1, 4)),
    pairs,
    pairs,
    pairs,
    st.integers(0, 99),
)
def test_columns_times_weights_are_the_convolution(
    size: tuple[int, int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, size).astype(np.int8)
    weights = rng.integers(-128, 128, (*kernel, size[2], 5)).astype(np.int8)
    columns = im2col(x, kernel, strides, dilations).astype(np.int64)
    wanted = arithmetic.conv(x[None], weights, stride=strides, dilation=dilations, scale=0.01)
    found = arithmetic.scale_and_saturate((columns @ weights.reshape(-1, 5)).astype(np.int32), 0.01)
    assert np.array_equal(found.reshape(wanted.shape), wanted)


# The modelled lane


sizes = st.integers(1, 40)
convs = st.builds(
    lambda batch, side, inputs, outputs, kernel, stride: Conv(
        batch, (side + kernel, side + kernel), inputs, outputs, kernel, stride, kernel // 2
    ),
    st.integers(1, 3),
    sizes,
    sizes,
    sizes,
    st.integers(1, 4),
    st.integers(1, 2),
)
works = st.one_of(
    convs, st.builds(Matmul, sizes, sizes, sizes, st.integers(1, 3)), st.builds(ResidualAdd, sizes, sizes)
)
layer_lists = st.lists(st.one_of(works, st.none()), min_size=1, max_size=8).map(
    lambda found: [Layer(f"layer{i}", "QLinearConv", work) for i, work in enumerate(found)]
)


@given(layer_lists, st.sampled_from(["ws", "os"]), st.floats(0, 1e6), st.sampled_from(["default", "dim8"]))
def test_modelled_events_nest_and_their_cycles_are_the_models(
    layers: list[Layer], dataflow: str, start: float, hardware: str
) -> None:
    modelled = model_cycles(layers, hardware, dataflow)
    events, end = modelled_events(modelled, {}, start, 1)
    assert problems(events, STRICT * 2) == []
    rows = [e for e in events if "modelled_op" in e["args"]]
    assert sum(e["args"]["cycles"] for e in rows) == modelled.cycles("estimate")
    assert sum(e["args"]["bus_cycles"] for e in rows) == modelled.cycles("bus")
    assert sum(e["args"]["macs"] for e in rows) == modelled.macs
    clock = modelled.hardware.clock_mhz
    assert end - start == pytest.approx(modelled.cycles("estimate") / clock, abs=1e-6)
    assert all("op_name" not in e["args"] for e in events)
    by_name = {e["args"]["node"]: e for e in rows}
    for event in events:
        if "sub_action" not in event["args"]:
            continue
        parent = by_name[event["args"]["parent"]]
        assert event["ts"] >= parent["ts"] - STRICT
        assert event["ts"] + event["dur"] <= parent["ts"] + parent["dur"] + 2 * STRICT
        assert event["tid"] != LAYERS
        assert event["pid"] == parent["pid"] == MODELLED
        assert 0 < event["args"]["cycles"] <= parent["args"]["cycles"]
    for layer in modelled.layers:
        busy = {
            e["args"]["sub_action"]: e["args"]["cycles"]
            for e in events
            if e["args"].get("parent") == layer.layer.name
        }
        costs = layer.costs
        wanted = {"load": costs.slow_load, "compute": costs.compute, "store": costs.store}
        assert busy == {engine: cycles for engine, cycles in wanted.items() if cycles}


def test_what_does_not_overlap_is_drawn_one_after_another() -> None:
    modelled = model_cycles([Layer("mm", "QLinearMatMul", Matmul(64, 64, 64))], "default", "os")
    events, end = modelled_events(modelled, {}, 10.0, 1)
    engines = [e for e in events if "sub_action" in e["args"]]
    assert [e["args"]["sub_action"] for e in engines] == ["load", "compute", "store"]
    at = 10.0
    for event in engines:
        assert event["ts"] == pytest.approx(at, abs=STRICT)
        at += event["dur"]
    assert at == pytest.approx(end, abs=2 * STRICT)


def test_the_lanes_name_says_modelled_and_the_clock() -> None:
    modelled = model_cycles([Layer("a", "QLinearAdd", ResidualAdd(4, 4))])
    name = modelled_lane_name(modelled)
    assert all(word in name for word in ("modelled", "calibrated estimate", "not measured", "1000 MHz"))


def test_cycles_at_another_clock() -> None:
    modelled = model_cycles([Layer("a", "QLinearAdd", ResidualAdd(64, 64))])
    slow = replace(modelled, hardware=replace(modelled.hardware, clock_mhz=100))
    (fast_event, *_), fast = modelled_events(modelled, {}, 0, 1)
    (slow_event, *_), ten = modelled_events(slow, {}, 0, 1)
    assert ten == pytest.approx(10 * fast)
    assert fast_event["args"]["cycles"] == slow_event["args"]["cycles"]


def test_a_complete_event_has_the_fields_of_the_format() -> None:
    assert complete("n", "Node", (1, 2), 3, 4, {"a": 1}) == {
        "cat": "Node",
        "pid": 1,
        "tid": 2,
        "dur": 4,
        "ts": 3,
        "ph": "X",
        "name": "n",
        "args": {"a": 1},
    }


# Recording


class _Counting(Runner):
    """A runner of no real model whose profiler forgets some of its runs."""

    def __init__(self, folder: Path, forgets: int) -> None:
        super().__init__(Artifact(folder, "key", "net", "cpu", "int8", {}), 1)
        self.calls: list[str] = []
        self.forgets = forgets

    def callable(self) -> Any:
        return lambda batch: batch

    def run(self, batch: Any) -> Any:
        self.calls.append("runner")
        return batch

    def profiler(self) -> Any:
        counting = self

        class Forgetful(Profiler):
            def run(self, batch: Any) -> Any:
                output = super().run(batch)
                counting.calls[-1] = "profiler"
                return output

            def finish(self) -> Profile:
                found = super().finish()
                return Profile(found.session, found.runs[counting.forgets :])

            def close(self) -> None:
                counting.calls.append("closed")

        return Forgetful(self)


def test_the_first_batches_go_through_the_profiler(tmp_path: Path) -> None:
    runner, out = _Counting(tmp_path, 0), tmp_path / "t.json"
    batch = np.zeros((2, 3))
    with recorded(runner, out, {"said": "x"}, most=2) as runs:
        outputs = [runs.run(batch) for _ in range(4)]
    assert all(output is batch for output in outputs)
    assert runner.calls == ["profiler", "profiler", "runner", "runner", "closed"]
    trace = read_trace(out)
    assert (trace.about["said"], trace.about["runs"], trace.about["batch"]) == ("x", 2, 2)
    assert sum(event["name"] == "model_run" for event in trace.events) == 2


def test_without_a_file_the_runner_itself_runs(tmp_path: Path) -> None:
    runner = _Counting(tmp_path, 0)
    with recorded(runner, None, {}) as runs:
        assert runs is runner
    assert runner.calls == []


def test_runs_that_the_runtime_did_not_note_are_said(tmp_path: Path) -> None:
    runner, out = _Counting(tmp_path, 1), tmp_path / "t.json"
    with pytest.raises(TraceError, match="1 of 2 runs"), recorded(runner, out, {}) as runs:
        _ = [runs.run(np.zeros((1, 3))) for _ in range(2)]
    assert runner.calls[-1] == "closed"
    assert not out.exists()
