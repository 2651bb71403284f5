"""Reading a picture file as RGB.

Every file is decoded by Pillow (JPEG: libjpeg-turbo). What the original tools' decoders do differently is
data of the profile: `exif` (OpenCV turns the picture as the camera's EXIF says, Pillow and stb_image do not)
and `decoder` (the formula that turns CMYK into RGB). Alpha is dropped, not blended; 16-bit samples keep their
high byte; greyscale and palettes become RGB; of an animation the first frame is read.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageOps, features

from topfive.errors import ImageError
from topfive.images.resize import PIXEL_LIMIT

__all__ = ["decode", "decode_bytes", "decoder_version"]

# Raster formats that Pillow decodes itself. Not EPS and the like, for which Pillow starts other programs.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


def decode(path: str | Path, *, decoder: str = "pillow", exif: str = "ignore") -> npt.NDArray[np.uint8]:
    """The picture in `path` as uint8, height x width x 3, R, G, B.

    Raises ImageError naming the file: missing, empty, not a picture, truncated, of an unsupported kind, or
    with more than PIXEL_LIMIT pixels (checked before anything is decoded).
    """
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _decode(path, path, size, decoder, exif)


def decode_bytes(
    data: bytes, name: str | Path, *, decoder: str = "pillow", exif: str = "ignore"
) -> npt.NDArray[np.uint8]:
    """`decode` of a file that is read already: `data` are its bytes, `name` is what errors call it."""
    return _decode(io.BytesIO(data), name, len(data), decoder, exif)


def _decode(
    source: str | Path | io.BytesIO, path: str | Path, size: int, decoder: str, exif: str
) -> npt.NDArray[np.uint8]:
    try:
        if size == 0:
            raise ImageError(f"{path}: is empty (0 bytes); copy it again")
        with Image.open(source, formats=_FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise _too_large(path)
            image.load()
            return _rgb(path, ImageOps.exif_transpose(image) if exif == "apply" else image, decoder)
    except ImageError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{path}: is not a picture (known: {', '.join(_FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # damaged files make decoders raise nearly every built-in type
        raise ImageError(f"{path}: is damaged: {error}") from error


def decoder_version() -> str:
    """What decodes pictures here, for records and goldens: "pillow 13.0.0, libjpeg-turbo 3.1.2"."""
    turbo = features.version_feature("libjpeg_turbo")
    library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    return f"pillow {PIL.__version__}, {library}"


def _too_large(path: str | Path) -> ImageError:
    return ImageError(f"{path}: has more than {PIXEL_LIMIT:,} pixels; reduce it first")


def _rgb(path: str | Path, image: Image.Image, decoder: str) -> npt.NDArray[np.uint8]:
    if image.mode == "RGB":
        return np.array(image)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ImageError(f"{path}: has 32-bit samples (mode {image.mode}); save it with 8 or 16 bits")
    if image.mode == "CMYK" and decoder == "opencv":
        return _cmyk_opencv(np.asarray(image))
    image.info.pop("transparency", None)  # alpha is dropped; Pillow would warn about it
    return np.array(image.convert("RGB"))


def _cmyk_opencv(cmyk: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """OpenCV's rule on the stored, inverted samples c, m, y, k: r = k - ((255 - c) * k >> 8), and so on.

    Pillow gives them inverted back (0 is no ink), so that 255 - sample is OpenCV's.
    """
    stored = 255 - cmyk.astype(np.int32)
    key = stored[:, :, 3:]
    return (key - ((255 - stored[:, :, :3]) * key >> 8)).astype(np.uint8)
