"""A seeded set of drawn pictures with 100 classes, laid out like ImageNet.

Every picture shows one large figure (colour x texture x shape, such as "red striped star") on a cluttered,
badly lit, noisy background. It stands in for ImageNet where no picture may be downloaded: the bundled
networks are trained on it, and folders of any size can be made for sweeps.

Picture `index` of `split` under `seed` depends on these three values only, so pictures can be made in any
order, by any number of processes, and a longer set starts with the shorter one. Only IEEE additions,
multiplications and divisions touch the arrays, and the few sines are rounded, so that CPUs agree; the JPEG
bytes also need the same Pillow.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from topfive.errors import ImageError

__all__ = [
    "CLASSES",
    "class_folders",
    "draw",
    "encode",
    "encoded",
    "label_of",
    "labels",
    "write_class_folders",
    "write_flat",
]

GENERATION = 1  # part of every random stream: raise it whenever a change alters the pictures
SHAPES = ("circle", "square", "triangle", "star", "cross")
TEXTURES = ("plain", "striped", "dotted", "checked")
# Hue in turns and how far it may stray; the gaps between two colours stay wider than the jitter.
COLOURS = {
    "red": (0.0, 0.025),
    "yellow": (0.145, 0.02),
    "green": (0.36, 0.045),
    "blue": (0.61, 0.035),
    "purple": (0.81, 0.035),
}
CLASSES = len(COLOURS) * len(TEXTURES) * len(SHAPES)

SHORT_SIDE = (72, 120)  # pixels, inclusive
LONGEST_SIDE = 160
QUALITY = (50, 92)  # of the JPEG, inclusive
_FINE = 2  # polygons are filled at this multiple of the picture's size and averaged down

Floats = NDArray[np.floating[Any]]  # float32 in fact: Python numbers do not widen it
Point = tuple[float, float]


def labels() -> list[str]:
    """The 100 class names, "colour texture shape"; the position in the list is the class index."""
    return [f"{colour} {texture} {shape}" for colour in COLOURS for texture in TEXTURES for shape in SHAPES]


def class_folders() -> list[str]:
    """The folder name of every class, such as `003_red_plain_star`: sorted order is class order."""
    return [f"{number:03d}_{name.replace(' ', '_')}" for number, name in enumerate(labels())]


def label_of(seed: int, split: str, index: int) -> int:
    """The class (0 to 99) of a picture; each run of 100 from a multiple of 100 has every class once."""
    if index < 0:
        raise ValueError(f"picture index must be 0 or more, not {index}")
    block, place = divmod(index, CLASSES)
    return _order(seed, split, block)[place]


def draw(seed: int, split: str, index: int) -> tuple[Image.Image, int]:
    """Draw one picture.

    Args:
        seed: of the whole set.
        split: any name; splits of different names share no random numbers.
        index: 0-based place in the split.

    Returns:
        An RGB picture, sides of 72 to 160 pixels and mostly not square, and its class index.

    Raises:
        ValueError: the index is negative.
    """
    label = label_of(seed, split, index)
    rng = _stream(seed, split, "picture", index)
    width, height = _size(rng)
    short = min(width, height)
    behind = _background(rng, width, height)
    _clutter(rng, behind, short)
    pixels = np.asarray(behind.reduce(_FINE), dtype=np.float32)
    pixels = _figure(rng, pixels, label)
    pixels = _occlude(rng, pixels)
    pixels = _light(rng, pixels)
    picture = Image.fromarray(_to_bytes(pixels))
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.BoxBlur(_between(rng, 0.2, 0.7)))
    noisy = np.asarray(picture, dtype=np.float32) + _noise(rng, (height, width, 3), _between(rng, 0.0, 7.0))
    return Image.fromarray(_to_bytes(noisy)), label


def encode(image: Image.Image, *, quality: int = 85, subsampling: int = 2) -> bytes:
    """JPEG bytes of an RGB picture; subsampling is Pillow's (0: 4:4:4, 1: 4:2:2, 2: 4:2:0)."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling, optimize=True)
    return buffer.getvalue()


