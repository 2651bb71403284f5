"""Measuring one runner on one batch, alone on its device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from topfive.suite.environment import cpu_features, library_versions
from topfive.targets.base import Array, DeviceFigures, Runner, Target

__all__ = ["FEW_ROUNDS", "Timing", "device_lock", "device_timing", "extra_info", "timing", "warm_up"]

FEW_ROUNDS = 100
"""With fewer rounds a 99th percentile is hardly more than the maximum."""
WARM_UP_CALLS = 3
WARM_UP_SECONDS = 0.1


@dataclass(frozen=True)
class Timing:
    """Figures of one measurement; seconds a call, images a second over all calls."""

    p50: float
    p90: float
    p99: float
    images_per_s: float
    rounds: int


def timing(seconds: Sequence[float], batch: int) -> Timing:
    """Percentiles (linear between order statistics) and throughput of raw rounds, one call each."""
    p50, p90, p99 = (float(q) for q in np.quantile(np.asarray(seconds), (0.5, 0.9, 0.99)))
    total = float(np.sum(seconds))
    return Timing(p50, p90, p99, batch * len(seconds) / total, len(seconds))


def device_timing(own: DeviceFigures) -> Timing:
    """What a device's own tool measured, in the place of rounds that start the tool anew each time."""
    return Timing(own.p50, own.p90, own.p99, own.images_per_s, own.inferences)


@contextmanager
def device_lock(cache: Path, target: Target) -> Iterator[None]:
    """Hold a target's device on this whole machine; what is simulated runs on the processor."""
    device = "cpu" if target.simulation() else target.name
    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{device}.lock"):
        yield


def warm_up(runner: Runner, batch: Array) -> None:
    """A few checked calls before the first that counts; one is enough for a slow model. Raises RunError."""
    start = time.perf_counter()
    for _ in range(WARM_UP_CALLS):
        runner.run(batch)
        if time.perf_counter() - start > WARM_UP_SECONDS:
            return


def extra_info(
    runner: Runner,
    figures: Timing,
    batch: int,
    preprocess_seconds: float,
    own: DeviceFigures | None = None,
) -> dict[str, Any]:
    """What the benchmark's JSON row carries besides its raw rounds; plain JSON values, times in seconds.

    own: what the device's tool measured, where the figures are its.
    """
    artifact = runner.artifact
    device = {} if own is None else {"device_figures": asdict(own)}
    return {
        **device,
        "p50": figures.p50,
        "p90": figures.p90,
        "p99": figures.p99,
        "images_per_s": figures.images_per_s,
        "batch": batch,
        "artifact": artifact.key,
        "simulated": str(artifact.meta.get("simulated", "")),
        "runner": runner.describe(),
        "threads": runner.threads,
        "preprocess_s": preprocess_seconds,
        "cpu_features": list(cpu_features()),
        "versions": library_versions(),
    }
