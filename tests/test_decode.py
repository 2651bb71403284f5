"""Decoding: colour modes to known levels, the EXIF and CMYK rules of a profile, bad files."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from topfive.errors import ImageError
from topfive.images import decode, decoder_version, load_profile, preprocess
from topfive.images.resize import PIXEL_LIMIT

try:
    import cv2
except ImportError:
    cv2 = None

LEVELS = np.array(
    [[[0, 64, 255], [200, 100, 50]], [[1, 2, 3], [254, 128, 7]], [[9, 9, 9], [255, 255, 255]]], np.uint8
)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in (*chunks, (b"IEND", b"")):
        crc = zlib.crc32(kind + body)
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc))
    return b"".join(parts)


def header(width: int, height: int, bits: int, colour: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def smooth(mode: str = "RGB") -> Image.Image:
    small = np.random.default_rng(5).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((40, 24), Image.Resampling.BICUBIC).convert(mode)


def test_rgb_is_unchanged(tmp_path):
    for name in ("a.png", "a.bmp", "a.ppm", "a.tiff"):
        found = decode(saved(tmp_path, Image.fromarray(LEVELS), name))
        np.testing.assert_array_equal(found, LEVELS)
        assert found.dtype == np.uint8
        assert found.flags.writeable


def test_greyscale_fills_three_channels(tmp_path):
    grey = decode(saved(tmp_path, Image.fromarray(LEVELS[:, :, 0]), "grey.png"))
    np.testing.assert_array_equal(grey, np.repeat(LEVELS[:, :, :1], 3, axis=2))


def test_black_and_white_is_0_and_255(tmp_path):
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert decode(saved(tmp_path, bits, "bits.png"))[:, :, 1].tolist() == [[0, 255], [255, 0]]


def test_a_palette_is_looked_up(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([2, 0, 1])
    for name in ("palette.png", "palette.gif"):
        found = decode(saved(tmp_path, image, name))
        assert found[0].tolist() == [[70, 80, 90], [10, 20, 30], [40, 50, 60]]


@pytest.mark.filterwarnings("error")
def test_alpha_is_dropped_not_blended(tmp_path):
    alpha = np.array([[0, 255], [7, 128], [1, 200]], np.uint8)
    rgba = Image.fromarray(np.dstack([LEVELS, alpha]))
    np.testing.assert_array_equal(decode(saved(tmp_path, rgba, "rgba.png")), LEVELS)
    both = decode(saved(tmp_path, Image.fromarray(np.dstack([LEVELS[:, :, 0], alpha]), "LA"), "la.png"))
    np.testing.assert_array_equal(both, np.repeat(LEVELS[:, :, :1], 3, axis=2))
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([1, 0])
    found = decode(saved(tmp_path, image, "transparent.png", transparency=b"\x00\x80"))
    assert found[0].tolist() == [[40, 50, 60], [10, 20, 30]]


def test_16_bit_samples_keep_the_high_byte(tmp_path):
    samples = struct.pack(">BHHH", 0, 0x00FF, 0x8000, 0xFFFF)
    (tmp_path / "grey16.png").write_bytes(png(header(3, 1, 16, 0), (b"IDAT", zlib.compress(samples))))
    assert decode(tmp_path / "grey16.png")[0].tolist() == [[0] * 3, [0x80] * 3, [0xFF] * 3]
    samples = struct.pack(">BHHH", 0, 0x80FF, 0x1234, 0xFFFF)
    (tmp_path / "rgb16.png").write_bytes(png(header(1, 1, 16, 2), (b"IDAT", zlib.compress(samples))))
    assert decode(tmp_path / "rgb16.png")[0].tolist() == [[0x80, 0x12, 0xFF]]


@pytest.mark.parametrize("name", ["photo.jpg", "photo.webp"])
def test_lossy_formats_are_pillows_pixels(tmp_path, name):
    path = saved(tmp_path, smooth(), name)
    np.testing.assert_array_equal(decode(path), np.asarray(Image.open(path).convert("RGB")))


def test_cmyk_follows_the_profiles_decoder(tmp_path):
    # Ink C, M, Y, K = 255, 0, 0, 128: OpenCV's rule on the stored 0, 255, 255, 127:
    # r = 127 - (255 * 127 >> 8) = 1, g = b = 127 - 0 = 127
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 128))
    path = saved(tmp_path, image, "cmyk.tiff")
    assert decode(path, decoder="opencv")[4, 4].tolist() == [1, 127, 127]
    assert decode(path)[4, 4].tolist() == list(image.convert("RGB").getpixel((4, 4))) == [0, 127, 127]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_ignored_unless_the_profile_applies_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(LEVELS), "turned.png", exif=exif)
    np.testing.assert_array_equal(decode(path), LEVELS)
    turned = {
        1: LEVELS,
        2: LEVELS[:, ::-1],
        3: LEVELS[::-1, ::-1],
        4: LEVELS[::-1],
        5: LEVELS.swapaxes(0, 1),
        6: np.rot90(LEVELS, -1),
        7: LEVELS.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(LEVELS, 1),
    }
    np.testing.assert_array_equal(decode(path, exif="apply"), turned[orientation])


def test_the_profile_chooses_the_exif_rule(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = np.asarray(smooth().resize((256, 256)))
    path = saved(tmp_path, Image.fromarray(picture), "turned.png", exif=exif)
    for name in ("torchvision", "mlperf_vgg"):
        profile = load_profile(name)
        shown = picture[::-1, ::-1] if profile.exif == "apply" else picture
        np.testing.assert_array_equal(
            preprocess(path, profile), preprocess(np.ascontiguousarray(shown), profile)
        )
    assert load_profile("torchvision").exif != load_profile("mlperf_vgg").exif


def test_only_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]
    path = saved(tmp_path, frames[0], "two.gif", save_all=True, append_images=frames[1:])
    assert (decode(path) == 10).all()


@pytest.mark.skipif(cv2 is None, reason="opencv is not installed (pip install topfive[opencv])")
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "LA", "1"])
def test_opencv_profiles_decode_as_opencv(tmp_path, mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    name = "a.jpg" if mode in ("RGB", "L", "CMYK") else "a.png"
    path = saved(tmp_path, smooth(mode), name, exif=exif)
    expected = cv2.imread(str(path))[:, :, ::-1]
    np.testing.assert_array_equal(decode(path, decoder="opencv", exif="apply"), expected)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    smooth().save(buffer, "JPEG")
    return buffer.getvalue()


BAD = {
    "empty": (b"", "is empty"),
    "text": (b"not a picture at all\n", "is not a picture"),
    "html": (b"<html><body>404</body></html>", "is not a picture"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "is not a picture"),
    "jpeg-header-only": (jpeg()[:20], "is not a picture"),
    "truncated-jpeg": (jpeg()[:-200], "truncated"),
    "truncated-png": (
        png(header(9, 9, 8, 0), (b"IDAT", zlib.compress(bytes(90))[:6]))[:50],
        "truncated|damaged|read",
    ),
    "png-bad-crc": (
        png(header(9, 9, 8, 0)).replace(b"\x08\x00", b"\x08\x02", 1),
        "not a picture|damaged|read",
    ),
    "bomb": (
        png(header(30_000, 30_000, 8, 2), (b"IDAT", zlib.compress(bytes(99)))),
        "has more than 178,956,970",
    ),
    "bomb-of-2-gigapixels": (png(header(2**31 - 1, 1, 8, 2), (b"IDAT", b"")), "has more than 178,956,970"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named(tmp_path, kind):
    content, message = BAD[kind]
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    for call in (lambda: decode(path), lambda: preprocess(str(path), load_profile("torch"))):
        with pytest.raises(ImageError, match=message) as caught:
            call()
        assert str(caught.value).startswith(f"{path}: ")


def test_missing_files_and_folders_are_named(tmp_path):
    for path, message in (
        (tmp_path / "none.jpg", "No such file"),
        (tmp_path, "Is a directory|cannot be read"),
    ):
        with pytest.raises(ImageError, match=message) as caught:
            decode(path)
        assert str(path) in str(caught.value)


def test_float_pictures_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.zeros((3, 3), np.float32)), "float.tiff")
    with pytest.raises(ImageError, match=r"float\.tiff: has 32-bit samples \(mode F\)"):
        decode(path)


def test_the_limit_is_pillows():
    assert PIXEL_LIMIT == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_files_decode_or_raise_an_image_error(tmp_path_factory, data):
    buffer = io.BytesIO()
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth().save(buffer, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, min(len(content) - 1, 400)))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    for rule in ("ignore", "apply"):
        try:
            found = decode(path, exif=rule)
        except ImageError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert found.ndim == 3
            assert found.dtype == np.uint8


def test_the_version_names_pillow_and_the_jpeg_library():
    import PIL

    words = decoder_version().split()
    assert words[0] == "pillow"
    assert words[1] == f"{PIL.__version__},"
    assert words[2] in ("libjpeg-turbo", "libjpeg")
    assert words[3][0].isdigit()
