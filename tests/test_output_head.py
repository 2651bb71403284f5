"""Softmax removed, argmax or top-k appended: the label never changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

import topfive
from topfive.cards import load_card
from topfive.cli import main
from topfive.errors import CardError, OptimizeError
from topfive.quantize.output_head import Head, append_selection, change_head, remove_softmax, selected
from topfive.sessions import open_session

CLASSES = 7


def classifier(tail: list[onnx.NodeProto], output: str, *, opset: int = 17, rank: int = 2) -> onnx.ModelProto:
    """A convolution and a global pool, [N, 7, 1, 1] or flattened, then `tail` on "scores"."""
    weights = np.random.default_rng(0).normal(0, 1, (CLASSES, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["pool"], name="pool"),
    ]
    if rank == 2:
        nodes.append(helper.make_node("Flatten", ["pool"], ["scores"], name="flat"))
    else:
        nodes[-1].output[0] = "scores"
    graph = helper.make_graph(
        [*nodes, *tail],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 8, 8))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([0, -1]), "flat_shape")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def softmax(inputs: str = "scores", output: str = "y", op: str = "Softmax", **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, [inputs], [output], name="softmax", **attrs)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return open_session(model.SerializeToString(), threads=1).run(None, {"x": x})[0]


SHAPES = {
    "plain": ([softmax(axis=-1)], "y", {}),
    "axis_1": ([softmax(axis=1)], "y", {}),
    "default_axis": ([softmax()], "y", {}),
    "old_opset": ([softmax()], "y", {"opset": 11}),
    "logarithm": ([softmax(op="LogSoftmax")], "y", {}),
    "pixels": ([softmax(axis=1)], "y", {"rank": 4}),
    "flattened_after": (
        [softmax(output="p", axis=1), helper.make_node("Flatten", ["p"], ["y"], name="after")],
        "y",
        {"rank": 4},
    ),
    "reshaped_after": (
        [softmax(output="p"), helper.make_node("Reshape", ["p", "flat_shape"], ["y"], name="after")],
        "y",
        {},
    ),
}


@settings(max_examples=10)
@given(x=hnp.arrays(np.float32, (3, 3, 8, 8), elements=st.floats(-4, 4, width=32)))
@pytest.mark.parametrize("shape", SHAPES)
def test_the_label_stays(shape: str, x: np.ndarray) -> None:
    tail, output, settings_ = SHAPES[shape]
    model = classifier(tail, output, **settings_)
    before = run(model, x).reshape(3, -1)
    logits = run(remove_softmax(model), x)
    assert "Softmax" not in str([n.op_type for n in remove_softmax(model).graph.node])
    # A softmax in float32 can make two scores equal, never swap them.
    best = before.argmax(axis=1)
    flat = logits.reshape(3, -1)
    np.testing.assert_array_equal(before[np.arange(3), flat.argmax(axis=1)], before[np.arange(3), best])
    exponents = np.exp(flat.astype(np.float64) - flat.max(axis=1, keepdims=True))
    wanted = exponents / exponents.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        np.exp(before) if shape == "logarithm" else before, wanted, rtol=1e-4, atol=1e-6
    )
    for select, columns in (("argmax", None), ("top1", 1), ("top2", 2), ("top7", 7)):
        classes = run(change_head(model, Head(True, select)), x)
        assert classes.dtype == np.int64
        assert classes.shape == ((3,) if columns is None else (3, columns))
        order = np.argsort(-flat, axis=1, kind="stable")
        np.testing.assert_array_equal(classes.reshape(3, -1), order[:, : columns or 1])


def test_ties_go_to_the_lower_class() -> None:
    model = append_selection(
        classifier([helper.make_node("Identity", ["scores"], ["y"], name="i")], "y"), "top3"
    )
    np.testing.assert_array_equal(run(model, np.zeros((1, 3, 8, 8), np.float32)), [[0, 1, 2]])


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ([helper.make_node("Relu", ["scores"], ["y"], name="r")], "not made by a Softmax"),
        ([softmax(axis=0)], "axis 0 of 2"),
        (
            [softmax(output="p"), helper.make_node("Log", ["p"], ["l"], name="l"),
             helper.make_node("Flatten", ["p"], ["y"], name="f")],
            "read inside the graph too",
        ),
    ],
    ids=["none", "axis", "read_twice"],
)  # fmt: skip
def test_what_cannot_be_removed_is_named(tail: list[onnx.NodeProto], message: str) -> None:
    with pytest.raises(OptimizeError, match=message):
        remove_softmax(classifier(tail, "y"))


@pytest.mark.parametrize("text", ["", "top", "top0", "top-1", "best", "argmax2", "top1x", "TOP1"])
def test_selections_are_read_strictly(text: str) -> None:
    with pytest.raises(OptimizeError, match="no selection of classes"):
        selected(text)


def test_more_classes_than_there_are() -> None:
    with pytest.raises(OptimizeError, match="top8: the model has 7 classes"):
        append_selection(classifier([softmax()], "y"), "top8")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = classifier([softmax()], "y")
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", CLASSES)))
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize(
    ("target", "quant"),
    [
        ("cpu", "force_float32"),
        ("cpu", "force_float16"),
        ("cpu", "int8"),
        ("gemmini_sim", "int8"),
        ("aic100_sim", "force_float16"),
        ("tensorrt_sim", "int8"),
        ("mlu370_sim", "qint8_mixed_float16"),
    ],
)
def test_builds_say_what_they_give(file: Path, target: str, quant: str, tmp_path: Path) -> None:
    def build(**head: Any) -> tuple[Any, np.ndarray]:
        artifact = topfive.build(file, target=target, quant=quant, cache=tmp_path / "cache", **head)
        with topfive.open(artifact, threads=1) as runner:
            return artifact.meta["output"], runner.run(batch)

    batch = np.random.default_rng(1).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)
    kind, probabilities = build()
    assert kind == {"kind": "probabilities", "entries": CLASSES}
    kind, logits = build(remove_softmax=True)
    assert kind == {"kind": "logits", "entries": CLASSES}
    np.testing.assert_array_equal(logits.argmax(axis=1), probabilities.argmax(axis=1))
    kind, classes = build(remove_softmax=True, select="top2")
    assert kind == {"kind": "classes", "entries": 2}
    np.testing.assert_array_equal(classes[:, 0], logits.argmax(axis=1))
    assert build(select="argmax")[0] == {"kind": "classes", "entries": 1}


def test_a_failure_is_repeated_with_its_flags(file: Path, tmp_path: Path) -> None:
    with pytest.raises(OptimizeError) as caught:
        topfive.build(
            file,
            target="cpu",
            quant="force_float32",
            cache=tmp_path / "c",
            remove_softmax=True,
            select="top9",
        )
    assert (
        str(caught.value)
        .splitlines()[-1]
        .endswith("--target cpu --quant force_float32 --remove-softmax --select top9")
    )


CARD = """
name = "mine"
description = "a softmax at its end"

