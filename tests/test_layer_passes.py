"""Passes on one layer: biases, rounding, weight scales, output ranges. None may make its own error larger."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topfive.quantize.passes.layer import Layer, fit_bias, sampled_layer
from topfive.quantize.passes.output_ranges import best_share
from topfive.quantize.passes.rounding import nearest, reconstruct
from topfive.quantize.passes.weight_scales import best_weight_scale
from topfive.targets.gemmini import arithmetic

few = settings(max_examples=25)
seeds = st.integers(0, 10_000)
ACTIVATIONS = {
    "none": (None, 1.0),
    "relu": ((0.0, np.inf), 1.0),
    "relu6": ((0.0, 6.0), 1.0),
    "leaky": (None, 0.1),
}
activations = st.sampled_from(sorted(ACTIVATIONS))


def layer(seed: int, activation: str, *, depthwise: bool, samples: int = 120, inputs: int = 9) -> Layer:
    """A layer whose input codes carry an error that its target does not know of."""
    random = np.random.default_rng(seed)
    count = 5
    shape = (samples, count, inputs) if depthwise else (samples, inputs)
    exact = np.maximum(random.normal(0, 40, shape), -20)
    codes = np.clip(np.rint(exact + random.normal(2, 4, shape)), -128, 127).astype(np.int8)
    weights = random.normal(0, 0.3, (count, inputs)) * np.exp(random.normal(0, 1, (count, 1)))
    bias, x_scale = random.normal(0, 1, count), 0.05
    products = np.einsum("sck,ck->sc", exact, weights) if depthwise else exact @ weights.T
    bounds, slope = ACTIVATIONS[activation]
    pictures = np.arange(samples) % 6
    return Layer(codes, x_scale, products * x_scale + bias, bounds, weights, bias, pictures, slope)


def plain(made: Layer, *, own: bool):
    largest = np.abs(made.weights).max(axis=1)
    scale = largest if own else largest.max(keepdims=True)
    return nearest(made, (scale / 127).astype(np.float32).astype(np.float64))


@few
@given(seeds, activations, st.booleans())
def test_a_fitted_bias_is_never_worse(seed: int, activation: str, depthwise: bool) -> None:
    made = layer(seed, activation, depthwise=depthwise)
    found = plain(made, own=False)
    sums = made.sums(found.weights)
    bias = fit_bias(made, sums, made.bias)
    assert (made.errors(sums, bias) <= made.errors(sums, made.bias) * (1 + 1e-12)).all()


@few
@given(seeds, st.booleans())
def test_without_an_activation_no_mean_error_is_left(seed: int, depthwise: bool) -> None:
    made = layer(seed, "none", depthwise=depthwise)
    sums = made.sums(plain(made, own=False).weights)
    assert np.abs((sums + made.bias - made.target).mean(axis=0)).max() > 1e-3
    left = (sums + fit_bias(made, sums, made.bias) - made.target).mean(axis=0)
    assert np.abs(left).max() <= 1e-9


@few
@given(seeds, st.sampled_from(["relu", "leaky"]))
def test_a_shift_is_found_through_an_activation(seed: int, activation: str) -> None:
    """Weights that are right and biases that are wrong: the biases come back."""
    made = layer(seed, activation, depthwise=False, samples=400)
    sums = made.sums(made.weights)
    known = Layer(
        made.codes,
        made.x_scale,
        sums + made.bias,
        made.bounds,
        made.weights,
        made.bias,
        made.picture,
        made.slope,
    )
    active = (sums + made.bias > 0).mean(axis=0) > 0.1
    found = fit_bias(known, sums, made.bias + 0.3)
    assert np.abs(found - made.bias)[active].max(initial=0) <= 0.03


@few
@given(seeds, activations, st.booleans(), st.booleans())
def test_reconstruction_is_never_worse_than_rounding_to_the_nearest(
    seed: int, activation: str, depthwise: bool, own: bool
) -> None:
    made = layer(seed, activation, depthwise=depthwise)
    own = own and depthwise
    before = plain(made, own=own)
    after = reconstruct(made, before, own_scales=own)
    errors = [made.errors(made.sums(r.weights), r.bias).sum() for r in (before, after)]
    assert errors[1] <= errors[0]
    assert np.abs(after.codes).max() <= 127
    assert (after.codes == np.rint(after.codes)).all()
    assert after.scale.shape == before.scale.shape
    assert (after.scale == after.scale.astype(np.float32)).all()


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
def test_reconstruction_beats_the_nearest_codes_with_a_corrected_bias(depthwise: bool) -> None:
    """It makes up for rounding, which a bias alone cannot, where inputs are alike."""
    wins = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        common = random.normal(0, 40, (600, 5, 1) if depthwise else (600, 1))
        shape = (600, 5, 9) if depthwise else (600, 9)
        codes = np.clip(np.rint(common + random.normal(0, 8, shape)), -128, 127).astype(np.int8)
        weights = random.normal(0, 0.02, (5, 9))
        weights[0, 0] = 2.0
        bias = np.zeros(5)
        made = Layer(codes, 0.05, np.zeros((600, 5)), None, weights, bias, np.arange(600) % 6)
        made = Layer(codes, 0.05, made.sums(weights), None, weights, bias, made.picture)
        before = plain(made, own=False)
        sums = made.sums(before.weights)
        corrected = made.errors(sums, fit_bias(made, sums, made.bias)).sum()
        after = reconstruct(made, before, own_scales=False)
        wins.append(made.errors(made.sums(after.weights), after.bias).sum() / corrected)
    assert np.median(wins) < 0.5
    assert max(wins) < 1


@few
@given(seeds, st.booleans())
def test_a_weight_scale_has_the_least_weighted_error(seed: int, own: bool) -> None:
    made = layer(seed, "none", depthwise=True)
    before = plain(made, own=own)
    after = best_weight_scale(made, before, 0.4, own_scales=own)
    energy = np.square(made.codes.astype(np.float64)).mean(axis=0)
    losses = [(np.square(r.weights - made.weights) * energy).sum() for r in (before, after)]
    assert losses[1] <= losses[0]
    assert ((after.scale / before.scale >= 0.3999) & (after.scale <= before.scale)).all()


def test_a_single_outlier_is_cut_off() -> None:
    """300 weights of 1 and one of 10 that meets a silent input: the outlier should not set the scale."""
    random = np.random.default_rng(0)
    weights = random.uniform(-1, 1, (2, 300))
    weights[0, 0] = 10
    codes = random.integers(-127, 128, (200, 300)).astype(np.int8)
    codes[:, 0] = 0
    made = Layer(codes, 0.1, np.zeros((200, 2)), None, weights, np.zeros(2), np.zeros(200, np.int64))
    before = plain(made, own=False)
    assert best_weight_scale(made, before, 0.3, own_scales=False).scale == pytest.approx(before.scale * 0.3)


@few
@given(seeds, activations)
def test_an_output_range_has_the_least_error(seed: int, activation: str) -> None:
    made = layer(seed, activation, depthwise=False)
    found = plain(made, own=False)
    before = made.sums(found.weights) + found.bias
    scale = float(np.abs(before).max() / 127)
    share = best_share(made, found, scale, 0.3)

    def error(step: float) -> float:
        codes = np.clip(np.rint(before / step), -128, 127)
        return float(np.square(made.activate(codes * step) - made.activate(made.target)).sum())

    assert 0.3 <= share <= 1
    assert error(float(np.float32(scale * share))) <= error(float(np.float32(scale)))


def test_before_a_leaky_relu_large_negative_values_are_cut_off() -> None:
    """Half of the outputs are between -12 and -6, half between 0 and 1: the range follows the second half."""
    random = np.random.default_rng(1)
    codes = np.concatenate([random.integers(-120, -60, 250), random.integers(0, 10, 250)]).astype(np.int8)
    weights, bias = np.array([[1.0]]), np.array([0.037])
    shares = []
    for slope in (1.0, 0.001):
        made = Layer(
            codes[:, None], 0.1, np.zeros((500, 1)), None, weights, bias, np.zeros(500, np.int64), slope
        )
        made = Layer(codes[:, None], 0.1, made.sums(weights) + bias, None, weights, bias, made.picture, slope)
        scale = float(np.abs(made.target).max() / 127)
        shares.append(best_share(made, nearest(made, np.array([1 / 127])), scale, 0.1))
    assert shares[0] == 1
    assert shares[1] <= 0.3


@few
@given(
    seeds,
    st.sampled_from([1, 3]),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]),
    st.booleans(),
)
def test_sampled_windows_are_those_of_the_convolution(
    seed: int, kernel: int, stride: int, dilation: int, auto_pad: str, depthwise: bool
) -> None:
    """The sums over sampled codes are the accumulators of the exact convolution at those pixels."""
    random = np.random.default_rng(seed)
    x = random.integers(-128, 128, (2, 3, 7, 8)).astype(np.int8)
    weights = random.integers(-127, 128, (3, 1 if depthwise else 3, kernel, kernel)).astype(np.float32)
    pads = (1, 0, 1, 2) if auto_pad == "NOTSET" else (0, 0, 0, 0)
    attrs = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": list(pads)}
    if auto_pad != "NOTSET":
        attrs |= {"auto_pad": auto_pad}
        pads = padding_of(auto_pad, x.shape[2:], kernel, stride, dilation)
    settings_ = {"stride": (stride,) * 2, "padding": pads, "dilation": (dilation,) * 2}
    wide = x.transpose(0, 2, 3, 1)
    if depthwise:
        exact = accumulators(arithmetic.depthwise_conv, wide, weights[:, 0].astype(np.int8), settings_)
    else:
        exact = accumulators(arithmetic.conv, wide, weights.transpose(2, 3, 1, 0).astype(np.int8), settings_)
    target = exact.transpose(0, 3, 1, 2)
    made = sampled_layer(x, 1.0, target, weights, None, attrs, None, depthwise=depthwise, samples=40)
    assert len(made.codes) == min(40, target[:, 0].size)
    assert np.array_equal(made.sums(made.weights), made.target)


def padding_of(auto_pad: str, size: tuple[int, ...], kernel: int, stride: int, dilation: int):
    total = [max((-(-n // stride) - 1) * stride + (kernel - 1) * dilation + 1 - n, 0) for n in size]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return tuple(small + large if auto_pad == "SAME_UPPER" else large + small)


def accumulators(function, x: np.ndarray, weights: np.ndarray, where: dict) -> np.ndarray:
    """The int32 sums of the exact form, before they are requantised."""
    found: list[np.ndarray] = []

    def keep(acc: np.ndarray, *_: object) -> np.ndarray:
        found.append(np.asarray(acc))
        return np.zeros(1, np.int8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "scale_and_saturate", keep)
        function(x, weights, **where)
    return found[0]
