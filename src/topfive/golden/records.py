"""What a golden file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["FORMAT", "Golden", "GoldenImage", "Ranked", "Tolerance"]

FORMAT = 1
Ranked = tuple[tuple[int, str, float], ...]
"""(index of the output, label, score), best first."""


@dataclass(frozen=True)
class Tolerance:
    """How far a score may be from its golden: the larger of `absolute` and `relative` times the golden."""

    relative: float = 0.01
    absolute: float = 1e-6

    def allows(self, error: float, reference: float) -> bool:
        """Whether an error at a golden score of `reference` is small enough; NaN never is."""
        return error <= max(self.absolute, self.relative * abs(reference))


@dataclass(frozen=True)
class GoldenImage:
    """One picture: its file name within the set, SHA-256 of the file, top-5, SHA-256 of each exact tensor."""

    file: str
    sha256: str
    top5: Ranked
    int8: tuple[str, ...] = ()


@dataclass(frozen=True)
class Golden:
    """One golden file.

    score: what the scores are, "probability" or "logit". exact_tensors: the int8 tensors whose bits are part
    of the golden, in the order of GoldenImage.int8. top1: accuracy on these pictures, None without labels.
    modelled_cycles: batch (as text) to figures that must be equal exactly; empty for most targets.
    artifact, decoder and versions say what made it; they are never compared.
    """

    model: str
    target: str
    quant: str
    source_sha256: str
    profile: str
    score: str
    tolerance: Tolerance
    images: tuple[GoldenImage, ...]
    exact_tensors: tuple[str, ...] = ()
    top1: float | None = None
    artifact: str = ""
    decoder: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    modelled_cycles: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
