"""Which answers are right, for whatever holds the labels and the five best classes of pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Judged"]


class Judged:
    """Base of records with answers: labels [N] and top5 [N, 5] are classes, best first."""

    labels: npt.NDArray[np.int32]
    top5: npt.NDArray[np.int32]

    @property
    def right1(self) -> npt.NDArray[np.bool_]:
        """For each picture whether its best class is its own."""
        found: npt.NDArray[np.bool_] = self.top5[:, 0] == self.labels
        return found

    @property
    def right5(self) -> npt.NDArray[np.bool_]:
        """For each picture whether its class is among the five best."""
        found: npt.NDArray[np.bool_] = (self.top5 == self.labels[:, None]).any(axis=1)
        return found
