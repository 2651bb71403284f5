"""What the modes compute: in each, the lowered graph is the numpy form; they differ in padded pools alone."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import topfive
from topfive.cards import find_card, load_cards
from topfive.diagnose import first_divergence
from topfive.errors import CompileError
from topfive.images import load_profile, preprocess_batch
from topfive.images.folders import list_images
from topfive.sessions import open_exact, open_session, shift_weights
from topfive.targets.gemmini import arithmetic
from topfive.targets.gemmini.execution import Plan, plan
from topfive.targets.gemmini.execution_plan import EXECUTIONS, OPTIMIZATIONS
from topfive.targets.gemmini.lowering import lower
from topfive.targets.gemmini.reference import mismatches, run_reference

import int8_graphs
import random_int8

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "facts" / "gemmini_vectors"
MODES = list(product(EXECUTIONS, OPTIMIZATIONS))
NEGATIVE = np.full((1, 2, 4, 4), -5, np.int8)
POOL = random_int8.POOL


def lowered_tensors(model: onnx.ModelProto, found: Plan | None, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every int8 tensor of the lowered graph, in a mode (None: as gemmini_sim comes)."""
    lowered = lower(model, zero_padded=None if found is None else found.zero_padded)
    del lowered.model.graph.output[:]
    lowered.model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in lowered.int8_tensors)
    values = open_exact(lowered.model, threads=1).run(list(lowered.int8_tensors), {"x": x})
    return {
        name.removesuffix(".shifted"): (value.astype(np.int16) - 128).astype(np.int8)
        for name, value in zip(lowered.int8_tensors, values, strict=True)
    }


def identity(shape: tuple[int, ...], **options: object) -> onnx.ModelProto:
    """A 1x1 convolution that changes nothing, and a padded max pool."""
    weights = np.eye(shape[1], dtype=np.int8)[:, :, None, None]
    return int8_graphs.conv(shape, weights, None, 1.0, pool=POOL, **options)


@pytest.mark.parametrize("execution", ["0", "2"])
def test_a_negative_map_shows_which_pools_count_padding_as_zero(execution: str) -> None:
    model = identity(NEGATIVE.shape)
    for optimization, corner in (("0", -5), ("1", -5), ("2", -5), ("99", 0)):
        found = plan(model, execution, optimization)
        reference = run_reference(model, NEGATIVE, zero_padded=found.zero_padded)
        for values in (lowered_tensors(model, found, NEGATIVE), reference):
            assert values["pool"][0, 0].tolist() == [[corner, corner], [corner, -5]]


def test_without_options_every_pool_counts_padding_as_zero() -> None:
    """Also one that no mode of the runner gives to Gemmini: this one follows a grouped convolution."""
    weights = np.ones((2, 1, 1, 1), np.int8)
    model = int8_graphs.conv(NEGATIVE.shape, weights, None, 1.0, pool=POOL, group=2)
    assert lowered_tensors(model, None, NEGATIVE)["pool"][0, 0, 0, 0] == 0
    assert lowered_tensors(model, plan(model, "2", "99"), NEGATIVE)["pool"][0, 0, 0, 0] == -5