def encoded(seed: int, split: str, index: int) -> tuple[bytes, int]:
    """One picture as JPEG bytes (quality 50 to 92, drawn from the same three values) and its class index."""
    image, label = draw(seed, split, index)
    rng = _stream(seed, split, "jpeg", index)
    quality = int(rng.integers(QUALITY[0], QUALITY[1] + 1))
    return encode(image, quality=quality, subsampling=2 if rng.random() < 0.6 else 0), label


def write_flat(folder: Path, count: int, *, seed: int = 0, split: str = "val", workers: int = 1) -> Path:
    """Write ImageNet's flat layout: `ILSVRC2012_val_00000001.JPEG` and so on, and `val_map.txt`.

    Args:
        folder: made if need be. Files already there under the same names are replaced.
        count: how many pictures, 1 or more.
        seed: of the set.
        split: of the set.
        workers: processes that draw; the bytes do not depend on it.

    Returns:
        The path of `val_map.txt`, one "name<TAB>class index" line a picture, written last.

    Raises:
        ImageError: the folder cannot be written.
        ValueError: the count is below 1.
    """
    names = [_flat_name(index) for index in range(count)]
    found = _write_pictures(folder, names, seed, split, workers)
    lines = [f"{name}\t{label}\n" for name, label in zip(names, found, strict=True)]
    _write(folder / "val_map.txt", "".join(lines).encode("ascii"))
    return folder / "val_map.txt"


def write_class_folders(
    folder: Path, count: int, *, seed: int = 0, split: str = "val", workers: int = 1
) -> list[Path]:
    """Write ImageNet's other layout, `<class folder>/<file>`, with the bytes and names of `write_flat`.

    Returns:
        The files in index order. Every class has a folder, even when `count` leaves it empty,
        so that the sorted folder names always number the classes.

    Raises:
        ImageError: the folder cannot be written.
        ValueError: the count is below 1.
    """
    folders = class_folders()
    names = [f"{folders[label_of(seed, split, index)]}/{_flat_name(index)}" for index in range(count)]
    _write_pictures(folder, names, seed, split, workers)
    _make_folders(folder / name for name in folders)
    return [folder / name for name in names]


def _flat_name(index: int) -> str:
    return f"ILSVRC2012_val_{index + 1:08d}.JPEG"


def _stream(seed: int, split: str, purpose: str, index: int) -> np.random.Generator:
    # Hashed rather than passed as a list: SeedSequence joins its numbers' 32-bit words, so lists can collide.
    key = f"{GENERATION}|{seed}|{purpose}|{index}|{split}".encode()
    entropy = int.from_bytes(hashlib.sha256(key).digest()[:16], "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


@lru_cache(maxsize=64)
def _order(seed: int, split: str, block: int) -> tuple[int, ...]:
    keys = _stream(seed, split, "order", block).random(CLASSES)
    return tuple(int(label) for label in np.argsort(keys, kind="stable"))


def _size(rng: np.random.Generator) -> tuple[int, int]:
    short = int(rng.integers(SHORT_SIDE[0], SHORT_SIDE[1] + 1))
    long = min(int(short * _between(rng, 1.0, 1.6)), LONGEST_SIDE)
    return (long, short) if rng.random() < 0.5 else (short, long)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    # Not Generator.uniform, whose C code fuses the multiplication and addition on some CPUs.
    return low + (high - low) * rng.random()


def _colour(
    rng: np.random.Generator, hue: float, saturation: Point, value: Point
) -> tuple[float, float, float]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, _between(rng, *saturation), _between(rng, *value))
    return 255.0 * red, 255.0 * green, 255.0 * blue


