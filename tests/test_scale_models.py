"""Scale tables and Q/DQ models: written in, read out, and with other people's models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from topfive.cards import fixtures_root
from topfive.errors import CalibrateError, QuantizeError, UnknownNameError
from topfive.graph import Graph
from topfive.quantize.calibration import Method, calibrated_tensors, measure
from topfive.quantize.optimize import optimize
from topfive.quantize.ranges import RangeTable, read_ranges
from topfive.quantize.scales import compare_tables, parse_cache, read_table, write_cache, write_table
from topfive.quantize.scales.qdq import METADATA, qdq_table, with_table
from topfive.sessions import open_session

NAME = "pocket_fire"
SIZE = (2, 3, 64, 64)


def model() -> onnx.ModelProto:
    return optimize(onnx.load(fixtures_root() / "models" / f"{NAME}.onnx"))


def committed() -> RangeTable:
    return read_ranges(fixtures_root() / "calibration" / f"{NAME}.json")


def batch() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, SIZE).astype(np.float32)


def cache_of(names: list[str], scales: list[int]) -> bytes:
    lines = [f"{name}: {bits:08X}" for name, bits in zip(names, scales, strict=True)]
    return "\n".join(["0 3ff0000000000000 3fefffb8b26394fb", *reversed(lines)]).encode()


TENSORS = calibrated_tensors(Graph(model()))
normal_scales = st.integers(0x37000000, 0x43000000)


@settings(max_examples=15)
@given(st.lists(normal_scales, min_size=len(TENSORS), max_size=len(TENSORS)))
def test_a_cache_goes_through_a_qdq_model_byte_for_byte(scales: list[int]) -> None:
    data = cache_of(TENSORS, scales)
    made = with_table(model(), parse_cache(data, "c"))
    onnx.checker.check_model(made)
    assert write_cache(qdq_table(made, "m")) == data


@pytest.mark.parametrize("weights", ["per_axis", "per_tensor"])
def test_the_model_holds_the_tables_scales_and_runs(weights: str, tmp_path: Path) -> None:
    table = committed()
    write_table(table, tmp_path / "q.onnx", model=model(), weights=weights)
    made = onnx.load(tmp_path / "q.onnx")
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    pairs = [n for n in made.graph.node if n.op_type == "QuantizeLinear"]
    assert len(pairs) >= 10
    for node in pairs:
        low, high = table.ranges[node.input[0]]
        assert constants[node.input[1]] == np.float32(max(abs(low), abs(high)) / 127)
    per_channel = [v for k, v in constants.items() if k.endswith(".scale") and v.size > 1]
    assert bool(per_channel) == (weights == "per_axis")
    x = batch()
    wanted, found = (open_session(m.SerializeToString()).run(None, {"input": x})[0] for m in (model(), made))
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.99
    assert read_table(tmp_path / "q.onnx") == RangeTable(
        dict(sorted(table.ranges.items())), table.method, table.provenance
    )


def test_a_changed_scale_in_the_graph_wins_over_the_metadata() -> None:
    made = with_table(model(), committed())
    node = next(n for n in made.graph.node if n.op_type == "QuantizeLinear")
    scale = next(t for t in made.graph.initializer if t.name == node.input[1])
    scale.CopyFrom(numpy_helper.from_array(np.array(0.5, np.float32), scale.name))
    found = qdq_table(made, "m")
    assert found.ranges[node.input[0]] == (-63.5, 63.5)
    others = [row for row in compare_tables(found, committed()).rows if row.tensor != node.input[0]]
    assert all(row.ratio == 1 for row in others)


def test_without_metadata_the_pairs_are_what_is_read() -> None:
    made = with_table(model(), committed())
    del made.metadata_props[:]
    found = qdq_table(made, "m")
    quantised = {n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear"}
    assert set(found.ranges) == quantised
    assert found.method == "qdq"
    rows = compare_tables(found, committed()).rows
    assert len(rows) == len(quantised)
    assert all(row.ratio == 1 for row in rows)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.items = iter([{"input": batch()[:1]}, {"input": batch()[1:]}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.items, None)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(QuantType.QInt8, {"ActivationSymmetric": True}), (QuantType.QUInt8, {}), (QuantType.QInt8, {})],
    ids=["int8_symmetric", "uint8", "int8_with_zero_points"],
)
def test_a_model_of_onnxruntimes_quantiser_is_read(kind: QuantType, options: dict, tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "theirs.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=kind,
        weight_type=QuantType.QInt8,
        extra_options=options,
    )
    found = read_table(tmp_path / "theirs.onnx")

    class Samples:
        names = ("a",)

        def load(self, index: int) -> np.ndarray:
            return batch()

    seen = measure(model(), Samples(), Method("minmax", bool(options))).ranges
    compared = 0
    for name, (low, high) in found.ranges.items():
        # They give a convolution the range of the Relu after it, and a pool that of its input.
        if name in seen and not name.endswith(("Conv.out", "Pool.out")):
            step = (high - low) / 250
            assert low == pytest.approx(min(seen[name][0], 0), abs=step), name
            assert high == pytest.approx(seen[name][1], abs=step), name
            compared += 1
    assert compared >= 10
    assert found.ranges["input"] == pytest.approx(
        (min(seen["input"][0], 0), seen["input"][1]), abs=2 * (seen["input"][1] - seen["input"][0]) / 255
    )


def tiny(scale: object, zero: object, *, twice: object = None, computed: bool = False) -> onnx.ModelProto:
    constants = {"scale": np.asarray(scale, np.float32), "zero": np.asarray(zero)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    if twice is not None:
        constants["other"] = np.asarray(twice, np.float32)
        nodes.append(helper.make_node("QuantizeLinear", ["x", "other", "zero"], ["q2"]))
    if computed:
        constants["half"] = constants.pop("scale")
        nodes.insert(0, helper.make_node("Add", ["half", "half"], ["scale"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("scale", "zero", "ends"),
    [
        (0.5, np.int8(0), (-63.5, 63.5)),
        (0.5, np.int8(-128), (0.0, 127.5)),
        (0.5, np.uint8(0), (0.0, 127.5)),
        (0.5, np.uint8(128), (-64.0, 63.5)),
    ],
    ids=["int8", "int8_low_zero", "uint8", "uint8_middle_zero"],
)
def test_codes_have_the_range_that_their_zero_point_leaves(scale: float, zero: object, ends: tuple) -> None:
    assert qdq_table(tiny(scale, zero), "m").ranges == {"x": ends}


BAD = {
    "zero": (tiny(0.0, np.int8(0)), "'x' is 0.0, not a positive number"),
    "negative": (tiny(-1.0, np.int8(0)), "not a positive number"),
    "infinite": (tiny(np.inf, np.int8(0)), "not a positive number"),
    "per_channel": (tiny([1.0, 2.0], [0, 0]), "'x' is 2 numbers"),
    "two_scales": (tiny(1.0, np.int8(0), twice=2.0), "'x' is quantised with two different scales"),
    "computed": (tiny(1.0, np.int8(0), computed=True), "computed by the graph"),
    "float": (model(), "is no Q/DQ model"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_models_without_a_table_say_why(case: str, tmp_path: Path) -> None:
    bad, message = BAD[case]
    onnx.save(bad, tmp_path / "bad.onnx")
    with pytest.raises(CalibrateError) as error:
        read_table(tmp_path / "bad.onnx")
    assert message in str(error.value)
    assert "bad.onnx" in str(error.value)


def test_a_file_that_is_no_model_and_damaged_metadata_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"hello")
    with pytest.raises(CalibrateError, match=r"x\.onnx"):
        read_table(tmp_path / "x.onnx")
    made = with_table(model(), committed())
    helper.set_model_props(made, {METADATA: "{"})
    onnx.save(made, tmp_path / "y.onnx")
    with pytest.raises(CalibrateError, match=rf"y\.onnx, metadata {METADATA}"):
        read_table(tmp_path / "y.onnx")


def test_a_table_that_lacks_a_tensor_names_it() -> None:
    table = committed()
    short = {name: ends for name, ends in table.ranges.items() if name != "input"}
    with pytest.raises(QuantizeError, match="'input'"):
        with_table(model(), RangeTable(short))
    with pytest.raises(UnknownNameError, match="did you mean per_axis"):
        with_table(model(), table, weights="per_axes")
