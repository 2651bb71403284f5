"""The light networks: the function of the graphs in the onnx wheel, reproducible and useful weights."""

from __future__ import annotations

import hashlib
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from topfive.cards import load_cards
from topfive.errors import FetchError, UnknownNameError
from topfive.sources import light
from topfive.sources.light import graph, weights
from topfive.sources.light.__main__ import main
from topfive.sources.light.measure import measure, pictures

HEAVY = ("bvlc_alexnet", "densenet121", "vgg19", "zfnet512")
EACH = [
    pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else [], id=name)
    for name in light.ARCHITECTURES
]
SMALL = "squeezenet"


def session(model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """architecture -> its file, written once; only the last is kept, they are large."""
    folder = tmp_path_factory.mktemp("light")
    kept: dict = {}

    def write(architecture: str):
        if architecture not in kept:
            for path in kept.values():
                path.unlink()
            kept.clear()
            kept[architecture] = folder / f"{architecture}.onnx"
            light.write(architecture, 0, kept[architecture])
        return kept[architecture]

    yield write
    for path in kept.values():
        path.unlink()


@pytest.mark.parametrize("architecture", EACH)
def test_network(architecture, written):
    """Batches give what single pictures give; logits are the original graph's, and tell pictures apart."""
    path = written(architecture)
    run = session(str(path))
    batch = pictures(16)[[0, 5, 10]]
    logits = run.run(None, {"data": batch})[0]
    assert logits.shape == (3, 1000)
    singles = np.concatenate([run.run(None, {"data": batch[n : n + 1]})[0] for n in range(3)])
    np.testing.assert_allclose(singles, logits, rtol=0, atol=1e-4)
    assert 0.5 < logits.std(axis=1).mean() < 6.0
    assert (logits - logits.mean(axis=0)).std() > 0.3
    del run  # its copy of the weights is large
    check_against_original(architecture, path, batch[:1], logits[:1])


def check_against_original(architecture, path, picture, logits):
    """Put the weights into the graph of the wheel, and compare its output (after its Softmax, if any)."""
    original, ours = onnx.load(graph.light_file(architecture)), onnx.load(path)
    values = {tensor.name: tensor for tensor in ours.graph.initializer}
    alias = {
        node.output[0]: node.input[0]
        for node in original.graph.node
        if node.op_type in ("Unsqueeze", "Reshape")
    }
    weighted = ("Conv", "Gemm", "BatchNormalization", "Mul", "Add")
    pairs = zip(
        (node for node in original.graph.node if node.op_type in weighted),
        (node for node in ours.graph.node if node.op_type in weighted),
        strict=True,
    )
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in original.graph.input}
    shapes.update(
        (i.name[: -len("__SHAPE")], list(numpy_helper.to_array(i))) for i in original.graph.initializer
    )
    feeds = {}
    for old, new in pairs:
        assert old.op_type == new.op_type
        for old_name, new_name in zip(old.input[1:], new.input[1:], strict=True):
            name = alias.get(old_name, old_name)
            feeds[name] = numpy_helper.to_array(values[new_name]).reshape(shapes[name])
    data = next(i.name for i in original.graph.input if i.name.endswith("data_0"))
    feeds[data] = picture
    whole = onnx.helper.make_graph(
        [node for node in original.graph.node if node.op_type != "ConstantOfShape"],
        "original",
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, v.shape)
            for name, v in feeds.items()
        ],
        list(original.graph.output),
        [tensor for tensor in original.graph.initializer if tensor.data_type == onnx.TensorProto.INT64],
    )
    model = onnx.helper.make_model(whole, opset_imports=list(original.opset_import), ir_version=4)
    scores = session(model.SerializeToString()).run(None, feeds)[0].reshape(1, 1000)
    mine = logits.astype(np.float64)
    if original.graph.node[-1].op_type == "Softmax":
        mine = np.exp(mine - mine.max())
        mine /= mine.sum()
    np.testing.assert_allclose(scores, mine, rtol=2e-3, atol=1e-4 * np.abs(mine).max())


@pytest.mark.parametrize("architecture", light.ARCHITECTURES)
def test_graph_is_tidy(architecture):
    frame = graph.skeleton(architecture)
    model = frame.model
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert not {node.op_type for node in model.graph.node} & {
        "ConstantOfShape",
        "Dropout",
        "Softmax",
        "Unsqueeze",
    }
    assert max(Counter(node.name for node in model.graph.node).values()) == 1
    assert all(node.name for node in model.graph.node)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    known = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    for node in model.graph.node[:-1]:
        assert known[node.output[0]][0].dim_param == "batch"
        assert all(dim.dim_value > 0 for dim in known[node.output[0]][1:])
    assert sum(w.count for w in frame.weights) == {
        "bvlc_alexnet": 60965224, "densenet121": 8146152, "inception_v1": 6998552, "inception_v2": 11234792,
        "resnet50": 25610152, "shufflenet": 1420152, "squeezenet": 1235496, "vgg19": 143667240,
        "zfnet512": 87250536,
    }[architecture]  # fmt: skip


def test_file_is_plain_onnx(written):
    path = written(SMALL)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert onnx.ModelProto.FromString(model.SerializeToString()) == model
    assert [i.name for i in model.graph.input] == ["data"]
    assert {i.name for i in model.graph.initializer} == {w.name for w in graph.skeleton(SMALL).weights}


WEIGHTS_SHA256 = {
    "squeezenet": "de7ab03e6eb0ec24496741144d32d739df1033ac635fc4828572b7812e36ee13",
    "shufflenet": "eb2e0970c6c6c53229bf5eccc18e7233fba7f8ac3856848e2fd338b0fef638e4",
}


