"""What qaic-runner says and writes, read strictly: its statistics line and its latency files.

The statistics line is that of QAicRunnerMain.cpp of quic/software-kit-for-qualcomm-cloud-ai-100. A latency
file has four lines of header and then CSV, as latency_stats_python3.py of quic/cloud-ai-sdk reads it.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from topfive.errors import RunError

__all__ = [
    "LITTLE_FACTOR",
    "ROUND_TRIP",
    "Latencies",
    "Statistics",
    "check_statistics",
    "little_warning",
    "parse_statistics",
    "read_latencies",
    "short_warning",
]

LINE = re.compile(r"InferenceCnt (\d+) TotalDuration (\d+)us BatchSize (\d+) Inf/Sec (\d+(?:\.\d+)?)")
BEGINNING = "InferenceCnt"
HEADER_LINES = 4
ROUND_TRIP = "totalRoundtripTimeUs"
FALLBACK = -3
"""The column that run_cv_classifier.py takes, whatever its name."""
RATE_TOLERANCE = 1e-3
"""Part of the rate by which the line may differ from what its own numbers give."""
EARLY = 0.95
"""Part of the time that was asked for, below which a measurement ended early."""
LITTLE_FACTOR = 1.5
"""How far latency and throughput may be from Little's law before it is said."""


@dataclass(frozen=True)
class Statistics:
    """The statistics line: inferences of `batch` pictures each, microseconds, images a second."""

    inferences: int
    microseconds: int
    batch: int
    images_per_s: float


@dataclass(frozen=True)
class Latencies:
    """Seconds of each inference from its submission to its end, and the column that they were read from."""

    seconds: tuple[float, ...]
    column: str

    def percentile(self, percent: float) -> float:
        """Linear between order statistics, as pandas has it."""
        return float(np.quantile(np.asarray(self.seconds), percent / 100))

    @property
    def mean(self) -> float:
        """Their mean, in seconds."""
        return math.fsum(self.seconds) / len(self.seconds)


def parse_statistics(text: str) -> Statistics:
    """The one statistics line of what qaic-runner printed; RunError when there is none, or not one."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith(BEGINNING)]
    if len(lines) != 1:
        raise RunError(f"qaic-runner printed {len(lines)} lines that begin with {BEGINNING}, not one")
    match = LINE.fullmatch(lines[0])
    if match is None:
        raise RunError("qaic-runner's statistics are not of the documented form", details=lines[0])
    return Statistics(int(match[1]), int(match[2]), int(match[3]), float(match[4]))


def check_statistics(found: Statistics, batch: int) -> None:
    """Raise RunError when a statistics line contradicts itself, or is of another batch size.

    Inf/Sec is images a second: InferenceCnt * 1e6 / TotalDuration * BatchSize.
    """
    if found.batch != batch:
        raise RunError(f"qaic-runner ran batches of {found.batch}, but the model is compiled for {batch}")
    if not found.inferences or not found.microseconds:
        raise RunError("qaic-runner finished no inference", details=str(found))
    rate = found.inferences * 1e6 / found.microseconds * found.batch
    # The line has three decimals.
    if abs(rate - found.images_per_s) > RATE_TOLERANCE * rate + 5e-4:
        raise RunError(
            f"qaic-runner contradicts itself: it says {found.images_per_s} Inf/Sec, its counts {rate:.3f}"
        )


def read_latencies(paths: Sequence[Path]) -> Latencies:
    """All inferences of some latency files, one an activation.

    Raises RunError naming file and line: no file, no inference, a header that is not the same in all, a value
    that is no time.
    """
    if not paths:
        raise RunError("qaic-runner wrote no latency file aic-profiling-program-*-latency.txt")
    seconds: list[float] = []
    columns = set()
    for path in paths:
        column, found = _read_file(path)
        columns.add(column)
        seconds += found
    if len(columns) > 1:
        raise RunError(f"the latency files have different columns: {', '.join(sorted(columns))}")
    return Latencies(tuple(seconds), columns.pop())


def _read_file(path: Path) -> tuple[str, list[float]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[HEADER_LINES:]
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    rows = [_cells(row) for row in csv.reader(lines)]
    names = rows[0] if rows else []
    if len(names) < -FALLBACK:
        raise RunError(f"{path} has no line of column names after {HEADER_LINES} lines of header")
    at = names.index(ROUND_TRIP) if ROUND_TRIP in names else len(names) + FALLBACK
    numbered = enumerate(rows[1:], HEADER_LINES + 2)
    found = [_seconds(row, at, len(names), path, number) for number, row in numbered if any(row)]
    if not found:
        raise RunError(f"{path} has no inference")
    return names[at], found


def _cells(row: Sequence[str]) -> list[str]:
    """A line's values without blanks around them; a comma at its end begins no value."""
    cells = [cell.strip() for cell in row]
    return cells[:-1] if cells and not cells[-1] else cells


def _seconds(row: Sequence[str], at: int, columns: int, path: Path, line: int) -> float:
    """The time of one inference, which is positive and finite; RunError for anything else."""
    if len(row) != columns:
        raise RunError(f"{path}, line {line}: has {len(row)} values, not {columns}", details=",".join(row))
    try:
        value = float(row[at])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise RunError(f"{path}, line {line}: {row[at]!r} is no time in microseconds", details=",".join(row))
    return value / 1e6


def short_warning(statistics: Statistics, latencies: int, seconds: int) -> str:
    """What is wrong when a measurement ended early or has not the latency of each inference, or "".

    latencies: how many there are. seconds: that were asked for.
    """
    found = []
    if statistics.microseconds < EARLY * 1e6 * seconds:
        found.append(f"it measured for {statistics.microseconds / 1e6:.2f} s, {seconds} s were asked for")
    if latencies != statistics.inferences:
        found.append(f"there are latencies of {latencies} inferences, {statistics.inferences} were counted")
    return "; ".join(found)


def little_warning(images_per_s: float, mean: float, *, batch: int, instances: int, set_size: int) -> str:
    """What is wrong when latency and throughput do not belong together, or "".

    Little's law: pictures under way at once (instances x set size x batch) divided by images a second are the
    mean seconds of one inference.
    """
    expected = instances * set_size * batch / images_per_s
    ratio = mean / expected
    if 1 / LITTLE_FACTOR <= ratio <= LITTLE_FACTOR:
        return ""
    return (
        f"latency and throughput do not belong together: {instances} instances x set size {set_size} x batch "
        f"{batch} at {images_per_s:.1f} images/s make {1e3 * expected:.3f} ms (Little's law), but the mean "
        f"latency is {1e3 * mean:.3f} ms, {ratio:.2f} times that"
    )
