"""Accuracy against latency, and which points no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topfive.report.site.charts.frame import SERIES, Axis, Frame, Labels, clean, figure, fitting

__all__ = ["Point", "front", "pareto_chart"]

WIDTH, HEIGHT = 680, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 16, 52
LEGEND_ROW = 20
NAMED = 24
"""Of more points than these only those of the front are numbered and named below the figure."""


@dataclass(frozen=True)
class Point:
    """One case: seconds (p50) and accuracy (fraction). hollow: its time is not a device's."""

    label: str
    seconds: float
    accuracy: float
    hollow: bool = False


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other one is faster than and at least as accurate as, the fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.seconds, -p.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def pareto_chart(points: Sequence[Point], title: str) -> str:
    """A figure with a point a case; "" without points. The line bounds what the filled points beat."""
    if not points:
        return ""
    best = front([p for p in points if not p.hollow])
    named = list(points) if len(points) <= NAMED else best
    across = Axis.around([1e3 * p.seconds for p in points], LEFT, WIDTH - RIGHT, log=True)
    up = Axis.around([100 * p.accuracy for p in points], HEIGHT - BOTTOM, TOP)
    places = [(across.at(1e3 * p.seconds), up.at(100 * p.accuracy)) for p in points]
    parts = Frame(across, up, "p50 latency in ms (log)", "top-1 in %").grid()
    if best:
        path, level = f"M{across.at(1e3 * best[0].seconds)} {HEIGHT - BOTTOM}", 0.0
        for point in best:
            level = up.at(100 * point.accuracy)
            path += f"H{across.at(1e3 * point.seconds)}V{level}"
        parts.append(f'<path class="front" d="{path}H{WIDTH - RIGHT}"/>')
    numbers = {point: number for number, point in enumerate(named, 1)}
    labels = Labels(places, (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM))
    for place, (point, (x, y)) in enumerate(zip(points, places, strict=True)):
        style = f"s{numbers.get(point, place + 1) % SERIES} {'hollow' if point.hollow else 'dot'}"
        parts.append(
            f'<circle class="{style}" cx="{x}" cy="{y}" r="6"><title>{clean(_said(point))}</title></circle>'
        )
    parts += [
        labels.text(str(numbers[point]), x, y)
        for point, (x, y) in zip(points, places, strict=True)
        if point in numbers
    ]
    for place, (point, number) in enumerate(numbers.items()):
        style = f"s{number % SERIES} {'hollow' if point.hollow else 'dot'}"
        parts += _legend(place, f"{number}  {point.label}", style)
    said = f"{len(points)} cases. " + (
        f"No other measured case beats, the fastest first: {'; '.join(map(_said, best))}."
        if best
        else "All are simulated."
    )
    shown = HEIGHT + LEGEND_ROW * ((len(numbers) + 1) // 2)
    return figure(WIDTH, shown, title, parts, said=said)


def _said(point: Point) -> str:
    return f"{point.label}: {1e3 * point.seconds:.3f} ms, {100 * point.accuracy:.2f} %"


def _legend(place: int, label: str, style: str) -> list[str]:
    wide = (WIDTH - LEFT) // 2
    x, y = LEFT + (place % 2) * wide, HEIGHT + 4 + LEGEND_ROW * (place // 2)
    shown = fitting(label, wide - 20)
    return [
        f'<circle class="{style}" cx="{x}" cy="{y}" r="6"/>',
        f'<text x="{x + 12}" y="{y + 4}">{clean(shown)}</text>',
    ]
