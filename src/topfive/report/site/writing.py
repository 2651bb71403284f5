"""Putting a site into a folder, and taking away what an earlier one left there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from topfive.errors import RecordError
from topfive.files import write_whole

__all__ = ["MANIFEST", "write_site"]

MANIFEST = "topfive-report.json"
"""In a site's folder: the names of its files, so that the next report removes no others."""


def write_site(files: Mapping[str, bytes], folder: Path) -> int:
    """Write the files; the bytes written. Files of the site that was there before are removed.

    Raises RecordError for a folder that has other files and no site, and for one that cannot be written.
    """
    before = _earlier(folder)
    try:
        for name in before - files.keys():
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise RecordError(f"{folder}: the earlier report cannot be removed: {error}") from error
    advice = "choose another folder with -o"
    manifest = json.dumps({"files": sorted(files)}, indent=1).encode()
    # The list comes first: a killed run leaves nothing that the next one would not know.
    write_whole(folder / MANIFEST, manifest, RecordError, advice)
    for name, data in files.items():
        write_whole(folder / name, data, RecordError, advice)
    return len(manifest) + sum(map(len, files.values()))


def _earlier(folder: Path) -> set[str]:
    """The files of the site in the folder; none for an empty or missing folder."""
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise RecordError(f"{folder} is a file: name a folder with -o")
    try:
        names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        if any(folder.iterdir()):
            raise RecordError(
                f"{folder} has files and is no report of topfive: name an empty folder with -o"
            ) from None
        return set()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{folder / MANIFEST} cannot be read: {error}; remove the folder") from error
    return {name for name in names if isinstance(name, str) and _is_inside(name)}


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
