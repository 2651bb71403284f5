"""Quant mode int8_dw: one weight scale a channel in depthwise convolutions, exact in every form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import topfive
from topfive.cards import find_card, load_cards
from topfive.errors import CompileError, QuantizeError
from topfive.graph import Graph
from topfive.images import list_images, load_profile, preprocess_batch
from topfive.quantize.calibration import minmax
from topfive.quantize.symmetric import (
    LARGEST_BIAS,
    channel_scales,
    quantize_bias,
    quantize_symmetric,
    round_weights,
)
from topfive.sessions import native_kernels_are_exact, open_session, shift_weights
from topfive.suite.selection import refusal
from topfive.targets.gemmini.admission import admit
from topfive.targets.gemmini.cycles import model_cycles, model_layers
from topfive.targets.gemmini.lowering import lower
from topfive.targets.gemmini.reference import mismatches, run_reference
from topfive.targets.gemmini.target import INT8_FILE

import int8_graphs
from float_nets import Net, inverted

few = settings(max_examples=20)
seeds = st.integers(0, 10_000)


def forms(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Results with weights shifted to uint8, and with int8 weights where they are exact here."""
    lowered = lower(model).model
    yield open_session(shift_weights(lowered).SerializeToString(), threads=1).run(None, feeds)[0]
    if native_kernels_are_exact():
        yield open_session(lowered.SerializeToString(), threads=1).run(None, feeds)[0]


@few
@given(seeds, st.integers(2, 40), st.integers(1, 2), st.booleans(), st.booleans())
def test_every_form_of_a_depthwise_layer_is_the_numpy_form(
    seed: int, channels: int, stride: int, relu: bool, biased: bool
) -> None:
    random = np.random.default_rng(seed)
    weights = random.integers(-127, 128, (channels, 1, 3, 3)).astype(np.int8)
    bias = random.integers(-20_000, 20_000, channels) if biased else None
    made = int8_graphs.conv(
        (2, channels, 7, 7), weights, bias, 1.0, relu=relu, group=channels, strides=[stride] * 2, pads=[1] * 4
    )
    scales = np.exp(random.uniform(-9, -2, channels)).astype(np.float32)
    for tensor in made.graph.initializer:
        if tensor.name == "ws":
            tensor.CopyFrom(numpy_helper.from_array(scales, "ws"))
    x = random.integers(-128, 128, (2, channels, 7, 7)).astype(np.int8)
    expected = run_reference(made, x)[made.graph.output[0].name]
    assert expected.min() < expected.max()
    for result in forms(made, {"x": x}):
        np.testing.assert_array_equal(result, expected)
    # Each channel alone, with its scalar scale.
    for channel in (0, channels - 1):
        alone = int8_graphs.conv(
            (2, 1, 7, 7),
            weights[channel : channel + 1],
            None if bias is None else bias[channel : channel + 1],
            float(scales[channel]),
            relu=relu,
            strides=[stride] * 2,
            pads=[1] * 4,
        )
        one = run_reference(alone, x[:, channel : channel + 1])[alone.graph.output[0].name]
        np.testing.assert_array_equal(one[:, 0], expected[:, channel])


def two_modes(net: Net) -> tuple[onnx.ModelProto, onnx.ModelProto, np.ndarray]:
    model, pictures = net.model(net.out), net.pictures(4)
    table = minmax(model, [pictures])
    return (
        quantize_symmetric(model, table),
        quantize_symmetric(model, table, depthwise="channel"),
        pictures,
    )


def codes_of(model: onnx.ModelProto, pictures: np.ndarray) -> dict[str, np.ndarray]:
    return {k: v for k, v in run_reference(model, pictures).items() if v.dtype == np.int8}


@few
@given(seeds)
def test_int8_dw_is_int8_when_all_channels_share_a_scale(seed: int) -> None:
    net = inverted(seed)
    depthwise = next(n for n in net.nodes if any(a.name == "group" for a in n.attribute))
    weights = net.constants[depthwise.input[1]]
    weights /= np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    tensor, channel, pictures = two_modes(net)
    expected, found = codes_of(tensor, pictures), codes_of(channel, pictures)
    assert expected.keys() == found.keys()
    for name, codes in expected.items():
        np.testing.assert_array_equal(found[name], codes, err_msg=name)


def test_only_depthwise_weights_have_scales_of_their_own() -> None:
    _, channel, _ = two_modes(inverted(1))
    graph = Graph(channel)
    sizes = {n.name: graph.constants[n.input[4]].size for n in graph.nodes if n.op_type == "QLinearConv"}
    assert sorted(sizes.values()) == [1, 1, 1, 1, 16]


@few
@given(seeds)
def test_scales_of_their_own_lose_less(seed: int) -> None:
    net = inverted(seed, spread=2.5)
    tensor, channel, pictures = two_modes(net)
    float_values = open_session(net_model(net, net.nodes[4].output[0]), threads=1).run(None, {"x": pictures})[
        0
    ]
    errors = []
    for model in (tensor, channel):
        scale = Graph(model).constants[f"{net.nodes[4].output[0]}_quantized.scale"]
        codes = run_reference(model, pictures)[f"{net.nodes[4].output[0]}_quantized"]
        errors.append(np.square(np.clip(codes * scale, 0, 6) - np.clip(float_values, 0, 6)).sum())
    assert errors[1] < errors[0]


def net_model(net: Net, output: str) -> bytes:
    graph = Graph(net.model(net.out))
    graph.outputs = [onnx.ValueInfoProto(name=output)]
    return graph.to_model().SerializeToString()


