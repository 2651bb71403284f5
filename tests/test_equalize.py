"""Passes that rewrite the float model: what they must not change, and what they must make better."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topfive.errors import CalibrateError, QuantizeError
from topfive.graph import Graph
from topfive.quantize.adjusted import rewritten
from topfive.quantize.passes.absorb import absorb, absorbable
from topfive.quantize.passes.batches import batches
from topfive.quantize.passes.channels import convolutions, rescale, scalable_channels
from topfive.quantize.passes.equalize import (
    equalizing_factors,
    few_bits,
    measure_activity,
    silent_channels,
)
from topfive.quantize.passes.noise import NoiseModel
from topfive.quantize.passes.recipe import Equalize
from topfive.quantize.passes.statistics import channel_statistics
from topfive.sessions import open_session

from float_nets import Net, branching, inverted

few = settings(max_examples=15)
seeds = st.integers(0, 10_000)


def outputs(model: onnx.ModelProto, pictures: np.ndarray) -> np.ndarray:
    session = open_session(model.SerializeToString(), threads=1)
    return np.concatenate([session.run(None, {"x": batch})[0] for batch in batches(Graph(model), pictures)])


def assert_same(left: np.ndarray, right: np.ndarray) -> None:
    assert np.abs(left - right).max() <= 2e-5 * np.abs(left).max()


def factors_of(graph: Graph, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Random factors for every scale that is free."""
    channels = scalable_channels(graph)
    values = np.exp(random.normal(0, 2, channels.count))
    values[list(channels.fixed)] = 1.0
    return {conv.name: values[channels.of[conv.node.output[0]]] for conv in convolutions(graph)}


@few
@given(seeds, st.sampled_from(["Relu", "LeakyRelu"]))
def test_rescaled_channels_compute_the_same(seed: int, activation: str) -> None:
    """Through ReLU, LeakyReLU, residual additions, concatenation, max pools and depthwise convolutions."""
    net = branching(seed, activation)
    model = net.model(net.out)
    graph = Graph(model)
    factors = factors_of(graph, net.random)
    assert any((values != 1).any() for values in factors.values())
    rescale(graph, factors)
    pictures = net.pictures(3)
    assert_same(outputs(model, pictures), outputs(graph.to_model(), pictures))


def test_what_reaches_the_output_stays_at_scale_one() -> None:
    net = branching(0)
    model = net.model(net.out)
    channels = scalable_channels(Graph(model))
    last, first = convolutions(Graph(model))[-1], convolutions(Graph(model))[0]
    assert set(channels.of[last.node.output[0]]) <= channels.fixed
    assert not set(channels.of[first.node.output[0]]) & channels.fixed


def test_addends_share_their_scales() -> None:
    net = Net()
    a, b = net.conv("x", 4), net.conv("x", 4)
    model = net.model(net.conv(net.add(a, b), 4))
    channels = scalable_channels(Graph(model))
    assert channels.of[a].tolist() == channels.of[b].tolist()


@pytest.mark.parametrize(
    ("reader", "why"), [("Sigmoid", "Sigmoid"), ("Tanh", "Tanh")], ids=["sigmoid", "tanh"]
)
def test_scales_stop_at_operators_that_do_not_keep_them(reader: str, why: str) -> None:
    net = Net()
    made = net.conv("x", 4)
    graph = Graph(net.model(net.conv(net.apply(reader, made), 4)))
    assert set(scalable_channels(graph).of[made]) <= scalable_channels(graph).fixed
    with pytest.raises(QuantizeError, match=why):
        rescale(graph, {"conv0": np.full(4, 2.0)})


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"nothing": np.ones(4)}, "no convolution 'nothing'"),
        ({"conv0": np.ones(3)}, "4 channel factors"),
        ({"conv0": np.full(4, -1.0)}, "at least 0"),
        ({"conv0": np.full(4, np.inf)}, "4 channel factors"),
    ],
    ids=["name", "length", "negative", "infinite"],
)
def test_factors_of_another_model_are_refused(factors: dict[str, np.ndarray], message: str) -> None:
    net = Net()
    graph = Graph(net.model(net.conv(net.conv("x", 4), 4)))
    with pytest.raises(QuantizeError, match=message):
        rescale(graph, factors)


