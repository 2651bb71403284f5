"""topfive.build and topfive.open on the bundled models: stages, cache, errors."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import topfive
from topfive import targets
from topfive.cards import find_card, fixtures_root, load_cards
from topfive.errors import (
    CalibrateError,
    CompileError,
    FetchError,
    RunError,
    StageError,
    TopfiveError,
    UnknownNameError,
)
from topfive.images import load_profile, preprocess_batch
from topfive.images.folders import list_images
from topfive.targets.base import read_artifact
from topfive.targets.gemmini.reference import mismatches, run_reference
from topfive.targets.gemmini.target import INT8_FILE

BUNDLED = ["pocket_fire", "pocket_mobilenet", "pocket_resnet", "pocket_vit"]
LIGHT = ["light_inception_v1", "light_shufflenet", "light_squeezenet"]
HEAVY = [
    *("light_bvlc_alexnet", "light_densenet121", "light_inception_v2", "light_resnet50", "light_vgg19"),
    "light_zfnet512",
]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def pictures(model: str, count: int) -> np.ndarray:
    card = find_card(model, load_cards())
    paths = [image.path for image in list_images(card.pictures_folder())[:count]]
    return preprocess_batch(paths, load_profile(card.input.profile), card.input.size)


@pytest.mark.parametrize(
    "model", [*BUNDLED, *LIGHT, *(pytest.param(m, marks=pytest.mark.slow) for m in HEAVY)]
)
def test_every_int8_layer_is_exact(model: str, cache: Path) -> None:
    """The lowered graph against the numpy form: each layer on the tensors it really read."""
    artifact = topfive.build(model, target="gemmini_sim", quant="int8", cache=cache)
    batch = pictures(model, 2)
    with topfive.open(artifact, threads=1) as one, topfive.open(artifact, threads=2) as two:
        observed, again = one.tensors(batch), two.tensors(batch)
    int8 = onnx.load(artifact.path / INT8_FILE)
    checked = [n for n in int8.graph.node if n.op_type.startswith("QLinear")]
    assert len(checked) >= 5
    for name in (name for node in checked for name in node.output):
        np.testing.assert_array_equal(observed[name], again[name], strict=True)
    assert [str(m) for m in mismatches(int8, observed, batch)] == []


@pytest.mark.parametrize("model", BUNDLED)
def test_exact_outputs_are_the_whole_numpy_chain(model: str, cache: Path) -> None:
    artifact = topfive.build(model, target="gemmini_sim", quant="int8", cache=cache)
    batch = pictures(model, 3)
    reference = run_reference(onnx.load(artifact.path / INT8_FILE), batch)
    with topfive.open(artifact) as runner:
        exact = runner.exact_outputs(batch)
    assert artifact.exact
    assert exact
    for name, codes in exact.items():
        assert codes.dtype == np.int8
        np.testing.assert_array_equal(codes, reference[name], strict=True)


def test_a_planted_fault_is_found_at_its_layer(cache: Path) -> None:
    """The check itself: one wrong code in one tensor names exactly that node."""
    artifact = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=cache)
    batch = pictures("pocket_fire", 1)
    with topfive.open(artifact) as runner:
        observed = runner.tensors(batch)
    int8 = onnx.load(artifact.path / INT8_FILE)
    conv = [n for n in int8.graph.node if n.op_type == "QLinearConv"][2]
    observed[conv.output[0]] = observed[conv.output[0]].copy()
    observed[conv.output[0]].flat[5] ^= 1
    first = next(mismatches(int8, observed, batch))
    assert conv.name in first.node
    assert first.wrong == 1


@pytest.mark.parametrize("quant", ["force_float32", "force_float16", "int8"])
def test_batches_give_what_single_pictures_give(quant: str, cache: Path) -> None:
    artifact = topfive.build("pocket_resnet", target="cpu", quant=quant, cache=cache)
    batch = pictures("pocket_resnet", 4)
    with topfive.open(artifact) as runner:
        together = runner.run(batch)
        alone = np.concatenate([runner.run(batch[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)


def test_native_and_exact_kernels_agree_where_the_processor_is_exact(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from topfive.sessions import native_kernels_are_exact

    artifact = topfive.build("pocket_resnet", target="cpu", quant="int8", cache=cache)
    batch = pictures("pocket_resnet", 8)
    results = {}
    for kernels in ("exact", "native"):
        monkeypatch.setenv("TOPFIVE_CPU_KERNELS", kernels)
        with topfive.open(artifact) as runner:
            assert runner.describe()["kernels"] == kernels
            results[kernels] = next(iter(runner.exact_outputs(batch).values()))
    same = np.array_equal(results["exact"], results["native"])
    assert same or not native_kernels_are_exact()


def test_a_warm_build_runs_no_stage(cache: Path) -> None:
    ran: list[str] = []
    first = topfive.build("pocket_fire", target="cpu", quant="int8", cache=cache)
    again = topfive.build("pocket_fire", target="cpu", quant="int8", cache=cache, progress=ran.append)
    assert again == first
    assert ran == []


def test_stages_are_shared_between_targets(tmp_path: Path) -> None:
    ran: list[str] = []
    topfive.build("pocket_fire", target="cpu", quant="int8", cache=tmp_path, progress=ran.append)
    before = [line.rpartition(" ")[2] for line in ran]
    assert before[0] == "optimize"
    assert before[-2:] == ["quantize", "compile"]
    ran.clear()
    topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=tmp_path, progress=ran.append)
    assert [line.rpartition(" ")[2] for line in ran] == ["compile"]


def test_a_damaged_artifact_is_rebuilt(tmp_path: Path) -> None:
    artifact = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=tmp_path)
    model = artifact.path / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-100])
    with pytest.warns(UserWarning, match="damaged cache entry"):
        again = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=tmp_path)
    assert (again.path / "model.onnx").read_bytes() == whole


def test_artifacts_open_by_path(cache: Path) -> None:
    artifact = topfive.build("pocket_fire", target="gemmini_sim", quant="int8", cache=cache)
    assert read_artifact(artifact.path) == artifact
    with topfive.open(str(artifact.path)) as runner:
        assert runner.run(pictures("pocket_fire", 1)).shape == (1, 100)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("pocket_resent", "cpu", "int8"), UnknownNameError, "did you mean pocket_resnet"),
        (("pocket_resnet", "gemini_sim", "int8"), UnknownNameError, "did you mean gemmini_sim"),
        (("pocket_resnet", "cpu", "int88"), UnknownNameError, "did you mean int8"),
        (("pocket_resnet", "gemmini_sim", "force_float32"), CompileError, "int8 build"),
        (("absent.onnx", "cpu", "as_is"), TopfiveError, r"absent\.onnx"),
    ],
    ids=["model", "target", "quant", "refused_quant", "file"],
)
def test_what_cannot_be_built_says_why(
    arguments: tuple[str, str, str], error: type[Exception], message: str, cache: Path
) -> None:
    model, target, quant = arguments
    with pytest.raises(error, match=message):
        topfive.build(model, target=target, quant=quant, cache=cache)


def test_a_stage_error_names_place_stage_and_repeat_command(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((fixtures_root() / "models" / "pocket_fire.onnx").read_bytes()[:5000])
    with pytest.raises(TopfiveError, match=r"broken\.onnx"):
        topfive.build(broken, target="cpu", quant="force_float32", cache=tmp_path / "cache")
    # Half of a graph with a valid header: the fetch stage's check, located.
    card = find_card("pocket_fire", load_cards())
    empty = tmp_path / "cards"
    empty.mkdir()
    text = card.path.read_text().replace('name = "pocket_fire"', 'name = "mine"')
    text = text.replace('kind = "bundled"', 'kind = "file"').replace("models/pocket_fire.onnx", str(broken))
    text = "\n".join(line for line in text.splitlines() if not line.startswith("sha256"))
    (empty / "mine.toml").write_text(text)
    with pytest.raises(FetchError) as caught:
        topfive.build("mine", target="cpu", quant="force_float32", cards=[empty], cache=tmp_path / "cache")
    assert "fetch of mine for cpu, force_float32" in str(caught.value)
    assert "topfive build mine --target cpu --quant force_float32" in str(caught.value)


def test_calibration_pictures_decide_the_ranges(tmp_path: Path) -> None:
    """A user's card with its own folder: other pictures, other artifact; an empty folder is an error."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    source = fixtures_root() / "pictures" / "pocket100" / "calibration"
    some = sorted(source.rglob("*.JPEG"))
    card = find_card("pocket_fire", load_cards())
    cards = tmp_path / "cards"
    cards.mkdir()
    body = card.path.read_text().split("[calibration]")[0].replace('name = "pocket_fire"', 'name = "mine"')
    (cards / "mine.toml").write_text(f'{body}\n[calibration]\nset = "folder:{folder}"\ncount = 4\n')
    build = {"target": "cpu", "quant": "int8", "cards": [cards], "cache": tmp_path / "cache"}
    with pytest.raises((CalibrateError, TopfiveError), match="pictures"):
        topfive.build("mine", **build)
    keys = set()
    for start in (0, 10):
        for path in folder.iterdir():
            path.unlink()
        for path in some[start : start + 4]:
            shutil.copy(path, folder)
        keys.add(topfive.build("mine", **build).key)
    assert len(keys) == 2


