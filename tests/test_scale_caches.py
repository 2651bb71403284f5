"""TensorRT calibration caches: every byte comes back, and what is wrong is named by its line."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.errors import CalibrateError
from topfive.quantize.ranges import RangeTable, ranges_from_text, ranges_text, read_ranges, write_ranges
from topfive.quantize.scales import (
    compare_tables,
    parse_cache,
    read_table,
    scale_of,
    write_cache,
    write_table,
)
from topfive.quantize.scales.names import fitting
from topfive.quantize.scales.tensorrt_cache import cache_header, header_fields
from topfive.quantize.symmetric import activation_scale

MODERN = "TRT-8601-EntropyCalibration2"
LEGACY = "0 3ff0000000000000 3fefffb8b26394fb"

line_text = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1, max_size=30)
names = line_text.filter(lambda name: name.strip())
scales = st.integers(0, 0x7F7FFFFF)
digits = scales.flatmap(
    lambda bits: st.sampled_from([f"{bits:x}", f"{bits:08x}", f"{bits:08X}", f"0x{bits:x}"])
)
spaces = st.sampled_from([" ", "", "  ", "\t"])
headers = st.one_of(
    st.just(LEGACY),
    st.builds(
        "TRT-{}-{}".format,
        st.sampled_from(["7203", "8601", "100300", "8XXX", "8.6.1"]),
        st.sampled_from(["EntropyCalibration2", "EntropyCalibration", "MinMaxCalibration"]),
    ),
)
endings = st.sampled_from(["", "\n", "\n\n", " \n", "\r\n"])


@st.composite
def caches(draw: st.DrawFn) -> bytes:
    """Caches in every form that anyone was seen to write."""
    unique = draw(st.lists(names, min_size=1, max_size=12, unique=True))
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    lines = [draw(headers)]
    lines += [f"{name}:{draw(spaces)}{draw(digits)}" for name in unique]
    return (newline.join(lines) + draw(endings)).encode()


@given(caches())
def test_a_cache_comes_back_byte_for_byte(data: bytes) -> None:
    assert write_cache(parse_cache(data, "c")) == data


@given(caches())
def test_a_cache_comes_back_through_a_table_in_json(data: bytes) -> None:
    table = parse_cache(data, "c")
    back = ranges_from_text(ranges_text(table), "t")
    assert write_cache(back) == data
    assert dict(back.ranges) == dict(table.ranges)
    assert back.method == table.method


@given(scales)
def test_a_range_is_127_scales_and_gives_the_scale_back(bits: int) -> None:
    scale = struct.unpack("!f", bits.to_bytes(4, "big"))[0]
    table = parse_cache(f"{MODERN}\nx: {bits:x}\n".encode(), "c")
    low, high = table.ranges["x"]
    assert (low, high) == (-127 * scale, 127 * scale)
    assert scale_of(low, high) == np.float32(scale)
    if high >= 1e-8:
        assert activation_scale(low, high) == np.float32(scale)


@given(st.floats(0, float(np.finfo(np.float32).max), width=32, exclude_min=True))
def test_the_scale_of_a_float32_bound_is_the_float32_quotient(bound: float) -> None:
    assert scale_of(-bound, bound / 2) == np.float32(bound) / np.float32(127)


LITERALS = {
    "relu6": ("3d418306", 6.0),
    "input_of_nvidia": ("3f810204", 128.0),
    "input_of_alibaba": ("3caa5293", 2.6405),
    "zero": ("0", 0.0),
}


@pytest.mark.parametrize("case", list(LITERALS))
def test_published_scales_have_their_ranges(case: str) -> None:
    text, bound = LITERALS[case]
    table = parse_cache(f"{MODERN}\nx: {text}\n".encode(), "c")
    assert table.ranges["x"][1] == pytest.approx(bound, rel=1e-5)
    assert table.ranges["x"][0] == -table.ranges["x"][1]


NAMES = {
    "brackets": "(Unnamed Layer* 118) [Fully Connected]_output",
    "colon": "input_tensor:0",
    "colon_space": "a: b: c",
    "slashes": "/layer1/layer1.0/conv1/Conv_output_0",
    "number": "335",
    "blank_first": " x",
}


@pytest.mark.parametrize("case", list(NAMES))
def test_names_end_at_the_last_colon(case: str) -> None:
    data = f"{MODERN}\n{NAMES[case]}: 3dba2717\n".encode()
    table = parse_cache(data, "c")
    assert list(table.ranges) == [NAMES[case]]
    assert write_cache(table) == data


def test_headers_say_calibrator_and_parameters() -> None:
    assert header_fields(MODERN) == {"version": "8601", "calibrator": "EntropyCalibration2"}
    assert header_fields(LEGACY) == {"calibrator": "legacy 0", "cutoff": 1.0, "quantile": 0.999966}
    assert parse_cache(f"{MODERN}\nx: 1\n".encode(), "c").method == "entropy"
    assert parse_cache(b"TRT-7200-MinMaxCalibration\nx: 1\n", "c").method == "minmax"
    assert parse_cache(f"{LEGACY}\nx: 1\n".encode(), "c").method == "legacy 0"


@pytest.mark.parametrize(
    ("version", "method", "header"),
    [
        ("7.2.3", "entropy", "TRT-7203-EntropyCalibration2"),
        ("8.6.1", "minmax", "TRT-8601-MinMaxCalibration"),
        ("10.3.0", "percentile", "TRT-100300-EntropyCalibration2"),
    ],
)
def test_a_table_gets_the_header_of_its_method(version: str, method: str, header: str) -> None:
    assert cache_header(method, version) == header
    assert header_fields(header)


BAD = {
    "empty": (b"", "line 1: '' is not the header"),
    "no_header": (b"x: 3d418306\n", "line 1: 'x: 3d418306' is not the header"),
    "only_a_header": (f"{MODERN}\n".encode(), "holds no scales"),
    "no_colon": (f"{MODERN}\nx 3d418306\n".encode(), "line 2: 'x 3d418306' is not"),
    "no_name": (f"{MODERN}\n: 3d418306\n".encode(), "line 2"),
    "no_digits": (f"{MODERN}\nx: 1\ny:\n".encode(), "line 3"),
    "not_hexadecimal": (f"{MODERN}\nx: 3d41830g\n".encode(), "line 2"),
    "nine_digits": (f"{MODERN}\nx: 03d418306\n".encode(), "line 2"),
    "decimal": (f"{MODERN}\nx: 0.047\n".encode(), "line 2"),
    "blank_line": (f"{MODERN}\nx: 1\n\ny: 2\n".encode(), "line 3"),
    "twice": (f"{MODERN}\nx: 1\ny: 2\nx: 1\n".encode(), "line 4: 'x' has a scale on line 2 already"),
    "infinite": (f"{MODERN}\nx: 7f800000\n".encode(), "line 2: the scale of 'x' is inf"),
    "nan": (f"{MODERN}\nx: 7fc00000\n".encode(), "line 2: the scale of 'x' is nan"),
    "negative": (f"{MODERN}\nx: bd418306\n".encode(), "line 2: the scale of 'x' is negative"),
    "negative_zero": (f"{MODERN}\nx: 80000000\n".encode(), "line 2: the scale of 'x' is negative"),
    "not_text": (b"TRT-8601-EntropyCalibration2\nx\xff: 1\n", "is not a text file"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_caches_are_refused_by_line(case: str, tmp_path: Path) -> None:
    data, message = BAD[case]
    (tmp_path / "c.cache").write_bytes(data)
    with pytest.raises(CalibrateError) as error:
        read_table(tmp_path / "c.cache")
    assert "c.cache" in str(error.value)
    assert message in str(error.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_cache_or_an_error(data: bytes) -> None:
    try:
        table = parse_cache(data, "c")
    except CalibrateError:
        return
    assert write_cache(table) == data


def test_a_changed_scale_is_written_new_and_the_rest_as_it_was() -> None:
    data = f"{MODERN}\na: 0000000A\nb:  3D418306\nc: 1\n".encode()
    table = parse_cache(data, "c")
    changed = {"a": table.ranges["a"], "b": (-1.27, 1.27), "d": (-127.0, 127.0)}
    written = write_cache(RangeTable(changed, table.method, {}, table.cache))
    assert written == f"{MODERN}\na: 0000000A\nb: 3c23d70a\nd: 3f800000\n".encode()


def test_a_new_cache_follows_the_graphs_order() -> None:
    table = RangeTable({"a": (-1.0, 2.54), "b": (0.0, 127.0)}, "minmax")
    assert write_cache(table, order=["b", "z"]) == b"TRT-8601-MinMaxCalibration\nb: 3f800000\na: 3ca3d70a\n"
    assert write_cache(table, header="TRT-7203-EntropyCalibration2").startswith(b"TRT-7203-Entropy")
    with pytest.raises(CalibrateError, match="is not the header"):
        write_cache(table, header="hello")


@pytest.mark.parametrize("name", ["a\nb", " ", ""], ids=["newline", "blank", "empty"])
def test_a_name_that_a_line_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(CalibrateError, match="cannot stand in a calibration cache"):
        write_cache(RangeTable({name: (-1.0, 1.0)}))


def test_a_range_without_a_float32_scale_is_refused() -> None:
    with pytest.raises(CalibrateError, match="no float32 scale"):
        write_cache(RangeTable({"x": (-1e300, 1e300)}))


finite = st.floats(allow_nan=False, allow_infinity=False)
tables = st.dictionaries(
    st.text(min_size=1, max_size=8), st.tuples(finite, finite).map(sorted).map(tuple), min_size=1
).map(RangeTable)


@given(tables)
def test_a_table_is_equal_to_itself(table: RangeTable) -> None:
    found = compare_tables(table, table)
    assert found.equal(0.0)
    assert len(found.rows) == len(table.ranges)


bounds = st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-3, 1e3), min_size=1)


@given(bounds, bounds)
def test_differences_are_symmetric_sorted_and_complete(left: dict, right: dict) -> None:
    one, two = (RangeTable({k: (-v, v) for k, v in t.items()}) for t in (left, right))
    there, back = compare_tables(one, two), compare_tables(two, one)
    assert [row.ratio for row in there.rows] == [row.ratio for row in back.rows]
    assert [row.ratio for row in there.rows] == sorted((row.ratio for row in there.rows), reverse=True)
    assert {row.tensor for row in there.rows} | set(there.only_left) == set(left)
    assert there.only_left == back.only_right
    for row in there.rows:
        small, large = sorted((left[row.tensor], right[row.tensor]))
        assert row.ratio == pytest.approx(large / small, rel=1e-6)


def test_the_tolerance_is_of_the_ratio_and_missing_names_always_differ() -> None:
    left, right = RangeTable({"a": (-1.0, 1.0)}), RangeTable({"a": (-1.009, 1.009)})
    assert not compare_tables(left, right).equal(0.0)
    assert compare_tables(left, right).equal(0.01)
    more = RangeTable({"a": (-1.0, 1.0), "b": (-1.0, 1.0)})
    assert not compare_tables(left, more).equal(10.0)
    zero = RangeTable({"a": (0.0, 0.0)})
    assert compare_tables(left, zero).rows[0].ratio == math.inf


def test_asymmetric_ends_count_though_the_scale_is_the_same() -> None:
    left, right = RangeTable({"a": (-1.0, 4.0)}), RangeTable({"a": (-2.0, 4.0)})
    found = compare_tables(left, right)
    assert found.rows[0].ratio == 1.0
    assert found.rows[0].shift == 0.25
    assert not found.equal(0.1)
    assert found.equal(0.3)
    assert compare_tables(left, RangeTable({"a": (-4.0, 4.0)})).equal(0.0)


def test_a_cache_of_another_model_lists_its_names_with_the_nearest() -> None:
    table = parse_cache(f"{MODERN}\ninput_tensor_0: 1\nfc_replaced: 2\n".encode(), "other.cache")
    with pytest.raises(CalibrateError) as error:
        fitting(table, {"input_tensor:0", "logits"}, place="other.cache", model="mine")
    text = str(error.value)
    assert "other.cache: 2 of its 2 tensors are not in mine: it is of another model" in text
    assert "input_tensor_0   (nearest: input_tensor:0)" in text
    assert "fc_replaced" in text


def test_partial_leaves_out_what_does_not_fit_and_zeros() -> None:
    table = parse_cache(f"{MODERN}\na: 3d418306\nb: 0\nc: 1\n".encode(), "c")
    with pytest.raises(CalibrateError, match=r"1 of its 3 tensors are not in mine; --partial"):
        fitting(table, {"a", "b"}, place="c", model="mine")
    with pytest.raises(CalibrateError, match=r"scale of 1 tensors of mine is zero \(b\)"):
        fitting(table, {"a", "b", "c"}, place="c", model="mine")
    kept, left_out = fitting(table, {"a", "b"}, place="c", model="mine", partial=True)
    assert list(kept.ranges) == ["a"]
    assert left_out == ["c", "b"]
    with pytest.raises(CalibrateError, match="of another model"):
        fitting(table, {"z"}, place="c", model="mine", partial=True)


BAD_FORMS = {
    "no_order": {"header": "x", "texts": {}, "ending": ""},
    "a_number": {"header": 1, "order": [], "texts": {}, "ending": ""},
    "a_list": [],
}


@pytest.mark.parametrize("case", sorted(BAD_FORMS))
def test_a_table_with_a_bad_cache_form_is_refused(case: str, tmp_path: Path) -> None:
    place = tmp_path / "t.json"
    write_ranges(RangeTable({"a": (0.0, 1.0)}), place)
    document = json.loads(place.read_text()) | {"tensorrt_cache": BAD_FORMS[case]}
    place.write_text(json.dumps(document))
    with pytest.raises(CalibrateError, match="tensorrt_cache"):
        read_ranges(place)


def test_files_are_told_apart_by_content_and_written_by_suffix(tmp_path: Path) -> None:
    table = parse_cache(f"{LEGACY}\nx: 3D418306".encode(), "c")
    for name in ("a.json", "a.cache", "a.calib", "a.txt"):
        write_table(table, tmp_path / name)
        (tmp_path / f"{name}.copy").write_bytes((tmp_path / name).read_bytes())
        assert write_cache(read_table(tmp_path / f"{name}.copy")) == f"{LEGACY}\nx: 3D418306".encode()
    with pytest.raises(CalibrateError, match="suffix"):
        write_table(table, tmp_path / "a.table")
    with pytest.raises(CalibrateError, match="a float model"):
        write_table(table, tmp_path / "a.onnx")
    with pytest.raises(CalibrateError, match="cannot be read"):
        read_table(tmp_path / "absent.cache")
