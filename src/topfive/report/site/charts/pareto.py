"""Accuracy against latency, and which points no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from topfive.report.site.charts.frame import SERIES, Axis, Frame, clean, figure

__all__ = ["Point", "front", "pareto_chart"]

WIDTH, HEIGHT = 680, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 16, 52
LEGEND_ROW = 20


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
    """A figure with a point a case; "" without points. The line joins the front of the filled points."""
    if not points:
        return ""
    shown = HEIGHT + LEGEND_ROW * ((len(points) + 1) // 2)
    across = Axis.around([1e3 * p.seconds for p in points], LEFT, WIDTH - RIGHT, log=True)
    up = Axis.around([100 * p.accuracy for p in points], HEIGHT - BOTTOM, TOP)
    parts = Frame(across, up, "p50 latency in ms (log)", "top-1 in %").grid()
    best = front([p for p in points if not p.hollow])
    if best:
        path = f"M{across.at(1e3 * best[0].seconds)} {up.at(100 * best[0].accuracy)}"
        for _, point in pairwise(best):
            path += f"H{across.at(1e3 * point.seconds)}V{up.at(100 * point.accuracy)}"
        parts.append(f'<path class="front" d="{path}"/>')
    for number, point in enumerate(points):
        x, y = across.at(1e3 * point.seconds), up.at(100 * point.accuracy)
        style = f"s{number % SERIES} {'hollow' if point.hollow else 'dot'}"
        said = f"{point.label}: {1e3 * point.seconds:.3f} ms, {100 * point.accuracy:.2f} %"
        parts.append(f'<circle class="{style}" cx="{x}" cy="{y}" r="6"><title>{clean(said)}</title></circle>')
        parts += _legend(number, point.label, style)
    return figure(WIDTH, shown, title, parts)


def _legend(number: int, label: str, style: str) -> list[str]:
    x = LEFT + (number % 2) * (WIDTH - LEFT) // 2
    y = HEIGHT + 4 + LEGEND_ROW * (number // 2)
    return [
        f'<circle class="{style}" cx="{x}" cy="{y}" r="6"/>',
        f'<text x="{x + 12}" y="{y + 4}">{clean(label)}</text>',
    ]
