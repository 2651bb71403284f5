"""Resizing uint8 pictures by the exact rules of Pillow and of OpenCV, and cutting out the part that a crop
keeps.

Pillow's filters are Pillow itself (always antialiased: the filter's support grows with the reduction).
OpenCV's are its uint8 arithmetic written in numpy, so that OpenCV is not needed, and not antialiased except
`area`. They equal OpenCV 5.0.0 bit for bit: `linear` and `area` as installed, `cubic` with Intel's IPP
switched off (cv2.ipp.setUseIPP(False); IPP's own cubic, on by default in x86 wheels, differs by one level in
some 4 % of values).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from topfive.errors import ImageError

__all__ = ["FILTERS", "PIXEL_LIMIT", "resize"]

Pixels = npt.NDArray[np.uint8]
Region = tuple[int, int, int, int]
_Ints = npt.NDArray[np.intp]
_Floats = npt.NDArray[np.float32]

PIXEL_LIMIT = 178_956_970
"""Pictures with more pixels are refused, read or resized: Pillow's own limit, twice its MAX_IMAGE_PIXELS."""

_ONE = 2048  # OpenCV's fixed point has 11 fractional bits in each direction
_CUBIC_A = np.float32(-0.75)
_LANES = 8  # values that OpenCV's vertical cubic pass sums at once in float32; the rest of a row in integers
_EPSILON = float(np.finfo(np.float64).eps)
_LARGEST_SCRATCH = 1 << 22  # values of an array that a thread keeps: 16 MB


def resize(image: Pixels, size: tuple[int, int], kind: str, region: Region | None = None) -> Pixels:
    """Resize `image` (uint8, H x W x 3) to `size` (height, width) with one of FILTERS.

    `region` (top, left, height, width) of the resized picture is all that is returned, and with OpenCV's
    filters all that is computed. Raises ImageError if the resized picture would have more than PIXEL_LIMIT
    pixels.
    """
    height, width = size
    if height < 1 or width < 1 or height * width > PIXEL_LIMIT:
        raise ImageError(
            f"a {image.shape[1]}x{image.shape[0]} picture (width x height) would become {width}x{height}; "
            f"from 1 to {PIXEL_LIMIT:,} pixels are possible: its aspect ratio is too extreme"
        )
    top, left, rows, columns = region or (0, 0, height, width)
    if min(top, left) < 0 or top + rows > height or left + columns > width:
        raise ValueError(f"region {region} is outside the resized picture {size}")
    if image.shape[:2] == size:
        return np.ascontiguousarray(image[top : top + rows, left : left + columns])
    return FILTERS[kind](image, size, (top, left, rows, columns))


def _pillow(resample: Image.Resampling) -> Callable[[Pixels, tuple[int, int], Region], Pixels]:
    def resized(image: Pixels, size: tuple[int, int], region: Region) -> Pixels:
        picture = Image.fromarray(np.ascontiguousarray(image)).resize((size[1], size[0]), resample)
        top, left, rows, columns = region
        return np.array(picture.crop((left, top, left + columns, top + rows)))

    return resized


def _scale(length: int, resized: int) -> float:
    """Source pixels per resized pixel, with the two roundings of OpenCV: 1 / (resized / length)."""
    return 1.0 / (resized / length)


def _centres(length: int, resized: int) -> tuple[_Ints, _Floats]:
    """Where each resized pixel's centre falls: source pixel (may be -1 or the end) and float32 fraction."""
    position = ((np.arange(resized) + 0.5) * _scale(length, resized) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.intp)
    return first, position - first.astype(np.float32)


def _area_centres(length: int, resized: int) -> tuple[_Ints, _Floats]:
    """The same for INTER_AREA where a side grows: only cells that straddle two pixels are mixed."""
    cell = np.arange(resized)
    first = np.floor(cell * _scale(length, resized)).astype(np.intp)
    fraction = ((cell + 1) - (first + 1) * (resized / length)).astype(np.float32)
    fraction = np.where(fraction <= 0, np.float32(0), fraction - np.floor(fraction))
    return first, fraction.astype(np.float32)


def _levels(values: npt.NDArray[Any]) -> Pixels:
    return values.clip(0, 255).astype(np.uint8)


def _fixed(weights: Any) -> npt.NDArray[np.int32]:
    return np.rint(np.stack(weights) * np.float32(_ONE)).astype(np.int32)


def _linear(image: Pixels, size: tuple[int, int], region: Region) -> Pixels:
    """INTER_LINEAR: 11-bit weights; the vertical sum drops 4 bits, then 16, and rounds the last 2 half up."""
    return _two_taps(image, size, region, _centres)


