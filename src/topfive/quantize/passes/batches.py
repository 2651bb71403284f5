"""Cutting calibration pictures into batches that a model takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topfive.errors import CalibrateError
from topfive.graph import Graph

__all__ = ["batch_size", "batches"]

BATCH = 8


def batch_size(graph: Graph) -> int:
    """Pictures at a time: the model's own number if its input's batch is fixed."""
    return int(graph.inputs[0].type.tensor_type.shape.dim[0].dim_value) or BATCH


def batches(graph: Graph, pictures: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Pictures [N, ...] in batches; the last may be smaller unless the model's batch is fixed.

    Raises CalibrateError when there are no pictures, or when some are left over.
    """
    fixed, size = int(graph.inputs[0].type.tensor_type.shape.dim[0].dim_value), batch_size(graph)
    if not len(pictures):
        raise CalibrateError("the calibration set is empty")
    if fixed and len(pictures) % fixed:
        raise CalibrateError(
            f"the model's batch is fixed at {fixed}, which {len(pictures)} calibration pictures do not fill"
        )
    return [pictures[start : start + size] for start in range(0, len(pictures), size)]
