"""The record of one accuracy sweep: JSON with a version, the predictions packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from topfive.records.arrays import pack_array, unpack_array
from topfive.records.judged import Judged

__all__ = ["FORMAT", "KIND", "SweepRecord"]

FORMAT = 1
KIND = "accuracy sweep"
ARRAYS = ("indices", "labels", "top5", "digests")


@dataclass(frozen=True)
class SweepRecord(Judged):
    """One model, target and quant mode over one list of pictures.

    created: UTC. plan: see topfive.sweep.plan.Plan. indices, labels [N] and top5 [N, 5]: places in the list,
    classes from 0, the five best classes, best first, -1 for the background class. digests: the first 8 bytes
    of each picture file's SHA-256; contents_sha256: of all of them whole, in order. timing: seconds ("wall"
    in which shards ran, the others summed over workers), workers, peak_bytes. machine: host, versions.
    """

    id: str
    created: str
    plan: Mapping[str, Any]
    indices: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    top5: npt.NDArray[np.int32]
    digests: npt.NDArray[np.int64]
    contents_sha256: str
    timing: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    @property
    def pictures(self) -> int:
        """How many were run."""
        return len(self.indices)

    @property
    def case(self) -> tuple[str, str, str]:
        """Model, target and quant mode."""
        return str(self.plan["model"]), str(self.plan["target"]), str(self.plan["quant"])

    @property
    def images_per_s(self) -> float:
        """Pictures a second of wall time while shards ran."""
        return self.pictures / self.timing["wall"] if self.timing.get("wall") else 0.0

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; `accuracy` is there for readers, and is not read back."""
        return {
            "format": FORMAT,
            "kind": KIND,
            "id": self.id,
            "created": self.created,
            "plan": dict(self.plan),
            "accuracy": {
                "pictures": self.pictures,
                "right1": int(self.right1.sum()),
                "right5": int(self.right5.sum()),
            },
            "contents_sha256": self.contents_sha256,
            **{name: pack_array(getattr(self, name)) for name in ARRAYS},
            "timing": dict(self.timing),
            "machine": dict(self.machine),
            "command": self.command,
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> SweepRecord:
        """The record of `to_json`. Raises ValueError for anything else, naming the format of a newer one."""
        try:
            if (stored["kind"], stored["format"]) != (KIND, FORMAT):
                raise ValueError(
                    f"a {stored['kind']} of format {stored['format']}; this version reads {FORMAT}"
                )
            record = SweepRecord(
                id=str(stored["id"]),
                created=str(stored["created"]),
                plan=dict(stored["plan"]),
                contents_sha256=str(stored["contents_sha256"]),
                timing=dict(stored["timing"]),
                machine=dict(stored["machine"]),
                command=str(stored["command"]),
                **{name: unpack_array(stored[name]) for name in ARRAYS},
            )
            _ = [record.plan[key] for key in ("model", "target", "quant", "root", "dataset")]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record of a sweep: {error!r}") from error
        count = record.pictures
        shapes = [getattr(record, name).shape for name in ARRAYS]
        if shapes != [(count,), (count,), (count, 5), (count,)]:
            raise ValueError(f"not a record of a sweep: its arrays have the shapes {shapes}")
        return record
