"""Hashes of the code that decides a stage's result: part of the stage's key."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topfive.targets.base import Target

__all__ = ["code_hash", "folder_hash", "package_modules"]


@cache
def code_hash(modules: tuple[str, ...]) -> str:
    """Of the modules' code; a package counts with all that is in it."""
    digest = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        whole = sorted(Path(spec.origin).parent.rglob("*.py")) if spec.submodule_search_locations else []
        for path in whole or [Path(spec.origin)]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def folder_hash(folder: Path) -> str:
    """Of the Python and JSON files that lie in a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".py", ".json")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def package_modules(target: Target) -> tuple[str, ...]:
    """All modules of a target's own package, so that a change in any of them makes new artifacts."""
    spec = importlib.util.find_spec(type(target).__module__)
    if spec is None or spec.origin is None:
        return ()
    package = type(target).__module__.rpartition(".")[0]
    siblings = sorted(Path(spec.origin).parent.glob("*.py")) if package not in ("", "topfive.targets") else []
    return (type(target).__module__, *(f"{package}.{p.stem}" for p in siblings if p.stem != "__init__"))
