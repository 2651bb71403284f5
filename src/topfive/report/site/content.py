"""What a report is made of, whatever file it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from topfive.golden import Golden
from topfive.loadgen import is_stream

__all__ = ["Broken", "Case", "Content", "Figures", "LoadGenRun", "Pair", "Run", "Side", "golden_basis"]

Case = tuple[str, str, str]
"""Model, target and quant mode."""
NO_ROUNDS: npt.NDArray[np.float64] = np.empty(0)


def golden_basis(pictures: Iterable[str]) -> str:
    """Words for a set of golden pictures, in any order. pictures: the first 16 digits of each SHA-256."""
    found = sorted(pictures)
    return f"{len(found)} golden pictures ({hashlib.sha256('/'.join(found).encode()).hexdigest()[:8]})"


@dataclass(frozen=True)
class LoadGenRun:
    """A run of MLPerf's LoadGen. key: performance-offline ... valid: LoadGen's verdict.

    metric: its figure, seconds if `streams`, else samples a second; name: as LoadGen calls it; accuracy: a
    fraction, of `samples`.
    """

    key: str
    valid: bool
    metric: float | None = None
    queries: int | None = None
    accuracy: float | None = None
    samples: int | None = None
    name: str = ""

    @property
    def streams(self) -> bool:
        """Whether the figure is a latency."""
        return is_stream(self.key)


@dataclass(frozen=True)
class Side:
    """One of a pair: its case, and the start of its artifact's key. median: seconds a call."""

    case: Case
    artifact: str
    median: float


@dataclass(frozen=True)
class Pair:
    """What `topfive pair` found. ratio: B over A and its interval; cpu: the same three of processor time."""

    a: Side
    b: Side
    ratio: tuple[float, float, float]
    cpu: tuple[float, float, float] | None
    rounds: int
    verdict: str
    passed: bool

    @property
    def artifacts(self) -> tuple[Case, str, Case, str]:
        """What was measured."""
        return self.a.case, self.a.artifact, self.b.case, self.b.artifact


@dataclass(frozen=True)
class Figures:
    """What one test of a run found about one case; None and "" where it does not say.

    values: golden (verdict), top1 and top5 (fractions), pictures (that they are of), p50 p90 p99 (seconds),
    images_per_s, rounds (how many), modelled_estimate and modelled_bus (cycles), simulated, loadgen_*.
    seconds: raw rounds, float64 [rounds], in the order in which they were made. reason: why it failed or was
    skipped. kind: golden, latency, throughput, scenario ... basis: which pictures top1 is of.
    """

    test: str
    case: Case
    batch: int | None
    outcome: str
    values: Mapping[str, Any]
    seconds: npt.NDArray[np.float64] = field(default_factory=lambda: NO_ROUNDS, compare=False)
    reason: str = ""
    loadgen: LoadGenRun | None = None
    kind: str = ""
    basis: str = ""

    def number(self, name: str) -> float | None:
        """A value that is a number, else None."""
        value = self.values.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Run:
    """One stored result: a session, scenario, sweep or pair of records, or a file of pytest-benchmark.

    id: unique in a report. created: ISO 8601, UTC. source: the file, as a person would name it. host: tells
    machines apart. environment: words about the machine, in order.
    """

    id: str
    kind: str
    created: str
    source: str
    command: str
    commit: str
    dirty: bool
    host: str
    environment: Mapping[str, str]
    figures: tuple[Figures, ...]
    pair: Pair | None = None


@dataclass(frozen=True)
class Broken:
    """A file that was to be in the report and cannot be read, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Content:
    """Everything that a site shows. runs: the oldest first. goldens: the committed files, by case."""

    runs: Sequence[Run] = ()
    goldens: Mapping[Case, Golden] = field(default_factory=dict)
    broken: Sequence[Broken] = ()

    def cases(self) -> list[Case]:
        """Every case that a run or a golden is about, sorted, each once."""
        return sorted({*self.goldens, *(figures.case for run in self.runs for figures in run.figures)})