def test_a_relu_before_the_pool_makes_all_modes_equal() -> None:
    x = np.random.default_rng(0).integers(-128, 128, (1, 3, 7, 7)).astype(np.int8)
    model = identity(x.shape, relu=True)
    results = [lowered_tensors(model, plan(model, *mode), x)["pool"] for mode in MODES if mode[0] != "1"]
    for result in results:
        np.testing.assert_array_equal(result, results[0])


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
@settings(max_examples=80)
def test_every_mode_is_its_numpy_form(seed: int, steps: int) -> None:
    """All int8 tensors of random graphs, in every mode that the runner can run."""
    drawn = random_int8.draw(seed, steps)
    model, x = drawn.model(), drawn.pictures()
    computed: dict[frozenset[str], dict[str, np.ndarray]] = {}
    for mode in MODES:
        found = plan(model, *mode)
        if found.refusals:
            continue
        if found.zero_padded not in computed:
            values = lowered_tensors(model, found, x)
            expected = run_reference(model, x, zero_padded=found.zero_padded)
            for name, codes in values.items():
                if name in expected and expected[name].dtype == np.int8:
                    np.testing.assert_array_equal(codes, expected[name], err_msg=f"{mode} {name}")
            assert not list(mismatches(model, values, x, zero_padded=found.zero_padded))
            computed[found.zero_padded] = values
    assert computed


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 3),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([1, 3]),
)
@settings(max_examples=60)
def test_pools_are_those_of_the_header_and_of_onnxruntime(
    seed: int, size: int, stride: int, relu: bool, kernel: int
) -> None:
    """Fused: conv_cpu with its pool in one formula. Not fused: ONNX Runtime's own MaxPool on int8."""
    random = np.random.default_rng(seed)
    x = random.integers(-128, 128, (1, 3, 9, 9)).astype(np.int8)
    weights = random.integers(-128, 128, (4, 3, kernel, kernel)).astype(np.int8)
    bias = random.integers(-(2**15), 2**12, 4).astype(np.int32)
    pad = int(random.integers(0, size))
    where = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    model = int8_graphs.conv(x.shape, weights, bias, 0.005, relu=relu, pool=where)
    pooled = arithmetic.conv(
        x.transpose(0, 2, 3, 1), weights.transpose(2, 3, 1, 0), bias,
        scale=np.float32(0.005), act=int(relu), pool_size=size, pool_stride=stride, pool_padding=pad,
    )  # fmt: skip
    fused = lowered_tensors(model, plan(model, "0", "99"), x)["pool"]
    np.testing.assert_array_equal(fused, pooled.transpose(0, 3, 1, 2))
    alone = lowered_tensors(model, plan(model, "0", "1"), x)
    node = helper.make_node("MaxPool", ["x"], ["y"], **where)
    shape = (1, 4, *alone["conv"].shape[2:])
    own = open_session(int8_graphs.model([node], {"x": shape}, "y", {}).SerializeToString(), threads=1)
    source = alone["relu" if relu else "conv"]
    np.testing.assert_array_equal(alone["pool"], own.run(None, {"x": source})[0])


@pytest.mark.skipif(not VECTORS.is_dir(), reason=f"reference vectors are not at {VECTORS}")
def test_pooled_reference_convolutions_at_99() -> None:
    """Outputs of the real headers' conv_cpu with a pool, through the plan that says where pools are done."""
    stored = np.load(VECTORS / "conv.npz")
    tried = 0
    for case in map(str, stored["cases"]):
        f = {k.split("/", 1)[1]: stored[k] for k in stored.files if k.startswith(f"{case}/")}
        if not int(f.get("pool_size", 0)):
            continue
        x = np.ascontiguousarray(f["input"].transpose(0, 3, 1, 2))
        pool = {
            "kernel_shape": [int(f["pool_size"])] * 2,
            "strides": [int(f["pool_stride"])] * 2,
            "pads": [int(f["pool_padding"])] * 4,
        }
        model = int8_graphs.conv(
            x.shape, np.ascontiguousarray(f["weights"].transpose(3, 2, 0, 1)), f.get("bias"), f["scale"],
            relu=bool(f["act"]), pool=pool, strides=[int(f["stride"])] * 2, pads=[int(f["padding"])] * 4,
        )  # fmt: skip
        found = plan(model, "0", "99")
        if found.zero_padded:
            tried += 1
            wanted = f["output"].transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(lowered_tensors(model, found, x)["pool"], wanted, err_msg=case)
    assert tried


def test_a_pool_on_the_cpu_may_have_what_gemmini_has_not() -> None:
    """auto_pad and ceil_mode: no zero-padded form, so without options they are refused."""
    x = np.random.default_rng(3).integers(-128, 0, (1, 2, 6, 6)).astype(np.int8)
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}
    weights = np.eye(2, dtype=np.int8)[:, :, None, None]
    model = int8_graphs.conv(x.shape, weights, None, 1.0, pool=pool)
    with pytest.raises(CompileError, match="auto_pad"):
        lower(model)
    found = plan(model, "2", "1")
    expected = run_reference(model, x, zero_padded=found.zero_padded)["pool"]
    np.testing.assert_array_equal(lowered_tensors(model, found, x)["pool"], expected)
    assert expected.max() < 0


def test_unnamed_pools_do_not_share_their_padding() -> None:
    """as_is models name few nodes."""
    weights = np.eye(2, dtype=np.int8)[:, :, None, None]
    model = int8_graphs.conv(NEGATIVE.shape, weights, None, 1.0, pool=POOL)
    second = helper.make_node("MaxPool", ["pool"], ["again"], kernel_shape=[2, 2], pads=[1] * 4)
    model.graph.node.append(second)
    model.graph.node[1].ClearField("name")
    model.graph.output[0].name = "again"
    expected = run_reference(model, NEGATIVE)["again"]
    np.testing.assert_array_equal(lowered_tensors(model, None, NEGATIVE)["again"], expected)


