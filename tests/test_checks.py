"""Bad ONNX files: each gets an error that names file and tensor; none gets a traceback of another library."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from topfive.cards import Input, Output, card_for_file, load_cards
from topfive.errors import CardError, FetchError, TopfiveError
from topfive.sources import resolve
from topfive.sources.checks import check_classifier, signature

quick = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def classifier(shape=("batch", 3, 8, 6), output=("batch", 4), kind=TensorProto.FLOAT) -> onnx.ModelProto:
    """data -> pool -> Flatten -> Gemm -> scores, 4 classes, with one constant in a node."""
    value = helper.make_tensor_value_info
    kernel = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "kernel")
    bias = numpy_helper.from_array(np.zeros(4, np.float32))
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Constant", [], ["bias"], "bias_constant", value=bias),
        helper.make_node("Gemm", ["flat", "kernel", "bias"], ["scores"], "gemm"),
    ]
    graph = helper.make_graph(
        nodes, "net", [value("data", kind, shape)], [value("scores", TensorProto.FLOAT, output)], [kernel]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def card(tmp_path):
    own = load_cards()["pocket_resnet"]
    return replace(
        own, path=tmp_path / "card.toml", input=Input((8, 6), "torchvision"), output=Output("logits", 4)
    )


@pytest.fixture
def check(tmp_path, card):
    """Save a model (or bytes) and check it; the card may be changed."""

    def run(model, **changes):
        path = tmp_path / "x.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return check_classifier(path, replace(card, **changes))

    return run


def refused(check, model, *words, error=FetchError, **changes):
    with pytest.raises(error) as caught:
        check(model, **changes)
    first = str(caught.value).splitlines()[0]
    for word in ("x.onnx", *words):
        assert word in first


def test_good_model_is_returned_whole(check):
    model = classifier()
    assert check(model) == model


@pytest.mark.parametrize("name", ["pocket_resnet", "pocket_mobilenet", "pocket_fire", "pocket_vit"])
def test_bundled_models_pass(name, tmp_path):
    card = load_cards()[name]
    check_classifier(replace(card).source_path(), card)


@pytest.mark.realdata
def test_realdata_models_pass(tmp_path):
    cards = [card for card in load_cards().values() if "realdata" in card.tags]
    if cards[0].missing_reason():
        pytest.skip(cards[0].missing_reason())
    for card in cards:
        path = resolve(card, tmp_path)
        assert check_classifier(path, card).graph.node
        bare = card_for_file(path)
        assert (bare.input.size, bare.output.entries) == (card.input.size, card.output.entries)
        assert (bare.output.background, bare.quantised) == (card.output.background, card.quantised)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer", id="git-lfs"),
        pytest.param(b"<!DOCTYPE html><html>404</html>", "web page", id="html"),
        pytest.param(b"PK\x03\x04" + bytes(40), "zip archive", id="zip"),
        pytest.param(b"\x1f\x8b\x08" + bytes(40), "gzip", id="gzip"),
        pytest.param(bytes(range(256)), "is not an ONNX model", id="bytes"),
        pytest.param(b"\x08\x08", "is not an ONNX model", id="only-a-version"),
    ],
)
def test_not_onnx(content, words, check):
    refused(check, content, words)


@quick
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_short_anywhere(share, check):
    whole = classifier().SerializeToString()
    with pytest.raises(FetchError, match=r"x\.onnx (is cut short|is empty|is not an ONNX model)"):
        check(whole[: int(share * len(whole))])


def test_cut_short_says_by_how_much(check):
    whole = classifier().SerializeToString()
    refused(check, whole[:-40], "is cut short", f"it has {len(whole) - 40} bytes")


@quick
@given(data=st.data())
def test_damaged_bytes_never_give_another_error(data, check):
    whole = bytearray(classifier().SerializeToString())
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[position] = data.draw(st.integers(0, 255))
    try:
        check(bytes(whole))
    except TopfiveError as error:
        assert "x.onnx" in str(error)  # noqa: PT017


def external(folder, location="weights.bin", offset="0", length="48", size=48, **place):
    """A model whose kernel lies in another file."""
    model = classifier()
    tensor = model.graph.initializer[0]
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, "offset": offset, "length": length, **place}.items():
        tensor.external_data.add(key=key, value=text)
    if size:
        (folder / "weights.bin").write_bytes(raw[:size])
    return model


def test_external_data_is_read(check, tmp_path):
    model = check(external(tmp_path))
    np.testing.assert_array_equal(
        numpy_helper.to_array(model.graph.initializer[0]), np.arange(12, dtype=np.float32).reshape(3, 4)
    )


def test_external_data_missing(check, tmp_path):
    refused(check, external(tmp_path, size=0), "tensor 'kernel'", "'weights.bin'", "missing")


def test_external_data_too_short(check, tmp_path):
    refused(
        check,
        external(tmp_path, size=40),
        "tensor 'kernel'",
        "wants bytes 0 to 48",
        "which has 40",
        "cut short",
    )


def test_external_data_of_a_constant_node(check, tmp_path):
    model = classifier()
    tensor = model.graph.node[2].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../x")
    refused(check, model, "constant of node 'bias_constant'", "outside the model's folder")


@pytest.mark.parametrize(
    "location", ["../secret.bin", "a/../../secret.bin", "absolute", "link.bin", "folder/secret.bin"]
)
def test_external_data_outside_is_never_read(location, check, tmp_path):
    """The file exists and fits; it must be refused before it is opened, so it may not be read at all."""
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    secret = outside / "secret.bin"
    secret.write_bytes(bytes(48))
    (tmp_path.parent / "secret.bin").write_bytes(bytes(48))
    (tmp_path / "link.bin").symlink_to(secret)
    (tmp_path / "folder").symlink_to(outside)
    (tmp_path / "a").mkdir()
    opened = secret.stat().st_atime_ns
    wanted = str(secret) if location == "absolute" else location
    refused(
        check,
        external(tmp_path, wanted),
        "tensor 'kernel'",
        repr(wanted),
        "outside the model's folder: refused",
    )
    assert secret.stat().st_atime_ns == opened


@pytest.mark.parametrize(
    "place",
    [{"location": ""}, {"offset": "x"}, {"length": "-4"}, {"location": "a\0b"}, {"length": "44"}],
    ids=str,
)
def test_external_data_damaged(place, check, tmp_path):
    with pytest.raises(FetchError, match=r"x\.onnx.*'kernel'|external data of .*x\.onnx"):
        check(external(tmp_path, **place))


def test_several_inputs(check):
    model = classifier()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    refused(check, model, "has 2 inputs (data, mask)", "extract_model")


def test_weights_listed_as_inputs_are_no_inputs(check):
    model = classifier()
    model.graph.input.append(helper.make_tensor_value_info("kernel", TensorProto.FLOAT, [3, 4]))
    assert check(model)


@pytest.mark.parametrize("count", [0, 2])
def test_outputs(count, check):
    model = classifier()
    model.graph.ClearField("output")
    for name in ("scores", "flat")[:count]:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]))
    refused(check, model, f"has {count} outputs")


def test_the_card_s_output_of_several(check):
    model = classifier()
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["best"], "argmax", axis=1, keepdims=0))
    unused = numpy_helper.from_array(np.zeros(2, np.float32), "unused")
    model.graph.initializer.append(unused)
    model.graph.output.insert(0, helper.make_tensor_value_info("best", TensorProto.INT64, ["batch"]))
    refused(check, model, "has 2 outputs (best, scores)", "'output.name'")
    assert check(model, output=Output("logits", 4, name="scores")) == classifier()
    with pytest.raises(CardError, match=r"'output\.name' is 'score', but the outputs of .*x\.onnx are best"):
        check(model, output=Output("logits", 4, name="score"))


def test_what_a_subgraph_of_the_chosen_output_reads_stays(check):
    model = classifier()
    branch = helper.make_graph(
        [helper.make_node("Identity", ["kernel"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [3, 4])],
    )
    yes = numpy_helper.from_array(np.array(True), "yes")
    model.graph.initializer.append(yes)
    model.graph.node[3].input[1] = "chosen"
    model.graph.node.insert(
        3, helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch)
    )
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", 3]))
    kept = check(model, output=Output("logits", 4, name="scores"))
    assert [tensor.name for tensor in kept.graph.initializer] == ["kernel", "yes"]
    assert len(kept.graph.node) == 5


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        pytest.param(("n", 3, "h", "w"), "[n, 3, h, w]: only the batch", id="named"),
        pytest.param(("n", 3, 8, None), "[n, 3, 8, ?]: only the batch", id="unnamed"),
        pytest.param(("n", 3, 48), "[n, 3, 48], but pictures are", id="rank-3"),
        pytest.param(("n", 5, 8, 6), "no dimension is the 3 colours", id="channels"),
        pytest.param(None, "but pictures are", id="no-shape"),
    ],
)
def test_input_shape(shape, words, check):
    refused(check, classifier(shape), "input 'data'", words)


@pytest.mark.parametrize("batch", [1, 4, "n", None, 0])
def test_any_batch_is_fine(batch, check, tmp_path):
    model = check(classifier((batch, 3, 8, 6), None))
    assert signature(model, tmp_path).batch == (batch if batch in (1, 4) else None)


def test_input_type(check):
    refused(check, classifier(kind=TensorProto.INT64), "input 'data' is int64")


def test_channels_last(check, tmp_path):
    model = classifier(("n", 8, 6, 3))
    model.graph.node.insert(0, helper.make_node("Transpose", ["data"], ["planes"], "t", perm=[0, 3, 1, 2]))
    model.graph.node[1].input[0] = "planes"
    found = signature(check(model), tmp_path)
    assert (found.layout, found.size, found.channels) == ("NHWC", (8, 6), 3)


def test_input_size_of_the_card(check):
    refused(
        check, classifier(), "card.toml: key 'input.size' is [6, 8]", "is [8, 6]",
        error=CardError, input=Input((6, 8), "torchvision"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        pytest.param(Output("logits", 3), "set 'output.background = true'", id="background"),
        pytest.param(
            Output("logits", 4, background=True), "set 'output.background = false'", id="no-background"
        ),
        pytest.param(Output("logits", 1000), "correct the card", id="other"),
    ],
)
def test_classes_of_the_card(output, hint, check):
    refused(check, classifier(), "has 4 entries", hint, error=CardError, output=output)


def test_labels_of_the_wrong_length(check, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\n", encoding="utf-8")
    with pytest.raises(CardError, match=r"names\.txt has 3 lines, but 'output\.classes' is 4"):
        check(classifier(), output=Output("logits", 4, labels="file:names.txt"))


def test_output_shape_is_inferred_when_absent(check, tmp_path):
    assert signature(check(classifier(output=None)), tmp_path).entries == 4
    assert signature(check(classifier(output=("n", None))), tmp_path).entries == 4


def test_output_shape_unknown(check):
    model = classifier(output=None)
    model.graph.node.append(helper.make_node("Mystery", ["scores"], ["end"], domain="some.where"))
    model.opset_import.append(helper.make_opsetid("some.where", 1))
    model.graph.output[0].name = "end"
    refused(check, model, "output 'end'", "only the batch may be dynamic")


@pytest.mark.parametrize("output", [("n", 4, 7, 7), ("n",), (4,)], ids=str)
def test_output_is_no_vector(output, check):
    model = classifier(output=output)
    refused(check, model, "output 'scores'", "scores are [batch, classes]")


def test_output_with_ones_behind_is_a_vector(check, tmp_path):
    model = classifier(output=("n", 4, 1, 1))
    model.graph.node[3].output[0] = "flat_scores"
    shape = numpy_helper.from_array(np.array([0, 4, 1, 1]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Reshape", ["flat_scores", "shape"], ["scores"], "r"))
    assert signature(check(model), tmp_path).entries == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64], ids=["float32", "float16", "float64"])
def test_weights_that_are_no_numbers(bad, dtype, check):
    model = classifier()
    values = np.ones((3, 4), dtype)
    values[1, 2] = bad
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "kernel"))
    what = "NaN" if np.isnan(bad) else "infinity"
    refused(check, model, "tensor 'kernel'", "1 NaN or infinite values of 12", f"({what}) at index [1, 2]")


def test_constants_in_nodes_that_are_no_numbers(check):
    model = classifier()
    values = np.array([0, 0, np.nan, 0], np.float32)
    model.graph.node[2].attribute[0].t.CopyFrom(numpy_helper.from_array(values))
    refused(check, model, "constant of node 'bias_constant'", "at index [2]")


def test_infinite_bounds_are_allowed(check):
    model = classifier()
    model.graph.node[3].output[0] = "raw"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-np.inf).reshape(()), "least"))
    model.graph.node.append(helper.make_node("Clip", ["raw", "least"], ["scores"], "clip"))
    assert check(model)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.float32(np.nan).reshape(()), "least"))
    refused(check, model, "tensor 'least'")


def test_weight_with_too_few_bytes(check):
    model = classifier()
    model.graph.initializer[0].raw_data = bytes(40)
    refused(check, model, "tensor 'kernel' is damaged")


@pytest.mark.parametrize("fault", ["dangling", "cycle", "twice"])
def test_broken_graph(fault, check):
    model = classifier()
    if fault == "dangling":
        model.graph.node[1].input[0] = "nowhere"
    elif fault == "cycle":
        model.graph.node[0].input[0] = "flat"
    else:
        model.graph.initializer.append(model.graph.initializer[0])
    refused(check, model, "is not valid ONNX")


def test_unknown_operator(check):
    model = classifier()
    model.graph.node[0].op_type = "GlobalAverragePool"
    refused(check, model, "the custom operator GlobalAverragePool", "no library is declared for it")


def test_file_that_cannot_be_opened(card, tmp_path):
    with pytest.raises(FetchError, match=r"absent\.onnx cannot be read"):
        check_classifier(tmp_path / "absent.onnx", card)
    with pytest.raises(FetchError, match="cannot be read"):
        check_classifier(tmp_path, card)
