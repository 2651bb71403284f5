"""What a record keeps of where its results come from."""

from __future__ import annotations

import json
from typing import Any

from topfive.cache import MANIFEST
from topfive.targets.base import Artifact

__all__ = ["built_from"]


def built_from(artifact: Artifact) -> dict[str, Any]:
    """Its key, its source's SHA-256, profile and options; of its cache entry the fields and files' hashes."""
    made: dict[str, Any] = {
        "key": artifact.key,
        "source_sha256": str(artifact.meta.get("source_sha256", "")),
        "profile": artifact.meta.get("profile"),
        "options": artifact.options,
    }
    try:
        manifest = json.loads((artifact.path / MANIFEST).read_text(encoding="utf-8"))
        return {**made, "entry": manifest["key"], "fields": manifest["fields"], "files": manifest["files"]}
    except (OSError, ValueError, KeyError):
        return made
