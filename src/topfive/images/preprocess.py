"""From a picture to a model's input tensor, as a profile says.

Two steps that can be used apart: `crop_uint8` (decode, resize, crop: uint8) and `normalise` (uint8 to the
tensor). `preprocess` is their composition, so that a cache of uint8 crops gives the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topfive.errors import CardError, ImageError
from topfive.images.decode import decode
from topfive.images.profiles import NumberStep, PictureStep, Profile, Quantise
from topfive.images.resize import resize

__all__ = ["crop_uint8", "normalise", "normalise_numbers", "preprocess", "preprocess_batch"]

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]


def crop_uint8(
    picture: str | Path | Pixels,
    profile: Profile,
    size: Size | None = None,
    *,
    resize_size: int | None = None,
    name: str = "the picture",
) -> Pixels:
    """The part of the picture that the model sees: uint8, height x width x 3, R, G, B, of `size` (height,
    width).

    `picture` is a file or a decoded uint8 array H x W x 3 (RGB). `size` defaults to the profile's.
    `resize_size` (pixels) replaces the size of the profile's first resize, for models that differ from their
    family only in it. `name` is what errors call an array. Raises ImageError naming the file if it cannot be
    read or does not fit, CardError if no size is known.
    """
    if isinstance(picture, np.ndarray):
        image = picture
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ImageError(
                f"{name} must be uint8 of shape H x W x 3, not {image.dtype} of shape {image.shape}"
            )
    else:
        name, image = str(picture), decode(picture, decoder=profile.decoder, exif=profile.exif)
    wanted = _size(profile, size)
    steps = _resized_to(profile, resize_size)
    number = 0
    while number < len(steps):
        after = steps[number + 1] if number + 1 < len(steps) else None
        if steps[number].resize and after and after.crop == "centre":
            image = _resize_crop(
                image, steps[number], after, wanted, name
            )  # as one: only the crop is computed
            number += 2
            continue
        image = _resize_crop(image, steps[number], None, wanted, name)
        number += 1
    if image.shape[:2] != wanted:
        raise ImageError(_misfit(name, image, profile, wanted))
    return np.ascontiguousarray(image)


def normalise(pixels: Pixels, profile: Profile) -> npt.NDArray[Any]:
    """The tensor of uint8 `pixels` (H x W x 3 or N x H x W x 3, R, G, B) in the profile's layout and dtype.

    One picture gives one tensor without the batch axis. The result is bit-equal to the profile's formula
    applied to every number: float32 arithmetic is done as it stands, other formulas are computed once for
    each of the 256 levels and looked up.
    """
    if pixels.ndim not in (3, 4) or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise ImageError(
            f"pixels must be uint8, H x W x 3 or N x H x W x 3, not {pixels.dtype} {pixels.shape}"
        )
    batch = pixels if pixels.ndim == 4 else pixels[None]
    count, height, width = batch.shape[:3]
    table = _table(profile)
    plain = table.dtype == np.float32 and profile.tensor.arithmetic == "float32"
    tensor, planes = _empty(profile, (count, height, width), table.dtype)
    for plane, channel in enumerate(_channels(profile)):
        for number in range(count):  # a picture at a time stays in the processor's cache
            if plain and profile.tensor.layout == "NCHW":
                np.copyto(planes[number, plane], batch[number, ..., channel])
                _apply(planes[number, plane], profile, plane)
            else:
                np.take(table[plane], batch[number, ..., channel], out=planes[number, plane], mode="clip")
    return tensor if pixels.ndim == 4 else tensor[0]


def _apply(numbers: npt.NDArray[np.float32], profile: Profile, plane: int) -> None:
    """The profile's formula on one plane, in place and in float32."""
    for step in profile.tensor.steps:
        for operation, values in _operations(step):
            operation(numbers, np.float32(values[plane % len(values)]), out=numbers)


