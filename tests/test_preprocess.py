"""Preprocessing profiles: literal numbers for each, properties of all, and malformed profile files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from topfive.errors import CardError, ImageError, UnknownNameError
from topfive.images import (
    crop_uint8,
    list_images,
    load_profile,
    normalise,
    normalise_numbers,
    preprocess,
    preprocess_batch,
    profile_names,
    read_profile,
)

try:
    import cv2
except ImportError:
    cv2 = None

NAMES = profile_names()
TORCH = (-1.9466565, 0.2051822, 2.5528543)
SIGNED = (-0.92156863, 0.003921628, 0.9607843)

# The planes, in the tensor's order, of the pixel R, G, B = 10, 128, 250, compared exactly.
# The seed's modes and magicmind_head compute in double, the others in float32: 0.20518208 against 0.2051822.
VALUES = {
    "pocket64": TORCH,
    "caffe2": (146.061, 11.221, -113.68),  # 250 - 103.939, 128 - 116.779, 10 - 123.68
    "caffe2_resize": (146.061, 11.221, -113.68),
    "caffe": (2.48302, 0.19074, -1.93256),  # (250 - 103.94) * 0.017, ...
    "caffe_resize": (2.48302, 0.19074, -1.93256),
    "mxnet": (2.552854, 0.20518208, -1.9466563),  # (250 / 255 - 0.406) / 0.225, ...
    "mxnet_resize": (2.552854, 0.20518208, -1.9466563),
    "rcnn": (147.0199, 12.0535, -112.7717),  # 250 - 102.9801, 128 - 115.9465, 10 - 122.7717
    "torchvision": TORCH,
    "torchvision_bicubic": TORCH,
    "torchvision_232": TORCH,
    "torchvision_whole": TORCH,
    "torchvision_whole_bicubic": TORCH,
    "torchvision_whole_half": SIGNED,
    "efficientnet_b1": TORCH,
    "efficientnet_b3": TORCH,
    "efficientnet_b4": TORCH,
    "inception_v3": TORCH,
    "mlperf_vgg": (-113.68, 11.220001, 146.06),  # 10 - 123.68, 128 - 116.78, 250 - 103.94
    "mlperf_mobilenet": SIGNED,  # (x / 255 - 0.5) * 2
    "mlperf_pytorch": TORCH,
    "mlperf_tflite": (146.061, 11.221001, -113.68),  # B, G, R
    "alibaba_202_176": TORCH,
    "alibaba_202_176_int8": (-93, 9, 122),  # -93.63, 9.87, 122.78 cut off; rounding would give -94, 10, 123
    "alibaba_202_176_nhw4": (-93, 9, 122, 0),
    "magicmind": TORCH,
    "magicmind_nhwc": TORCH,
    "magicmind_head": (-1.9466563, 0.20518208, 2.552854),
    "magicmind_head_uint8": (10, 128, 250),
    "inception": SIGNED,  # x / 127.5 - 1
    "tf": SIGNED,
    "hf_vit": SIGNED,  # (x / 255 - 0.5) / 0.5
    "hf_resnet": TORCH,
    "torch": TORCH,
    "unit": (0.039215688, 0.5019608, 0.98039216),
    "caffe227": (146.0, 11.0, -113.0),  # 250 - 104, 128 - 117, 10 - 123
}

# Source size (height, width), input size, and the first row and column of the source that the crop keeps.
# The sources are as large as the profile resizes to, so that only the crop shows.
CROPS = {
    "pocket64": ((72, 91), (64, 64), (4, 14)),  # 13.5 rounds to the even 14
    "caffe2": ((224, 224), (224, 224), (0, 0)),
    "caffe2_resize": ((256, 303), (224, 224), (16, 39)),  # 303 // 2 - 112
    "caffe": ((224, 224), (224, 224), (0, 0)),
    "caffe_resize": ((303, 256), (224, 224), (39, 16)),
    "mxnet": ((224, 224), (224, 224), (0, 0)),
    "mxnet_resize": ((256, 301), (224, 224), (16, 38)),
    "rcnn": ((224, 224), (224, 224), (0, 0)),
    "torchvision": ((256, 303), (224, 224), (16, 40)),  # 39.5 rounds to the even 40
    "torchvision_bicubic": ((301, 256), (224, 224), (38, 16)),  # 38.5 rounds to the even 38
    "torchvision_232": ((232, 309), (224, 224), (4, 42)),  # 42.5 rounds to the even 42
    "torchvision_whole": ((384, 512), (384, 384), (0, 64)),
    "torchvision_whole_bicubic": ((391, 288), (288, 288), (52, 0)),  # 51.5 rounds to the even 52
    "torchvision_whole_half": ((480, 640), (480, 480), (0, 80)),
    "efficientnet_b1": ((255, 340), (240, 240), (8, 50)),  # 7.5 rounds to the even 8
    "efficientnet_b3": ((320, 427), (300, 300), (10, 64)),  # 63.5 rounds to the even 64
    "efficientnet_b4": ((384, 512), (380, 380), (2, 66)),
    "inception_v3": ((342, 456), (299, 299), (22, 78)),  # 21.5 and 78.5
    "mlperf_vgg": ((256, 303), (224, 224), (16, 39)),  # int(39.5)
    "mlperf_mobilenet": ((303, 256), (224, 224), (39, 16)),
    "mlperf_pytorch": ((256, 303), (224, 224), (16, 40)),
    "mlperf_tflite": ((256, 303), (224, 224), (16, 39)),
    "alibaba_202_176": ((202, 253), (176, 176), (13, 38)),  # 38.5 rounds to the even 38
    "alibaba_202_176_int8": ((202, 251), (176, 176), (13, 38)),  # 37.5 rounds to the even 38
    "alibaba_202_176_nhw4": ((251, 202), (176, 176), (38, 13)),
    "magicmind": ((256, 303), (224, 224), (16, 40)),
    "magicmind_nhwc": ((256, 303), (224, 224), (16, 40)),
    "magicmind_head": ((256, 256), (224, 224), (16, 16)),
    "magicmind_head_uint8": ((256, 256), (224, 224), (16, 16)),
    "inception": ((256, 256), (224, 224), (16, 16)),  # (256 - 224) / 2: 0.875 of each side
    "tf": ((256, 256), (224, 224), (16, 16)),
    "hf_vit": ((224, 224), (224, 224), (0, 0)),
    "hf_resnet": ((256, 303), (224, 224), (16, 39)),  # (303 - 224) // 2
    "torch": ((256, 303), (224, 224), (16, 39)),
    "unit": ((256, 303), (224, 224), (16, 39)),
    "caffe227": ((256, 303), (227, 227), (14, 37)),  # 128 - 114, 151 - 114
}


def coordinates(height: int, width: int) -> np.ndarray:
    """R and G are the low and high part of the column, B the row's low part."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns % 256, columns // 256, rows % 256], axis=-1).astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_profile_has_its_literal_tests():
    assert sorted(VALUES) == sorted(CROPS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_literal_values(name):
    profile = load_profile(name)
    tensor = normalise(np.full((2, 3, 3), (10, 128, 250), np.uint8), profile)
    layout, dtype = profile.tensor.layout, np.dtype(profile.tensor.dtype)
    assert tensor.shape == {"NCHW": (3, 2, 3), "NHWC": (2, 3, 3), "NHW4": (2, 3, 4)}[layout]
    assert tensor.dtype == dtype
    pixel = tensor[:, 1, 2] if layout == "NCHW" else tensor[1, 2]
    np.testing.assert_array_equal(pixel, np.array(VALUES[name], dtype))


@pytest.mark.parametrize("name", [name for name in NAMES if VALUES.get(name) != (10, 128, 250)])
def test_numbers_that_are_whole_levels_give_the_same_bits(name):
    profile = load_profile(name)
    pixels = np.stack([noise(5, 7, seed) for seed in (1, 2)])
    for dtype in (np.float32, np.float64, np.uint8, np.int64):
        numbers = normalise_numbers(pixels.transpose(0, 3, 1, 2).astype(dtype), profile)
        np.testing.assert_array_equal(numbers, normalise(pixels, profile), strict=True)


@given(hnp.arrays(np.float32, (1, 3, 1, 2), elements=st.floats(-500, 500, width=32)))
def test_numbers_need_not_be_levels(levels):
    """caffe2's subtraction in double, stored as float32, on the planes turned to B, G, R."""
    found = normalise_numbers(levels, load_profile("caffe2"))
    blue, green, red = (levels[0, plane].astype(np.float64) for plane in (2, 1, 0))
    expected = np.stack([blue - 103.939, green - 116.779, red - 123.68]).astype(np.float32)
    np.testing.assert_array_equal(found[0], expected, strict=True)


def test_numbers_of_another_shape_are_refused():
    with pytest.raises(ImageError, match=r"N x 3 x H x W, not \[3, 4, 4\]"):
        normalise_numbers(np.zeros((3, 4, 4), np.float32), load_profile("mxnet"))
    with pytest.raises(ImageError, match="no formula"):
        normalise_numbers(np.zeros((1, 3, 4, 4), np.float32), load_profile("magicmind_head_uint8"))


@pytest.mark.parametrize("name", NAMES)
def test_literal_crops(name):
    before, size, (top, left) = CROPS[name]
    picture = coordinates(*before)
    found = crop_uint8(picture, load_profile(name), size)
    np.testing.assert_array_equal(found, picture[top : top + size[0], left : left + size[1]])


@pytest.mark.parametrize(
    ("name", "before", "resized"),
    [
        pytest.param("torchvision", (375, 500), (256, 341), id="torchvision"),  # 341.33
        pytest.param("torchvision", (333, 500), (256, 384), id="torchvision-384.38"),
        pytest.param("torch", (334, 500), (256, 383), id="torch-383.23"),
        pytest.param("torch", (335, 500), (256, 382), id="torch-382.09"),
        pytest.param("torch", (332, 500), (256, 386), id="torch-385.54"),  # rounded; the others cut
        pytest.param("torchvision", (332, 500), (256, 385), id="torchvision-385.54"),
        pytest.param("alibaba_202_176", (332, 500), (202, 304), id="alibaba-304.22"),
        pytest.param("mlperf_vgg", (500, 332), (385, 256), id="mlperf-385.54"),
    ],
)
def test_the_long_side(name, before, resized):
    profile = load_profile(name)
    size = 176 if name.startswith("alibaba") else 224
    picture = noise(*before)
    kind = profile.picture[0].filter
    if kind == "pillow_bilinear":
        image = Image.fromarray(picture).resize(resized[::-1], Image.Resampling.BILINEAR)
    else:
        from topfive.images.resize import resize

        image = resize(picture, resized, kind)
    same_size = crop_uint8(np.array(image), profile, (size, size))
    np.testing.assert_array_equal(crop_uint8(picture, profile, (size, size)), same_size)


def test_pocket64_resizes_to_72_for_64_and_follows_the_card():
    profile = load_profile("pocket64")
    picture = noise(90, 120)
    scaled = np.asarray(Image.fromarray(picture).resize((96, 72), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(crop_uint8(picture, profile), scaled[4:68, 16:80])
    scaled = np.asarray(Image.fromarray(picture).resize((48, 36), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(crop_uint8(picture, profile, (32, 32)), scaled[2:34, 8:40])


def test_resize_size_replaces_the_first_resize():
    picture = noise(300, 400)
    scaled = np.asarray(Image.fromarray(picture).resize((342 * 400 // 300, 342), Image.Resampling.BILINEAR))
    left = round((456 - 299) / 2.0)
    found = crop_uint8(picture, load_profile("torchvision"), (299, 299), resize_size=342)
    np.testing.assert_array_equal(found, scaled[22:321, left : left + 299])
    with pytest.raises(CardError, match="'mxnet' does not resize"):
        crop_uint8(picture, load_profile("mxnet"), resize_size=342)


def direct(pixels: np.ndarray, name: str) -> np.ndarray:
    """Each profile's arithmetic on every pixel, written as its source writes it: planes last, as stored."""
    f = np.float32
    mean, deviation = np.array([0.485, 0.456, 0.406], f), np.array([0.229, 0.224, 0.225], f)
    doubles, floats = pixels[..., ::-1].astype(float), pixels.astype(f)
    torch = (floats / f(255) - mean) / deviation
    family = name.removesuffix("_resize")
    if family == "caffe2":
        return (doubles - [103.939, 116.779, 123.68]).astype(f)
    if family == "caffe":
        return ((doubles - [103.94, 116.78, 123.68]) * 0.017).astype(f)
    if family == "mxnet":
        return ((doubles / 255 - [0.406, 0.456, 0.485]) / [0.225, 0.224, 0.229]).astype(f)
    if family == "rcnn":
        return (doubles - [102.9801, 115.9465, 122.7717]).astype(f)
    if family == "mlperf_vgg":
        return floats - np.array([123.68, 116.78, 103.94], f)
    if family == "mlperf_tflite":
        return floats[..., ::-1] - np.array([103.939, 116.779, 123.68], f)
    if family in ("mlperf_mobilenet", "hf_vit", "torchvision_whole_half"):
        return (floats / f(255) - f(0.5)) * f(2)
    if family in ("inception", "tf"):
        return floats / f(127.5) - f(1)
    if family == "unit":
        return floats / f(255)
    if family == "caffe227":
        return floats[..., ::-1] - np.array([104, 117, 123], f)
    if family == "magicmind_head":
        return ((pixels / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(f)
    if family == "magicmind_head_uint8":
        return pixels
    if family.startswith("alibaba_202_176_"):
        scale = struct.unpack("!f", bytes.fromhex("3caa5293"))[0]
        quantised = (torch / scale).clip(-127.0, 127.0).astype(np.int8)
        return np.pad(quantised, [(0, 0)] * 3 + [(0, 1)]) if family.endswith("nhw4") else quantised
    return torch


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=5)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_table_is_the_formula(name, count, height, width, seed):
    profile = load_profile(name)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    tensor = normalise(pixels, profile)
    expected = direct(pixels, name)
    if profile.tensor.layout == "NCHW":
        expected = expected.transpose(0, 3, 1, 2)
    assert tensor.flags.c_contiguous
    assert tensor.dtype == expected.dtype
    np.testing.assert_array_equal(tensor, expected)
    np.testing.assert_array_equal(normalise(pixels[0], profile), tensor[0])


def test_quantising_drops_the_fraction_at_every_level():
    exact = normalise(
        np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2), load_profile("alibaba_202_176")
    )
    scaled = exact[:, 0] / np.float32(0.0207913276)
    found = normalise(
        np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2), load_profile("alibaba_202_176_int8")
    )[:, 0]
    assert found[:, 0].tolist() == [-101, -97, -86]  # -101.86, -97.91, -86.79
    assert found[:, 255].tolist() == [108, 116, 126]  # 108.17, 116.81, 126.98
    assert (np.abs(found) <= np.abs(scaled)).all()
    assert (found != np.rint(scaled)).mean() > 0.4


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=4)
@given(st.integers(20, 300), st.integers(20, 300), st.integers(0, 2**32 - 1))
def test_preprocess_is_normalise_of_crop_and_repeats(name, height, width, seed):
    profile = load_profile(name)
    if not profile.picture:
        height, width = profile.size
    picture = noise(height, width, seed)
    before = picture.copy()
    crop = crop_uint8(picture, profile)
    assert crop.shape == (*profile.size, 3)
    assert crop.dtype == np.uint8
    tensor = preprocess(picture, profile)
    np.testing.assert_array_equal(tensor, normalise(crop, profile))
    np.testing.assert_array_equal(tensor, preprocess(picture, profile))
    np.testing.assert_array_equal(picture, before)


def test_bgr_profiles_reverse_the_planes_and_the_others_do_not():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    for name in NAMES:
        tensor = load_profile(name).tensor
        values = normalise(red, load_profile(name)).astype(float)
        planes = values.reshape(3, -1)[:, 0] if tensor.layout == "NCHW" else values.reshape(-1)[:3]
        assert planes.argmax() == {"RGB": 0, "BGR": 2}[tensor.planes], name


def test_a_batch_stacks_files_and_arrays_with_any_number_of_threads(tmp_path):
    pictures = [noise(80 + seed, 90, seed) for seed in range(5)]
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    profile = load_profile("pocket64")
    expected = np.stack([preprocess(picture, profile) for picture in pictures])
    for threads in (1, 2):
        np.testing.assert_array_equal(preprocess_batch(paths, profile, threads=threads), expected)
    np.testing.assert_array_equal(preprocess_batch([*paths[:2], *pictures[2:]], profile), expected)
    with pytest.raises(ImageError, match="the list is empty"):
        preprocess_batch([], profile)


@pytest.mark.parametrize("name", ["caffe2", "caffe", "mxnet"])
@pytest.mark.parametrize("shape", [(224, 225), (223, 224), (1, 1)], ids=str)
def test_the_seeds_modes_need_exactly_the_input_size(name, shape, tmp_path):
    path = tmp_path / "cat.png"
    Image.fromarray(noise(*shape)).save(path)
    with pytest.raises(
        ImageError, match=rf"cat\.png: is {shape[1]}x{shape[0]} .*'{name}' does not resize"
    ) as caught:
        preprocess(path, load_profile(name))
    assert "exactly 224x224" in str(caught.value)


@pytest.mark.parametrize(
    ("picture", "size", "message"),
    [
        pytest.param(noise(4, 4), (300, 300), "256x256 .* too small to crop 300x300", id="crop-too-large"),
        pytest.param(noise(1, 800_000), (224, 224), "would become .* aspect ratio", id="extreme"),
        pytest.param(noise(4, 4)[:, :, :1], (4, 4), "H x W x 3, not uint8 of shape", id="one-channel"),
        pytest.param(noise(4, 4).astype(float), (4, 4), "must be uint8", id="floats"),
    ],
)
def test_pictures_that_do_not_fit(picture, size, message):
    with pytest.raises(ImageError, match=message):
        crop_uint8(picture, load_profile("torch"), size)


def test_a_profile_without_a_size_asks_for_one(tmp_path):
    text = (
        load_profile("hf_vit").path.read_text().replace("size = [224, 224]\n", "").replace("hf_vit", "bare")
    )
    (tmp_path / "bare.toml").write_text(text)
    profile = load_profile("bare", [tmp_path])
    assert preprocess(noise(5, 6), profile, (3, 4)).shape == (3, 3, 4)
    with pytest.raises(CardError, match="'bare' has no size"):
        preprocess(noise(5, 6), profile)


def test_normalise_refuses_other_arrays():
    with pytest.raises(ImageError, match="pixels must be uint8"):
        normalise(np.zeros((3, 4, 4), np.uint8), load_profile("torch"))


# OpenCV's own pipeline, as MLPerf's and Cambricon's scripts call it, when OpenCV is there.


def mlperf_crop(picture: np.ndarray, interpolation: int) -> np.ndarray:
    height, width = picture.shape[:2]
    new = int(100.0 * 224 / 87.5)
    size = (new, int(new * height / width)) if height > width else (int(new * width / height), new)
    picture = cv2.resize(picture, size, interpolation=interpolation)
    height, width = picture.shape[:2]
    left, right = int((width - 224) / 2), int((width + 224) / 2)
    top, bottom = int((height - 224) / 2), int((height + 224) / 2)
    return picture[top:bottom, left:right]


@pytest.mark.skipif(cv2 is None, reason="opencv is not installed (pip install topfive[opencv])")
@pytest.mark.parametrize("shape", [(375, 500), (501, 333), (100, 140), (512, 512)], ids=str)
def test_opencv_profiles_equal_opencv(shape):
    picture = noise(*shape)
    for name, number in (
        ("mlperf_vgg", cv2.INTER_AREA),
        ("mlperf_mobilenet", cv2.INTER_LINEAR),
        ("mlperf_tflite", cv2.INTER_LINEAR),
    ):
        np.testing.assert_array_equal(crop_uint8(picture, load_profile(name)), mlperf_crop(picture, number))
    scaled = cv2.resize(picture, (256, 256))
    np.testing.assert_array_equal(crop_uint8(picture, load_profile("magicmind_head")), scaled[16:240, 16:240])


# Profile files.

GOOD = """
name = "mine"
description = "d"
source = "s"
size = [8, 8]
picture = [
  { resize = "shorter_side", ratio = [9, 8], filter = "opencv_area" },
  { crop = "centre", start = "truncate" },
]
[tensor]
planes = "RGB"
layout = "NHWC"
dtype = "int8"
steps = [{ divide = [255.0] }]
[tensor.quantise]
scale = "3caa5293"
clip = [-127, 127]
rounding = "half_even"
"""


def test_a_profile_of_ones_own(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD)
    profile = load_profile("mine", [tmp_path])
    assert profile.path == tmp_path / "mine.toml"
    assert "mine" in profile_names([tmp_path])
    level = preprocess(np.full((9, 9, 3), 200, np.uint8), profile)
    assert (level == round(200 / 255 / 0.0207913276)).all()  # 37.7 rounds to 38
    assert profile == read_profile(tmp_path / "mine.toml")


BAD = {
    "missing-key": ('source = "s"', "", "'source' is missing"),
    "wrong-type": ('source = "s"', "source = 5", "'source' must be a string"),
    "unknown-key": ('source = "s"', 'source = "s"\ncolor = "RGB"', "unknown key 'color'"),
    "size-zero": ("size = [8, 8]", "size = [8, 0]", "'size' must be a positive"),
    "decoder": (
        "size = [8, 8]",
        'size = [8, 8]\ndecoder = "opencvv"',
        "'decoder' is 'opencvv': did you mean 'opencv'",
    ),
    "exif": (
        "size = [8, 8]",
        'size = [8, 8]\nexif = "yes"',
        "'exif' is 'yes': it must be one of apply, ignore",
    ),
    "name": ('"mine"', '"yours"', "'name' is 'yours'"),
    "resize": (
        '"shorter_side"',
        '"short_side"',
        r"'picture\[0\].resize' is 'short_side': did you mean 'shorter_side'",
    ),
    "filter": ('"opencv_area"', '"opencv_aera"', "did you mean 'opencv_area'"),
    "no-filter": (', filter = "opencv_area"', "", r"'picture\[0\].filter' is missing"),
    "ratio-zero": ("ratio = [9, 8]", "ratio = [9, 0]", r"'picture\[0\].ratio' must be positive"),
    "size-of-step-zero": ("ratio = [9, 8]", "size = 0", r"'picture\[0\].size' must be positive"),
    "size-and-ratio": ("ratio = [9, 8]", "ratio = [9, 8], size = 9", "both size and ratio"),
    "start-of-a-resize": ("ratio = [9, 8]", 'start = "truncate"', r"'picture\[0\].start' does not belong"),
    "long": ("ratio = [9, 8]", 'long = "ceil"', r"'picture\[0\].long' is 'ceil'"),
    "crop": ('crop = "centre"', 'crop = "center"', "did you mean 'centre'"),
    "resize-and-crop": (
        'crop = "centre"',
        'crop = "centre", resize = "stretch"',
        "exactly one of the keys resize and crop",
    ),
    "no-fraction": (
        'crop = "centre", start = "truncate"',
        'crop = "central_fraction"',
        "'picture.1..fraction' must be more",
    ),
    "unknown-key-of-step": ('start = "truncate"', 'begin = "truncate"', "unknown key"),
    "planes": ('planes = "RGB"', 'planes = "GBR"', "'tensor.planes' is 'GBR'"),
    "layout": ('layout = "NHWC"', 'layout = "HWC"', "'tensor.layout' is 'HWC': did you mean 'NHWC'"),
    "divide-by-0": ("divide = [255.0]", "divide = [0.0]", "must not be 0"),
    "two-values": ("divide = [255.0]", "divide = [1.0, 2.0]", "must have 1 value or 3, not 2"),
    "two-operations": (
        "divide = [255.0]",
        "divide = [2.0], subtract = [1.0]",
        "exactly one of subtract, multiply and divide",
    ),
    "quantised-float": ('dtype = "int8"', 'dtype = "float32"', "'tensor.quantise' belongs to dtype int8"),
    "quantised-uint8": ('dtype = "int8"', 'dtype = "uint8"', "'tensor.steps' must be left out"),
    "scale-digits": ('"3caa5293"', '"3caa529"', "8 hex digits"),
    "scale-infinite": ('"3caa5293"', '"7f800000"', "8 hex digits"),
    "clip": ("[-127, 127]", "[-129, 127]", "within -128 and 127"),
    "rounding": ('"half_even"', '"round"', "'tensor.quantise.rounding' is 'round'"),
    "not-toml": ("[tensor]", "[tensor", "is not valid TOML"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_malformed_profile_names_the_file_and_the_key(tmp_path, kind):
    old, new, message = BAD[kind]
    assert old in GOOD
    (tmp_path / "mine.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(CardError, match=message) as caught:
        load_profile("mine", [tmp_path])
    assert str(tmp_path / "mine.toml") in str(caught.value)


def test_unknown_and_doubled_names(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown profile 'torchvison': did you mean torchvision"):
        load_profile("torchvison")
    (tmp_path / "mxnet.toml").write_text(load_profile("mxnet").path.read_text())
    with pytest.raises(CardError, match="'mxnet' is defined twice"):
        load_profile("mxnet", [tmp_path])


# The real networks of the shared data, whose README states the accuracies.

DATA = Path(os.environ.get("TOPFIVE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
DOG = [  # network, profile, size, background class, softmax of the five best on dog.jpg
    ("squeezenet1.0-deepcomp", "caffe227", 227, 0, (0.9536, 0.0249, 0.0107, 0.0086, 0.0006)),
    ("mobilenetv2-1.0-224-tf2ptq", "tf", 224, 1, (0.857, 0.0178, 0.0158, 0.013, 0.0044)),
]


def network(name: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    path = DATA / "models" / f"{name}.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    return lambda tensor: session.run(None, {feed: tensor})[0].reshape(len(tensor), -1)


@pytest.mark.realdata
@pytest.mark.skipif(
    not (DATA / "models").is_dir(), reason="no real networks: set TOPFIVE_DATA to their folder"
)
@pytest.mark.parametrize(
    ("model", "profile", "size", "background", "expected"), DOG, ids=[case[0] for case in DOG]
)
def test_the_dog(model, profile, size, background, expected):
    tensor = preprocess_batch([DATA / "dog.jpg"], load_profile(profile), (size, size))
    logits = network(model)(tensor)[0].astype(float)
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    assert int(scores.argmax()) - background == 208  # Labrador retriever
    np.testing.assert_allclose(np.sort(scores)[::-1][:5], expected, atol=6e-5 if size == 227 else 6e-4)


@pytest.mark.realdata
@pytest.mark.skipif(
    not (DATA / "models").is_dir(), reason="no real networks: set TOPFIVE_DATA to their folder"
)
def test_the_accuracy_of_mobilenet_v1_on_the_photographs():
    images = list_images(DATA / "images")
    assert len(images) == 250
    batch = preprocess_batch([image.path for image in images], load_profile("tf"), (128, 128), threads=2)
    logits = network("mobilenetv1-0.25-128")(batch)[:, 1:]
    right = logits.argmax(axis=1) == [image.label for image in images]
    assert abs(right.mean() - 0.400) <= 0.004  # other crops give 0.42 to 0.47
