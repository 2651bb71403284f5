"""Comparing two artifacts layer by layer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner, Result

import topfive
from topfive.cards import find_card, load_card, load_cards
from topfive.cli import app
from topfive.diagnose import first_divergence
from topfive.errors import OptionError, RunError
from topfive.graph import Graph
from topfive.images import load_profile, preprocess_batch
from topfive.images.folders import list_images
from topfive.layer_diff import accumulator, compare_layers, quality
from topfive.targets.gemmini.arithmetic import scale_and_saturate
from topfive.targets.gemmini.target import INT8_FILE

finite = st.floats(-1e3, 1e3, width=32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def picture(model: str) -> np.ndarray:
    card = find_card(model, load_cards())
    paths = [list_images(card.pictures_folder())[0].path]
    return preprocess_batch(paths, load_profile(card.input.profile), card.input.size)


@given(hnp.arrays(np.float32, st.integers(1, 20), elements=finite))
def test_a_tensor_equals_itself(x: np.ndarray) -> None:
    found = quality("x", x, x)
    assert found.sqnr == np.inf
    assert found.max_error == 0


def test_quality_literals() -> None:
    found = quality("x", np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    # signal 25, error 0.25
    assert found.sqnr == pytest.approx(20.0)
    assert found.max_error == 0.5
    assert found.cosine == pytest.approx((9 + 18) / (5 * np.hypot(3, 4.5)))


@pytest.mark.parametrize("model", ["pocket_resnet", "pocket_mobilenet"])
def test_int8_against_float32_keeps_the_signal(model: str, cache: Path) -> None:
    reference = topfive.build(model, target="cpu", quant="force_float32", cache=cache)
    int8 = topfive.build(model, target="gemmini_sim", quant="int8", cache=cache)
    found = compare_layers(reference, int8, picture(model))
    assert len(found.layers) >= 15
    assert found.first_code is None
    assert found.compared_codes == 0
    assert all(layer.sqnr > 5 for layer in found.layers)
    assert found.layers[0].sqnr > 30


def test_two_runs_of_one_integer_artifact_have_no_difference(cache: Path) -> None:
    int8 = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=cache)
    found = compare_layers(int8, int8, picture("pocket_fire"))
    assert found.first_code is None
    assert found.compared_codes > 10_000
    assert all(layer.sqnr == np.inf for layer in found.layers)


def test_residual_rounding_shows_up_as_a_first_code(cache: Path) -> None:
    """cpu adds residuals its own way: the first code that differs is an Add's."""
    gemmini = topfive.build("pocket_resnet", target="gemmini_sim", quant="int8", cache=cache)
    plain = topfive.build("pocket_resnet", target="cpu", quant="int8", cache=cache)
    first = compare_layers(plain, gemmini, picture("pocket_resnet")).first_code
    assert first is not None
    node = Graph(onnx.load(gemmini.path / INT8_FILE)).producers()[first.tensor]
    assert node.op_type == "QLinearAdd"
    assert abs(first.left - first.right) == 1
    assert first.accumulator is None


@pytest.mark.parametrize("model", ["pocket_mobilenet", "pocket_vit"])
def test_the_accumulator_explains_the_code(model: str, cache: Path) -> None:
    artifact = topfive.build(model, target="gemmini_sim", quant="int8", cache=cache)
    graph = Graph(onnx.load(artifact.path / INT8_FILE))
    batch = picture(model)
    with topfive.open(artifact) as runner:
        values = {**runner.tensors(batch), graph.input_names[0]: batch}
    random = np.random.default_rng(0)
    checked = 0
    for node in graph.nodes:
        if node.op_type not in ("QLinearConv", "QLinearMatMul"):
            continue
        x_scale, w_scale, y_scale = (graph.constants[node.input[i]] for i in (1, 4, 6))
        scale = np.float32(np.float32(x_scale * w_scale) / y_scale)
        codes = values[node.output[0]]
        at = tuple(int(random.integers(0, n)) for n in codes.shape)
        acc = accumulator(graph, node.output[0], values, at)
        assert acc is not None
        assert scale_and_saturate(np.array([acc]), scale)[0] == codes[at]
        checked += 1
    assert checked >= 10


def test_the_text_of_a_divergence_names_layers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPFIVE_CACHE", str(cache))
    artifact = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=cache)
    text = first_divergence(artifact, picture("pocket_fire"))
    assert text.startswith("every layer equals the numpy form")
    assert "SQNR" in text