def test_shifted_weights_are_exact_in_every_mode_too() -> None:
    """The form for processors whose own kernels saturate."""
    x = np.random.default_rng(4).integers(-128, 128, (1, 3, 8, 8)).astype(np.int8)
    weights = np.random.default_rng(5).choice(np.array([-128, 127], np.int8), (4, 3, 3, 3))
    model = int8_graphs.conv(x.shape, weights, None, 0.002, pool=POOL)
    for optimization in ("0", "99"):
        found = plan(model, "2", optimization)
        shifted = shift_weights(lower(model, zero_padded=found.zero_padded).model)
        result = open_session(shifted.SerializeToString(), threads=1).run(None, {"x": x})[0]
        expected = run_reference(model, x, zero_padded=found.zero_padded)["pool"]
        np.testing.assert_array_equal(result, expected)


# Through topfive.build


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def pictures(model: str, count: int) -> np.ndarray:
    card = find_card(model, load_cards())
    paths = [image.path for image in list_images(card.pictures_folder())[:count]]
    return preprocess_batch(paths, load_profile(card.input.profile), card.input.size)


BUNDLED = [
    "pocket_fire",
    "pocket_mobilenet",
    "pocket_resnet",
    "pocket_vit",
    "light_squeezenet",
    "light_shufflenet",
    "light_inception_v1",
]


@pytest.mark.parametrize("model", BUNDLED)
def test_bundled_models_compute_the_same_without_options_and_at_99(model: str, cache: Path) -> None:
    batch = pictures(model, 1)
    plain = topfive.build(model, target="gemmini_sim", quant="int8", cache=cache)
    options = {"execution": "2", "optimization": "99"}
    mode = topfive.build(model, target="gemmini_sim", quant="int8", cache=cache, options=options)
    with topfive.open(plain) as runner:
        expected = runner.tensors(batch)
    with topfive.open(mode) as runner:
        observed = runner.tensors(batch)
    names = set(plain.meta["int8_tensors"])
    assert names == set(mode.meta["int8_tensors"])
    for name in names:
        np.testing.assert_array_equal(observed[name], expected[name], err_msg=name)
    assert plain.key != mode.key
    assert plain.meta["exact_tensors"] == mode.meta["exact_tensors"]


def test_the_modes_of_an_artifact_are_what_its_tensors_show(tmp_path: Path, cache: Path) -> None:
    path = random_int8.negative_pool_file(tmp_path)
    batch = np.random.default_rng(1).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)
    found = {}
    for optimization in ("1", "99"):
        options = {"execution": "0", "optimization": optimization}
        artifact = topfive.build(path, target="gemmini_sim", quant="int8", cache=cache, options=options)
        with topfive.open(artifact) as runner:
            found[optimization] = runner.tensors(batch)["p_quantized"]
        # The diagnosis of a golden compares with the numpy form of this mode.
        assert first_divergence(artifact, batch).startswith("every layer equals the numpy form")
    assert found["1"].max() < 0
    assert set(np.unique(found["99"][:, :, 0])) == {0}
    np.testing.assert_array_equal(found["1"][:, :, 1:, 1:], found["99"][:, :, 1:, 1:])


def test_an_artifact_without_options_is_no_mode_where_a_pool_cannot_be_fused(
    tmp_path: Path, cache: Path
) -> None:
    """After a grouped convolution the runner pools on the CPU; as it comes, gemmini_sim counts zeros."""
    path = random_int8.negative_pool_file(tmp_path, groups=3)
    batch = np.random.default_rng(1).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)
    build = {"target": "gemmini_sim", "quant": "int8", "cache": cache}
    plain = topfive.build(path, **build)
    mode = topfive.build(path, options={"execution": "2", "optimization": "99"}, **build)
    edges = []
    for artifact in (plain, mode):
        with topfive.open(artifact) as runner:
            edges.append(runner.tensors(batch)["p_quantized"][:, :, 0].max())
    assert edges[0] == 0
    assert edges[1] < 0
    assert plain.meta["execution_plan"]["padded_on_cpu"] == ["p_quantized"]
    assert "zero_padded_pools" not in plain.meta