@pytest.mark.parametrize("architecture", WEIGHTS_SHA256)
def test_weights_are_these_bits_on_every_machine(architecture, written):
    digest = hashlib.sha256()
    for tensor in sorted(onnx.load(written(architecture)).graph.initializer, key=lambda tensor: tensor.name):
        if tensor.data_type == onnx.TensorProto.FLOAT:
            digest.update(tensor.name.encode() + tensor.raw_data)
    assert digest.hexdigest() == WEIGHTS_SHA256[architecture]


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 200), limit=st.floats(2.0**-20, 4.0, width=32))
def test_uniform_is_correctly_rounded(count, limit):
    """Each value is the float32 nearest to (odd / 2**24) * limit, odd being made of 24 bits of PCG64."""
    values = np.concatenate(list(weights._uniform("key", count, np.float32(limit))))
    seed = int.from_bytes(hashlib.sha256(b"key").digest(), "little")
    words = np.random.PCG64(seed).random_raw((count + 1) // 2)
    halves = [half for word in words.tolist() for half in (word & 0xFFFFFFFF, word >> 32)][:count]
    assert values.dtype == np.float32
    assert len(values) == count
    for value, half in zip(values, halves, strict=True):
        exact = Fraction(2 * (half >> 8) + 1 - 2**24, 2**24) * Fraction(limit)
        error = abs(Fraction(float(value)) - exact)
        for neighbour in (np.nextafter(value, np.float32(-9)), np.nextafter(value, np.float32(9))):
            assert error <= abs(Fraction(float(neighbour)) - exact)


def test_uniform_moments_and_blocks(monkeypatch):
    values = np.concatenate(list(weights._uniform("other", 200_001, np.float32(1.0))))
    assert abs(values.mean()) < 0.005
    assert abs(values.var() - 1 / 3) < 0.003
    assert values.min() < -0.999
    assert values.max() > 0.999
    monkeypatch.setattr(weights, "BLOCK", 1 << 10)
    again = list(weights._uniform("other", 200_001, np.float32(1.0)))
    assert len(again) == 196
    np.testing.assert_array_equal(np.concatenate(again), values)


def test_seeds_and_names_give_other_weights(tmp_path):
    light.write(SMALL, 0, tmp_path / "0.onnx")
    light.write(SMALL, 1, tmp_path / "1.onnx")
    first, second = (onnx.load(tmp_path / f"{seed}.onnx") for seed in (0, 1))
    kernels = [t.raw_data for m in (first, second) for t in m.graph.initializer if t.name.endswith("kernel")]
    assert len(set(kernels)) == len(kernels)
    batch = pictures(3)
    logits = session(str(tmp_path / "1.onnx")).run(None, {"data": batch})[0]
    assert 0.2 < logits.std(axis=1).mean() < 10  # the statistics of seed 0 still fit
    assert light.fingerprint(SMALL, 0) != light.fingerprint(SMALL, 1)
    assert light.fingerprint(SMALL, 0) != light.fingerprint("resnet50", 0)


@pytest.mark.parametrize("architecture", ["squeezenet", "shufflenet"])
def test_measuring_gives_the_committed_statistics(architecture):
    """Another machine may round a sum differently: to 1 % of each number's scale, not to the last digit."""
    table, committed = measure(architecture), light._statistics()[architecture]
    assert table["mean"].keys() == committed["mean"].keys()
    for name in committed["variance"]:
        deviation = committed["variance"][name] ** 0.5
        assert table["variance"][name] == pytest.approx(committed["variance"][name], rel=0.01)
        assert table["mean"][name] == pytest.approx(committed["mean"][name], rel=0.01, abs=0.01 * deviation)
    assert table["gain"] == pytest.approx(committed["gain"], rel=0.01)
    np.testing.assert_allclose(table["offset"], committed["offset"], rtol=0.01, atol=0.05)


def test_unknown_architecture():
    with pytest.raises(UnknownNameError, match="did you mean resnet50"):
        graph.skeleton("resnet5")


def test_every_architecture_has_a_card():
    cards = [card for card in load_cards().values() if card.source.kind == "light"]
    assert sorted(card.source.architecture for card in cards) == list(light.ARCHITECTURES)
    assert all(card.name == f"light_{card.source.architecture}" for card in cards)


def test_no_room_leaves_nothing(tmp_path):
    """A real full disk, nearly: the process may not write files beyond 1 MB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(FetchError, match=r"x\.onnx cannot be written: File too large"):
            light.write(SMALL, 0, tmp_path / "x.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_killed_writer_leaves_no_file(tmp_path):
    out = tmp_path / "x.onnx"
    command = [sys.executable, "-m", "topfive.sources.light", "--write", "resnet50", "-o", str(out)]
    with subprocess.Popen(command) as writer:
        while not any(path.stat().st_size for path in tmp_path.glob(".x.onnx.*.part")):
            assert writer.poll() is None, "finished before it could be killed"
            time.sleep(0.002)
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert not out.exists()


@pytest.mark.slow
def test_largest_network_needs_little_memory(tmp_path):
    code = (
        "import sys; from pathlib import Path; from topfive.sources import light;"
        "light.write('vgg19', 0, Path(sys.argv[1]));"
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.onnx")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 200_000  # KiB, for a file of 561 MiB
    (tmp_path / "x.onnx").unlink()


def test_command(tmp_path, capsys):
    assert main(["--write", SMALL, "-o", str(tmp_path / "x.onnx")]) == 0
    assert (tmp_path / "x.onnx").stat().st_size > 4_900_000
    assert main(["--write", "squeesenet", "-o", str(tmp_path / "y.onnx")]) == 2
    assert "did you mean squeezenet" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([])
