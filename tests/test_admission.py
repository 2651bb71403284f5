"""Models that other tools quantised: run with their own arithmetic, or refused with a reason a node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import topfive
from topfive.cards import find_card, fixtures_root, load_cards
from topfive.errors import CompileError
from topfive.images import load_profile, preprocess_batch
from topfive.images.folders import list_images
from topfive.targets.gemmini.admission import admit
from topfive.targets.gemmini.reference import mismatches
from topfive.targets.gemmini.target import INT8_FILE

import int8_graphs

CASES = {
    "uint8": ({"zero": np.uint8(0)}, "codes are uint8"),
    "asymmetric": ({"zero": np.int8(3)}, "zero point 3"),
    "per_channel": ({"ws": np.full(2, 0.1, np.float32)}, r"per-channel scales \(2 values\)"),
    "zero_scale": ({"ws": np.float32(0)}, "not positive"),
    "nan_scale": ({"ws": np.float32("nan")}, "not positive and finite"),
}


def conv_with(changes: dict[str, object]) -> onnx.ModelProto:
    constants = {
        **int8_graphs.unit_constants(), "w": np.ones((2, 3, 1, 1), np.int8), "ws": np.float32(0.1), **changes
    }  # fmt: skip
    inputs = ["x", "one", "zero", "w", "ws", "zero", "one", "zero"]
    node = helper.make_node("QLinearConv", inputs, ["y"], name="layer7")
    return int8_graphs.model([node], {"x": (1, 3, 2, 2)}, "y", constants)


@pytest.mark.parametrize("case", sorted(CASES))
def test_refusals_name_node_and_reason(case: str) -> None:
    changes, reason = CASES[case]
    with pytest.raises(CompileError, match="1 of 1 quantised nodes") as caught:
        admit(conv_with(changes))
    assert "QLinearConv 'layer7'" in caught.value.details
    with pytest.raises(CompileError, match=reason):
        raise CompileError(caught.value.details)


def test_a_symmetric_model_is_admitted_as_it_is() -> None:
    assert [n.op_type for n in admit(conv_with({})).nodes] == ["QLinearConv"]


def test_scales_computed_at_run_time_are_refused() -> None:
    model = conv_with({})
    model.graph.input.append(helper.make_tensor_value_info("dynamic", TensorProto.FLOAT, ()))
    model.graph.node[0].input[4] = "dynamic"
    with pytest.raises(CompileError) as caught:
        admit(model)
    assert "computed at run time" in caught.value.details


def test_operators_without_an_int8_form_are_refused_by_name() -> None:
    constants = int8_graphs.unit_constants()
    node = helper.make_node(
        "QLinearGlobalAveragePool",
        ["x", "one", "zero", "one", "zero"],
        ["y"],
        name="gap",
        domain="com.microsoft",
    )
    with pytest.raises(CompileError) as caught:
        admit(int8_graphs.model([node], {"x": (1, 3, 2, 2)}, "y", constants))
    assert "QLinearGlobalAveragePool 'gap'" in caught.value.details


def test_a_float_model_is_refused() -> None:
    with pytest.raises(CompileError, match="choose quant mode int8"):
        admit(onnx.load(fixtures_root() / "models" / "pocket_fire.onnx"))


class Pictures(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batch: np.ndarray) -> None:
        self.items = iter([{"input": batch}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.items, None)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    card = find_card("pocket_resnet", load_cards())
    paths = [image.path for image in list_images(card.pictures_folder())[:24]]
    return preprocess_batch(paths, load_profile(card.input.profile), card.input.size)


@pytest.mark.parametrize("name", ["pocket_resnet", "pocket_mobilenet", "pocket_fire"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_models_of_onnxruntimes_quantiser_run_with_their_own_arithmetic(
    name: str, form: str, tmp_path: Path, pictures: np.ndarray
) -> None:
    """Symmetric int8 by somebody else's tool: every integer layer exact, and the answers are its own."""
    quantised = tmp_path / f"{name}_quantised.onnx"
    quantize_static(
        fixtures_root() / "models" / f"{name}.onnx",
        quantised,
        Pictures(pictures),
        quant_format=QuantFormat[form],
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Add", "Relu", "MaxPool"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )
    settings = {"quant": "as_is", "cache": tmp_path / "cache"}
    gemmini = topfive.build(quantised, target="gemmini_sim", **settings)
    with topfive.open(gemmini) as runner:
        ours = runner.run(pictures)
        observed = runner.tensors(pictures)
        assert runner.exact_outputs(pictures)
    int8 = onnx.load(gemmini.path / INT8_FILE)
    assert sum(n.op_type == "QLinearConv" for n in int8.graph.node) >= 5
    assert not any(n.op_type == "Conv" for n in int8.graph.node)
    assert next(mismatches(int8, observed, pictures), None) is None
    with topfive.open(topfive.build(quantised, target="cpu", **settings)) as runner:
        theirs = runner.run(pictures)
    # Only the residual add's rounding and padded pools differ between the two.
    assert np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max() + 0.1
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.8
