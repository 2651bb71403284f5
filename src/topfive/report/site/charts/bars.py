"""A bar a layer, in running order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topfive.report.site.charts.frame import Axis, clean, figure

__all__ = ["Bar", "bar_chart"]

WIDTH, ROW, TOP, LEFT, RIGHT = 760, 18, 40, 240, 112
LONGEST = 36


@dataclass(frozen=True)
class Bar:
    """name: of the layer. value: the bar's length; inner: a shorter, darker one in it. style: its class."""

    name: str
    value: float
    text: str
    style: str = "s0"
    inner: float | None = None
    said: str = ""


def bar_chart(bars: Sequence[Bar], title: str, scale: str, ceiling: float | None = None) -> str:
    """A figure; "" without bars. scale: what the numbers are. ceiling: where long bars are cut."""
    if not bars:
        return ""
    most = ceiling or max((bar.value for bar in bars), default=0.0) or 1.0
    axis = Axis(0.0, most, LEFT, WIDTH - RIGHT)
    height = TOP + ROW * len(bars) + 8
    parts = [f'<text class="axis" x="{LEFT}" y="14">{clean(scale)}</text>']
    for tick, text in axis.labelled():
        x = axis.at(tick)
        parts.append(f'<path class="grid" d="M{x} {TOP - 4}V{height}"/>')
        parts.append(f'<text x="{x}" y="{TOP - 8}" text-anchor="middle">{text}</text>')
    for number, bar in enumerate(bars):
        parts.append(_bar(bar, TOP + ROW * number, axis))
    least, most_of_all = min(bars, key=lambda bar: bar.value), max(bars, key=lambda bar: bar.value)
    said = (
        f"{scale}. {len(bars)} bars. The longest: {most_of_all.name}, {most_of_all.text}. "
        f"The shortest: {least.name}, {least.text}."
    )
    return figure(WIDTH, height, title, parts, kind="wide", said=said)


def _bar(bar: Bar, y: int, axis: Axis) -> str:
    end = axis.at(max(0.0, min(bar.value, axis.high)))
    name = bar.name if len(bar.name) <= LONGEST else f"\u2026{bar.name[1 - LONGEST :]}"
    inner = ""
    if bar.inner is not None:
        inner_end = axis.at(max(0.0, min(bar.inner, axis.high)))
        inner = f'<path class="{bar.style} inner" d="M{LEFT} {y + 7}H{inner_end}v4H{LEFT}z"/>'
    return (
        f"<g><title>{clean(bar.said or f'{bar.name}: {bar.text}')}</title>"
        f'<text x="{LEFT - 6}" y="{y + 13}" text-anchor="end">{clean(name)}</text>'
        f'<path class="{bar.style} bar" d="M{LEFT} {y + 3}H{end}v12H{LEFT}z"/>{inner}'
        f'<text x="{end + 4}" y="{y + 13}">{clean(bar.text)}</text></g>'
    )