@given(seeds, st.booleans())
def test_channel_scales(seed: int, large_bias: bool) -> None:
    random = np.random.default_rng(seed)
    weights = (random.normal(0, 1, (6, 1, 3, 3)) * np.exp(random.normal(0, 4, (6, 1, 1, 1)))).astype(
        np.float32
    )
    weights[5] = 0
    bias = (random.normal(0, 1, 6) * (1e9 if large_bias else 1)).astype(np.float32)
    bias[5] = 0
    x_scale = np.float32(0.01)
    scales = channel_scales(weights, bias, x_scale)
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    assert scales[5] == 1
    codes = round_weights(weights, scales)
    assert (
        np.abs(weights - codes * scales.reshape(-1, 1, 1, 1)) <= scales.reshape(-1, 1, 1, 1) * 0.501
    ).all()
    assert np.abs(quantize_bias(bias, x_scale, scales)).max() <= LARGEST_BIAS * 1.001
    if not large_bias:
        assert (np.abs(codes[:5]).max(axis=(1, 2, 3)) == 127).all()


def test_a_model_without_depthwise_convolutions_has_no_such_mode() -> None:
    net = Net()
    model = net.model(net.conv("x", 4))
    with pytest.raises(QuantizeError, match="no depthwise convolution: int8_dw would be int8"):
        quantize_symmetric(model, minmax(model, [net.pictures(2)]), depthwise="channel")
    cards = load_cards()
    assert "int8_dw is its int8" in refusal(cards["pocket_resnet"], "gemmini_sim", "int8_dw")
    assert not refusal(cards["pocket_mobilenet"], "gemmini_sim", "int8_dw")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory):
    cache = tmp_path_factory.mktemp("cache")
    return topfive.build("pocket_mobilenet", target="gemmini_sim", quant="int8_dw", cache=cache)


def pocket_pictures(count: int) -> np.ndarray:
    card = find_card("pocket_mobilenet", load_cards())
    paths = [image.path for image in list_images(card.pictures_folder())[:count]]
    return preprocess_batch(paths, load_profile(card.input.profile), card.input.size)


def test_every_layer_of_the_bundled_model_is_exact(artifact) -> None:
    batch = pocket_pictures(2)
    with topfive.open(artifact) as runner:
        observed = runner.tensors(batch)
    assert list(mismatches(onnx.load(artifact.path / INT8_FILE), observed, batch)) == []


def test_configurations_of_the_store_are_counted(artifact) -> None:
    """One more for each channel but the first, a cycle each, whatever the batch."""
    int8 = onnx.load(artifact.path / INT8_FILE)
    channels = [
        numpy_helper.to_array(t).size for t in int8.graph.initializer if t.name.endswith("weight_scale")
    ]
    extra = sum(size - 1 for size in channels)
    assert extra > 100
    for batch in (1, 4):
        found = model_cycles(model_layers(int8, batch), batch=batch)
        assert found.costs.configs == extra
    scalar = onnx.load(artifact.path / INT8_FILE)
    for tensor in scalar.graph.initializer:
        if tensor.name.endswith("weight_scale"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).ravel()[0], tensor.name))
    plain, own = model_cycles(model_layers(scalar)), model_cycles(model_layers(int8))
    assert plain.costs.configs == 0
    for figure in ("bus", "estimate"):
        assert own.cycles(figure) == plain.cycles(figure) + extra


def qdq_depthwise(axis: int) -> onnx.ModelProto:
    """A depthwise Conv between DequantizeLinear and QuantizeLinear, with a weight scale a channel."""
    random = np.random.default_rng(0)
    constants = {
        "xs": np.float32(0.05),
        "zero": np.int8(0),
        "w": random.integers(-127, 128, (6, 1, 3, 3)).astype(np.int8),
        "ws": np.exp(random.normal(-5, 1, 6)).astype(np.float32),
        "wz": np.zeros(6, np.int8),
        "b": random.normal(0, 1, 6).astype(np.float32),
        "ys": np.float32(0.1),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "zero"], ["xf"], name="dx"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], name="dw", axis=axis),
        helper.make_node("Conv", ["xf", "wf", "b"], ["yf"], name="conv", group=6, pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["yf", "ys", "zero"], ["y"], name="qy"),
    ]
    return int8_graphs.model(nodes, {"x": (1, 6, 5, 5)}, "y", constants, dtype=TensorProto.INT8)


def test_quantised_models_with_depthwise_scales_of_their_own_are_admitted() -> None:
    made = admit(qdq_depthwise(0))
    assert [n.op_type for n in made.nodes] == ["QLinearConv"]
    x = np.random.default_rng(1).integers(-128, 128, (1, 6, 5, 5)).astype(np.int8)
    expected = run_reference(made.to_model(), x)["y"]
    for result in forms(made.to_model(), {"x": x}):
        np.testing.assert_array_equal(result, expected)
    # As ONNX Runtime runs the float form, but for rounding.
    floats = open_session(qdq_depthwise(0).SerializeToString(), optimise=False).run(None, {"x": x})[0]
    assert np.abs(floats.astype(int) - expected).max() <= 1


def test_scales_along_another_axis_are_refused() -> None:
    with pytest.raises(CompileError) as caught:
        admit(qdq_depthwise(1))
    assert "per-channel scales (6 values)" in caught.value.details


def test_int8_dw_has_files_and_markers_of_its_own(artifact, pytestconfig: pytest.Config) -> None:
    assert artifact.quant == "int8_dw"
    assert artifact.exact
    assert any(line.startswith("int8_dw:") for line in pytestconfig.getini("markers"))
    assert Path(artifact.path / INT8_FILE).is_file()