def normalise_numbers(levels: npt.NDArray[Any], profile: Profile) -> npt.NDArray[Any]:
    """The tensors of `levels`, numbers N x 3 x H x W (R, G, B) that need not be whole nor within 0 to 255.

    The profile's formula on every number, its picture steps left out; whole levels of 0 to 255 give the same
    bits as `normalise`. Raises ImageError for another shape, and for a profile of dtype uint8, which has no
    formula.
    """
    if levels.ndim != 4 or levels.shape[1] != 3:
        raise ImageError(f"levels must be N x 3 x H x W, not {list(levels.shape)}")
    if profile.tensor.dtype == "uint8":
        raise ImageError(f"profile {profile.name!r} gives the picture itself: it has no formula for numbers")
    chosen = levels[:, list(_channels(profile))].transpose(1, 0, 2, 3)
    computed = _computed(chosen.astype(np.dtype(profile.tensor.arithmetic)), profile)
    tensor, planes = _empty(profile, (levels.shape[0], *levels.shape[2:]), computed.dtype)
    planes[:, :3] = computed.transpose(1, 0, 2, 3)
    return tensor


def preprocess(
    picture: str | Path | Pixels,
    profile: Profile,
    size: Size | None = None,
    *,
    resize_size: int | None = None,
) -> npt.NDArray[Any]:
    """normalise(crop_uint8(picture)): one tensor without the batch axis (CHW, HWC or HW4)."""
    return normalise(crop_uint8(picture, profile, size, resize_size=resize_size), profile)


def preprocess_batch(
    pictures: Sequence[str | Path | Pixels],
    profile: Profile,
    size: Size | None = None,
    *,
    resize_size: int | None = None,
    threads: int = 1,
) -> npt.NDArray[Any]:
    """The tensors of all `pictures`, stacked: N x 3 x H x W, or N x H x W x 3 (or 4).

    With `threads` above 1, pictures are read in parallel (Pillow and numpy work outside the GIL). The result
    does not depend on it. Raises ImageError if `pictures` is empty.
    """
    if not pictures:
        raise ImageError("no pictures to preprocess: the list is empty")
    one = functools.partial(crop_uint8, profile=profile, size=size, resize_size=resize_size)
    if threads == 1:
        return normalise(np.stack([one(picture) for picture in pictures]), profile)
    with ThreadPoolExecutor(threads) as pool:
        return normalise(np.stack(list(pool.map(one, pictures))), profile)


def _size(profile: Profile, size: Size | None) -> Size:
    wanted = size or profile.size
    if wanted is None:
        raise CardError(f"profile {profile.name!r} has no size of its own: give the model's input size")
    if min(wanted) < 1:
        raise CardError(f"the input size must be a positive height and width, not {wanted}")
    return wanted[0], wanted[1]


def _resized_to(profile: Profile, resize_size: int | None) -> list[PictureStep]:
    steps = list(profile.picture)
    if resize_size is None:
        return steps
    for number, step in enumerate(steps):
        if step.resize:
            steps[number] = dataclasses.replace(step, size=resize_size, ratio=None)
            return steps
    raise CardError(
        f"profile {profile.name!r} does not resize, so resize_size = {resize_size} has no meaning"
    )


def _resize_crop(
    image: Pixels, step: PictureStep, crop: PictureStep | None, wanted: Size, name: str
) -> Pixels:
    """One step, or a resize and the centre crop that follows it."""
    if step.crop:
        top, left, rows, columns = _region(image.shape[:2], step, wanted, name)
        return image[top : top + rows, left : left + columns]
    size = _resized(image.shape[:2], step, wanted)
    region = _region(size, crop, wanted, name) if crop else None
    try:
        return resize(image, size, str(step.filter), region)
    except ImageError as error:
        raise ImageError(f"{name}: {error.message}") from error


def _resized(sides: tuple[int, ...], step: PictureStep, wanted: Size) -> Size:
    if step.resize == "stretch":
        return step.pixels(wanted[0]), step.pixels(wanted[1])
    pixels, (height, width) = step.pixels(max(wanted)), sides
    short = min(height, width)
    if step.long == "round":
        return round(pixels * height / short), round(pixels * width / short)
    return pixels * height // short, pixels * width // short