def test_an_artifact_says_what_it_was_made_from(cache: Path) -> None:
    artifact = topfive.build("pocket_resnet", target="gemmini_sim", quant="int8", cache=cache)
    assert artifact.meta["input"]["dtype"] == "float32"
    assert artifact.meta["input"]["shape"][1:] == [3, 64, 64]
    assert len(artifact.meta["source_sha256"]) == 64
    assert "CPU" in artifact.meta["simulated"]
    assert json.loads((artifact.path / "artifact.json").read_text())["key"] == artifact.key


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 3, 32, 32), np.float32),
        np.zeros((3, 64, 64), np.float32),
        np.zeros((1, 3, 64, 64), np.float64),
        np.zeros((1, 64, 64, 3), np.float32),
    ],
    ids=["size", "rank", "dtype", "layout"],
)
def test_a_wrong_batch_says_what_is_wanted(batch: np.ndarray, cache: Path) -> None:
    artifact = topfive.build("pocket_fire", target="cpu", quant="force_float32", cache=cache)
    with topfive.open(artifact) as runner, pytest.raises(RunError, match="wants float32"):
        runner.run(batch)


def test_a_directory_that_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a topfive artifact"):
        topfive.open(tmp_path)


def test_errors_know_their_stage() -> None:
    for kind in StageError.__subclasses__():
        located = kind("why").located("m", "t", "q").located("x", "y", "z")
        assert str(located).startswith(f"{kind.stage} of m for t, q: why\nrepeat with: topfive build m ")


def test_targets_never_raise_when_probed() -> None:
    assert {"cpu", "gemmini_sim"} <= set(targets.names())
    for name in targets.names():
        target = targets.get(name)
        assert isinstance(target.probe(), str)
        assert target.name == name


def test_float16_of_a_generated_graph_runs(tmp_path: Path) -> None:
    """A bare ONNX file without a card."""
    weights = np.random.default_rng(0).normal(0, 0.2, (6, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("n", 3, 16, 16))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("n", 6))],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    batch = np.random.default_rng(1).normal(0, 1, (2, 3, 16, 16)).astype(np.float32)
    outputs = {}
    for quant in ("force_float32", "force_float16"):
        artifact = topfive.build(path, target="cpu", quant=quant, cache=tmp_path / "cache")
        with warnings.catch_warnings(), topfive.open(artifact) as runner:
            outputs[quant] = runner.run(batch)
    np.testing.assert_allclose(outputs["force_float16"], outputs["force_float32"], rtol=5e-3, atol=5e-3)
