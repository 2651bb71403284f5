"""Calibration data as a source of batches: pictures, or the tensors that the ONNX model zoo ships.

Whatever measures ranges reads `Samples.batches`, as often as it needs to; one batch is in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper

from topfive.cache import file_sha256
from topfive.errors import CalibrateError, CardError, ImageError
from topfive.graph import Graph
from topfive.images import Profile, normalise_numbers, preprocess_batch
from topfive.images.calibration_set import calibration_pictures, drawn
from topfive.images.folders import SUFFIXES

__all__ = ["BATCH", "PictureSamples", "Samples", "TensorSamples", "open_dataset", "read_tensor"]

BATCH = 8
LEVELS = (0.0, 255.0)
NUMBERS = "fiu"
Batches = Iterator[NDArray[np.float32]]


@dataclass(frozen=True)
class Samples(ABC):
    """Files that become batches, in a fixed order. `profile` is None for tensors taken as they are."""

    files: tuple[Path, ...]
    profile: Profile | None
    size: tuple[int, int]

    @property
    def names(self) -> list[str]:
        """The files, for messages."""
        return [str(path) for path in self.files]

    @abstractmethod
    def load(self, index: int) -> NDArray[np.float32]:
        """The samples of one file, [n, ...]; ImageError or CalibrateError naming it if it cannot be read."""

    @abstractmethod
    def arrays(self, count: int) -> Batches:
        """The samples in order, in arrays of whatever length suits their files."""

    def batches(self, count: int = BATCH, *, fixed: bool = False) -> Batches:
        """The samples in the model's input layout, float32, `count` at a time; may be asked for again.

        The last batch may be smaller; if `fixed`, that is a CalibrateError. Raises ImageError or
        CalibrateError naming a file that cannot be read.
        """
        waiting: list[NDArray[np.float32]] = []
        for array in self.arrays(count):
            waiting.append(array)
            while (held := sum(map(len, waiting))) >= count:
                joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                yield joined[:count]
                waiting = [joined[count:]] if held > count else []
        if waiting and fixed:
            raise CalibrateError(
                f"the model's batch is fixed at {count}, and {sum(map(len, waiting))} calibration samples "
                f"are left over: give a multiple of {count}"
            )
        if waiting:
            yield np.concatenate(waiting)

    def batches_for(self, model: onnx.ModelProto) -> Batches:
        """Batches of the size that the model's input wants: its own if that is fixed, else BATCH."""
        fixed = int(Graph(model).inputs[0].type.tensor_type.shape.dim[0].dim_value)
        return self.batches(fixed or BATCH, fixed=bool(fixed))

    @cached_property
    def digests(self) -> list[tuple[str, str]]:
        """(name, SHA-256) of each file."""
        return [(path.name, file_sha256(path)) for path in self.files]

    def provenance(self) -> dict[str, Any]:
        """What a range table says of the samples that it was measured on."""
        return {
            "pictures": len(self.files),
            "pictures_sha256": hashlib.sha256(json.dumps(self.digests).encode()).hexdigest(),
            "profile": self.profile.name if self.profile else "none",
        }


@dataclass(frozen=True)
class PictureSamples(Samples):
    """Picture files, prepared by a profile."""

    def load(self, index: int) -> NDArray[np.float32]:
        """See Samples.load."""
        return self._prepared(self.files[index : index + 1])

    def arrays(self, count: int) -> Batches:
        """`count` pictures at a time; see Samples.arrays."""
        for start in range(0, len(self.files), count):
            yield self._prepared(self.files[start : start + count])

    def _prepared(self, files: tuple[Path, ...]) -> NDArray[np.float32]:
        if self.profile is None:
            raise CalibrateError("pictures need a preprocessing profile: choose one with --data-preprocess")
        return preprocess_batch(files, self.profile, self.size)


@dataclass(frozen=True)
class TensorSamples(Samples):
    """TensorProto files (.pb), each of one or more samples.

    With a profile: N x 3 x height x width, R, G, B, levels 0 to 255; the profile's formula is applied, its
    picture steps (resize, crop) are not. Without one: the model's input as it is, N x `shape`.
    """

    shape: tuple[int, ...] = ()

    def load(self, index: int) -> NDArray[np.float32]:
        """See Samples.load."""
        path = self.files[index]
        tensor = read_tensor(path)
        wanted = self.shape if self.profile is None else (3, *self.size)
        if tensor.ndim != len(wanted) + 1 or tensor.shape[1:] != wanted or not len(tensor):
            raise CalibrateError(
                f"{path}: holds a tensor {list(tensor.shape)}, but the model needs "
                f"[N, {', '.join(map(str, wanted))}]: write the tensors again in that shape"
            )
        return tensor.astype(np.float32) if self.profile is None else normalise_numbers(tensor, self.profile)

    def arrays(self, count: int) -> Batches:
        """A file at a time; see Samples.arrays."""
        return (self.load(index) for index in range(len(self.files)))

    def beyond_levels(self) -> str:
        """A warning if the first tensor hardly holds the levels that a profile wants, or ""."""
        if self.profile is None:
            return ""
        tensor = read_tensor(self.files[0])
        low, high = float(tensor.min(initial=0)), float(tensor.max(initial=0))
        if low >= LEVELS[0] and LEVELS[1] / 16 <= high <= LEVELS[1]:
            return ""
        return (
            f"{self.files[0]}: its values, {low:.4g} to {high:.4g}, are hardly levels of 0 to 255; if it is "
            "preprocessed already, use --data-preprocess none"
        )


