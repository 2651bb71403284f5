"""Ranges: min-max against onnxruntime's own calibrator, and the file they are kept in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

from topfive.cards import fixtures_root
from topfive.errors import CalibrateError
from topfive.quantize.calibration import minmax
from topfive.quantize.optimize import optimize
from topfive.quantize.ranges import RangeTable, read_ranges, write_ranges

BUNDLED = sorted(path.stem for path in (fixtures_root() / "models").glob("*.onnx"))


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, batches: list[np.ndarray]) -> None:
        self.items = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.items, None)


def batches(count: int = 4) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(0, 1, (2, 3, 64, 64)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("name", BUNDLED)
def test_minmax_is_onnxruntimes(name: str, tmp_path: Path) -> None:
    model = optimize(onnx.load(fixtures_root() / "models" / f"{name}.onnx"))
    onnx.save(model, tmp_path / "model.onnx")
    theirs = create_calibrator(
        tmp_path / "model.onnx",
        ["Conv", "MatMul", "MaxPool", "AveragePool", "Relu", "Clip"],
        augmented_model_path=str(tmp_path / "augmented.onnx"),
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"symmetric": False},
    )
    theirs.collect_data(Reader(model.graph.input[0].name, batches()))
    data = theirs.compute_data()
    ours = minmax(model, batches()).ranges
    compared = 0
    for tensor, (low, high) in ours.items():
        if tensor in data.keys():  # noqa: SIM118 (their class has no __contains__)
            wanted = tuple(float(np.asarray(v).item()) for v in data[tensor].range_value)
            assert (low, high) == wanted, tensor
            compared += 1
    assert compared >= 10


def test_ranges_do_not_depend_on_how_pictures_are_batched() -> None:
    model = optimize(onnx.load(fixtures_root() / "models" / "pocket_fire.onnx"))
    everything = np.concatenate(batches())
    one_by_one = minmax(model, (everything[i : i + 1] for i in range(len(everything)))).ranges
    together = minmax(model, [everything]).ranges
    assert one_by_one.keys() == together.keys()
    for tensor, (low, high) in together.items():
        assert one_by_one[tensor] == pytest.approx((low, high), rel=1e-4, abs=1e-5)


def test_pictures_are_read_one_batch_at_a_time() -> None:
    """Memory stays flat: the next batch is only asked for when the one before has run."""
    model = optimize(onnx.load(fixtures_root() / "models" / "pocket_fire.onnx"))
    asked, seen = [], []

    def stream() -> Iterator[np.ndarray]:
        for i, batch in enumerate(batches(3)):
            asked.append(i)
            yield batch

    minmax(model, stream(), progress=lambda done: seen.append((len(asked), done)))
    assert seen == [(1, 2), (2, 4), (3, 6)]


def test_an_empty_set_is_an_error() -> None:
    model = optimize(onnx.load(fixtures_root() / "models" / "pocket_fire.onnx"))
    with pytest.raises(CalibrateError, match="empty"):
        minmax(model, [])


def test_a_picture_that_gives_nan_names_the_tensor() -> None:
    model = optimize(onnx.load(fixtures_root() / "models" / "pocket_fire.onnx"))
    batch = np.full((1, 3, 64, 64), np.nan, np.float32)
    with pytest.raises(CalibrateError, match="'input' is not finite"):
        minmax(model, [batch])


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(min_size=1), st.tuples(finite, finite).map(sorted).map(tuple), min_size=1))
def test_a_table_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, ranges: dict) -> None:
    path = tmp_path_factory.mktemp("ranges") / "t.json"
    write_ranges(RangeTable(ranges, "minmax", {"pictures": 3}), path)
    back = read_ranges(path)
    assert {k: tuple(map(float.hex, v)) for k, v in back.ranges.items()} == {
        k: tuple(map(float.hex, v)) for k, v in ranges.items()
    }
    assert back.method == "minmax"


BAD = {
    "not_json": "{",
    "another_format": json.dumps({"format": "x", "ranges": {}}),
    "no_ranges": json.dumps({"format": "topfive-ranges/1", "ranges": {}}),
    "a_list": "[]",
    "decimal_text": json.dumps({"format": "topfive-ranges/1", "ranges": {"t": ["abc", "0x1p+0"]}}),
    "one_number": json.dumps({"format": "topfive-ranges/1", "ranges": {"t": ["0x1p+0"]}}),
    "infinite": json.dumps({"format": "topfive-ranges/1", "ranges": {"t": ["0x0p+0", math.inf.hex()]}}),
    "out_of_order": json.dumps({"format": "topfive-ranges/1", "ranges": {"t": ["0x1p+1", "0x1p+0"]}}),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_tables_name_the_file(tmp_path: Path, case: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(BAD[case])
    with pytest.raises(CalibrateError, match=r"table\.json"):
        read_ranges(path)


def test_a_missing_table_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(CalibrateError, match=r"absent\.json"):
        read_ranges(tmp_path / "absent.json")
