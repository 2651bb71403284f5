"""How the raw rounds of one measurement are spread, with its percentiles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from topfive.report.site.charts.frame import Axis, clean, figure, short

__all__ = ["PERCENTILES", "histogram_chart", "percentiles"]

WIDTH, HEIGHT = 340, 150
LEFT, RIGHT, TOP, BOTTOM = 12, 12, 30, 24
BINS = 40
PERCENTILES = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"))
BEYOND = 1.5
"""The axis ends at so many times p99."""
NEEDED = 1000
"""Rounds below which the last of PERCENTILES would be the maximum."""


def percentiles(seconds: npt.NDArray[np.float64]) -> list[tuple[str, float]]:
    """Names and seconds, linear between order statistics; without p99.9 for fewer than NEEDED rounds."""
    wanted = PERCENTILES if len(seconds) >= NEEDED else PERCENTILES[:-1]
    found = np.quantile(seconds, [q for q, _ in wanted])
    return [(name, float(value)) for (_, name), value in zip(wanted, found, strict=True)]


def histogram_chart(seconds: npt.NDArray[np.float64], title: str) -> str:
    """A figure of BINS bars on a logarithmic axis of milliseconds; "" for no rounds, or one of no time."""
    if not len(seconds) or float(seconds.min()) <= 0:
        return ""
    found = percentiles(seconds)
    milliseconds = 1e3 * seconds
    # A few rounds that something else disturbed would else press all the others into one bar.
    most = min(float(milliseconds.max()), BEYOND * 1e3 * dict(found)["p99"])
    axis = Axis.around([float(milliseconds.min()), most], LEFT, WIDTH - RIGHT, log=True)
    outside = int((milliseconds > axis.high).sum())
    edges = np.geomspace(axis.low, axis.high, BINS + 1)
    counts, _ = np.histogram(milliseconds, edges)
    up = Axis(0.0, float(counts.max()), HEIGHT - BOTTOM, TOP)
    path = "".join(
        f"M{axis.at(left)} {HEIGHT - BOTTOM}V{up.at(float(count))}H{axis.at(right)}V{HEIGHT - BOTTOM}z"
        for left, right, count in zip(edges, edges[1:], counts, strict=False)
        if count
    )
    parts = [
        f'<path class="s0 bar" d="{path}"/><path class="rule" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    ]
    for tick in _few(axis.ticks()):
        parts.append(f'<text x="{axis.at(tick)}" y="{HEIGHT - 8}" text-anchor="middle">{short(tick)}</text>')
    for number, (_, value) in enumerate(found):
        if 1e3 * value > axis.high:
            continue
        x = axis.at(1e3 * value)
        parts.append(f'<path class="mark m{number}" d="M{x} {TOP - 4}V{HEIGHT - BOTTOM}"/>')
    words = "  ".join(f"{name} {short(1e3 * value)}" for name, value in found)
    parts.append(f'<text x="{LEFT}" y="14">{clean(words)} ms</text>')
    if outside:
        right = f'x="{WIDTH - RIGHT}" y="{TOP - 3}" text-anchor="end"'
        parts.append(f"<text {right}>{outside} beyond \u2192</text>")
    return figure(WIDTH, HEIGHT, f"{title}: {words} ms, {len(seconds)} rounds", parts)


def _few(ticks: list[float], most: int = 6) -> list[float]:
    return ticks[:: -(-len(ticks) // most)] if ticks else []
