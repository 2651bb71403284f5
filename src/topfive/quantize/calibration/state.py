"""The state of an interrupted calibration, on disk: a killed run goes on where it was last stored."""

from __future__ import annotations

import contextlib
import json
import time
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.errors import CalibrateError, FetchError
from topfive.sources.atomic import replacing

__all__ = ["Progressed", "State"]

FORMAT = "topfive-calibration-state/1"
HEAD = "head"
KEPT_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class Progressed:
    """How far a calibration came.

    passes: the number of the pass. files: done in it, skipped ones too. samples: run in it. skipped: indices
    of files.
    """

    passes: int
    files: int
    samples: int
    skipped: tuple[int, ...]
    arrays: Mapping[str, NDArray[Any]]


class State:
    """One state file. `key` says what the state is of: model, files, method, versions, code."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key

    def read(self) -> Progressed | None:
        """What was stored under this key, or None. A damaged file, or one of another key, is left unused."""
        if not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            head = json.loads(str(arrays.pop(HEAD)[()]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            warnings.warn(
                f"damaged calibration state {self.path} ({error}): started from the beginning", stacklevel=2
            )
            return None
        if head.get("format") != FORMAT or head.get("key") != self.key:
            return None
        return Progressed(head["passes"], head["files"], head["samples"], tuple(head["skipped"]), arrays)

    def write(self, progressed: Progressed) -> None:
        """Store, replacing what was stored before; the file is whole or not there."""
        head = {
            "format": FORMAT,
            "key": self.key,
            "passes": progressed.passes,
            "files": progressed.files,
            "samples": progressed.samples,
            "skipped": list(progressed.skipped),
        }
        try:
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                arrays: dict[str, Any] = {HEAD: np.array(json.dumps(head)), **progressed.arrays}
                np.savez(file, **arrays)
        except FetchError as error:
            raise CalibrateError(f"calibration state {error.message}") from error

    def remove(self) -> None:
        """Forget it: the calibration is finished. So is, likely, what nobody went on with for a week."""
        self.path.unlink(missing_ok=True)
        for other in self.path.parent.glob("*.npz"):
            with contextlib.suppress(OSError):
                if time.time() - other.stat().st_mtime > KEPT_SECONDS:
                    other.unlink()
