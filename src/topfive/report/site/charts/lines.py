"""Throughput against batch, and p50 over the runs of a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topfive.report.site.charts.frame import SERIES, Axis, Frame, Labels, clean, figure, fitting
from topfive.report.site.steps import Level

__all__ = ["Runs", "Series", "history_chart", "scaling_chart"]

WIDTH, HEIGHT = 680, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 34, 16, 52
LEGEND_ROW = 20
WIDE = 20.0
"""Rates further apart than this ratio stand on a logarithmic axis; else the axis begins at 0."""


@dataclass(frozen=True)
class Series:
    """(batch, images a second) in the order of the batches. dashed: not measured here. hollow: simulated."""

    label: str
    points: tuple[tuple[int, float], ...]
    dashed: bool = False
    hollow: bool = False


def scaling_chart(series: Sequence[Series], title: str) -> str:
    """Images a second against batch on a logarithmic axis, a numbered line a series; "" without points."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    across = Axis.around([float(batch) for batch, _ in points], LEFT, WIDTH - RIGHT, log=True)
    rates = [rate for _, rate in points]
    wide = max(rates) > WIDE * min(rates)
    up = Axis.around(rates, HEIGHT - BOTTOM, TOP, log=wide, zero=not wide)
    batches = sorted({batch for batch, _ in points})
    parts = Frame(across, up, "batch (log)", "images/s (log)" if wide else "images/s").grid(
        across_ticks=[(float(batch), str(batch)) for batch in batches]
    )
    places = [(across.at(float(batch)), up.at(rate)) for batch, rate in points]
    labels = Labels(places, (LEFT, TOP, WIDTH, HEIGHT - BOTTOM))
    texts = []
    for number, one in enumerate(series, 1):
        style = f"s{(number - 1) % SERIES}"
        path = "L".join(f"{across.at(float(batch))} {up.at(rate)}" for batch, rate in one.points)
        parts.append(f'<path class="{style} line{" dashed" if one.dashed else ""}" d="M{path}"/>')
        for batch, rate in one.points:
            said = f"{one.label}, batch {batch}: {rate:.1f} images/s"
            parts.append(
                f'<circle class="{style} {"hollow" if one.hollow else "dot"}" cx="{across.at(float(batch))}" '
                f'cy="{up.at(rate)}" r="4"><title>{clean(said)}</title></circle>'
            )
        last, rate = one.points[-1]
        texts.append(labels.text(str(number), across.at(float(last)), up.at(rate)))
        parts += _legend(number, one, style)
    said = "; ".join(f"{one.label}: {_best(one)}" for one in series)
    height = HEIGHT + LEGEND_ROW * ((len(series) + 1) // 2)
    return figure(WIDTH, height, title, [*parts, *texts], said=f"The best of each: {said}.")


def _best(series: Series) -> str:
    batch, rate = max(series.points, key=lambda point: point[1])
    return f"{rate:.1f} images/s at batch {batch}"


def _legend(number: int, one: Series, style: str) -> list[str]:
    wide = (WIDTH - LEFT) // 2
    x, y = LEFT + ((number - 1) % 2) * wide, HEIGHT + 4 + LEGEND_ROW * ((number - 1) // 2)
    shown = fitting(f"{number}  {one.label}", wide - 40)
    return [
        f'<path class="{style} line{" dashed" if one.dashed else ""}" d="M{x} {y}h22"/>',
        f'<circle class="{style} {"hollow" if one.hollow else "dot"}" cx="{x + 11}" cy="{y}" r="4"/>',
        f'<text x="{x + 28}" y="{y + 4}">{clean(shown)}</text>',
    ]


@dataclass(frozen=True)
class Runs:
    """A history: seconds, > 0, short names for the axis, and whole ones. hollow: simulated."""

    seconds: Sequence[float]
    names: Sequence[str]
    details: Sequence[str]
    hollow: bool = False


def history_chart(runs: Runs, levels: Sequence[Level], title: str) -> str:
    """p50 in ms, a point a run, a line a level, the changes as text; "" for fewer than two runs."""
    if len(runs.seconds) < 2:
        return ""
    values, names = runs.seconds, runs.names
    milliseconds = [1e3 * value for value in values]
    height = 200
    across = Axis(-0.5, len(values) - 0.5, LEFT, WIDTH - RIGHT)
    up = Axis.around(milliseconds, height - BOTTOM, TOP, log=True)
    every = -(-len(values) // 8)
    ticks = [(float(n), name) for n, name in enumerate(names) if n % every == 0]
    parts = Frame(across, up, "commit of each run, the newest at the right", "p50 in ms (log)").grid(
        across_ticks=ticks
    )
    steps = []
    for place, level in enumerate(levels):
        y = up.at(1e3 * level.value)
        left, right = across.at(level.start - 0.5), across.at(level.end - 0.5)
        parts.append(f'<path class="level" d="M{left} {y}H{right}"/>')
        if place:
            change = 100 * (level.value / levels[place - 1].value - 1)
            parts.append(f'<path class="step" d="M{left} {TOP}V{height - BOTTOM}"/>')
            parts.append(f'<text class="strong" x="{left + 4}" y="{TOP + 10}">{change:+.1f} %</text>')
            steps.append(f"{change:+.1f} % at {names[level.start]}")
    style = "s0 hollow" if runs.hollow else "s0 dot"
    for number, (value, name) in enumerate(zip(milliseconds, runs.details, strict=True)):
        parts.append(
            f'<circle class="{style}" cx="{across.at(number)}" cy="{up.at(value)}" r="3.5">'
            f"<title>{clean(f'{name}: {value:.3f} ms')}</title></circle>"
        )
    found = f"{len(steps)} steps: {'; '.join(steps)}" if steps else "No steps"
    said = f"{found}. The newest: {milliseconds[-1]:.3f} ms, {runs.details[-1]}."
    return figure(WIDTH, height, title, parts, said=said)
