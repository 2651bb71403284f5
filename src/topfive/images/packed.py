"""The packed cache: every picture of a list, decoded, resized and cropped once, for all models and modes.

One pack holds one list of pictures in one form: what the profile's picture steps, its decoder and the model's
input size make of them. `crops.npy` is an uint8 array [pictures, height, width, 3] that numpy can map
(`np.load(path, mmap_mode="r")`); it is as long as the list from the start, but takes room only for rows that
were written. `index.bin` has 64 bytes a row: SHA-256 of the picture's file, CRC-32 of the crop, a mark, and
a stamp. Rows are written by any number of processes at once, the mark after the row. A row counts only if its
mark, its file's hash and its CRC all fit, so a row that was interrupted, or whose picture changed, is made
again. A file with the row's stamp (size, times of change, inode: see `Storage.stamp`) is not read again.

Mean, scale and layout are not here: `normalise` of a row is bit-equal to `preprocess` of the file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from topfive.cache import content_key, file_sha256
from topfive.errors import CacheError
from topfive.images.decode import decode_bytes, decoder_version
from topfive.images.preprocess import crop_uint8
from topfive.images.profiles import Profile

__all__ = [
    "File",
    "Pack",
    "crop_bytes",
    "crop_key",
    "make_crops",
    "pack_key",
    "pack_source",
    "refuse_without_room",
]

FORMAT = 1
HEADER = 4096
"""Bytes before the first row: numpy's header, padded so that rows start on a page."""
ENTRY = struct.Struct("<32sI4s16s8x")
MARK = b"done"
Pixels = npt.NDArray[np.uint8]
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
}


class File:
    """A picture file: its name, for errors, its bytes and their SHA-256, read when they are first asked for.

    read: gives the bytes. stamp: what cannot stay the same when the file is written (`Storage.stamp`), None
    where that is not known.
    """

    def __init__(self, name: str, read: Callable[[], bytes], stamp: bytes | None = None) -> None:
        self.name = name
        self.stamp = stamp
        self._read = read

    @cached_property
    def data(self) -> bytes:
        """The bytes. Raises what `read` raises."""
        return self._read()

    @cached_property
    def sha256(self) -> bytes:
        """SHA-256 of the bytes, or of the bytes that were read when the file had the same stamp."""
        return hashlib.sha256(self.data).digest()


def crop_bytes(file: File, profile: Profile, size: tuple[int, int]) -> Pixels:
    """`crop_uint8` of a picture file that is read already. Raises ImageError that starts with its name."""
    pixels = decode_bytes(file.data, file.name, decoder=profile.decoder, exif=profile.exif)
    return crop_uint8(pixels, profile, size, name=file.name)


def make_crops(
    files: Sequence[File], profile: Profile, size: tuple[int, int], pool: Executor | None = None
) -> Pixels:
    """The crops of files, uint8 [N, height, width, 3], made in the threads of `pool` if there is one."""
    crops = np.empty((len(files), size[0], size[1], 3), np.uint8)

    def make(number: int) -> None:
        crops[number] = crop_bytes(files[number], profile, size)

    for _ in pool.map(make, range(len(files))) if pool else map(make, range(len(files))):
        pass
    return crops


@cache
def _code() -> str:
    """Hash of the code that makes crops."""
    files = [Path(__file__).with_name(f"{name}.py") for name in ("decode", "preprocess", "resize")]
    return content_key({"code": [file_sha256(file) for file in files]})[:16]


def crop_key(profile: Profile, size: tuple[int, int]) -> str:
    """What decides a crop besides the file: profiles that differ only in their numbers share their crops."""
    steps = [asdict(step) for step in profile.picture]
    return content_key(
        {
            "format": FORMAT,
            "picture": steps,
            "decoder": profile.decoder,
            "exif": profile.exif,
            "size": list(size),
            "made_by": [decoder_version(), _code()],
        }
    )