def _ink(rng: np.random.Generator, saturation: Point, value: Point) -> tuple[int, int, int]:
    red, green, blue = _colour(rng, rng.random(), saturation, value)
    return int(red), int(green), int(blue)


def _turn(angle: float) -> Point:
    # Rounded, because the last bit of a C library's sine differs between machines.
    return round(math.cos(angle), 9), round(math.sin(angle), 9)


def _regular(corners: int, radii: tuple[float, ...]) -> list[Point]:
    turns = [_turn(2.0 * math.pi * corner / corners) for corner in range(corners)]
    return [(radii[i % len(radii)] * x, radii[i % len(radii)] * y) for i, (x, y) in enumerate(turns)]


def _outline(rng: np.random.Generator, shape: str) -> list[Point]:
    """The polygon of a shape, about one unit in radius."""
    if shape == "circle":
        return _regular(40, (0.95,))
    if shape == "square":
        return _regular(4, (1.15,))
    if shape == "triangle":
        return _regular(3, (1.2,))
    if shape == "star":
        return _regular(10, (1.15, _between(rng, 0.42, 0.52)))
    arm, reach = _between(rng, 0.28, 0.38), 1.05
    corner = [(reach, -arm), (reach, arm), (arm, arm)]
    quarter_turns: list[Callable[[float, float], Point]] = [
        lambda x, y: (x, y),
        lambda x, y: (-y, x),
        lambda x, y: (-x, -y),
        lambda x, y: (y, -x),
    ]
    return [turn(x, y) for turn in quarter_turns for x, y in corner]