@given(st.floats(2**-20, 2**20))
def test_few_bits(value: float) -> None:
    rounded = float(few_bits(np.array([value]))[0])
    mantissa, _ = np.frexp(rounded)
    assert mantissa * 32 == int(mantissa * 32)
    assert abs(rounded - value) <= value / 32
    assert few_bits(np.array([rounded]))[0] == rounded
    assert few_bits(np.array([0.0]))[0] == 0


@few
@given(seeds, st.sampled_from(["noise", "ranges"]), st.booleans())
def test_equalisation_keeps_the_outputs_on_the_calibration_pictures(
    seed: int, objective: str, own: bool
) -> None:
    """With ReLU6, whose clipping channels must keep their scale."""
    net = inverted(seed)
    model, pictures = net.model(net.out), net.pictures(6)
    activity = measure_activity(Graph(model), pictures)
    factors = equalizing_factors(Graph(model), activity, Equalize(objective), own_depthwise_scales=own)
    assert factors
    graph = rewritten(model, factors, {})
    assert_same(outputs(model, pictures), outputs(graph.to_model(), pictures))
    for name, bound in activity.channels.bounded:
        conv = next(c for c in activity.convs if c.node.output[0] == name)
        seen, scale = activity.statistics[name].high, factors.get(conv.name, np.ones(1))
        assert (np.where(seen >= bound, scale == 1, seen * scale <= bound)).all()


def noise_model(net: Net, own: bool) -> NoiseModel:
    model = net.model(net.out)
    graph = Graph(model)
    activity = measure_activity(graph, net.pictures(4))
    return NoiseModel(
        graph,
        activity.channels,
        activity.convs,
        activity.statistics,
        activity.after,
        own_depthwise_scales=own,
    )


@few
@given(seeds, st.booleans())
def test_the_gradient_of_the_predicted_noise(seed: int, own: bool) -> None:
    net = branching(seed)
    noise = noise_model(net, own)
    here, direction = net.random.normal(0, 0.5, noise.count), net.random.normal(0, 1, noise.count)
    _, gradient = noise.value_and_gradient(here)
    step = 1e-5
    ahead, behind = (noise.value_and_gradient(here + s * step * direction)[0] for s in (1, -1))
    slope = float(gradient @ direction)
    assert abs((ahead - behind) / (2 * step) - slope) <= 1e-4 * np.abs(gradient).sum() + 1e-12


@few
@given(seeds)
def test_the_predicted_noise_is_convex(seed: int) -> None:
    """So that the descent cannot stop at a hill's foot."""
    net = branching(seed)
    noise = noise_model(net, False)
    left, right = net.random.normal(0, 1, (2, noise.count))
    middle = noise.value_and_gradient((left + right) / 2)[0]
    ends = noise.value_and_gradient(left)[0] + noise.value_and_gradient(right)[0]
    assert middle <= ends / 2 * (1 + 1e-9)


@few
@given(seeds, st.sampled_from(["block", "branches"]))
def test_the_predicted_noise_is_that_of_the_rescaled_model(seed: int, shape: str) -> None:
    """The prediction at some scales, and at scales of 1 for the model that has them already."""
    net = inverted(seed) if shape == "block" else branching(seed)
    model, pictures = net.model(net.out), net.pictures(6)
    activity = measure_activity(Graph(model), pictures)
    found = equalizing_factors(Graph(model), activity, Equalize(), own_depthwise_scales=False)
    scales = np.ones(activity.channels.count)
    for conv in activity.convs:
        scales[activity.channels.of[conv.node.output[0]]] = found.get(conv.name, 1.0)
    graph = Graph(model)

    def prediction(logarithms: np.ndarray) -> float:
        now = measure_activity(graph, pictures)
        noise = NoiseModel(
            graph, now.channels, now.convs, now.statistics, now.after, own_depthwise_scales=False
        )
        return noise.value_and_gradient(logarithms)[0]

    before, expected = prediction(np.zeros_like(scales)), prediction(np.log(scales))
    rescale(graph, found)
    assert prediction(np.zeros_like(scales)) == pytest.approx(expected, rel=1e-5)
    assert expected < before