def _two_taps(
    image: Pixels,
    size: tuple[int, int],
    region: Region,
    centres: Callable[[int, int], tuple[_Ints, _Floats]],
) -> Pixels:
    top, left, rows, columns = region
    height, width = image.shape[:2]
    first, fraction = centres(width, size[1])
    inside = (first >= 0) & (first < width - 1)  # OpenCV moves only the columns back inside, not the rows
    fraction = np.where(inside, fraction, np.float32(0))
    first = first.clip(0, width - 1)[left : left + columns]
    across = _fixed([1 - fraction, fraction])[:, left : left + columns, None]
    first_row, fraction = centres(height, size[0])
    first_row = first_row[top : top + rows]
    down = _fixed([1 - fraction, fraction])[:, top : top + rows, None, None]
    used, taps = _rows_used(image, np.stack([first_row, first_row + 1]))
    line = used.take(first, axis=1) * across[0]
    line += used.take((first + 1).clip(0, width - 1), axis=1) * across[1]
    line >>= 4
    total = (line[taps[0]] * down[0]) >> 16
    total += (line[taps[1]] * down[1]) >> 16
    return _levels((total + 2) >> 2)


def _rows_used(image: Pixels, taps: _Ints) -> tuple[Pixels, _Ints]:
    """The rows of `image` that the clipped `taps` need, and the taps as positions among them."""
    rows, places = np.unique(taps.clip(0, image.shape[0] - 1), return_inverse=True)
    if rows[-1] - rows[0] + 1 == len(rows):
        return image[rows[0] : rows[-1] + 1], places
    return image[rows], places


def _cubic_weights(x: _Floats) -> list[_Floats]:
    """Keys' cubic with A = -0.75 at distances 1 + x, x, 1 - x, 2 - x, in OpenCV's float32 order."""
    a, one = _CUBIC_A, np.float32(1)
    before = ((a * (x + one) - 5 * a) * (x + one) + 8 * a) * (x + one) - 4 * a
    near = ((a + 2) * x - (a + 3)) * x * x + one
    far = ((a + 2) * (one - x) - (a + 3)) * (one - x) * (one - x) + one
    return [before, near, far, one - before - near - far]


