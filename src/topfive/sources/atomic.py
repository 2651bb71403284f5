"""Writing a file so that it appears whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from topfive.errors import FetchError

__all__ = ["replacing"]


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A temporary path beside `out`; when the block ends well it is synced to disk and becomes `out`.

    Raises FetchError naming the file and the reason (no room, no permission); nothing is left behind then.
    """
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(6)}.part")
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
