"""Writing a file so that it appears whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from topfive.errors import FetchError

__all__ = ["part_of", "remove_parts", "replacing"]


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A temporary path beside `out`; when the block ends well it is synced to disk and becomes `out`.

    Raises FetchError naming the file and the reason (no room, no permission); nothing is left behind then.
    """
    temporary = part_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        raise FetchError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def part_of(out: Path) -> Path:
    """A new name beside `out` for what becomes `out`: hidden, unlike any other."""
    return out.with_name(f".{out.name}.{secrets.token_hex(6)}.part")


def remove_parts(out: Path) -> None:
    """Remove what killed writers of `out` left. Only for who holds the lock that every writer takes."""
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.part"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
