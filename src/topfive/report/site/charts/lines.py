"""Throughput against batch, and p50 over the runs of a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topfive.report.site.charts.frame import SERIES, Axis, Frame, clean, figure
from topfive.report.site.steps import Level

__all__ = ["Series", "history_chart", "scaling_chart"]

WIDTH, HEIGHT = 680, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 16, 52
LEGEND_ROW = 20


@dataclass(frozen=True)
class Series:
    """(batch, images a second) in the order of the batches. dashed: not measured here."""

    label: str
    points: tuple[tuple[int, float], ...]
    dashed: bool = False


def scaling_chart(series: Sequence[Series], title: str) -> str:
    """Images a second against batch, both logarithmic, a line a series; "" without points."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    across = Axis.around([float(batch) for batch, _ in points], LEFT, WIDTH - RIGHT, log=True)
    up = Axis.around([rate for _, rate in points], HEIGHT - BOTTOM, TOP, log=True)
    batches = sorted({batch for batch, _ in points})
    parts = Frame(across, up, "batch (log)", "images/s (log)").grid(
        across_ticks=[(float(batch), str(batch)) for batch in batches]
    )
    for number, one in enumerate(series):
        style = f"s{number % SERIES}"
        path = "L".join(f"{across.at(float(batch))} {up.at(rate)}" for batch, rate in one.points)
        parts.append(f'<path class="{style} line{" dashed" if one.dashed else ""}" d="M{path}"/>')
        for batch, rate in one.points:
            said = f"{one.label}, batch {batch}: {rate:.1f} images/s"
            parts.append(
                f'<circle class="{style} {"hollow" if one.dashed else "dot"}" cx="{across.at(float(batch))}" '
                f'cy="{up.at(rate)}" r="4"><title>{clean(said)}</title></circle>'
            )
        x, y = LEFT + (number % 2) * (WIDTH - LEFT) // 2, HEIGHT + 4 + LEGEND_ROW * (number // 2)
        parts.append(f'<path class="{style} line{" dashed" if one.dashed else ""}" d="M{x} {y}h22"/>')
        parts.append(f'<text x="{x + 28}" y="{y + 4}">{clean(one.label)}</text>')
    return figure(WIDTH, HEIGHT + LEGEND_ROW * ((len(series) + 1) // 2), title, parts)


def history_chart(values: Sequence[float], names: Sequence[str], levels: Sequence[Level], title: str) -> str:
    """p50 in ms, a point a run, a line a level, the changes between levels as text; "" for fewer than two.

    values: seconds, > 0. names: of the runs, in the same order.
    """
    if len(values) < 2:
        return ""
    milliseconds = [1e3 * value for value in values]
    height = 200
    across = Axis(-0.5, len(values) - 0.5, LEFT, WIDTH - RIGHT)
    up = Axis.around(milliseconds, height - BOTTOM, TOP, log=True)
    every = -(-len(values) // 8)
    ticks = [(float(n), name) for n, name in enumerate(names) if n % every == 0]
    parts = Frame(across, up, "run, the newest at the right", "p50 in ms (log)").grid(across_ticks=ticks)
    for place, level in enumerate(levels):
        y = up.at(1e3 * level.value)
        left, right = across.at(level.start - 0.5), across.at(level.end - 0.5)
        parts.append(f'<path class="level" d="M{left} {y}H{right}"/>')
        if place:
            change = 100 * (level.value / levels[place - 1].value - 1)
            parts.append(f'<path class="step" d="M{left} {TOP}V{height - BOTTOM}"/>')
            parts.append(f'<text class="strong" x="{left + 4}" y="{TOP + 10}">{change:+.1f} %</text>')
    for number, (value, name) in enumerate(zip(milliseconds, names, strict=True)):
        said = f"{name}: {value:.3f} ms"
        parts.append(
            f'<circle class="s0 dot" cx="{across.at(number)}" cy="{up.at(value)}" r="3.5">'
            f"<title>{clean(said)}</title></circle>"
        )
    return figure(WIDTH, height, title, parts)
