"""What every record has around its content: a schema, a version, and a hash that shows damage."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from topfive.errors import RecordError

__all__ = ["KINDS", "SCHEMA", "VERSION", "content_hash", "new_record", "parse_record", "read_record", "seal"]

SCHEMA = "topfive-record"
VERSION = 1
KINDS = ("session", "scenario", "sweep", "pair")
FIELDS: Mapping[str, type] = {
    "id": str,
    "created": str,
    "command": str,
    "tags": list,
    "machine": dict,
    "commit": dict,
    "tests": list,
}
LARGEST = 1 << 30
"""Bytes; a larger file is no record."""


def content_hash(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record's JSON without `sha256`: keys sorted, no blanks, UTF-8."""
    bare = {name: value for name, value in record.items() if name != "sha256"}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def new_record(kind: str, *, created: str = "", identity: str = "", **content: Any) -> dict[str, Any]:
    """A sealed record of a kind, made now. content: FIELDS besides id and created, and what the kind has.

    What JSON has no word for becomes null (NaN, infinities), a list (tuples) or text.
    """
    now = datetime.now(UTC)
    made = created or now.isoformat(timespec="microseconds")
    stamp = now.strftime("%Y%m%dT%H%M%S.%fZ")
    empty: dict[str, Any] = {"command": "", "tags": [], "machine": {}, "commit": {}, "tests": []}
    name = identity or f"{stamp}-{kind}-{secrets.token_hex(4)}"
    return seal({"id": name, "created": made, **empty, **content, "kind": kind})


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its schema, version and content hash."""
    plain = _plain({**record, "schema": SCHEMA, "version": VERSION})
    return {**plain, "sha256": content_hash(plain)}


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def read_record(path: Path) -> dict[str, Any]:
    """Read a record of any kind. Raises RecordError naming the file and what is wrong with it."""
    try:
        if path.stat().st_size > LARGEST:
            raise RecordError(f"{path} is larger than any record: {path.stat().st_size} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_record(data, str(path))


def parse_record(data: bytes, name: str) -> dict[str, Any]:
    """The record in a file's bytes. Raises RecordError: not one, a newer one, damaged or edited."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{name} is truncated or is no record: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise RecordError(f"{name} is no record of topfive: it does not say schema {SCHEMA!r}")
    version = record.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RecordError(f"{name} is no record of topfive: version {version!r}")
    if version > VERSION:
        raise RecordError(
            f"{name} is of version {version}, made by a newer topfive; this one reads versions up to "
            f"{VERSION}: upgrade topfive"
        )
    try:
        intact = record.get("sha256") == content_hash(record)
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise RecordError(f"{name} was edited or damaged: its content is not that of its sha256")
    wrong = [key for key, kind in FIELDS.items() if not isinstance(record.get(key), kind)]
    if wrong or record.get("kind") not in KINDS:
        raise RecordError(f"{name} is no record of topfive: see its {', '.join(wrong) or 'kind'}")
    return record
