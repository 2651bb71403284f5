"""What the environment says of a new record: its tags, and the record that it repeats."""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["REPEATS", "given_tags", "repeated"]

TAGS = "TOPFIVE_TAGS"
REPEATS = "TOPFIVE_REPEATS"


def given_tags(more: Iterable[str] = ()) -> list[str]:
    """The tags of a new record: TOPFIVE_TAGS and `more`, sorted, each once."""
    named = [*os.environ.get(TAGS, "").split(","), *more]
    return sorted({tag.strip() for tag in named if tag.strip()})


def repeated() -> str:
    """The id of the record that this run repeats, or ""; `topfive repeat` sets it."""
    return os.environ.get(REPEATS, "")
