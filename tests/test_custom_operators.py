"""Custom operators: declared on the card, loaded by path and SHA-256, and checked before anything runs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import topfive
from topfive.cards import load_card
from topfive.errors import CardError, CompileError, FetchError, RunError
from topfive.sources.plugins import custom_nodes

SOURCE = Path(__file__).with_name("custom_operator.c")
COMPILER = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc, gcc or clang) is installed")

CARD = """
name = "mine"
description = "a custom operator between two convolutions"

[source]
kind = "file"
path = "mine.onnx"

[input]
size = [8, 8]
profile = "torchvision"

[output]
kind = "logits"
classes = 5

[pictures]
set = "pocket100"
count = 4

[calibration]
set = "pocket100"
count = 4
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("no C compiler (cc, gcc or clang) is installed")
    path = tmp_path_factory.mktemp("library") / "libsoftsign3.so"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", path, SOURCE, "-lm"],
        check=True,
    )
    return path


def write_model(path: Path, op: str = "Softsign3", domain: str = "topfive.test", opset: int = 17) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": (4, 3, 3, 3), "v": (5, 4, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", pads=[1] * 4),
        helper.make_node(op, ["a"], ["b"], name="bend", domain=domain),
        helper.make_node("Conv", ["b", "v"], ["c"], name="second"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], name="pool"),
        helper.make_node("Flatten", ["d"], ["y"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 5))],
        [numpy_helper.from_array(rng.normal(0, 0.5, s).astype(np.float32), n) for n, s in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def write_card(folder: Path, plugins: str = "") -> Path:
    (folder / "mine.toml").write_text(CARD + plugins)
    return folder / "mine.toml"


def declared(library: Path, sha256: str = "") -> str:
    digest = sha256 or hashlib.sha256(library.read_bytes()).hexdigest()
    return f'\n[plugins]\nonnxruntime = "{library.name}"\nsha256 = "{digest}"\n'


@pytest.fixture
def mine(tmp_path: Path, library: Path) -> Path:
    """A folder with the model, the library, and a card that declares it."""
    shutil.copy(library, tmp_path)
    write_model(tmp_path / "mine.onnx")
    write_card(tmp_path, declared(library))
    return tmp_path


def batch() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (3, 3, 8, 8)).astype(np.float32)


@needs_compiler
@pytest.mark.parametrize(
    ("target", "quant", "tolerance"),
    [
        ("cpu", "force_float32", 1e-5),
        ("cpu", "force_float16", 1e-2),
        ("cpu", "int8", 0.1),
        ("tensorrt_sim", "int8", 0.1),
    ],
)
def test_a_model_with_its_library_runs(mine: Path, target: str, quant: str, tolerance: float) -> None:
    """The operator is linear around 0 and bends after it: without it the result is far away."""
    x = batch()
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(mine / "mine.onnx").graph.initializer}
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    a = np.einsum("nchwij,kcij->nkhw", seen, constants["w"])
    straight = np.einsum("nchw,kc->nk", 3 * a, constants["v"][:, :, 0, 0]) / 64
    wanted = np.einsum("nchw,kc->nk", 3 * a / (1 + np.abs(a)), constants["v"][:, :, 0, 0]) / 64
    card = load_card(mine / "mine.toml")
    artifact = topfive.build(card, target=target, quant=quant, cache=mine / "cache")
    # The artifact has its own copy: nothing of the folder is needed any more.
    (mine / "libsoftsign3.so").unlink()
    with topfive.open(artifact.path, threads=1) as runner:
        got = runner.run(x)
    largest = np.abs(wanted).max()
    assert np.abs(got - wanted).max() <= tolerance * largest
    assert np.abs(straight - wanted).max() > 0.5 * largest


@needs_compiler
def test_a_target_that_needs_shapes_says_so(mine: Path) -> None:
    """Nobody knows the shape of what a custom operator makes, and Gemmini's cycles depend on it."""
    with pytest.raises(CompileError, match=r"second.*the shape of 'b_quantized'.*fixed sizes are needed"):
        topfive.build(load_card(mine / "mine.toml"), target="gemmini_sim", quant="int8", cache=mine / "cache")


@needs_compiler
def test_an_older_opset_is_converted_around_it(mine: Path) -> None:
    before = []
    for opset in (17, 11):
        write_model(mine / "mine.onnx", opset=opset)
        card = load_card(mine / "mine.toml")
        artifact = topfive.build(card, target="cpu", quant="force_float32", cache=mine / "cache")
        with topfive.open(artifact, threads=1) as runner:
            before.append(runner.run(batch()))
    np.testing.assert_array_equal(before[0], before[1])


def refused(folder: Path, target: str = "cpu") -> str:
    ran: list[str] = []
    with pytest.raises(FetchError) as caught:
        topfive.build(
            load_card(folder / "mine.toml"),
            target=target,
            quant="force_float32",
            cache=folder / "cache",
            progress=ran.append,
        )
    assert [line.rpartition(" ")[2] for line in ran] == ["optimize"], "nothing ran before the check"
    return str(caught.value)


NAMED = "Softsign3 'bend' is the custom operator topfive.test::Softsign3"


