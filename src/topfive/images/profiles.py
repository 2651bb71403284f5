"""Preprocessing profiles: TOML files that say how a picture becomes a tensor. Data, not code.

The profiles that come with topfive are the files of `topfive/cards/profiles`; docs/profiles.md lists them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from topfive.cards.schema import load_named, named_files, read_named
from topfive.errors import CardError
from topfive.images.resize import FILTERS

__all__ = [
    "NumberStep",
    "PictureStep",
    "Profile",
    "Quantise",
    "Tensor",
    "load_profile",
    "profile_names",
    "read_profile",
]

PROFILES_FOLDER = Path(__file__).resolve().parent.parent / "cards" / "profiles"

_RESIZE_RULES = ("shorter_side", "stretch")
_CROP_RULES = ("central_fraction", "centre")
_CROP_STARTS = ("half_even", "halves", "truncate")


@dataclass(frozen=True)
class PictureStep:
    """One step on the uint8 picture: exactly one of `resize` and `crop`.

    resize = "shorter_side": the shorter side becomes the step's size, the other int(size * long / short), or
    with long = "round" the same rounded half to even.
    resize = "stretch": both sides become the step's size, whatever the aspect ratio.
    crop = "centre": a window of the step's size; crop = "central_fraction": the middle `fraction` of each
    side, starting at int((side - side * fraction) / 2).
    The step's size is `size` (pixels), else the model's input size times `ratio` (numerator, denominator;
    rounded down), else the model's input size. For shorter_side the larger of the input's two sides counts.
    `start` is a centre crop's first row or column: "half_even" int(round((side - size) / 2.0)), as
    torchvision; "truncate" int((side - size) / 2); "halves" side // 2 - (size + 1) // 2.
    """

    resize: str | None = None
    crop: str | None = None
    size: int | None = None
    ratio: tuple[int, int] | None = None
    fraction: float | None = None
    long: str | None = None
    filter: str | None = None
    start: str | None = None

    def pixels(self, side: int) -> int:
        """The step's size for an input side of `side` pixels."""
        if self.size is not None:
            return self.size
        return side * self.ratio[0] // self.ratio[1] if self.ratio else side


@dataclass(frozen=True)
class NumberStep:
    """One step on the numbers: exactly one of these, with one value or three in the order of the planes."""

    subtract: tuple[float, ...] | None = None
    multiply: tuple[float, ...] | None = None
    divide: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Quantise:
    """int8 = round or truncate(clip(float32(x) / scale)); `scale` is 8 hex digits, a big-endian float32."""

    scale: str
    clip: tuple[int, int]
    rounding: str


@dataclass(frozen=True)
class Tensor:
    """What the picture becomes: `steps` in float32 or float64 `arithmetic`, then `dtype` in `layout`."""

    planes: str
    layout: str
    dtype: str
    arithmetic: str = "float32"
    steps: tuple[NumberStep, ...] = ()
    quantise: Quantise | None = None


@dataclass(frozen=True)
class Profile:
    """A preprocessing profile.

    `decoder` ("pillow" or "opencv") says whose rule turns CMYK into RGB, `exif` ("ignore" or "apply") whether
    the camera's orientation is honoured, `size` (height, width) is the input size where the caller gives
    none.
    """

    name: str
    description: str
    source: str
    tensor: Tensor
    picture: tuple[PictureStep, ...] = ()
    decoder: str = "pillow"
    exif: str = "ignore"
    size: tuple[int, int] | None = None
    path: Path = field(default=Path(), metadata={"internal": True}, compare=False)


def profile_names(extra_dirs: Iterable[Path] = ()) -> list[str]:
    """The names of all profiles, sorted."""
    return sorted({path.stem for path in named_files(PROFILES_FOLDER, extra_dirs)})


def load_profile(name: str, extra_dirs: Sequence[Path] = ()) -> Profile:
    """The profile `name`, from topfive's own or from a folder of `extra_dirs`.

    Raises UnknownNameError with the nearest names, CardError if two files have the name or the file is
    malformed.
    """
    return load_named("profile", name, named_files(PROFILES_FOLDER, extra_dirs), read_profile)


def read_profile(path: Path) -> Profile:
    """The profile in a TOML file; CardError naming the file and the key that is wrong."""
    profile = read_named(Profile, path)
    _choice(path, "decoder", profile.decoder, ("opencv", "pillow"))
    _choice(path, "exif", profile.exif, ("apply", "ignore"))
    if profile.size and min(profile.size) < 1:
        raise CardError(f"{path}: key 'size' must be a positive height and width, not {list(profile.size)}")
    for number, step in enumerate(profile.picture):
        _check_picture(path, f"picture[{number}]", step)
    _check_tensor(path, profile.tensor)
    return profile