def test_a_divergence_of_a_users_card_is_told_from_that_card_and_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the card nor the artifacts are where topfive would look by itself."""
    monkeypatch.setenv("TOPFIVE_CACHE", str(tmp_path / "unused"))
    text = find_card("pocket_fire", load_cards()).path.read_text()
    (tmp_path / "mine.toml").write_text(text.replace('name = "pocket_fire"', 'name = "mine"'))
    card = load_card(tmp_path / "mine.toml")
    artifact = topfive.build(card, target="gemmini_sim", quant="int8", cache=cache)
    told = first_divergence(artifact, picture("pocket_fire"), card=card, cache=cache)
    assert "layers that lose most against float32" in told
    assert told.count("SQNR") == 5
    assert "float32" not in first_divergence(artifact, picture("pocket_fire"), cache=cache)
    assert not (tmp_path / "unused").exists()


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_the_command_prints_the_worst_layers_first_and_draws(cache: Path, tmp_path: Path) -> None:
    plot = tmp_path / "layers.svg"
    found = invoke(
        "diff",
        "pocket_vit",
        "cpu:force_float32",
        "gemmini_sim:int8",
        "--artifact-cache",
        cache,
        "--plot",
        plot,
    )
    assert found.exit_code == 0
    rows = [line.split() for line in found.output.splitlines() if line.count(".") >= 3]
    values = [float(row[0]) for row in rows]
    assert len(values) == 20
    assert values == sorted(values)
    drawn = ElementTree.fromstring(plot.read_text())
    assert len(drawn.findall("{*}rect")) > 20


def test_the_command_fails_where_codes_differ(cache: Path) -> None:
    found = invoke("diff", "pocket_resnet", "cpu:int8", "gemmini_sim:int8", "--artifact-cache", cache)
    assert found.exit_code == 1
    assert "first node that differs: QLinearAdd stage1.0.Add\nfirst int8 code that differs: " in found.output
    same = invoke("diff", "pocket_fire", "gemmini_sim:int8", "gemmini_sim:int8", "--artifact-cache", cache)
    assert same.exit_code == 0
    assert "codes that both have are equal" in same.output


def test_the_command_as_json_is_json(cache: Path) -> None:
    found = invoke(
        "diff", "pocket_fire", "gemmini_sim:int8", "gemmini_sim:int8", "--artifact-cache", cache, "--json"
    )
    assert json.loads(found.stdout)["first_code"] is None


def test_the_command_takes_artifacts_and_whole_names(cache: Path) -> None:
    plain = topfive.build("pocket_fire", target="cpu", quant="force_float32", cache=cache).path
    int8 = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=cache).path
    options = ("--artifact-cache", cache, "--show", 3)
    wanted = invoke("diff", "pocket_fire", "cpu:force_float32", "gemmini_sim:int8", *options)
    assert wanted.exit_code == 0
    assert "layers of gemmini_sim:int8 against cpu:force_float32" in wanted.stdout
    assert invoke("diff", plain, int8, *options).stdout == wanted.stdout
    assert invoke("diff", "pocket_fire", plain, int8, *options).stdout == wanted.stdout
    named = invoke("diff", "pocket_fire:cpu:force_float32", "pocket_fire:gemmini_sim:int8", *options)
    assert [line for line in named.stdout.splitlines() if "against" not in line] == [
        line for line in wanted.stdout.splitlines() if "against" not in line
    ]
    mode = invoke("diff", "pocket_fire:gemmini_sim:int8:optimization=99:execution=0", int8, *options)
    assert mode.exit_code == 0
    same = invoke("diff", int8, int8, *options)
    assert f"layers of {int8} against {int8}" in same.stdout


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        pytest.param(("pocket_fire", "cpu", "cpu:int8"), "'cpu' is neither an artifact's", id="form"),
        pytest.param(("cpu:int8", "gemmini_sim:int8"), "nor MODEL:TARGET:QUANT", id="no model"),
        pytest.param(("pocket_fire", "cpu:int8:x", "cpu:int8"), "nor TARGET:QUANT[:OPTION", id="option"),
        pytest.param(
            ("pocket_fire:cpu:int8", "pocket_vit:cpu:int8"), "is of pocket_fire, pocket_vit:", id="models"
        ),
    ],
)
def test_sides_of_another_form_are_refused(sides: tuple[str, ...], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        invoke("diff", *sides)


def test_an_artifact_of_another_model_is_refused(cache: Path, tmp_path: Path) -> None:
    int8 = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=cache).path
    with pytest.raises(OptionError, match="is an artifact of pocket_fire, not of pocket_vit"):
        invoke("diff", "pocket_vit", "cpu:int8", int8)
    with pytest.raises(RunError, match="is not a topfive artifact"):
        invoke("diff", int8, tmp_path)
