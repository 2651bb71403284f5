"""Calibration data as batches: the ONNX model zoo's tensors, pictures, and what may be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from topfive.errors import CalibrateError, CardError, ImageError
from topfive.images import Profile, load_profile, normalise_numbers, preprocess_batch
from topfive.quantize.samples import PictureSamples, Samples, TensorSamples, open_dataset, read_tensor

SIZE = (6, 5)
SHAPE = (3, *SIZE)
CAFFE2 = load_profile("caffe2")


def levels(seed: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE)).astype(np.float32)


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(numpy_helper.from_array(array, "input").SerializeToString())
    return path


def opened(folder: Path, profile: Profile | None = CAFFE2, count: int = 0) -> Samples:
    return open_dataset(folder, profile=profile, size=SIZE, shape=SHAPE, count=count)


def test_test_data_sets_are_read_in_order_of_number(tmp_path: Path) -> None:
    for number in (0, 2, 10, 1):
        write(tmp_path / f"test_data_set_{number}" / "input_0.pb", levels(number))
        write(tmp_path / f"test_data_set_{number}" / "output_0.pb", levels(99))
    samples = opened(tmp_path)
    assert [path.parent.name for path in samples.files] == [f"test_data_set_{n}" for n in (0, 1, 2, 10)]
    found = np.concatenate(list(samples.batches(3)))
    expected = normalise_numbers(np.concatenate([levels(n) for n in (0, 1, 2, 10)]), CAFFE2)
    np.testing.assert_array_equal(found, expected, strict=True)
    assert [path.parent.name for path in opened(tmp_path, count=2).files] == [
        "test_data_set_0",
        "test_data_set_1",
    ]


def test_inputs_in_the_folder_itself(tmp_path: Path) -> None:
    for number in (11, 9):
        write(tmp_path / f"input_{number}.pb", levels(number, 2))
    batches = list(opened(tmp_path).batches(8))
    assert [len(batch) for batch in batches] == [4]
    np.testing.assert_array_equal(batches[0][:2], normalise_numbers(levels(9, 2), CAFFE2))


def test_tensors_may_be_taken_as_they_are(tmp_path: Path) -> None:
    ready = np.random.default_rng(0).normal(size=(2, *SHAPE))
    write(tmp_path / "input_0.pb", ready)
    (batch,) = opened(tmp_path, profile=None).batches()
    np.testing.assert_array_equal(batch, ready.astype(np.float32), strict=True)


def test_uint8_levels_are_levels(tmp_path: Path) -> None:
    write(tmp_path / "input_0.pb", levels(3).astype(np.uint8))
    (batch,) = opened(tmp_path).batches()
    np.testing.assert_array_equal(batch, normalise_numbers(levels(3), CAFFE2), strict=True)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 7))
def test_batches_hold_every_sample_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], size: int
) -> None:
    folder = tmp_path_factory.mktemp("tensors")
    arrays = [levels(n, length) for n, length in enumerate(lengths)]
    for n, array in enumerate(arrays):
        write(folder / f"input_{n}.pb", array)
    samples = opened(folder, profile=None)
    for _ in range(2):  # as often as a method wants to
        batches = list(samples.batches(size))
        np.testing.assert_array_equal(np.concatenate(batches), np.concatenate(arrays))
        assert {len(batch) for batch in batches[:-1]} <= {size}
        assert 0 < len(batches[-1]) <= size


def picture_folder(folder: Path, count: int, size: tuple[int, int] = SIZE) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{n}.png" for n in range(count)]
    for n, path in enumerate(paths):
        noise = np.random.default_rng(n).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(noise).save(path)
    return paths


def test_pictures_are_prepared_by_the_profile(tmp_path: Path) -> None:
    paths = picture_folder(tmp_path / "pictures", 5)
    samples = opened(tmp_path / "pictures", count=3)
    assert isinstance(samples, PictureSamples)
    assert samples.files == tuple(paths[:3])
    batches = list(samples.batches(2))
    assert [len(batch) for batch in batches] == [2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), preprocess_batch(paths[:3], CAFFE2, SIZE))
    assert samples.provenance()["pictures"] == 3
    assert samples.provenance()["profile"] == "caffe2"


def test_the_same_levels_give_the_same_batches_from_pictures_and_tensors(tmp_path: Path) -> None:
    paths = picture_folder(tmp_path / "pictures", 4)
    for n, path in enumerate(paths):
        planes = np.asarray(Image.open(path)).transpose(2, 0, 1)[None]
        write(tmp_path / "tensors" / f"test_data_set_{n}" / "input_0.pb", planes.astype(np.float32))
    for pictures, tensors in zip(
        opened(tmp_path / "pictures").batches(3), opened(tmp_path / "tensors").batches(3), strict=True
    ):
        np.testing.assert_array_equal(pictures, tensors, strict=True)


def model(batch: int | str) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, *SHAPE))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, (batch, *SHAPE))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("batch", "expected"), [("n", [8, 2]), (1, [1] * 10), (5, [5, 5])], ids=["free", "one", "five"]
)
def test_a_models_fixed_batch_is_kept(tmp_path: Path, batch: int | str, expected: list[int]) -> None:
    write(tmp_path / "input_0.pb", levels(0, 10))
    samples = opened(tmp_path)
    assert [len(found) for found in samples.batches_for(model(batch))] == expected


def test_samples_that_do_not_fill_a_fixed_batch_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "input_0.pb", levels(0, 10))
    with pytest.raises(CalibrateError, match=r"fixed at 4, and 2 calibration samples .* multiple of 4"):
        list(opened(tmp_path).batches_for(model(4)))


def whole() -> bytes:
    return numpy_helper.from_array(levels(0), "input").SerializeToString()


def strings() -> bytes:
    return helper.make_tensor("s", TensorProto.STRING, [1], [b"x"]).SerializeToString()


def external() -> bytes:
    proto = numpy_helper.from_array(levels(0), "input")
    proto.ClearField("raw_data")
    proto.data_location = TensorProto.EXTERNAL
    proto.external_data.add(key="location", value="/etc/passwd")
    return proto.SerializeToString()


def infinite() -> bytes:
    array = levels(0)
    array[0, 0, 0, 0] = np.inf
    return numpy_helper.from_array(array, "input").SerializeToString()


def fewer_bytes() -> bytes:
    proto = numpy_helper.from_array(levels(0), "input")
    proto.raw_data = proto.raw_data[:-4]
    return proto.SerializeToString()


def unknown_type() -> bytes:
    proto = numpy_helper.from_array(levels(0), "input")
    proto.data_type = 99
    return proto.SerializeToString()


DAMAGED = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"hello, this is no tensor at all\n", "is no ONNX tensor, or cut short"),
    "truncated": (lambda: whole()[:-7], "is no ONNX tensor, or cut short"),
    "fewer_bytes_than_its_shape": (fewer_bytes, "is damaged or cut short"),
    "unknown_type": (unknown_type, "is damaged or cut short"),
    "no_type": (lambda: onnx.TensorProto(name="x").SerializeToString(), "holds no ONNX tensor"),
    "strings": (strings, "not numbers"),
    "data_elsewhere": (external, "has its data in another file"),
    "infinite": (infinite, "holds NaN or infinity"),
}


@pytest.mark.parametrize("case", sorted(DAMAGED))
def test_a_damaged_tensor_is_named(tmp_path: Path, case: str) -> None:
    content, reason = DAMAGED[case]
    path = tmp_path / "test_data_set_0" / "input_0.pb"
    path.parent.mkdir()
    path.write_bytes(content())
    with pytest.raises(CalibrateError) as caught:
        list(opened(tmp_path).batches())
    assert caught.value.message.startswith(f"{path}: ")
    assert reason in caught.value.message


@given(st.data())
def test_no_damage_gets_through_as_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes changed or cut anywhere: the tensor is read, or a CalibrateError names the file."""
    content = bytearray(whole())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, min(len(content), 40) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "input_0.pb"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        read_tensor(path)
    except CalibrateError as error:
        assert str(path) in error.message  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize(
    "shape", [(3, 6, 5), (1, 6, 5, 3), (1, 3, 5, 6), (0, 3, 6, 5), (1, 1, 6, 5)], ids=str
)
def test_a_tensor_of_another_shape_is_named_with_what_is_needed(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = write(tmp_path / "input_0.pb", np.zeros(shape, np.float32))
    with pytest.raises(CalibrateError) as caught:
        list(opened(tmp_path).batches())
    assert f"{path}: holds a tensor {list(shape)}, but the model needs [N, 3, 6, 5]" in caught.value.message


@pytest.mark.parametrize("inputs", [0, 2], ids=["none", "two"])
def test_a_test_data_set_has_one_input(tmp_path: Path, inputs: int) -> None:
    (tmp_path / "test_data_set_3").mkdir()
    for n in range(inputs):
        write(tmp_path / "test_data_set_3" / f"input_{n}.pb", levels(n))
    with pytest.raises(CalibrateError, match=rf"test_data_set_3: holds {inputs} inputs"):
        opened(tmp_path)


def test_both_kinds_in_one_folder_are_refused(tmp_path: Path) -> None:
    picture_folder(tmp_path / "both", 1)
    write(tmp_path / "both" / "input_0.pb", levels(0))
    with pytest.raises(CalibrateError, match=r"tensors \(input_0\.pb\) and pictures \(0\.png\)"):
        opened(tmp_path / "both")


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_neither_kind_says_what_a_dataset_is(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ImageError) as caught:
        opened(tmp_path / folder)
    assert "test_data_set_*/input_0.pb" in str(caught.value)


def test_pictures_need_a_profile(tmp_path: Path) -> None:
    picture_folder(tmp_path / "pictures", 1)
    with pytest.raises(CalibrateError, match="need a profile"):
        opened(tmp_path / "pictures", profile=None)


@pytest.mark.parametrize("name", ["alibaba_202_176_int8", "magicmind_nhwc", "magicmind_head_uint8"])
def test_a_profile_that_does_not_fit_the_model_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "input_0.pb", levels(0))
    with pytest.raises(CardError, match=rf"profile '{name}' gives .* the model wants float32 \[3, 6, 5\]"):
        opened(tmp_path, profile=load_profile(name))


@pytest.mark.parametrize(
    ("array", "warned"),
    [(levels(0), False), (levels(0) / 255, True), (levels(0) - 128, True), (levels(0) * 3, True)],
    ids=["levels", "fractions", "negative", "too_large"],
)
def test_numbers_that_are_hardly_levels_are_said(tmp_path: Path, array: np.ndarray, warned: bool) -> None:
    write(tmp_path / "input_0.pb", array)
    samples = opened(tmp_path)
    assert isinstance(samples, TensorSamples)
    assert bool(samples.beyond_levels()) is warned
    assert not warned or "--data-preprocess none" in samples.beyond_levels()
