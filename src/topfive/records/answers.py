"""What a model answered to each picture of a LoadGen accuracy run, packed for a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from topfive.records.arrays import pack_array, unpack_array
from topfive.records.judged import Judged

__all__ = ["Answers"]

ARRAYS = ("labels", "top5", "digests")


@dataclass(frozen=True)
class Answers(Judged):
    """labels int32 [N], top5 int32 [N, 5]: classes from 0, best first, -1 for the background class or none.

    digests int64 [N]: the first 8 bytes of each picture file's SHA-256, little-endian.
    """

    labels: npt.NDArray[np.int32]
    top5: npt.NDArray[np.int32]
    digests: npt.NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """The three arrays, packed."""
        return {name: pack_array(getattr(self, name)) for name in ARRAYS}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Answers:
        """The answers of `to_json`. Raises ValueError or KeyError for anything else."""
        found = Answers(**{name: unpack_array(stored[name]) for name in ARRAYS})
        count = len(found.labels)
        shapes = [getattr(found, name).shape for name in ARRAYS]
        if shapes != [(count,), (count, 5), (count,)]:
            raise ValueError(f"not the answers of a run: their arrays have the shapes {shapes}")
        return found