def test_equal_weight_ranges_on_both_sides_of_a_relu() -> None:
    """The published objective on a chain: each channel is made and read by weights of one size."""
    net = Net()
    first = net.conv("x", 6, spread=1.5)
    model = net.model(net.conv(net.apply("Relu", first), 4, 1))
    activity = measure_activity(Graph(model), net.pictures(4))
    found = equalizing_factors(Graph(model), activity, Equalize("ranges"), own_depthwise_scales=False)
    graph = rewritten(model, found, {})
    makes, reads = (np.abs(graph.constants[c.node.input[1]]) for c in convolutions(graph))
    assert np.allclose(makes.max(axis=(1, 2, 3)), reads.max(axis=(0, 2, 3)), rtol=0.07)


@few
@given(seeds)
def test_silent_channels_change_nothing_on_the_calibration_pictures(seed: int) -> None:
    net = inverted(seed)
    dead = net.nodes[0].input[2]
    net.constants[dead][:3] = -1000.0
    model, pictures = net.model(net.out), net.pictures(4)
    found = silent_channels(measure_activity(Graph(model), pictures))
    assert found["conv0"][:3].tolist() == [0, 0, 0]
    graph = rewritten(model, found, {})
    first = convolutions(graph)[0].node
    assert not graph.constants[first.input[1]][:3].any()
    assert not graph.constants[first.input[2]][:3].any()
    assert_same(outputs(model, pictures), outputs(graph.to_model(), pictures))


@few
@given(seeds, st.sampled_from(["Relu", "Relu6"]))
def test_absorbed_biases_change_nothing_on_the_calibration_pictures(seed: int, activation: str) -> None:
    net = Net(seed)
    net.random = np.random.default_rng(seed)
    first = net.conv("x", 6)
    net.constants[net.nodes[-1].input[2]][:4] = 3.0
    model = net.model(net.conv(net.apply(activation, first), 5, 1))
    pictures = net.pictures(6) * np.float32(0.2)
    amounts = absorbable(Graph(model), pictures)
    assert (amounts["conv0"][:4] > 0).any()
    graph = Graph(model)
    absorb(graph, amounts)
    assert_same(outputs(model, pictures), outputs(graph.to_model(), pictures))
    before = channel_statistics(Graph(model), [first], pictures)[first]
    after = channel_statistics(graph, [first], pictures)[first]
    assert np.allclose(before.high - after.high, amounts["conv0"], atol=1e-5)


def test_biases_are_not_absorbed_by_padded_convolutions() -> None:
    net = Net()
    first = net.conv("x", 6)
    net.constants[net.nodes[-1].input[2]][:] = 50.0
    model = net.model(net.conv(net.apply("Relu", first), 5, 3))
    assert absorbable(Graph(model), net.pictures(2)) == {}
    with pytest.raises(QuantizeError, match="no such bias"):
        absorb(Graph(model), {"conv0": np.ones(6)})


def test_channel_statistics_are_those_of_numpy() -> None:
    net = branching(3)
    model, pictures = net.model(net.out), net.pictures(11)
    found = channel_statistics(Graph(model), ["x", net.out], pictures)
    values = open_session(
        Graph(model).to_model([onnx.ValueInfoProto(name=net.out)]).SerializeToString(), threads=1
    ).run([net.out], {"x": pictures})[0]
    for name, array in (("x", pictures), (net.out, values)):
        assert np.allclose(found[name].low, array.min(axis=(0, 2, 3)), rtol=1e-5, atol=1e-6)
        assert np.allclose(found[name].high, array.max(axis=(0, 2, 3)), rtol=1e-5, atol=1e-6)
        assert np.allclose(found[name].mean_square, np.square(array).mean(axis=(0, 2, 3)), rtol=1e-4)


def test_statistics_refuse_no_pictures_and_infinite_activations() -> None:
    net = Net()
    graph = Graph(net.model(net.conv("x", 4)))
    with pytest.raises(CalibrateError, match="empty"):
        channel_statistics(graph, ["x"], net.pictures(0))
    with pytest.raises(CalibrateError, match="not finite"):
        channel_statistics(graph, ["conv0_out"], np.full((1, 3, 8, 8), np.nan, np.float32))


def test_a_fixed_batch_wants_full_batches() -> None:
    net = Net()
    model = net.model(net.conv("x", 4))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    assert [len(part) for part in batches(Graph(model), net.pictures(6))] == [3, 3]
    with pytest.raises(CalibrateError, match="fixed at 3"):
        batches(Graph(model), net.pictures(4))