def open_dataset(
    folder: Path,
    *,
    profile: Profile | None,
    size: tuple[int, int],
    shape: tuple[int, ...],
    count: int = 0,
    seed: int | None = None,
    map_file: Path | None = None,
) -> Samples:
    """The samples in a folder, the first `count` of them (0: all), or so many drawn with a `seed`.

    Tensors: `test_data_set_*/input_0.pb`, in order of number, or `input_*.pb` in the folder itself. Else
    pictures, see `topfive.images.calibration_set.calibration_pictures`. profile: None takes tensors as they
    are. size: height and width of the model's input. shape: of the input without the batch. Raises
    CalibrateError for a folder with both kinds or a test data set with another number of inputs, ImageError
    for one with neither, CardError for a profile whose tensors do not fit the model.
    """
    _check_profile(profile, size, shape)
    tensors = _tensor_files(folder) if map_file is None else []
    if not tensors:
        try:
            pictures = calibration_pictures(folder, map_file)
        except ImageError as error:
            hint = "a dataset is test_data_set_*/input_0.pb, input_*.pb, or pictures"
            raise ImageError(error.message, details=error.details or hint) from error
        if profile is None:
            raise CalibrateError(f"{folder}: holds pictures, which need a profile: give --data-preprocess")
        return PictureSamples(_first(pictures, count, seed), profile, size)
    loose = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if loose:
        raise CalibrateError(
            f"{folder}: holds tensors ({tensors[0].name}) and pictures ({loose[0].name}): "
            "move one kind elsewhere"
        )
    return TensorSamples(_first(tensors, count, seed), profile, size, shape)


def _first(files: list[Path], count: int, seed: int | None) -> tuple[Path, ...]:
    if count and seed is not None:
        return tuple(drawn(files, count, seed))
    return tuple(files[: count or None])


def _check_profile(profile: Profile | None, size: tuple[int, int], shape: tuple[int, ...]) -> None:
    if profile is None:
        return
    tensor = profile.tensor
    given = (3, *size) if tensor.layout == "NCHW" else (*size, 4 if tensor.layout == "NHW4" else 3)
    if tensor.dtype != "float32" or given != shape:
        raise CardError(
            f"profile {profile.name!r} gives {tensor.dtype} tensors {list(given)}, the model wants float32 "
            f"{list(shape)}: choose another profile"
        )


def _tensor_files(folder: Path) -> list[Path]:
    """The input of each test data set, else the inputs in the folder itself."""
    try:
        sets = sorted((p for p in folder.glob("test_data_set_*") if p.is_dir()), key=_natural)
        loose = sorted(folder.glob("input_*.pb"), key=_natural)
    except OSError as error:
        raise CalibrateError(f"{folder}: cannot be read: {error.strerror or error}") from error
    if not sets:
        return loose
    found = []
    for place in sets:
        inputs = sorted(place.glob("input_*.pb"))
        if len(inputs) != 1:
            raise CalibrateError(f"{place}: holds {len(inputs)} inputs (input_*.pb); a classifier has one")
        found += inputs
    return found


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    """Numbers in a name count as numbers: set 2 comes before set 10."""
    return tuple((int(part or 0), text) for text, part in re.findall(r"([^0-9]*)([0-9]*)", path.name))


def read_tensor(path: Path) -> NDArray[Any]:
    """The numbers in a TensorProto file (.pb), any shape.

    Raises CalibrateError naming the file: absent, empty, no TensorProto, cut short, data elsewhere, not
    numbers, NaN or infinity.
    """
    proto = onnx.TensorProto()
    try:
        data = path.read_bytes()
        proto.ParseFromString(data)
    except OSError as error:
        raise CalibrateError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise CalibrateError(f"{path}: is no ONNX tensor, or cut short: fetch it again") from error
    if not data or not proto.data_type:
        raise CalibrateError(f"{path}: {'holds no ONNX tensor' if data else 'is empty'}: fetch it again")
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        raise CalibrateError(f"{path}: has its data in another file: write it with the data inside")
    try:
        tensor = numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError) as error:  # size, no element type, unknown element type
        raise CalibrateError(
            f"{path}: is damaged or cut short: fetch it again", details=str(error)
        ) from error
    if tensor.dtype.kind not in NUMBERS:
        raise CalibrateError(f"{path}: holds {tensor.dtype}, not numbers")
    if not np.isfinite(tensor).all():
        raise CalibrateError(f"{path}: holds NaN or infinity: remove it from the dataset")
    return tensor
