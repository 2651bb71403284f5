"""Cambricon's own rules of regression, as functions of two results.

Sources: test/compare_perf.py and test/compare_eval.py of Cambricon/magicmind_cloud (commit 3fac70f). They
know no noise: one run each, a fixed band for throughput, no tolerance for accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from topfive.errors import RunError

__all__ = ["FASTER", "LOWEST", "Verdict", "accuracy_verdict", "throughput_verdict"]

LOWEST, FASTER = 0.95, 1.05
"""Ratios of new to old throughput: below the first it fails, above the second it is said."""


@dataclass(frozen=True)
class Verdict:
    """What the rule says, and why.

    status: "pass", "option" (the vendor's word for faster) or "fail". ratio: new throughput divided by old.
    """

    passed: bool
    status: str
    ratio: float | None
    text: str


def throughput_verdict(new: float, old: float) -> Verdict:
    """compare_perf.py: the ratio of the two throughputs must be 0.95 or more; beyond 1.05 it is noted.

    Raises RunError unless both are positive and finite.
    """
    if not (0 < new < math.inf and 0 < old < math.inf):
        raise RunError(f"throughputs must be positive numbers, not {new!r} and {old!r}")
    ratio = new / old
    if ratio < LOWEST:
        return Verdict(False, "fail", ratio, f"throughput is {ratio:.4f} of the old one, less than {LOWEST}")
    if ratio > FASTER:
        return Verdict(True, "option", ratio, f"throughput is {ratio:.4f} of the old one, more than {FASTER}")
    return Verdict(True, "pass", ratio, f"throughput is {ratio:.4f} of the old one")


def accuracy_verdict(new: tuple[float, float], old: tuple[float, float]) -> Verdict:
    """compare_eval.py: neither top-1 nor top-5 may be lower than before.

    new, old: (top-1, top-5), parts of 1; RunError for anything else.
    """
    if not all(0 <= value <= 1 for value in (*new, *old)):
        raise RunError(f"accuracies must be parts of 1, not {new} and {old}")
    lower = [name for name, a, b in zip(("top-1", "top-5"), new, old, strict=True) if a < b]
    text = ", ".join(
        f"{name} {a:.6f} was {b:.6f}" for name, a, b in zip(("top-1", "top-5"), new, old, strict=True)
    )
    return Verdict(not lower, "fail" if lower else "pass", None, text)