def _choice(path: Path, key: str, value: str | None, known: Sequence[str]) -> None:
    if value in known:
        return
    if value is None:
        raise CardError(f"{path}: key {key!r} is missing: it must be one of {', '.join(known)}")
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(known)}"
    raise CardError(f"{path}: key {key!r} is {value!r}: {hint}")


def _only(path: Path, key: str, step: PictureStep | NumberStep, allowed: Iterable[str]) -> None:
    given = {name for name, value in vars(step).items() if value is not None}
    if extra := given.difference(allowed):
        raise CardError(
            f"{path}: key {key + '.' + min(extra)!r} does not belong to this kind of step; remove it"
        )


def _check_picture(path: Path, key: str, step: PictureStep) -> None:
    if (step.resize is None) == (step.crop is None):
        raise CardError(f"{path}: key {key!r} must have exactly one of the keys resize and crop")
    if step.resize is not None:
        _choice(path, f"{key}.resize", step.resize, _RESIZE_RULES)
        _choice(path, f"{key}.filter", step.filter, sorted(FILTERS))
        if step.long is not None:
            _choice(path, f"{key}.long", step.long, ("floor", "round"))
        _only(path, key, step, ("resize", "long", "filter", "size", "ratio"))
    elif step.crop == "central_fraction":
        _only(path, key, step, ("crop", "fraction"))
        if step.fraction is None or not 0 < step.fraction <= 1:
            raise CardError(f"{path}: key {key + '.fraction'!r} must be more than 0 and at most 1")
    else:
        _choice(path, f"{key}.crop", step.crop, _CROP_RULES)
        _choice(path, f"{key}.start", step.start, _CROP_STARTS)
        _only(path, key, step, ("crop", "start", "size", "ratio"))
    if step.size is not None and step.ratio is not None:
        raise CardError(f"{path}: key {key!r} has both size and ratio; keep one")
    if (step.size is not None and step.size < 1) or (step.ratio is not None and min(step.ratio) < 1):
        raise CardError(
            f"{path}: key {key + ('.size' if step.size is not None else '.ratio')!r} must be positive"
        )


def _check_tensor(path: Path, tensor: Tensor) -> None:
    _choice(path, "tensor.planes", tensor.planes, ("BGR", "RGB"))
    _choice(path, "tensor.layout", tensor.layout, ("NCHW", "NHW4", "NHWC"))
    _choice(path, "tensor.dtype", tensor.dtype, ("float32", "int8", "uint8"))
    _choice(path, "tensor.arithmetic", tensor.arithmetic, ("float32", "float64"))
    for number, step in enumerate(tensor.steps):
        key = f"tensor.steps[{number}]"
        given = [(name, value) for name, value in vars(step).items() if value is not None]
        if len(given) != 1:
            raise CardError(f"{path}: key {key!r} must have exactly one of subtract, multiply and divide")
        name, values = given[0]
        if len(values) not in (1, 3):
            raise CardError(f"{path}: key {key + '.' + name!r} must have 1 value or 3, not {len(values)}")
        if name == "divide" and 0.0 in values:
            raise CardError(f"{path}: key {key + '.divide'!r} must not be 0")
    if tensor.dtype == "uint8" and tensor.steps:
        raise CardError(f"{path}: key 'tensor.steps' must be left out for dtype uint8, the picture itself")
    if (tensor.dtype == "int8") != (tensor.quantise is not None):
        raise CardError(f"{path}: key 'tensor.quantise' belongs to dtype int8, and only to it")
    if tensor.quantise:
        _check_quantise(path, tensor.quantise)


def _check_quantise(path: Path, quantise: Quantise) -> None:
    _choice(path, "tensor.quantise.rounding", quantise.rounding, ("half_even", "truncate"))
    low, high = quantise.clip
    if not -128 <= low < high <= 127:
        raise CardError(
            f"{path}: key 'tensor.quantise.clip' must be two ends within -128 and 127, not {[low, high]}"
        )
    digits = quantise.scale
    if len(digits) != 8 or set(digits) - set("0123456789abcdef") or not 0 < int(digits, 16) < 0x7F800000:
        raise CardError(
            f"{path}: key 'tensor.quantise.scale' must be 8 hex digits of a positive big-endian float32, "
            f"not {digits!r}"
        )
