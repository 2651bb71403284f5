"""The text of a golden that does not hold."""

from __future__ import annotations

import itertools

from topfive.golden.comparison import Comparison, ImageVerdict, required_tolerance
from topfive.golden.records import Tolerance

__all__ = ["drift_text", "mismatch_text"]

SHOWN = 3
LABEL_WIDTH = 24


def mismatch_text(comparison: Comparison, path: str, *, first_divergence: str, repeat: str) -> str:
    """Both top-5 side by side, what tolerance would pass, where the layers part, and how to run it again.

    first_divergence: a paragraph of topfive.diagnose, or "". repeat: the shell command.
    """
    golden, failed = comparison.golden, comparison.of("fail")
    drifted = len(comparison.of("drift"))
    lines = [
        f"{golden.model} on {golden.target}, {golden.quant}: {len(failed)} of {len(comparison.images)} "
        f"pictures differ from {path}" + (f"; {drifted} more drift within the tolerance" if drifted else ""),
        *comparison.notes,
    ]
    for image in failed[:SHOWN]:
        lines += ["", *_picture(image, golden.tolerance, golden.score)]
    if len(failed) > SHOWN:
        lines += ["", f"... and {len(failed) - SHOWN} more: {_names(failed[SHOWN:])}"]
    lines += [
        "",
        f"tolerance that passes all pictures: {_tolerance(comparison.required(), golden.tolerance)}",
    ]
    if first_divergence:
        lines += ["", first_divergence.rstrip()]
    return "\n".join([*lines, "", f"repeat with: {repeat}"])


def drift_text(comparison: Comparison) -> str:
    """One line about scores that moved within the tolerance; "" when none did."""
    golden, drifted = comparison.golden, comparison.of("drift")
    if not drifted:
        return ""
    worst = max(drifted, key=lambda image: image.max_error)
    return (
        f"{golden.model} on {golden.target}, {golden.quant}: {len(drifted)} of {len(comparison.images)} "
        f"pictures drift, at most by {worst.max_error:.3g} ({worst.file})"
    )


def _picture(image: ImageVerdict, tolerance: Tolerance, score: str) -> list[str]:
    lines = [image.file, *(f"  {fault}" for fault in image.faults)]
    lines.append(f"  {f'golden ({score})':<43} now")
    blank = (-1, "", 0.0)
    for wanted, given in itertools.zip_longest(image.golden, image.now, fillvalue=blank):
        mark = " " if wanted[0] == given[0] else "!"
        lines.append(f"{mark} {_row(wanted):<43} {_row(given)}".rstrip())
    lines.append(f"  cosine {image.cosine:.6f}, max error {image.max_error:.6g} over the golden's five")
    outside = [d for d in image.deviations if not tolerance.allows(d.error, d.reference)]
    for deviation in outside[:SHOWN]:
        lines.append(f"  {deviation.what}: off by {deviation.error:.6g} at {deviation.reference:.6g}")
    lines.append(f"  tolerance that passes: {_tolerance(required_tolerance([image], tolerance), tolerance)}")
    return lines


def _row(row: tuple[int, str, float]) -> str:
    index, label, score = row
    if index < 0:
        return "-"
    name = label if len(label) <= LABEL_WIDTH else f"{label[: LABEL_WIDTH - 3]}..."
    return f"{index:>5} {name:<{LABEL_WIDTH}} {score:>12.6f}"


def _tolerance(needed: Tolerance | None, now: Tolerance) -> str:
    if needed is None:
        return "none"
    changes = [
        f'"{name}": {getattr(needed, name)!r} (now {getattr(now, name)!r})'
        for name in ("relative", "absolute")
        if getattr(needed, name) != getattr(now, name)
    ]
    return ", ".join(changes) or "the golden's own"


def _names(images: list[ImageVerdict]) -> str:
    names = ", ".join(image.file for image in images[:5])
    return names + (", ..." if len(images) > 5 else "")