def _cubic(image: Pixels, size: tuple[int, int], region: Region) -> Pixels:
    """INTER_CUBIC: 11-bit weights; vertically float32, summed from the last row up, rounded half to even.

    The last (3 * width) % 8 values of a row are instead summed in integers and rounded half up, as OpenCV
    does.
    """
    top, left, rows, columns = region
    first, fraction = _centres(image.shape[1], size[1])
    across = _fixed(_cubic_weights(fraction))[:, left : left + columns, None]
    first_row, fraction = _centres(image.shape[0], size[0])
    down = _fixed(_cubic_weights(fraction))[:, top : top + rows, None, None]
    offsets = np.arange(-1, 3)[:, None]
    used, taps = _rows_used(image, first_row[top : top + rows] + offsets)
    taken = (first[left : left + columns] + offsets).clip(0, image.shape[1] - 1)
    line = used.take(taken[0], axis=1) * across[0]
    for tap in (1, 2, 3):
        line += used.take(taken[tap], axis=1) * across[tap]
    weights = down.astype(np.float32) * np.float32(1 / (_ONE * _ONE))
    floats = line.astype(np.float32)
    total = floats[taps[3]] * weights[3]
    for tap in (2, 1, 0):
        total = floats[taps[tap]] * weights[tap] + total
    result = _levels(np.rint(total)).reshape(rows, -1)
    channels = image.shape[2]
    tail = max(size[1] * channels // _LANES * _LANES - left * channels, 0)
    if tail < columns * channels:
        flat = line.reshape(len(line), -1)[:, tail:]
        whole = sum(flat[taps[tap]] * down[tap, :, :, 0] for tap in range(4))
        result[:, tail:] = ((whole + _ONE * _ONE // 2) >> 22).clip(0, 255)
    return result.reshape(rows, columns, channels)


def _area(image: Pixels, size: tuple[int, int], region: Region) -> Pixels:
    """INTER_AREA: the float32 mean of the area under each pixel; where a side grows, INTER_LINEAR's sums."""
    scales = _scale(image.shape[0], size[0]), _scale(image.shape[1], size[1])
    if min(scales) < 1:
        return _two_taps(image, size, region, _area_centres)
    whole = round(scales[0]), round(scales[1])
    if all(abs(scale - near) < _EPSILON for scale, near in zip(scales, whole, strict=True)):
        return _whole_area(image, whole, region)
    return _fractional_area(image, size, region)


def _whole_area(image: Pixels, scales: tuple[int, int], region: Region) -> Pixels:
    """Blocks of whole pixels: an integer sum; 2x2 rounds half up, others are float32(sum) * (1 / area)."""
    top, left, rows, columns = region
    down, across = scales
    used = image[top * down : (top + rows) * down, left * across : (left + columns) * across]
    sums = used.reshape(rows, down, columns, across, -1).sum(axis=(1, 3), dtype=np.int32)
    if scales == (2, 2):
        return _levels((sums + 2) >> 2)
    return _levels(np.rint(sums.astype(np.float32) * (np.float32(1) / np.float32(down * across))))


def _area_taps(length: int, resized: int) -> tuple[_Ints, _Floats]:
    """Source pixels [taps, resized] under each resized pixel, in order; their float32 shares (0: not used).

    A first or last pixel covered by less than a thousandth is left out, as in OpenCV.
    """
    scale = _scale(length, resized)
    start = np.arange(resized) * scale
    end = start + scale
    cell = np.minimum(scale, length - start)
    last = np.minimum(np.floor(end), length - 1)
    first = np.minimum(np.ceil(start), last)
    inner = first + np.arange(int((last - first).max()))[:, None]
    shares = [
        np.where(first - start > 1e-3, (first - start) / cell, 0)[None],
        np.where(inner < last, 1 / cell, 0),
        np.where(end - last > 1e-3, np.minimum(np.minimum(end - last, 1), cell) / cell, 0)[None],
    ]
    pixels = np.concatenate([first[None] - 1, inner, last[None]]).clip(0, length - 1)
    return pixels.astype(np.intp), np.concatenate(shares).astype(np.float32)


@functools.lru_cache(maxsize=256)
def _area_plan(
    length: int, resized: int, first: int, count: int, channels: int
) -> tuple[int, int, list[_Ints], list[_Floats]]:
    """(first source row, end, taps from there, shares) of `count` resized ones from `first` on.

    With channels, taps and shares are repeated for the values of each pixel.
    """
    taps, shares = _area_taps(length, resized)
    taps, shares = taps[:, first : first + count], shares[:, first : first + count]
    low, high = int(taps.min()), int(taps.max()) + 1
    values = np.arange(channels)
    taps = ((taps - low)[:, :, None] * channels + values).reshape(len(taps), -1)
    return low, high, list(taps), list(np.repeat(shares, channels, axis=1))


def _fractional_area(image: Pixels, size: tuple[int, int], region: Region) -> Pixels:
    top, left, rows, columns = region
    channels = image.shape[2]
    first, end, down, down_shares = _area_plan(image.shape[0], size[0], top, rows, 1)
    start, stop, across, across_shares = _area_plan(image.shape[1], size[1], left, columns, channels)
    used = image[first:end, start:stop].reshape(end - first, -1)
    values = _scratch("values", used.shape)
    np.copyto(values, used)
    line, term = (_scratch(name, (end - first, columns * channels)) for name in ("line", "term"))
    _weighted(values, 1, across, across_shares, line, term)
    total, term = (_scratch(name, (rows, columns * channels)) for name in ("total", "term"))
    _weighted(line, 0, down, [shares[:, None] for shares in down_shares], total, term)
    np.rint(total, out=total)
    return total.astype(np.uint8).reshape(rows, columns, channels)  # means of levels: no need to clip


def _weighted(
    values: _Floats, axis: int, taps: list[_Ints], shares: list[_Floats], total: _Floats, term: _Floats
) -> None:
    """total = values[taps[0]] * shares[0] + values[taps[1]] * shares[1] + ..., in this order, in float32."""
    np.take(values, taps[0], axis=axis, out=total, mode="clip")
    total *= shares[0]
    for tap, share in zip(taps[1:], shares[1:], strict=True):
        np.take(values, tap, axis=axis, out=term, mode="clip")
        term *= share
        total += term


_kept = threading.local()


def _scratch(name: str, shape: tuple[int, ...]) -> _Floats:
    """An array to work in, the same memory each time in a thread: fresh pages cost more than the sums."""
    length = shape[0] * shape[1]
    if length > _LARGEST_SCRATCH:
        return np.empty(shape, np.float32)
    found: _Floats | None = getattr(_kept, name, None)
    if found is None or found.size < length:
        found = np.empty(length, np.float32)
        setattr(_kept, name, found)
    return found[:length].reshape(shape)


FILTERS: dict[str, Callable[[Pixels, tuple[int, int], Region], Pixels]] = {
    "opencv_area": _area,
    "opencv_cubic": _cubic,
    "opencv_linear": _linear,
    "pillow_bicubic": _pillow(Image.Resampling.BICUBIC),
    "pillow_bilinear": _pillow(Image.Resampling.BILINEAR),
}