@dataclass(frozen=True)
class _Placement:
    """Where a figure lies: pixel = centre + matrix @ unit point, matrix given row by row."""

    centre: Point
    matrix: tuple[float, float, float, float]

    @staticmethod
    def draw(rng: np.random.Generator, centre: Point, radius: float, stretch: float) -> _Placement:
        """A random rotation, then a stretch along a random direction, scaled to the radius in pixels."""
        c, s = _turn(_between(rng, 0.0, 2.0 * math.pi))
        e, f = _turn(_between(rng, 0.0, 2.0 * math.pi))
        longer, shorter = radius * _between(rng, 1.0, stretch), radius / _between(rng, 1.0, stretch)
        first, second = (longer * e, longer * f), (-shorter * f, shorter * e)
        matrix = (
            c * first[0] - s * second[0],
            c * first[1] - s * second[1],
            s * first[0] + c * second[0],
            s * first[1] + c * second[1],
        )
        return _Placement(centre, matrix)

    def polygon(self, outline: list[Point]) -> list[Point]:
        """The outline in pixels of the fine canvas."""
        a, b, c, d = self.matrix
        x0, y0 = self.centre
        return [(_FINE * (x0 + a * u + b * v), _FINE * (y0 + c * u + d * v)) for u, v in outline]

    def unit(self, width: int, height: int) -> tuple[Floats, Floats]:
        """The unit coordinates of every pixel centre, two float32 arrays [height, width]."""
        a, b, c, d = self.matrix
        area = a * d - b * c
        x = (np.arange(width, dtype=np.float32) + (0.5 - self.centre[0]))[None, :]
        y = (np.arange(height, dtype=np.float32) + (0.5 - self.centre[1]))[:, None]
        u = x * (d / area) - y * (b / area)
        v = y * (a / area) - x * (c / area)
        return u, v


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A muted blotchy or even ground, at the fine size."""
    cells = (1, 2, 2, 4, 7)[int(rng.integers(5))] + 1
    base = np.array(_colour(rng, rng.random(), (0.0, 0.45), (0.15, 0.95)), dtype=np.float32)
    spread = _between(rng, 10.0, 70.0)
    grid = base + spread * (rng.random((cells, cells, 3), dtype=np.float32) * 2 - 1)
    small = Image.fromarray(_to_bytes(grid))
    return small.resize((width * _FINE, height * _FINE), Image.Resampling.BILINEAR)


def _clutter(rng: np.random.Generator, behind: Image.Image, short: int) -> None:
    """Small figures and lines of any colour, drawn onto the background."""
    pen = ImageDraw.Draw(behind)
    width, height = behind.width / _FINE, behind.height / _FINE
    for _ in range(int(rng.integers(0, 4))):
        ends = [(_between(rng, 0, behind.width), _between(rng, 0, behind.height)) for _ in range(2)]
        pen.line(ends, fill=_ink(rng, (0.0, 0.6), (0.1, 1.0)), width=int(rng.integers(1, 4)) * _FINE)
    for _ in range(int(rng.integers(1, 7))):
        centre = (_between(rng, 0, width), _between(rng, 0, height))
        placement = _Placement.draw(rng, centre, _between(rng, 0.04, 0.11) * short, 1.4)
        outline = _outline(rng, SHAPES[int(rng.integers(len(SHAPES)))])
        pen.polygon(placement.polygon(outline), fill=_ink(rng, (0.0, 1.0), (0.1, 1.0)))


def _wave(position: Floats) -> Floats:
    """A triangle wave of period 1 between -1 and 1."""
    wave: Floats = 2 * np.abs(2 * (position - np.floor(position)) - 1) - 1
    return wave


def _texture(rng: np.random.Generator, name: str, u: Floats, v: Floats, radius: float) -> Floats:
    """How much of every pixel is the second ink, 0 to 1, with edges about one pixel soft."""
    c, s = _turn(_between(rng, 0.0, 2.0 * math.pi))
    period = _between(rng, 0.42, 0.62) * (0.85 if name == "striped" else 1.2 if name == "checked" else 1.0)
    across = (u * c - v * s) / period + rng.random()
    along = (u * s + v * c) / period + rng.random()
    pixels = period * radius
    if name == "striped":
        cover = _wave(across) * (pixels / 4)
    elif name == "checked":
        cover = _wave(across) * _wave(along) * (pixels / 3)
    elif name == "dotted":
        x, y = across - np.floor(across) - 0.5, along - np.floor(along) - 0.5
        dot = _between(rng, 0.27, 0.33)
        cover = (dot * dot - x * x - y * y) * (pixels / (2 * dot))
    else:
        cover = np.full_like(u, -1.0)
    soft: Floats = np.clip(cover + 0.5, 0, 1)
    return soft


def _figure(rng: np.random.Generator, pixels: Floats, label: int) -> Floats:
    """Paint the figure of a class near the middle of float32 pixels [height, width, 3]."""
    colour, texture, shape = labels()[label].split()
    height, width, _ = pixels.shape
    short = min(width, height)
    radius = _between(rng, 0.23, 0.38) * short
    centre = (
        width / 2 + _between(rng, -0.11, 0.11) * short,
        height / 2 + _between(rng, -0.11, 0.11) * short,
    )
    placement = _Placement.draw(rng, centre, radius, 1.15)
    mask = Image.new("L", (width * _FINE, height * _FINE))
    ImageDraw.Draw(mask).polygon(placement.polygon(_outline(rng, shape)), fill=255)
    cover = np.asarray(mask.reduce(_FINE), dtype=np.float32)[..., None] / 255
    hue, stray = COLOURS[colour]
    first = _colour(rng, hue + _between(rng, -stray, stray), (0.7, 1.0), (0.6, 1.0))
    second = _colour(rng, rng.random(), (0.0, 0.12), (0.85, 1.0) if rng.random() < 0.6 else (0.03, 0.15))
    inked = _texture(rng, texture, *placement.unit(width, height), radius)[..., None]
    paint = np.array(first, dtype=np.float32) * (1 - inked)
    paint += np.array(second, dtype=np.float32) * inked
    return pixels + (paint - pixels) * cover


def _occlude(rng: np.random.Generator, pixels: Floats) -> Floats:
    """Sometimes cover a part of the picture with a bar or a small blob."""
    if rng.random() < 0.5:
        return pixels
    height, width, _ = pixels.shape
    short = min(width, height)
    mask = Image.new("L", (width * _FINE, height * _FINE))
    pen = ImageDraw.Draw(mask)
    if rng.random() < 0.5:
        middle = (width / 2 + _between(rng, -0.3, 0.3) * short, height / 2 + _between(rng, -0.3, 0.3) * short)
        c, s = _turn(_between(rng, 0.0, 2.0 * math.pi))
        ends = [
            (_FINE * (middle[0] + t * c), _FINE * (middle[1] + t * s)) for t in (-2.0 * short, 2.0 * short)
        ]
        pen.line(ends, fill=255, width=int(_FINE * _between(rng, 0.02, 0.06) * short) + 1)
    else:
        centre = (width / 2 + _between(rng, -0.4, 0.4) * short, height / 2 + _between(rng, -0.4, 0.4) * short)
        placement = _Placement.draw(rng, centre, _between(rng, 0.06, 0.13) * short, 1.5)
        pen.polygon(placement.polygon(_outline(rng, "circle")), fill=255)
    cover = np.asarray(mask.reduce(_FINE), dtype=np.float32)[..., None] / 255
    ink = np.array(_colour(rng, rng.random(), (0.0, 0.4), (0.1, 0.9)), dtype=np.float32)
    return pixels + (ink - pixels) * cover


def _light(rng: np.random.Generator, pixels: Floats) -> Floats:
    """A slanting light, a gain and a slight tint."""
    height, width, _ = pixels.shape
    x = (np.arange(width, dtype=np.float32) / np.float32(width) - 0.5)[None, :]
    y = (np.arange(height, dtype=np.float32) / np.float32(height) - 0.5)[:, None]
    slant = x * _between(rng, -0.5, 0.5) + y * _between(rng, -0.5, 0.5)
    gain = _between(rng, 0.7, 1.15) * (slant + 1)
    tint = np.array([_between(rng, 0.92, 1.08) for _ in range(3)], dtype=np.float32)
    lit: Floats = pixels * gain[..., None] * tint
    return lit


def _noise(rng: np.random.Generator, shape: tuple[int, int, int], deviation: float) -> Floats:
    """Float32 noise with a triangular distribution, made of whole numbers so that every machine agrees."""
    count = shape[0] * shape[1] * shape[2]
    pair = np.frombuffer(rng.bytes(2 * count), dtype=np.uint8).reshape(2, *shape).astype(np.float32)
    # Two uniform bytes have variance (256 * 256 - 1) / 12 each.
    scale = deviation / math.sqrt((256.0 * 256.0 - 1.0) / 6.0)
    noise: Floats = (pair[0] + pair[1] - 255) * scale
    return noise


def _to_bytes(pixels: Floats) -> NDArray[np.uint8]:
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def _write_pictures(folder: Path, names: list[str], seed: int, split: str, workers: int) -> list[int]:
    if not names:
        raise ValueError("a picture set needs at least one picture")
    _make_folders(sorted({(folder / name).parent for name in names}))
    jobs: Iterator[tuple[Path, int, str, int]] = (
        (folder / name, seed, split, index) for index, name in enumerate(names)
    )
    if workers <= 1:
        return [_write_one(job) for job in jobs]
    # Not forked: the caller may hold threads of an inference library.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_write_one, jobs, chunksize=64))


def _write_one(job: tuple[Path, int, str, int]) -> int:
    path, seed, split, index = job
    data, label = encoded(seed, split, index)
    _write(path, data)
    return label


def _make_folders(folders: Iterable[Path]) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(f"cannot make the picture folder {folder}: {error.strerror or error}") from error


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: beside its place first, then renamed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ImageError(f"cannot write the picture file {path}: {error.strerror or error}") from error
