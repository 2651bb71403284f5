"""File names of pages, from names that may hold anything."""

from __future__ import annotations

import hashlib
import re

__all__ = ["page_name"]

SAFE = re.compile(r"[^a-z0-9._-]+")
LONGEST = 80


def page_name(name: str) -> str:
    """A file name without suffix: the name itself if it is safe on every system, else with a hash."""
    plain = SAFE.sub("-", name.lower()).strip("-.")[:LONGEST]
    if plain and plain == name:
        return plain
    return f"{plain or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
