"""Resizing: OpenCV's arithmetic against vectors made with OpenCV 5.0.0, and against it if installed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from topfive.errors import ImageError
from topfive.images.resize import FILTERS, resize

try:
    import cv2
except ImportError:
    cv2 = None

# (filter, source size, resized size, bytes of the result for source(...))
VECTORS = [
    (
        "opencv_area",
        (5, 7),
        (3, 4),
        "2782b192695e9d57a467875f7992697571918e7b866d9565848774955e947ac68f6e9d66",
    ),
    (
        "opencv_cubic",
        (5, 7),
        (3, 4),
        "157dc4987832b152b7618a55a5934a1d8dcbcd306e45b168858879ce239694ff5e699b64",
    ),
    (
        "opencv_linear",
        (5, 7),
        (3, 4),
        "217cb78c7d43ad53ae6389599b96512c87c2be39744faa658f7f7abb369192ed686aa560",
    ),
    (
        "opencv_area",
        (6, 6),
        (3, 3),
        "2f8aa5ae49646d88a376916c69849f9c779275906b9c7792839e79",
    ),
    (
        "opencv_cubic",
        (6, 6),
        (3, 3),
        "1e95aecb2d58639aa77c93644d95acb3668f739a5d9c6b9e849f7a",
    ),
    (
        "opencv_linear",
        (6, 6),
        (3, 3),
        "2f8aa5ae49646d88a376916c69849f9c779275906b9c7792839e79",
    ),
    (
        "opencv_area",
        (9, 6),
        (3, 2),
        "5d7f85856e908e777d80a28b7b816aa97698",
    ),
    (
        "opencv_cubic",
        (9, 6),
        (3, 2),
        "65c01b3792ed5db813a4ff5a83de393f9af5",
    ),
    (
        "opencv_linear",
        (9, 6),
        (3, 2),
        "65c01b3792ed5db813a4ff5a83de393f9af5",
    ),
    (
        "opencv_area",
        (4, 3),
        (5, 6),
        "005bb6005bb63994ef3994ef72cd2872cd281772cd1772cd5ab5505ab5509d38539d38534ea9844ea9849a75509a7550"
        "67429d67429d63be5963be59b9546fb9546f4f6ac54f6ac51772cd1772cd77d22d77d22dd7328dd7328d",
    ),
    (
        "opencv_cubic",
        (4, 3),
        (5, 6),
        "0053ad0963cc247dff49a8d364cb5874e10e055dee1881bd34bf6d69ad39975540b4214352bd7d6ea6699d80459d5656"
        "6f3f905330b361d24682a752bb6065af45916567be387ad90760e9238bab50d54595c02bcc596cee1b93",
    ),
    (
        "opencv_linear",
        (4, 3),
        (5, 6),
        "005bb60e69c42b86e147a2bd64bf5a72cd281671cc2681af47a277689658895e529a41504ea984619c7787825d8d6863"
        "734e8967429d5eb96073a2639f73689d5f806f64ac5866c11772cd2f8aa55fba558faa45bf5a75d7328d",
    ),
    (
        "opencv_area",
        (7, 4),
        (3, 7),
        "126dc8227db352ad7672845f925b48c33979d32e89348fa14b948a90a2469a7574a347a25f8cb149a4b6285eb93d7d98"
        "7cd732b8936ef44faa8ea9606cc747",
    ),
    (
        "opencv_cubic",
        (7, 4),
        (3, 7),
        "045deb1b8eaf43c45b7a8734b03046d9247eef26a80d69dd329d916dd432bf8245d230977367d2279cf7007b8f3a9277"
        "99ae5ace9674d27f87b69a599eb235",
    ),
    (
        "opencv_linear",
        (7, 4),
        (3, 7),
        "1570ca2c87a551ac69777d589d4752c23b78da35901772cd39949470cb38a7825dcc39947070cb3792ed237e84508d74"
        "98a45bb6916cc77e7dae95649ea454",
    ),
]

# The same with the SHA-256 of the result, for photograph sizes.
DIGESTS = [
    # slivers of less than a thousandth of a pixel are left out
    ("opencv_area", (3, 2001), (3, 1000), "d2f65ab5868a8d07ca513399bb5e3e9960849ef813208f962c778626f8078e64"),
    (
        "opencv_area",
        (375, 500),
        (256, 341),
        "1596c360e6f57d71b059acca9abaac8aa75dbe3e62c00235d16be16299340caf",
    ),
    (
        "opencv_cubic",
        (375, 500),
        (256, 341),
        "9ded88c11f167fa8b6886bab629847d840f18638da30eded2b0c92ec8f72ccba",
    ),
    (
        "opencv_linear",
        (375, 500),
        (256, 341),
        "c40f86f1d508c56a3555d9883649361fd1d4196bed9c6994196a610badb58ac7",
    ),
    (
        "opencv_area",
        (500, 333),
        (384, 256),
        "09ea2dd798f04252a29951b48429d9b5a500bca48f9f9314708f399d26b7d158",
    ),
    (
        "opencv_cubic",
        (500, 333),
        (384, 256),
        "1ce613560ec6c755d706cd2e2801c7670616f2b21bcd77b432d9227ad39c1c11",
    ),
    (
        "opencv_linear",
        (500, 333),
        (384, 256),
        "d72726ad2938b9f52d84cc675aeb7b02b5285f0fee931d01fbcce8e311f6fc3b",
    ),
    (
        "opencv_area",
        (768, 1024),
        (256, 341),
        "c0f11169670b81c215aabacbbe7d10f812a0bf8486cb8bffc1f59ebcf4b5638f",
    ),
    (
        "opencv_cubic",
        (768, 1024),
        (256, 341),
        "21acccd7fadcb7c1e1c4579d223afbb2ddb2262669e3b16bc8ef6b24a060669e",
    ),
    (
        "opencv_linear",
        (768, 1024),
        (256, 341),
        "1410c32da847982642a5949c668f4ad58edf2b948683b20f4dc34d28c5474d56",
    ),
    (
        "opencv_area",
        (1024, 768),
        (256, 256),
        "231ea8d1650d36e3feb2967c471b4d58307385ccc72496fd953562145ff09c4b",
    ),
    (
        "opencv_cubic",
        (1024, 768),
        (256, 256),
        "c1c71010ed7f08c791991b97897d43fea4d593bb9f57373438dbfe0fec2a16f7",
    ),
    (
        "opencv_linear",
        (1024, 768),
        (256, 256),
        "99fbef7bb6529f4b53c69b1f3776812a81ee1e29de1fae70f09df5240c4f518f",
    ),
    (
        "opencv_area",
        (110, 147),
        (256, 342),
        "0ea1bb124d161814c7521a8d05bf6a68b9199c0ba4d5d61266e12bbec54f36e4",
    ),
    (
        "opencv_cubic",
        (110, 147),
        (256, 342),
        "cefb44fd6ce1865692aef7038fa85a8882474521da291818b93c17512df2cae8",
    ),
    (
        "opencv_linear",
        (110, 147),
        (256, 342),
        "1419f0ec89f5ea36ceefdcfe6970a76e480f2569886b9572c94e913fadaf27ad",
    ),
]


def source(height: int, width: int) -> np.ndarray:
    row, column, channel = np.ogrid[:height, :width, :3]
    return ((row * row * 31 + column * 57 + channel * 91 + row * column * 13) % 256).astype(np.uint8)


def name(case: tuple) -> str:
    return f"{case[0]}-{case[1][0]}x{case[1][1]}-{case[2][0]}x{case[2][1]}"


@pytest.mark.parametrize("case", VECTORS, ids=name)
def test_small_pictures_equal_opencv(case):
    kind, before, after, expected = case
    assert resize(source(*before), after, kind).tobytes().hex() == expected


@pytest.mark.parametrize("case", DIGESTS, ids=name)
def test_photograph_sizes_equal_opencv(case):
    kind, before, after, expected = case
    assert hashlib.sha256(resize(source(*before), after, kind).tobytes()).hexdigest() == expected


def one_row(*values: int) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=2)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        # 4 -> 3: areas of 4/3 pixels: (10 + 20/3) / (4/3) = 12.5, then 25 and 37.5; ties go to the even level
        pytest.param("opencv_area", (10, 20, 30, 40), (12, 25, 38), id="area-thirds"),
        # 6 -> 2: the mean of three
        pytest.param("opencv_area", (0, 1, 4, 250, 255, 255), (2, 253), id="area-whole"),
        # 4 -> 2: centres at 0.5 and 2.5: means of neighbours, halves up: 15, 35.5
        pytest.param("opencv_linear", (10, 20, 30, 41), (15, 36), id="linear-half"),
        # 2 -> 4: centres at -0.25, 0.25, 0.75, 1.25; the outer two are the edges
        pytest.param("opencv_linear", (0, 100), (0, 25, 75, 100), id="linear-double"),
        # 4 -> 2, cubic at a half: (-0.09375, 0.59375, 0.59375, -0.09375), edges repeated
        # -0.09375*10 + 0.59375*(10+20) - 0.09375*30 = 14.0625; ...20, 30+41, 41: 36.4375
        pytest.param("opencv_cubic", (10, 20, 30, 41), (14, 36), id="cubic-half"),
        # cubic overshoots and is clipped, not wrapped: -23.9, 302.8, -47.8, 151.4
        pytest.param("opencv_cubic", (0, 0, 255, 255, 0, 0, 255, 0), (0, 255, 0, 151), id="cubic-clipped"),
        # Pillow's triangle of support 2 around 1 and 3: shares 3/7, 3/7, 1/7: 17.1, 32.9
        pytest.param("pillow_bilinear", (10, 20, 30, 40), (17, 33), id="pillow-antialiased"),
    ],
)
def test_values_worked_out_by_hand(kind, before, after):
    assert resize(one_row(*before), (1, len(after)), kind)[0, :, 0].tolist() == list(after)


def test_an_even_block_rounds_half_up_and_an_odd_one_half_to_even():
    pair = np.repeat(np.array([[0, 1], [1, 0]], np.uint8)[:, :, None], 3, axis=2)
    assert resize(pair, (1, 1), "opencv_area")[0, 0, 0] == 1  # (2 + 2) >> 2
    assert resize(one_row(0, 1), (1, 1), "opencv_area")[0, 0, 0] == 0  # rint(0.5)


sides = st.integers(1, 40)


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(sorted(FILTERS)), sides, sides, sides, sides, st.data())
def test_a_region_is_the_same_part_of_the_whole(kind, before_h, before_w, after_h, after_w, data):
    picture = source(before_h, before_w)
    top, left = data.draw(st.integers(0, after_h - 1)), data.draw(st.integers(0, after_w - 1))
    rows, columns = data.draw(st.integers(1, after_h - top)), data.draw(st.integers(1, after_w - left))
    whole = resize(picture, (after_h, after_w), kind)
    assert whole.shape == (after_h, after_w, 3)
    assert whole.dtype == np.uint8
    part = resize(picture, (after_h, after_w), kind, (top, left, rows, columns))
    np.testing.assert_array_equal(part, whole[top : top + rows, left : left + columns])


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(FILTERS)), st.integers(0, 255), sides, sides, sides, sides)
def test_a_flat_picture_stays_flat(kind, level, before_h, before_w, after_h, after_w):
    picture = np.full((before_h, before_w, 3), level, np.uint8)
    assert (resize(picture, (after_h, after_w), kind) == level).all()


@pytest.mark.skipif(cv2 is None, reason="opencv is not installed (pip install topfive[opencv])")
@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["area", "cubic", "linear"]), *[st.integers(1, 90)] * 4, st.integers(0, 2**32 - 1))
def test_random_pictures_equal_the_installed_opencv(kind, before_h, before_w, after_h, after_w, seed):
    picture = np.random.default_rng(seed).integers(0, 256, (before_h, before_w, 3), dtype=np.uint8)
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        number = getattr(cv2, f"INTER_{kind.upper()}")
        expected = cv2.resize(picture, (after_w, after_h), interpolation=number)
    finally:
        cv2.ipp.setUseIPP(used)
    np.testing.assert_array_equal(resize(picture, (after_h, after_w), f"opencv_{kind}"), expected)


def test_98_to_1_is_no_whole_ratio_for_opencv():
    # 1 / (1 / 98) is not 98 in double: OpenCV then sums fractions in float32, not whole pixels.
    rows = np.zeros((98, 98, 3), np.uint8)
    rows[1::2] = 255
    assert resize(rows, (1, 1), "opencv_area")[0, 0].tolist() == [127, 127, 127]  # the exact mean is 127.5
    rows[:] = 10
    rows[1::2] = 11
    assert resize(rows, (1, 1), "opencv_area")[0, 0].tolist() == [11, 11, 11]


def test_pillow_filters_are_pillow():
    picture = source(50, 70)
    for kind, number in (
        ("pillow_bilinear", Image.Resampling.BILINEAR),
        ("pillow_bicubic", Image.Resampling.BICUBIC),
    ):
        expected = np.asarray(Image.fromarray(picture).resize((31, 22), number))
        np.testing.assert_array_equal(resize(picture, (22, 31), kind), expected)


def test_an_enormous_result_is_refused():
    with pytest.raises(ImageError, match=r"a 60000x1 picture .* would become 15360000x256"):
        resize(np.zeros((1, 60000, 3), np.uint8), (256, 15_360_000), "pillow_bilinear")


def test_a_region_outside_is_refused():
    with pytest.raises(ValueError, match="outside"):
        resize(source(8, 8), (4, 4), "opencv_linear", (1, 1, 4, 3))