def pack_key(source: str, count: int, crop: str) -> str:
    """The name of a pack; crop: see `crop_key`."""
    return content_key({"source": source, "count": count, "crop": crop})


def pack_source(root: str, labels_from: str) -> str:
    """What list of pictures a pack is of: the folder or URL, and what gives its labels."""
    return f"{root}\n{labels_from}"


@dataclass(frozen=True)
class Row:
    """What a pack says of a row; a stamp of zeros is none."""

    sha256: bytes
    crc32: int
    stamp: bytes


class Pack:
    """The crops of one list by one profile and size; use as a context manager, one in each process.

    root: the cache's root. source: what list it is (a folder and its label file); that its names or files
    changed is seen row by row. count: its length. Raises CacheError when the files cannot be made.
    """

    def __init__(self, root: Path, source: str, count: int, profile: Profile, size: tuple[int, int]) -> None:
        self.count = count
        self.shape = (size[0], size[1], 3)
        self.row_bytes = size[0] * size[1] * 3
        self.key = pack_key(source, count, crop_key(profile, size))
        self.folder = root / "crops" / self.key[:2] / self.key
        self._profile, self._size, self._source = profile, size, source
        try:
            self._prepare()
            self._crops = os.open(self.folder / "crops.npy", os.O_RDWR)
            self._index = os.open(self.folder / "index.bin", os.O_RDWR)
        except OSError as error:
            raise self._failed(error) from error

    def row(self, number: int) -> Row | None:
        """What the index says of a row; None if it was never finished."""
        entry = os.pread(self._index, ENTRY.size, number * ENTRY.size)
        if len(entry) < ENTRY.size:
            return None
        sha256, crc32, mark, stamp = ENTRY.unpack(entry)
        return Row(sha256, crc32, stamp) if mark == MARK else None

    def missing_bytes(self, numbers: Sequence[int]) -> int:
        """Room that those of these rows take that are still to be made."""
        index = np.fromfile(self.folder / "index.bin", np.uint8).reshape(-1, ENTRY.size)
        done = (index[:, 36:40] == np.frombuffer(MARK, np.uint8)).all(axis=1)
        return int((~done[list(numbers)]).sum()) * self.row_bytes

    def crops(self, numbers: Sequence[int], files: Sequence[File], pool: Executor | None = None) -> Pixels:
        """The rows of these numbers (ascending), one for each file: uint8 [N, height, width, 3].

        Rows that fit their files are mapped, others made (in the threads of `pool`) and stored. The array may
        be a read-only map of the file: the map goes with the last reference, so that memory stays flat.
        Raises ImageError naming a picture that cannot be read, CacheError when there is no room.
        """
        rows = [self.row(number) for number in numbers]
        stored = [n for n, row in enumerate(rows) if row is not None and self._is_of(row, files[n])]
        # Only rows that are there: a map of a hole in the file would fill memory with zeros.
        mapped = self._map(numbers) if stored else None
        fit = [n for n in stored if mapped is not None and zlib.crc32(mapped[n].data) == _crc(rows[n])]
        for n in fit:
            self._restamp(numbers[n], rows[n], files[n])
        if mapped is not None and len(fit) == len(files):
            return mapped
        wrong = sorted(set(range(len(files))).difference(fit))
        made = make_crops([files[n] for n in wrong], self._profile, self._size, pool)
        for n, crop in zip(wrong, made, strict=True):
            self._store(numbers[n], files[n], crop)
        if mapped is None or not fit:
            return made
        crops = np.empty((len(files), *self.shape), np.uint8)
        crops[wrong], crops[fit] = made, mapped[fit]
        return crops

    def close(self) -> None:
        """Close the files."""
        os.close(self._crops)
        os.close(self._index)

    def _map(self, numbers: Sequence[int]) -> Pixels:
        """A map of these rows only: a map of the whole file would count as this process's memory."""
        first, count = numbers[0], numbers[-1] - numbers[0] + 1
        start = HEADER + first * self.row_bytes
        page = start - start % mmap.ALLOCATIONGRANULARITY
        length = start - page + count * self.row_bytes
        try:
            if os.fstat(self._crops).st_size < start + count * self.row_bytes:
                raise CacheError(f"{self.folder} was cut short while in use: remove it and start again")
            view = mmap.mmap(self._crops, length, access=mmap.ACCESS_READ, offset=page)
        except OSError as error:
            raise self._failed(error) from error
        rows = np.frombuffer(view, np.uint8, count * self.row_bytes, start - page).reshape(-1, *self.shape)
        return rows if count == len(numbers) else rows[np.asarray(numbers) - first]

    def _is_of(self, row: Row, file: File) -> bool:
        """Whether a row was made from this very file; the file is read only if its stamp does not tell."""
        if file.stamp is not None and file.stamp == row.stamp:
            file.__dict__.setdefault("sha256", row.sha256)
        return file.sha256 == row.sha256

    def _restamp(self, number: int, row: Row | None, file: File) -> None:
        """Note the stamp of a file that turned out to have the row's bytes, for the next time."""
        if row is not None and file.stamp is not None and file.stamp != row.stamp:
            self._mark(number, file, row.crc32)

    def _store(self, number: int, file: File, crop: Pixels) -> None:
        try:
            _write(self._crops, crop.data.cast("B"), HEADER + number * self.row_bytes)
        except OSError as error:
            raise self._failed(error) from error
        self._mark(number, file, zlib.crc32(crop.data))

    def _mark(self, number: int, file: File, crc32: int) -> None:
        entry = ENTRY.pack(file.sha256, crc32, MARK, file.stamp or b"")
        try:
            _write(self._index, entry, number * ENTRY.size)
        except OSError as error:
            raise self._failed(error) from error

    def _prepare(self) -> None:
        """Make the files, at full length but without blocks, if they are not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        header = _npy_header((self.count, *self.shape))
        about = {
            "format": FORMAT,
            "count": self.count,
            "size": list(self._size),
            "made_by": decoder_version(),
            "source": self._source,
        }
        _create(self.folder / "index.bin", b"", self.count * ENTRY.size)
        _create(self.folder / "crops.npy", header, HEADER + self.count * self.row_bytes)
        text = json.dumps({**about, "profile": self._profile.name}, indent=1).encode()
        _create(self.folder / "about.json", text, len(text))

    def _failed(self, error: OSError) -> CacheError:
        reason = _FULL.get(error.errno or 0, error.strerror or str(error))
        return CacheError(
            f"cannot write the packed pictures in {self.folder}: {reason}; free some space, choose another "
            "place with --artifact-cache, or do without with --no-cache"
        )

    def __enter__(self) -> Pack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refuse_without_room(root: Path, missing: int) -> None:
    """Raise CacheError, with the numbers, when the disk of `root` has not `missing` bytes to spare."""
    place = root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if missing > free:
        raise CacheError(
            f"the packed pictures need {missing / 1e9:.2f} GB more and {root} has {free / 1e9:.2f} GB free: "
            "free some space, choose another place with --artifact-cache, or do without with --no-cache"
        )


def _crc(row: Row | None) -> int:
    return -1 if row is None else row.crc32


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """The header of numpy's format 1.0 for uint8 in C order, HEADER bytes long."""
    fields = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape!r}, }}"
    length = HEADER - 10
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + fields.ljust(length - 1).encode() + b"\n"


def _create(path: Path, start: bytes, length: int) -> None:
    """Make a file of `length` bytes that begins with `start`; one that exists, from whomever, stays."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with temporary.open("wb") as file:
            file.write(start)
            file.truncate(length)
        try:
            os.link(temporary, path)  # unlike a rename, never replaces what another process writes already
        except FileExistsError:
            return
        except OSError:  # a file system without links
            if not path.exists():
                temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write(handle: int, view: bytes | memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