def test_no_library_at_all(tmp_path: Path) -> None:
    write_model(tmp_path / "mine.onnx")
    write_card(tmp_path)
    assert f"{NAMED}, and no library is declared for it: add [plugins]" in refused(tmp_path)


def test_a_bare_file(tmp_path: Path) -> None:
    write_model(tmp_path / "mine.onnx")
    with pytest.raises(FetchError, match="'bend' is the custom operator"):
        topfive.build(tmp_path / "mine.onnx", target="cpu", quant="force_float32", cache=tmp_path / "cache")


@needs_compiler
def test_a_library_that_is_not_there(mine: Path) -> None:
    (mine / "libsoftsign3.so").unlink()
    text = refused(mine)
    assert NAMED in text
    assert "libsoftsign3.so (key 'plugins.onnxruntime') does not exist" in text


@needs_compiler
def test_another_library_of_that_name_is_not_loaded(mine: Path) -> None:
    with (mine / "libsoftsign3.so").open("ab") as file:
        file.write(b"changed")
    text = refused(mine)
    assert NAMED in text
    assert "it was not loaded" in text
    assert "sha256 in the card" in text


@needs_compiler
def test_a_library_without_the_operator(mine: Path) -> None:
    write_model(mine / "mine.onnx", op="Softsign4")
    text = refused(mine)
    assert "Softsign4 'bend' is the custom operator topfive.test::Softsign4, which does not load from" in text


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "libnone.so").write_bytes(b"this is text")
    write_model(tmp_path / "mine.onnx")
    write_card(tmp_path, declared(tmp_path / "libnone.so"))
    text = refused(tmp_path)
    assert NAMED in text
    assert "does not load from" in text


@pytest.mark.parametrize("domain", ["", "trt.plugins"], ids=["onnx_domain", "own_domain"])
def test_a_tensorrt_plugin_runs_on_tensorrt_only(
    domain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "mine.onnx", op="AutoSinianCNN_TRT", domain=domain)
    write_card(tmp_path, '\n[plugins]\ntensorrt = ["AutoSinianCNN_TRT"]\n')
    operator = f"{domain}::AutoSinianCNN_TRT" if domain else "AutoSinianCNN_TRT"
    text = refused(tmp_path)
    assert f"AutoSinianCNN_TRT 'bend' is the custom operator {operator}, a TensorRT plugin" in text
    # A target that loads TensorRT's plugins gets the model, its operator as it stands.
    from topfive.sources.checks import check_classifier

    model = check_classifier(tmp_path / "mine.onnx", load_card(tmp_path / "mine.toml"), plugins="tensorrt")
    assert [node.op_type for node in model.graph.node][1] == "AutoSinianCNN_TRT"
    assert [node.domain for node in model.graph.node][1] == domain


@needs_compiler
def test_a_changed_library_makes_other_artifacts(mine: Path) -> None:
    def build() -> str:
        card = load_card(mine / "mine.toml")
        return topfive.build(card, target="cpu", quant="force_float32", cache=mine / "cache").key

    first = build()
    path = mine / "libsoftsign3.so"
    with path.open("ab") as file:
        file.write(b"\0")
    write_card(mine, declared(path))
    assert build() != first


@needs_compiler
def test_an_artifact_whose_library_was_changed_is_not_opened(mine: Path) -> None:
    card = load_card(mine / "mine.toml")
    artifact = topfive.build(card, target="cpu", quant="force_float32", cache=mine / "cache")
    path = artifact.path / "libsoftsign3.so"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="is not the library that the artifact was built with"):
        topfive.open(artifact)


@pytest.mark.parametrize(
    ("plugins", "key"),
    [
        ('onnxruntime = "a.so"', "plugins.sha256"),
        ('sha256 = "' + "0" * 64 + '"', "plugins.sha256"),
        ('onnxruntime = "a.so"\nsha256 = "abc"', "plugins.sha256"),
        ('tensorrt = ["not a name"]', "plugins.tensorrt"),
        ('library = "a.so"', "plugins.library"),
    ],
    ids=["no_sha256", "no_library", "short_sha256", "name", "unknown_key"],
)
def test_a_card_s_plugins_are_read_strictly(plugins: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(CardError, match=key):
        load_card(write_card(tmp_path, f"\n[plugins]\n{plugins}\n"))


def test_operators_of_onnx_onnxruntime_and_functions_are_known() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="onnx"),
        helper.make_node("QLinearAdd", ["x"] * 8, ["b"], name="runtime", domain="com.microsoft"),
        helper.make_node("Scaler", ["x"], ["c"], name="ml", domain="ai.onnx.ml"),
        helper.make_node("Mine", ["x"], ["d"], name="function", domain="here"),
        helper.make_node("Relu9", ["x"], ["e"], name="unknown"),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    function = helper.make_function(
        "here", "Mine", ["i"], ["o"], [helper.make_node("Relu", ["i"], ["o"])], [helper.make_opsetid("", 17)]
    )
    model = helper.make_model(graph, functions=[function])
    assert [str(node) for node in custom_nodes(model)] == ["Relu9 'unknown' is the custom operator Relu9"]
