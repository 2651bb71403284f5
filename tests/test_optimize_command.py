"""`topfive optimize`: passes of topfive and of other tools, and the check of what they give."""

from __future__ import annotations

import json
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from topfive.cards import fixtures_root
from topfive.cli import main
from topfive.commands.optimize import changes
from topfive.quantize.optimize import optimize
from topfive.sessions import open_session


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `topfive ARGUMENTS`: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["topfive", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return left.value.code, out, err

    return run


def classifier(path, seed=0, *, transposed=True, alpha=1.0, bias=True):
    """Conv, BatchNormalization, Identity, Sum, pooling and Gemm, as a file."""
    random = np.random.default_rng(seed)
    constants = {
        "w": random.normal(0, 0.5, (4, 3, 3, 3)),
        **{name: random.uniform(0.5, 1.5, 4) for name in ("gamma", "beta", "mean", "var")},
        "fc": random.normal(0, 0.5, (5, 4) if transposed else (4, 5)),
        "fb": random.normal(0, 0.5, 5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
        helper.make_node("Identity", ["n"], ["i"]),
        helper.make_node("Sum", ["i", "i"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node(
            "Gemm", ["f", "fc", *(["fb"] if bias else [])], ["y"], transB=int(transposed), alpha=alpha
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 5))],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return model


def run(model, x):
    return open_session(model.SerializeToString(), threads=1, optimise=False).run(None, {"x": x})[0]


def test_optimize_prints_what_changed_and_keeps_the_result(command, tmp_path):
    model = classifier(tmp_path / "a.onnx")
    code, out, _ = command(
        "optimize", "--input", tmp_path / "a.onnx", "--output", tmp_path / "new" / "b.onnx"
    )
    assert code == 0
    counts, said, place = out.split("largest difference on random input: ")[0], *out.splitlines()[-2:]
    assert counts == "Add: 0 -> 1\nBatchNormalization: 1 -> 0\nIdentity: 1 -> 0\nSum: 1 -> 0\nnodes: 7 -> 5\n"
    assert said.endswith("of the largest output, within the tolerance of 0.0001")
    assert place == str(tmp_path / "new" / "b.onnx")
    done = onnx.load(tmp_path / "new" / "b.onnx")
    onnx.checker.check_model(done, full_check=True)
    x = np.random.default_rng(1).normal(0, 1, (2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(done, x), run(model, x), rtol=2e-4, atol=2e-5)


def test_optimize_can_replace_gemm(command, tmp_path):
    model = classifier(tmp_path / "a.onnx")
    path = tmp_path / "a.onnx"
    code, out, _ = command("optimize", "--input", path, "--output", path, "--replace-gemm")
    assert code == 0
    assert "Add: 0 -> 2\n" in out
    assert "Gemm: 1 -> 0\n" in out
    assert "MatMul: 0 -> 1\n" in out
    done = onnx.load(path)
    onnx.checker.check_model(done, full_check=True)
    x = np.random.default_rng(1).normal(0, 1, (2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(done, x), run(model, x), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"transposed": False}, ["MatMul", "Add"]),
        ({"bias": False}, ["MatMul"]),
        ({"alpha": 0.5}, ["Gemm"]),
    ],
    ids=["plain_weight", "no_bias", "alpha"],
)
def test_only_a_gemm_that_is_a_product_is_replaced(tmp_path, options, kinds):
    model = classifier(tmp_path / "a.onnx", **options)
    done = optimize(model, ["replace_gemm"])
    assert [node.op_type for node in done.graph.node][6:] == kinds
    x = np.random.default_rng(1).normal(0, 1, (2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(done, x), run(model, x), rtol=1e-5, atol=1e-6)


PASSES = {
    "fuse_bn_into_conv": {"BatchNormalization"},
    "sum_to_add": {"Sum"},
    "remove_passthrough": {"Identity"},
    "replace_gemm": {"Gemm"},
    "onnxruntime-basic": {"BatchNormalization", "Identity"},
    "onnxruntime-extended": {"BatchNormalization", "Identity"},
    "onnxslim": {"BatchNormalization", "Identity"},
    "constants,sum_to_add,replace_gemm": {"Sum", "Gemm"},
    "fuse_bn_into_conv, onnxruntime-basic,sum_to_add": {"BatchNormalization", "Identity", "Sum"},
}


@pytest.mark.parametrize("passes", PASSES)
def test_passes_do_what_they_are_named_for_and_nothing_else(command, tmp_path, passes):
    if "onnxslim" in passes:
        pytest.importorskip("onnxslim", reason="onnxslim is not installed (pip install topfive[optimize])")
    model = classifier(tmp_path / "a.onnx")
    output = tmp_path / "b.onnx"
    code, out, _ = command(
        "optimize", "--input", tmp_path / "a.onnx", "--output", output, "--passes", passes, "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert found["passes"] == [name.strip() for name in passes.split(",")]
    assert float(found["difference"]) <= found["tolerance"] == 1e-4
    assert set(found["before"]) - set(found["after"]) == PASSES[passes]
    done = onnx.load(output)
    assert found["after"] == dict(Counter(node.op_type for node in done.graph.node))
    assert {o.domain for o in done.opset_import} <= {"", "com.microsoft"}
    x = np.random.default_rng(1).normal(0, 1, (2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(done, x), run(model, x), rtol=2e-4, atol=2e-5)


def test_constant_nodes_become_initialisers(command, tmp_path):
    model = classifier(tmp_path / "a.onnx")
    tensor = model.graph.initializer.pop(0)
    model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    onnx.save(model, tmp_path / "a.onnx")
    place = tmp_path / "b.onnx"
    command("optimize", "--input", tmp_path / "a.onnx", "--output", place, "--passes", "constants")
    done = onnx.load(place)
    assert "Constant" not in {node.op_type for node in done.graph.node}
    assert tensor.name in {t.name for t in done.graph.initializer}
    assert [value.name for value in done.graph.input] == ["x"]


def test_an_unknown_pass_names_the_nearest(command, tmp_path):
    classifier(tmp_path / "a.onnx")
    options = ("--input", tmp_path / "a.onnx", "--output", tmp_path / "b.onnx", "--passes")
    code, out, err = command("optimize", *options, "constants,onnxruntime-basics")
    assert (code, out) == (2, "")
    assert "unknown pass 'onnxruntime-basics': did you mean onnxruntime-basic" in err
    assert not (tmp_path / "b.onnx").exists()


def test_without_onnxslim_the_extra_is_named(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxslim", None)
    classifier(tmp_path / "a.onnx")
    options = ("--input", tmp_path / "a.onnx", "--output", tmp_path / "b.onnx", "--passes", "onnxslim")
    code, out, err = command("optimize", *options)
    assert (code, out) == (2, "")
    assert "pip install 'topfive[optimize]'" in err


def rounding_model(path):
    """Conv adds 1 to what float32 cannot add to 1, and the norm takes the 1 away again: folded, it is x."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"], epsilon=0.0),
    ]
    constants = {"w": np.eye(3)[:, :, None, None] * 1e-9, "b": np.ones(3), "gamma": np.full(3, 1e9)}
    constants |= {"beta": np.ones(3), "mean": np.ones(3), "var": np.ones(3)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 4, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 3, 4, 4))],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_result_that_does_not_agree_is_not_written(command, tmp_path):
    rounding_model(tmp_path / "a.onnx")
    options = ("--input", tmp_path / "a.onnx", "--output", tmp_path / "b.onnx")
    code, out, _ = command("optimize", *options)
    assert code == 1
    assert "beyond the tolerance of 0.0001" in out
    assert "b.onnx was not written" in out
    assert not (tmp_path / "b.onnx").exists()
    code, out, _ = command("optimize", *options, "--no-check")
    assert code == 0
    assert "largest difference" not in out
    assert (tmp_path / "b.onnx").is_file()


def test_what_cannot_be_checked_says_so(command, tmp_path):
    model = classifier(tmp_path / "a.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "a.onnx")
    options = ("--input", tmp_path / "a.onnx", "--output", tmp_path / "b.onnx")
    code, _, err = command("optimize", *options)
    assert code == 2
    assert "a.onnx: input 'x' has free dimensions besides the batch" in err
    assert command("optimize", *options, "--no-check")[0] == 0


def test_changes_of_nothing():
    assert changes(Counter(Conv=2), Counter(Conv=2)) == "nodes: 2 -> 2\n"


def test_optimize_refuses_what_is_no_model(command, tmp_path):
    (tmp_path / "text.onnx").write_text("hello", encoding="utf-8")
    model = classifier(tmp_path / "old.onnx")
    model.opset_import[0].version = 3
    onnx.save(model, tmp_path / "old.onnx")
    (tmp_path / "file").touch()
    for source, output, words in [
        ("text.onnx", "b.onnx", "text.onnx is not an ONNX model"),
        ("none.onnx", "b.onnx", "none.onnx cannot be read"),
        ("old.onnx", "b.onnx", "old.onnx: opset 3 is older than 7"),
        (fixtures_root() / "models" / "pocket_fire.onnx", "file/b.onnx", "b.onnx cannot be written"),
    ]:
        code, out, err = command("optimize", "--input", tmp_path / source, "--output", tmp_path / output)
        assert (code, out) == (2, "")
        assert words in err
        assert not (tmp_path / "b.onnx").exists()
