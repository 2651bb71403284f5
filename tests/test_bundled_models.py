"""The committed networks: plain ONNX files that are what fixtures/training/results.json says."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from topfive.images import list_images, load_profile, preprocess_batch

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
RESULTS = json.loads((FIXTURES / "training" / "results.json").read_text())
NAMES = ("pocket_resnet", "pocket_mobilenet", "pocket_fire", "pocket_vit")
# Least top-1 and top-5 on 2,000 unseen pictures.
LEAST = {name: (0.75, 0.95) if name == "pocket_vit" else (0.85, 0.97) for name in NAMES}
# What each family is there to exercise, and how often at least.
FAMILY = {
    "pocket_resnet": {"Add": 5, "MaxPool": 1, "GlobalAveragePool": 1, "Gemm": 1},
    "pocket_mobilenet": {"Clip": 10, "Add": 3, "GlobalAveragePool": 1},
    "pocket_fire": {"Concat": 4, "MaxPool": 2, "AveragePool": 1, "GlobalAveragePool": 1},
    "pocket_vit": {"MatMul": 16, "LayerNormalization": 8, "Softmax": 4, "Erf": 4},
}


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """The fixture pictures through the cards' profile, float32 [200, 3, 64, 64], and their classes."""
    images = list_images(FIXTURES / "pictures" / "pocket100" / "val")
    tensors = preprocess_batch([image.path for image in images], load_profile("pocket64"))
    return tensors, np.array([image.label for image in images])


def load(name: str) -> onnx.ModelProto:
    return onnx.load(FIXTURES / "models" / f"{name}.onnx")


def test_results_cover_the_committed_files():
    assert sorted(RESULTS) == sorted(NAMES)
    assert sorted(file.stem for file in (FIXTURES / "models").glob("*.onnx")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_the_measured_one(name: str):
    data = (FIXTURES / "models" / f"{name}.onnx").read_bytes()
    assert len(data) == RESULTS[name]["bytes"] < 2_000_000
    assert hashlib.sha256(data).hexdigest() == RESULTS[name]["sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_measured_accuracy_meets_the_goal(name: str):
    unseen = RESULTS[name]["unseen_pictures"]
    assert unseen["count"] == 2000
    assert (unseen["top1"] > LEAST[name][0], unseen["top5"] > LEAST[name][1]) == (True, True)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_plain(name: str):
    model = load(name)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version <= 10
    operators = Counter(node.op_type for node in model.graph.node)
    assert not operators.keys() & {"BatchNormalization", "Constant", "Identity", "Dropout", "Shape", "Gather"}
    assert all(operators[kind] >= count for kind, count in FAMILY[name].items())
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))
    assert not [text for text in names if not text or "/" in text or "::" in text]
    used = {text for node in model.graph.node for text in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert not [tensor.name for tensor in model.graph.initializer if tensor.external_data]


@pytest.mark.parametrize("name", NAMES)
def test_interface_and_parameters(name: str):
    model = load(name)
    (entry,), (leaving,) = model.graph.input, model.graph.output
    dims = [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim]
    assert (entry.name, dims) == ("input", ["batch", 3, 64, 64])
    dims = [d.dim_param or d.dim_value for d in leaving.type.tensor_type.shape.dim]
    assert (leaving.name, dims) == ("logits", ["batch", 100])
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert sum(math.prod(tensor.dims) for tensor in floats) == RESULTS[name]["parameters"]


def test_the_mobilenet_convolves_depthwise_and_clips_at_six():
    model = load("pocket_mobilenet")
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    clips = [node for node in model.graph.node if node.op_type == "Clip"]
    assert {(float(constants[n.input[1]]), float(constants[n.input[2]])) for n in clips} == {(0.0, 6.0)}
    groups = [a.i for n in model.graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "group"]
    assert sum(group > 1 for group in groups) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_on_the_fixture_pictures(name: str, pictures: tuple[np.ndarray, np.ndarray]):
    """Through topfive's own preprocessing: it must agree with the one in training, to one picture."""
    tensors, classes = pictures
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = FIXTURES / "models" / f"{name}.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": tensors})
    hits = np.argsort(-logits, axis=1, kind="stable")[:, :5] == classes[:, None]
    expected = RESULTS[name]["fixture_pictures"]
    assert expected["count"] == len(classes) == 200
    assert abs(hits[:, 0].mean() - expected["top1"]) <= 0.0051
    assert abs(hits.any(axis=1).mean() - expected["top5"]) <= 0.0051
    (one,) = session.run(None, {"input": tensors[:1]})
    np.testing.assert_allclose(one, logits[:1], rtol=0, atol=1e-3)
