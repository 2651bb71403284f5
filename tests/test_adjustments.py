"""Recipes end to end: fitting, the file that holds what was found, and building from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topfive.adjusting import open_exactly
from topfive.errors import CalibrateError, CardError, QuantizeError, UnknownNameError
from topfive.graph import Graph
from topfive.quantize.adjusted import quantize_adjusted, rewritten
from topfive.quantize.adjustments import Adjustments, read_adjustments, write_adjustments
from topfive.quantize.calibration import minmax
from topfive.quantize.passes.fit import MODES, Fitter
from topfive.quantize.passes.recipe import CorrectBias, Recipe, Round, load_recipe, recipes
from topfive.quantize.passes.select import Candidate, _choose, select
from topfive.quantize.passes.walk import Walk
from topfive.quantize.ranges import RangeTable
from topfive.quantize.symmetric import quantize_symmetric
from topfive.sessions import open_session
from topfive.targets.gemmini.reference import run_reference

from float_nets import Net, branching, inverted

few = settings(max_examples=10)
seeds = st.integers(0, 10_000)
NAMES = [recipe.name for recipe in recipes()]


def same_model(left: onnx.ModelProto, right: onnx.ModelProto) -> bool:
    return left.SerializeToString(deterministic=True) == right.SerializeToString(deterministic=True)


def fitter(net: Net, count: int = 8) -> tuple[onnx.ModelProto, Fitter]:
    model = net.model(net.out)
    return model, Fitter(model, net.pictures(count), open_exactly)


# Fitting


CASES = [
    *(("inverted", name, mode) for name in NAMES for mode in sorted(MODES)),
    *((kind, name, "int8") for kind in ("branching", "leaky") for name in ("reconstructed", "cut")),
]


@pytest.mark.parametrize(("kind", "name", "mode"), CASES, ids=["-".join(case) for case in CASES])
def test_a_file_builds_the_same_bits(kind: str, name: str, mode: str, tmp_path: Path) -> None:
    """Fitted, written, read and built twice: one model; every int8 layer of it is the numpy form."""
    net = {"branching": branching(2), "inverted": inverted(2), "leaky": branching(3, "LeakyRelu")}[kind]
    model, fitting = fitter(net)
    found = fitting.fit(mode, load_recipe(name))
    write_adjustments(found, tmp_path / "a.json")
    read = read_adjustments(tmp_path / "a.json")
    write_adjustments(read, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    built = quantize_adjusted(model, found, depthwise=MODES[mode])
    assert same_model(built, quantize_adjusted(model, read, depthwise=MODES[mode]))
    assert (read.mode, read.recipe) == (mode, name)
    batch = fitting.pictures[:2]
    expected = run_reference(built, batch)[built.graph.output[0].name]
    got = open_exactly(built).run(None, {"x": batch})[0]
    np.testing.assert_array_equal(got, expected)


@few
@given(seeds, st.sampled_from(["standard", "reconstructed", "cut"]))
def test_what_the_walk_emits_is_what_the_file_builds(seed: int, name: str) -> None:
    net = inverted(seed)
    model, fitting = fitter(net)
    recipe = load_recipe(name)
    found = fitting.fit("int8", recipe)
    graph = rewritten(model, found.factors, found.absorbed)
    ranges = minmax(graph.to_model(), [fitting.pictures]).ranges if name != "cut" else found.table.ranges
    walk = Walk(graph, ranges, "tensor", recipe, fitting.pictures, open_exactly)
    assert same_model(walk.run(), quantize_adjusted(model, found))


def test_fitting_twice_gives_the_same(tmp_path: Path) -> None:
    for place in ("a", "b"):
        _, fitting = fitter(branching(5))
        write_adjustments(fitting.fit("int8", load_recipe("reconstructed")), tmp_path / place)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_passes_nothing_differs_from_the_plain_mode() -> None:
    model, fitting = fitter(inverted(4))
    table = minmax(model, [fitting.pictures])
    found = fitting.fit("int8_dw", load_recipe("plain"))
    assert dict(found.table.ranges) == dict(table.ranges)
    plain = quantize_symmetric(model, table, depthwise="channel")
    built = quantize_adjusted(model, found, depthwise="channel")
    batch = fitting.pictures
    left, right = (run_reference(m, batch)[m.graph.output[0].name] for m in (plain, built))
    np.testing.assert_array_equal(left, right)


@few
@given(seeds, st.sampled_from(sorted(MODES)))
def test_corrected_biases_leave_no_mean_error_but_rounding(seed: int, mode: str) -> None:
    """The last convolution, which has no activation, looked at in full: its accumulators, in exact codes."""
    net = inverted(seed)
    model, fitting = fitter(net)
    recipe = Recipe("test", "", correct_bias=CorrectBias(samples=10**6))
    found = fitting.fit(mode, recipe)
    means = []
    for adjustments in (replace(found, biases={}), found):
        built = quantize_adjusted(model, adjustments, depthwise=MODES[mode])
        graph = Graph(built)
        node = next(n for n in graph.nodes if n.output[0] == f"{net.out}_quantized")
        values = run_reference(built, fitting.pictures)
        weights = graph.constants[node.input[3]][:, :, 0, 0].astype(np.float64)
        sums = np.einsum("oc,nchw->nohw", weights, values[node.input[0]].astype(np.float64))
        bias = graph.constants[node.input[8]].astype(np.float64)
        step = float(graph.constants[node.input[1]] * graph.constants[node.input[4]])
        real = (sums + bias[:, None, None]) * step
        target = open_session(
            Graph(model).to_model([onnx.ValueInfoProto(name=net.out)]).SerializeToString(), threads=1
        ).run([net.out], {"x": fitting.pictures})[0]
        means.append((np.abs((real - target).mean(axis=(0, 2, 3))).max(), step))
    assert means[1][0] <= means[1][1] * 0.51 + 1e-5
    assert means[1][0] < means[0][0]


def noise_of(model: onnx.ModelProto, adjustments: Adjustments, mode: str, pictures: np.ndarray) -> float:
    built = quantize_adjusted(model, adjustments, depthwise=MODES[mode])
    wanted = open_session(model.SerializeToString()).run(None, {"x": pictures})[0]
    return float(np.square(open_exactly(built).run(None, {"x": pictures})[0] - wanted).sum())


@pytest.mark.parametrize("mode", sorted(MODES))
def test_more_passes_lose_less_on_average(mode: str) -> None:
    """Over nets with uneven channels, on pictures that the fit has not seen: medians of the noise."""
    noises: dict[str, list[float]] = {name: [] for name in ("equalized", "standard", "reconstructed")}
    for seed in range(5):
        net = inverted(seed, spread=2.5)
        net.size = 12
        model, fitting = fitter(net, 16)
        fresh = net.pictures(16)
        base = noise_of(model, fitting.fit(mode, load_recipe("plain")), mode, fresh)
        for name, found in noises.items():
            found.append(noise_of(model, fitting.fit(mode, load_recipe(name)), mode, fresh) / base)
    medians = {name: float(np.median(found)) for name, found in noises.items()}
    if mode == "int8":
        assert medians["equalized"] < 0.7
    assert medians["standard"] < 0.7
    assert medians["reconstructed"] < medians["standard"] * 1.05


def test_a_convolution_without_bias_gets_one() -> None:
    net = Net(1)
    first = net.conv("x", 6)
    del net.nodes[0].input[2:]
    net.out = net.conv(net.apply("Relu", first), 5, 1)
    model, fitting = fitter(net)
    found = fitting.fit("int8", load_recipe("corrected"))
    built = Graph(quantize_adjusted(model, found))
    assert "conv0" in found.biases
    node = next(n for n in built.nodes if n.op_type == "QLinearConv")
    np.testing.assert_array_equal(built.constants[node.input[8]], found.biases["conv0"])


def test_grouped_convolutions_stay_as_they_are() -> None:
    net = Net(1, channels=4)
    grouped = net.conv("x", 4)
    weights = net.nodes[0].input[1]
    net.constants[weights] = net.constants[weights][:, :2]
    net.nodes[0].attribute.append(onnx.helper.make_attribute("group", 2))
    net.out = net.conv(net.apply("Relu", grouped), 5, 1)
    model, fitting = fitter(net)
    found = fitting.fit("int8", load_recipe("reconstructed"))
    assert "conv0" not in {*found.factors, *found.biases, *found.rounding}
    assert found.biases
    quantize_adjusted(model, found)


def test_a_mode_that_changes_nothing_is_refused() -> None:
    net = Net(1)
    net.out = net.conv(net.conv("x", 4), 4)
    _, fitting = fitter(net)
    with pytest.raises(QuantizeError, match="no depthwise"):
        fitting.fit("int8_dw", load_recipe("standard"))


# Files


def adjustments(**changes: Any) -> Adjustments:
    made = Adjustments(
        "int8",
        "standard",
        RangeTable({"t": (-1.0, 2.5)}, "minmax"),
        {"round": {"layers": "all", "samples": 100}},
        {"conv0": np.array([1.0, 0.0, 2.125])},
        {"conv0": np.array([0.5, 0.0, 0.25])},
        {"conv0": np.float32(0.1), "conv1": np.array([0.1, 0.2], np.float32)},
        {"conv0": np.array([[[[1]], [[-1]]]], np.int8)},
        {"conv0": np.array([5, -7, 0], np.int32)},
        {"model": "abc", "pictures": 3},
    )
    return replace(made, **changes)


@given(
    hnp.arrays(np.float32, st.integers(1, 5), elements=st.floats(2**-60, 2**60, width=32)),
    hnp.arrays(np.int8, hnp.array_shapes(min_dims=4, max_dims=4, max_side=4)),
    hnp.arrays(np.int32, st.integers(1, 8), elements=st.integers(-(2**31) + 1, 2**31 - 1)),
    st.text(min_size=1, max_size=8),
)
def test_round_trip(scales: np.ndarray, codes: np.ndarray, biases: np.ndarray, name: str) -> None:
    import tempfile

    made = adjustments(weight_scales={name: scales}, rounding={name: codes}, biases={name: biases})
    with tempfile.TemporaryDirectory() as folder:
        write_adjustments(made, Path(folder) / "a.json")
        read = read_adjustments(Path(folder) / "a.json")
    np.testing.assert_array_equal(np.atleast_1d(read.weight_scales[name]), scales)
    np.testing.assert_array_equal(read.rounding[name], codes)
    np.testing.assert_array_equal(read.biases[name], biases)
    np.testing.assert_array_equal(read.factors["conv0"], made.factors["conv0"])
    np.testing.assert_array_equal(read.absorbed["conv0"], made.absorbed["conv0"])
    assert dict(read.table.ranges) == {"t": (-1.0, 2.5)}
    assert read.passes == made.passes
    assert read.provenance == made.provenance


DAMAGES: dict[str, tuple[Any, str]] = {
    "no_json": ("{", "cannot be read"),
    "other_format": ({"format": "topfive-ranges/1"}, "no format"),
    "list": ([], "no file of quantisation parameters"),
    "no_ranges": ({"ranges": {}}, "no ranges"),
    "range_order": ({"ranges": {"t": ["0x1p2", "0x1p1"]}}, "ranges of 't' is malformed"),
    "range_infinite": ({"ranges": {"t": ["-inf", "0x1p1"]}}, "ranges of 't'"),
    "factor_text": ({"factors": {"c": ["1"]}}, "factors of 'c' is malformed"),
    "factor_negative": ({"factors": {"c": [-1.0]}}, "at least 0"),
    "factor_infinite": ({"factors": {"c": [1e999]}}, "finite"),
    "scale_zero": ({"weight_scales": {"c": ["0x0p0"]}}, "more than 0"),
    "scale_not_float32": ({"weight_scales": {"c": [(0.1).hex()]}}, "float32"),
    "codes_short": ({"rounding": {"c": [[1, 1, 1, 5], "eJxjAAAAAQAB"]}}, "rounding of 'c'"),
    "codes_huge": ({"rounding": {"c": [[2**20, 2**20], "eJxjAAAAAQAB"]}}, "rounding of 'c'"),
    "codes_no_base64": ({"rounding": {"c": [[1], "%%%"]}}, "rounding of 'c'"),
    "codes_no_zlib": ({"rounding": {"c": [[1], "AAAA"]}}, "rounding of 'c'"),
    "bias_float": ({"biases": {"c": [1.5]}}, "biases of 'c'"),
    "bias_large": ({"biases": {"c": [2**31]}}, "int32"),
    "bias_true": ({"biases": {"c": [True]}}, "biases of 'c'"),
    "no_section": ({"biases": None}, "'biases' is missing"),
    "mode_number": ({"mode": 3}, "'mode' must be text"),
}


@pytest.mark.parametrize("case", sorted(DAMAGES))
def test_damaged_files_are_refused_by_entry(case: str, tmp_path: Path) -> None:
    damage, message = DAMAGES[case]
    place = tmp_path / "a.json"
    write_adjustments(adjustments(), place)
    if isinstance(damage, dict):
        document = json.loads(place.read_text(encoding="utf-8"))
        place.write_text(json.dumps({**document, **damage}), encoding="utf-8")
    else:
        place.write_text(damage if isinstance(damage, str) else json.dumps(damage), encoding="utf-8")
    with pytest.raises(CalibrateError, match=message) as caught:
        read_adjustments(place)
    assert str(place) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": {"conv9": np.ones(3)}}, "no convolution 'conv9'"),
        ({"factors": {"conv0": np.ones(3)}}, "channel factors"),
        ({"absorbed": {"conv0": np.ones(2)}}, "no such bias"),
        ({"weight_scales": {"conv9": np.float32(1)}}, "no convolution 'conv9'"),
        ({"weight_scales": {"conv0": np.ones(2, np.float32)}}, "weight scales are of another model"),
        ({"rounding": {"conv0": np.ones((1, 1, 1, 1), np.int8)}}, "rounding are of another model"),
        ({"biases": {"conv0": np.ones(2, np.int32)}}, "bias corrections are of another model"),
    ],
    ids=["factor_name", "factor_length", "absorbed", "scale_name", "scales", "rounding", "biases"],
)
def test_adjustments_of_another_model_are_refused(changes: dict[str, Any], message: str) -> None:
    model, fitting = fitter(inverted(0))
    found = fitting.fit("int8", load_recipe("plain"))
    with pytest.raises(QuantizeError, match=message):
        quantize_adjusted(model, replace(found, **changes))


# Recipes


def test_own_recipes_are_sound() -> None:
    assert NAMES[0] == "plain"
    assert {"standard", "tuned", "equalized_ranges"} <= set(NAMES)
    assert next(recipe.name for recipe in recipes() if recipe.auto) == "plain"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[equalize]\nobjective = 'best'\n", "'equalize.objective' must be one of noise, ranges"),
        ("[equalize]\nmargin = 0.5\n", "'equalize.margin' must be"),
        ("[ranges]\nmethod = 'magic'\n", "'ranges.method' must be one of minmax"),
        ("[round]\nlayers = 'some'\n", "'round.layers'"),
        ("[round]\nsamples = 1\n", "'round.samples'"),
        ("[rouund]\n", "did you mean 'round'"),
        ("", "a recipe without passes is called 'plain'"),
    ],
    ids=["objective", "margin", "method", "layers", "samples", "section", "empty"],
)
def test_malformed_recipes_name_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    place = tmp_path / "mine.toml"
    place.write_text(f'name = "mine"\ndescription = "test"\n{text}', encoding="utf-8")
    with pytest.raises(CardError, match=message) as caught:
        load_recipe(str(place))
    assert str(place) in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="standard"):
        load_recipe("standart")


# Choosing


def candidate(mode: str, passes: int, sqnr: float) -> Candidate:
    return Candidate(mode, f"recipe{passes}", passes, sqnr, 1.0, 0.0)


def test_the_simplest_of_the_good_ones_is_chosen() -> None:
    found = [
        candidate("int8", 0, 10.0),
        candidate("int8", 2, 19.7),
        candidate("int8_dw", 0, 19.9),
        candidate("int8", 5, 20.0),
    ]
    chosen, reason = _choose(found)
    assert chosen is found[1]
    assert "within 0.5 dB of int8 with recipe5 (20.00 dB)" in reason
    assert "plain int8 has 10.00 dB" in reason
    best, reason = _choose([candidate("int8", 0, 10.0), candidate("int8_dw", 3, 20.0)])
    assert (best.mode, best.passes) == ("int8_dw", 3)
    assert "within" not in reason


def test_candidates_are_judged_on_pictures_that_the_fit_has_not_seen() -> None:
    net = inverted(7, spread=2.5)
    model, pictures = net.model(net.out), net.pictures(12)
    tried = [load_recipe("plain"), load_recipe("standard")]
    found = select(model, pictures, ["int8", "int8_dw"], tried, open_integer=open_exactly)
    assert (found.fitted, found.judged) == (6, 6)
    assert [(c.mode, c.recipe) for c in found.candidates] == [
        (mode, name) for mode in ("int8", "int8_dw") for name in ("plain", "standard")
    ]
    standard = found.candidates[1]
    alone = Fitter(model, pictures[::2], open_exactly).fit("int8", load_recipe("standard"))
    wanted = open_session(model.SerializeToString()).run(None, {"x": pictures[1::2]})[0].astype(np.float64)
    noise = noise_of(model, alone, "int8", pictures[1::2])
    assert standard.sqnr_db == pytest.approx(10 * np.log10(np.square(wanted).sum() / noise), abs=1e-3)
    assert json.dumps(found.described())


@pytest.mark.parametrize(("count", "modes"), [(3, ["int8"]), (8, [])], ids=["pictures", "modes"])
def test_nothing_to_choose_from(count: int, modes: list[str]) -> None:
    net = inverted(0)
    with pytest.raises(CalibrateError, match=r"choos"):
        select(
            net.model(net.out), net.pictures(count), modes, [load_recipe("plain")], open_integer=open_exactly
        )


def test_rounding_only_depthwise_layers() -> None:
    _, fitting = fitter(inverted(3))
    only = fitting.fit("int8", Recipe("a", "", round=Round("depthwise", 1000)))
    everything = fitting.fit("int8", Recipe("b", "", round=Round("all", 1000)))
    assert len(only.rounding) <= 1 < len(everything.rounding)
