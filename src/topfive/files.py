"""Writing small files so that they appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from topfive.errors import TopfiveError

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes, error: type[TopfiveError], advice: str = "") -> None:
    """Write a file beside its place, flush it to disk, and rename it: whole also after a kill or power cut.

    Missing folders are made. Raises `error` naming the file, the reason and `advice` when the disk is full or
    the place cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as cause:
        reason = f"{path} cannot be written: {cause.strerror or cause}"
        raise error(f"{reason}; {advice}" if advice else reason) from cause
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
