"""The result of one shard: a file that appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topfive.datasets.storage import STAMP_BYTES
from topfive.errors import SweepError
from topfive.files import write_whole
from topfive.ranking import rank
from topfive.records.arrays import pack_array, unpack_array

__all__ = ["TOP", "ShardResult", "best_classes", "read_shard", "shard_file", "write_shard"]

TOP = 5
KEPT = (
    "free some space or choose another place with --artifact-cache, then run the same command again: what is "
    "done is kept"
)
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ShardResult:
    """What a model said of the pictures of one shard.

    plan: the id of the sweep it belongs to. indices: the pictures' places in the list [N]. labels: their
    classes [N]. top5: the five best classes, best first [N, 5]; the background class is -1, as are places
    that a model with fewer classes has not. sha256: of the files [N, 32]. stamps: `Storage.stamp` of the
    files [N, 16], zeros where that is not known. seconds: what the time went to. about: where and when.
    """

    plan: str
    number: int
    indices: Int32
    labels: Int32
    top5: Int32
    sha256: npt.NDArray[np.uint8]
    stamps: npt.NDArray[np.uint8]
    seconds: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def right1(self) -> int:
        """Pictures whose best class is their own."""
        return int((self.top5[:, 0] == self.labels).sum())

    @property
    def right5(self) -> int:
        """Pictures whose class is among the five best."""
        return int((self.top5 == self.labels[:, None]).any(axis=1).sum())

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        arrays = {name: pack_array(getattr(self, name)) for name in ARRAYS}
        return {
            "plan": self.plan,
            "number": self.number,
            **arrays,
            "seconds": dict(self.seconds),
            "about": dict(self.about),
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> ShardResult:
        """The result of `to_json`. Raises ValueError for anything else."""
        try:
            arrays = {name: unpack_array(stored[name]) for name in ARRAYS}
            result = ShardResult(
                str(stored["plan"]),
                int(stored["number"]),
                **arrays,
                seconds=dict(stored["seconds"]),
                about=dict(stored["about"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a shard's result: {error!r}") from error
        count = len(result.indices)
        shapes = {name: getattr(result, name).shape for name in ARRAYS}
        if shapes != {
            "indices": (count,),
            "labels": (count,),
            "top5": (count, TOP),
            "sha256": (count, 32),
            "stamps": (count, STAMP_BYTES),
        }:
            raise ValueError(f"not a shard's result: its arrays have the shapes {shapes}")
        return result


ARRAYS = ("indices", "labels", "top5", "sha256", "stamps")


def best_classes(scores: npt.NDArray[Any], background: bool) -> Int32:
    """The five best classes of each row of scores [N, entries], best first; equal scores by lower entry.

    Entry e is class e, or with a background class (entry 0) class e - 1, so that the background is -1.
    Fewer than five entries leave -1. Raises ValueError naming the first row that holds a NaN.
    """
    count, entries = scores.shape
    found = np.full((count, TOP), -1, np.int32)
    exact = scores.dtype.itemsize <= (4 if scores.dtype.kind == "f" else 2)
    work = np.array(scores, np.float32 if exact else np.float64)
    bad = np.isnan(work).any(axis=1)
    if bad.any():
        raise ValueError(f"row {int(np.flatnonzero(bad)[0])} holds a NaN")
    rows = np.arange(count)
    for place in range(min(TOP, entries)):
        best = work.argmax(axis=1)  # the first of equals
        found[:, place] = best - background
        work[rows, best] = -np.inf
    # A row of minus infinities gives nothing to take away from: rank it slowly.
    for row in np.flatnonzero(np.isneginf(scores).sum(axis=1) > entries - min(TOP, entries)):
        ranked = rank(scores[row], (), TOP)
        found[row, : len(ranked)] = [index - background for index, _, _ in ranked]
    return found


def shard_file(folder: Path, number: int) -> Path:
    """Where a shard's result is kept."""
    return folder / f"shard-{number:05d}.json"


def write_shard(folder: Path, result: ShardResult) -> None:
    """Write a result, whole or not at all; the same result again replaces it. Raises SweepError."""
    data = json.dumps(result.to_json()).encode()
    write_whole(shard_file(folder, result.number), data, SweepError, KEPT)


def read_shard(path: Path) -> ShardResult:
    """Read a result. Raises SweepError naming the file when it is none."""
    try:
        return ShardResult.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SweepError(
            f"{path} is not a shard's result: remove it and run the sweep again: {error}"
        ) from error