[source]
kind = "file"
path = "net.onnx"

[input]
size = [8, 8]
profile = "torchvision"

[output]
kind = "{kind}"
classes = 7
remove_softmax = true

[pictures]
set = "pocket100"
count = 4
"""


def test_a_card_can_ask_for_it(file: Path, tmp_path: Path) -> None:
    path = file.parent / "mine.toml"
    path.write_text(CARD.format(kind="logits"))
    artifact = topfive.build(load_card(path), target="cpu", quant="force_float32", cache=tmp_path / "cache")
    assert artifact.meta["output"]["kind"] == "logits"
    path.write_text(CARD.format(kind="probabilities"))
    with pytest.raises(CardError, match=r"output\.kind.*must be logits with 'output\.remove_softmax'"):
        load_card(path)


@pytest.mark.parametrize("select", ["", "argmax", "top2"])
def test_the_commands(
    file: Path,
    select: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command(*arguments: Any) -> str:
        monkeypatch.setattr(sys, "argv", ["topfive", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert left.value.code == 0, err
        return out

    chosen = ["--select", select] if select else []
    out = command("optimize", "--input", file, "--output", tmp_path / "new.onnx", "--remove-softmax", *chosen)
    assert str(tmp_path / "new.onnx") in out
    x = np.random.default_rng(2).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
    made = run(onnx.load(tmp_path / "new.onnx"), x)
    best = run(onnx.load(file), x).argmax(axis=1)
    np.testing.assert_array_equal(
        made if select == "argmax" else made[:, 0] if select else made.argmax(axis=1), best
    )
    arguments = ["--target", "cpu", "--quant", "force_float32", "--artifact-cache", tmp_path / "c", "--json"]
    described = json.loads(command("build", file, *arguments, "--remove-softmax", *chosen))
    assert described["meta"]["output"]["kind"] == ("classes" if select else "logits")