def _region(sides: tuple[int, ...], step: PictureStep, wanted: Size, name: str) -> tuple[int, int, int, int]:
    if step.crop == "central_fraction":
        fraction = float(step.fraction or 1)
        top, left = (int((side - side * fraction) / 2) for side in sides)
        return top, left, sides[0] - 2 * top, sides[1] - 2 * left
    rows, columns = step.pixels(wanted[0]), step.pixels(wanted[1])
    if rows > sides[0] or columns > sides[1]:
        raise ImageError(
            f"{name}: is {sides[1]}x{sides[0]} (width x height) after resizing, too small to crop "
            f"{columns}x{rows}; give the profile a larger resize"
        )
    return _start(sides[0], rows, step), _start(sides[1], columns, step), rows, columns


def _start(side: int, size: int, step: PictureStep) -> int:
    if step.start == "half_even":
        return round((side - size) / 2.0)
    return (side - size) // 2 if step.start == "truncate" else side // 2 - (size + 1) // 2


def _misfit(name: str, image: Pixels, profile: Profile, wanted: Size) -> str:
    found, needed = f"{image.shape[1]}x{image.shape[0]}", f"{wanted[1]}x{wanted[0]}"
    if profile.picture:
        return f"{name}: profile {profile.name!r} makes it {found} (width x height); the model needs {needed}"
    return (
        f"{name}: is {found} (width x height), but profile {profile.name!r} does not resize and the model "
        f"needs exactly {needed}; resize the file or choose a profile that resizes"
    )


def _empty(
    profile: Profile, sizes: tuple[int, int, int], dtype: npt.DTypeLike
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A tensor in the profile's layout for (count, height, width), and its view as planes, N x C x H x W."""
    count, height, width = sizes
    if profile.tensor.layout == "NCHW":
        tensor = np.empty((count, 3, height, width), dtype)
        return tensor, tensor
    channels = 4 if profile.tensor.layout == "NHW4" else 3
    tensor = np.zeros((count, height, width, channels), dtype)
    return tensor, tensor.transpose(0, 3, 1, 2)


def _channels(profile: Profile) -> tuple[int, int, int]:
    return (0, 1, 2) if profile.tensor.planes == "RGB" else (2, 1, 0)


@functools.lru_cache(maxsize=64)
def _table(profile: Profile) -> npt.NDArray[Any]:
    """The tensor's value for each plane (in the tensor's order) and each of the 256 levels: [3, 256]."""
    tensor = profile.tensor
    levels = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    if tensor.dtype == "uint8":
        return levels
    return _computed(levels.astype(np.dtype(tensor.arithmetic)), profile)


def _operations(step: NumberStep) -> list[tuple[np.ufunc, tuple[float, ...]]]:
    """What a step does, with its one value or its value for each plane."""
    known = ((np.subtract, step.subtract), (np.multiply, step.multiply), (np.divide, step.divide))
    return [(operation, values) for operation, values in known if values is not None]


def _computed(numbers: npt.NDArray[Any], profile: Profile) -> npt.NDArray[Any]:
    """The profile's formula on numbers, [3, ...] in the order of its planes and in its arithmetic."""
    tensor, axes = profile.tensor, (-1, *[1] * (numbers.ndim - 1))
    for step in tensor.steps:
        for operation, values in _operations(step):
            numbers = operation(numbers, np.array(values, numbers.dtype).reshape(axes))
    stored = numbers.astype(np.float32)
    return _quantised(stored, tensor.quantise) if tensor.quantise else stored


def _quantised(numbers: npt.NDArray[np.float32], quantise: Quantise) -> npt.NDArray[np.int8]:
    scale = np.float32(struct.unpack("!f", bytes.fromhex(quantise.scale))[0])
    clipped = np.clip(numbers / scale, *quantise.clip)
    whole: npt.NDArray[np.float32] = (
        np.trunc(clipped) if quantise.rounding == "truncate" else np.rint(clipped)
    )
    return whole.astype(np.int8)
