"""Records in a zip file, for sharing; what comes in is trusted in nothing.

`manifest.json` names each record's file and its SHA-256; a record lies at `records/<place>.json`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from topfive.errors import RecordError
from topfive.files import write_whole
from topfive.records.envelope import parse_record
from topfive.records.library import Found

__all__ = ["export_records", "import_records"]

MANIFEST = "manifest.json"
FORMAT = "topfive-records"
FORMAT_VERSION = 1
PLACE = re.compile(r"records(/[A-Za-z0-9_][A-Za-z0-9._+-]*)+\.json")
LONGEST_NAME = 200
"""Of a file or folder, bytes: file systems take 255, and a file has a longer name while it is written."""
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that are devices on Windows."""
LARGEST_RECORD = 1 << 28
LARGEST_ARCHIVE = 1 << 30
MOST_RECORDS = 100_000
# Records deflate by about ten; zeros by a thousand.
LARGEST_RATIO = 200
SMALL = 1 << 20
TIMESTAMP = (1980, 1, 1, 0, 0, 0)
UNREADABLE = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
)
"""What `zipfile` raises for files that are none, are damaged or encrypted, or whose names are not UTF-8."""


def export_records(found: Sequence[Found], root: Path, out: Path) -> int:
    """Write records as a zip file, the same bytes for the same records; how many. Raises RecordError.

    Records that are not under `root` lie at the top of the archive. An existing file is not overwritten.
    """
    if out.exists():
        raise RecordError(f"{out} exists: choose another name, or remove it")
    data = io.BytesIO()
    digests: dict[str, str] = {}
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in sorted(found, key=lambda one: one.id):
            content = one.path.read_bytes()
            parse_record(content, str(one.path))
            under = one.path.is_relative_to(root)
            place = one.path.relative_to(root).as_posix() if under else one.path.name
            name = f"records/{place}"
            if not PLACE.fullmatch(name) or name in digests:
                raise RecordError(f"{one.path}: its name cannot be in an archive")
            digests[name] = hashlib.sha256(content).hexdigest()
            archive.writestr(_info(name), content)
        manifest = {"format": FORMAT, "version": FORMAT_VERSION, "files": digests}
        archive.writestr(_info(MANIFEST), json.dumps(manifest, indent=1, sort_keys=True))
    write_whole(out, data.getvalue(), RecordError)
    return len(digests)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, TIMESTAMP)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def import_records(path: Path, root: Path) -> tuple[list[Path], int]:
    """Put an archive's records under `root`: the files that are new, and how many were there already.

    Everything is checked before anything is written. Raises RecordError for a file that is no such archive, a
    path that could leave the folder, more data than records can have, hashes that do not fit, damaged
    records, and a record that would replace another one.
    """
    contents = _read(path)
    fresh: dict[Path, bytes] = {}
    known = 0
    for name, content in contents.items():
        record = parse_record(content, f"{path}: {name}")
        place = root.joinpath(*PurePosixPath(name).parts[1:])
        if place.stem != record["id"]:
            raise RecordError(f"{path}: {name} holds record {record['id']}: it was renamed")
        if not place.resolve().is_relative_to(root.resolve()):
            raise RecordError(f"{path}: {name} would be written outside {root}")
        if place.exists():
            if place.read_bytes() != content:
                raise RecordError(
                    f"{place} exists and is another record than {name} of {path}: nothing is imported"
                )
            known += 1
        else:
            fresh[place] = content
    for place, content in fresh.items():
        write_whole(place, content, RecordError)
    return list(fresh), known


def _read(path: Path) -> dict[str, bytes]:
    """The records' bytes by name, checked against the manifest."""
    try:
        if path.stat().st_size > LARGEST_ARCHIVE:
            raise RecordError(f"{path} is larger than any archive of records: {path.stat().st_size} bytes")
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _check(infos, path)
            contents = {info.filename: _extract(archive, info, path) for info in infos}
    except UNREADABLE as error:
        raise RecordError(f"{path} is no zip file of records: {error}") from error
    files = _manifest(contents.pop(MANIFEST, b""), path)
    if files.keys() != contents.keys():
        odd = sorted(files.keys() ^ contents.keys())[0]
        raise RecordError(f"{path}: {odd} is in the archive or in its manifest, not in both")
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != files[name]:
            raise RecordError(f"{path}: {name} is not what the manifest says: it was changed")
    return contents


def _check(infos: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Names and declared sizes, before anything is unpacked."""
    if len(infos) > MOST_RECORDS + 1:
        raise RecordError(f"{path} has {len(infos)} entries: more than {MOST_RECORDS}")
    names = [info.filename for info in infos]
    for info in infos:
        name = info.filename
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise RecordError(f"{path}: {name!r} is no plain file")
        # Others unpack without a bound on what a few bytes become.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RecordError(f"{path}: {name!r} is neither stored nor deflated")
        if name != MANIFEST and not _is_place(name):
            raise RecordError(f"{path}: {name[:LONGEST_NAME]!r} is no place of a record: nothing is imported")
    # On a file system that knows no case they are one file.
    folded = {name.casefold() for name in names}
    if len(folded) != len(names):
        raise RecordError(f"{path} has an entry twice")
    if both := sorted({str(above) for name in folded for above in PurePosixPath(name).parents} & folded):
        raise RecordError(f"{path}: {both[0]!r} is a file and a folder")
    total = sum(info.file_size for info in infos)
    if total > LARGEST_ARCHIVE:
        raise RecordError(f"{path} would unpack to {total} bytes: more than {LARGEST_ARCHIVE}")


def _is_place(name: str) -> bool:
    """Whether a record may lie there, on any file system."""
    parts = PurePosixPath(name).parts
    return bool(PLACE.fullmatch(name)) and not any(
        part == ".." or len(part) > LONGEST_NAME or DEVICES.fullmatch(part) for part in parts
    )


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    """An entry's bytes; no more is unpacked than was declared, and no more than a record can have."""
    packed = max(1, info.compress_size)
    if info.file_size > LARGEST_RECORD or (
        info.file_size > SMALL and info.file_size / packed > LARGEST_RATIO
    ):
        raise RecordError(
            f"{path}: {info.filename} would unpack {packed} bytes to {info.file_size}: a zip bomb"
        )
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise RecordError(f"{path}: {info.filename} unpacks to more than it declares")
    return content


def _manifest(content: bytes, path: Path) -> Mapping[str, Any]:
    try:
        stored = json.loads(content)
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']!r}")
        if stored["version"] > FORMAT_VERSION:
            raise RecordError(
                f"{path} is of version {stored['version']}, made by a newer topfive: upgrade topfive"
            )
        files: dict[str, str] = dict(stored["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"{path} has no readable {MANIFEST}: {error!r}") from error
    return files
