"""Whether a device's output is that of ONNX Runtime's float32, on the same input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topfive.errors import RunError

__all__ = ["Agreement", "check_agreement", "compare", "float32_output"]

BEST = 5


@dataclass(frozen=True)
class Agreement:
    """How far an output is from another.

    largest_difference: of any element; relative: that as a part of the largest magnitude of the reference.
    same_top1, same_top5: pictures whose best class, and whose set of five best, are the same; of `pictures`.
    """

    largest_difference: float
    relative: float
    same_top1: int
    same_top5: int
    pictures: int


def float32_output(model: Path, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime makes of a batch on the CPU, in float32. RunError when it cannot run the model."""
    from topfive.sessions import default_threads
    from topfive.targets.cpu_sessions import open_float

    try:
        session = open_float(model, default_threads())
        (found,) = session.run(None, {session.get_inputs()[0].name: batch})
    except Exception as error:
        raise RunError("ONNX Runtime cannot run the model to compare with", details=str(error)) from error
    return np.asarray(found, np.float32)


def compare(output: NDArray[np.float32], reference: NDArray[np.float32]) -> Agreement:
    """Compare two outputs of a batch, [pictures, ...]. RunError when one is not finite."""
    for name, values in (("the device's output", output), ("ONNX Runtime's output", reference)):
        if not np.isfinite(values).all():
            raise RunError(f"{name} holds NaN or infinity")
    pictures = len(reference)
    found, wanted = output.reshape(pictures, -1), reference.reshape(pictures, -1)
    difference = float(np.abs(found.astype(np.float64) - wanted).max())
    largest = float(np.abs(wanted).max())
    # Equal scores in order of their index, as topfive ranks.
    best = [np.argsort(-values, axis=1, kind="stable")[:, :BEST] for values in (found, wanted)]
    return Agreement(
        largest_difference=difference,
        relative=difference / largest if largest else (0.0 if difference == 0 else float("inf")),
        same_top1=int((best[0][:, 0] == best[1][:, 0]).sum()),
        same_top5=sum(set(a) == set(b) for a, b in zip(*(rows.tolist() for rows in best), strict=True)),
        pictures=pictures,
    )


def check_agreement(found: Agreement, tolerance: float) -> str:
    """Raise RunError when a difference is beyond the tolerance; else what a reader must know, or "".

    Inside the tolerance the order of nearly equal classes may still change, which is said, not an error.
    """
    if found.relative > tolerance:
        raise RunError(
            f"the device's output is not float32's: it differs by {found.relative:.3g} of the largest, "
            f"{tolerance:g} is allowed (--option tolerance={found.relative:.2g} would pass); "
            f"top-1 is the same for {found.same_top1} of {found.pictures} pictures"
        )
    if found.same_top1 == found.pictures and found.same_top5 == found.pictures:
        return ""
    return (
        f"float32 has the same best class for {found.same_top1} of {found.pictures} pictures and the same "
        f"five for {found.same_top5}; the outputs differ by {found.relative:.2g} of the largest"
    )
