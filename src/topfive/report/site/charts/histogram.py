"""How the raw rounds of one measurement are spread, with its percentiles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from topfive.report.site.charts.frame import LETTER, Axis, clean, figure, short
from topfive.suite.measuring import FEW_ROUNDS

__all__ = ["PERCENTILES", "histogram_chart", "percentiles"]

WIDTH, HEIGHT = 360, 214
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 62, 40
BINS = 40
FEWEST = 20
"""Of fewer rounds each is drawn as a line: bars would feign a shape."""
PERCENTILES = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"))
LABEL_ROW = 14
BOLD_LETTER = 7.6
BEYOND = 1.5
"""The axis ends at so many times p99."""
NEEDED = 1000
"""Rounds below which the last of PERCENTILES would be the maximum."""
FLOOR = HEIGHT - BOTTOM


def percentiles(seconds: npt.NDArray[np.float64]) -> list[tuple[str, float]]:
    """Names and seconds, linear between order statistics; without p99.9 for fewer than NEEDED rounds."""
    wanted = PERCENTILES if len(seconds) >= NEEDED else PERCENTILES[:-1]
    found = np.quantile(seconds, [q for q, _ in wanted])
    return [(name, float(value)) for (_, name), value in zip(wanted, found, strict=True)]


def histogram_chart(seconds: npt.NDArray[np.float64], title: str) -> str:
    """Counts in BINS bins of equal ratio, on a logarithmic axis; "" for no rounds, or one of no time.

    Fewer than FEWEST rounds are lines of equal height in place of bars.
    """
    if not len(seconds) or float(seconds.min()) <= 0:
        return ""
    found = percentiles(seconds)
    milliseconds = 1e3 * seconds
    # A few rounds that something else disturbed would else press all the others into one bar.
    most = min(float(milliseconds.max()), BEYOND * 1e3 * dict(found)["p99"])
    axis = _axis(float(milliseconds.min()), most)
    outside = int((milliseconds > axis.high).sum())
    parts = [f'<path class="rule" d="M{LEFT} {FLOOR}H{WIDTH - RIGHT}"/>']
    parts += _ground(axis)
    inside = milliseconds[milliseconds <= axis.high]
    parts += _bars(inside, axis) if len(seconds) >= FEWEST else _lines(inside, axis)
    marks = [
        _mark(number, f"{name} {short(1e3 * value)}{_few(name, len(seconds))}", axis.at(1e3 * value))
        for number, (name, value) in enumerate(found)
        if 1e3 * value <= axis.high
    ]
    parts += [line for line, _ in marks] + [text for _, text in marks]
    beyond = f", {outside} beyond \u2192" if outside else ""
    count = f"{len(seconds)} rounds{beyond}"
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{clean(count)}</text>')
    words = ", ".join(f"{name} {short(1e3 * value)} ms{_few(name, len(seconds))}" for name, value in found)
    return figure(WIDTH, HEIGHT, title, parts, said=f"{len(seconds)} rounds: {words}.")


def _few(name: str, rounds: int) -> str:
    return "*" if name == "p99" and rounds < FEW_ROUNDS else ""


def _axis(low: float, high: float) -> Axis:
    """With little room beside the rounds, however close together they are."""
    room = max((high / low) ** 0.03, 1.001)
    return Axis(low / room, high * room, LEFT, WIDTH - RIGHT, log=True)


def _ground(axis: Axis) -> list[str]:
    """Numbers of the axis, as many as fit, and its unit."""
    parts, end = [], -np.inf
    for tick, text in axis.labelled():
        x = axis.at(tick)
        half = LETTER * len(text) / 2
        if x - half > end + 4 and x + half <= WIDTH:
            parts.append(f'<text x="{x}" y="{FLOOR + 15}" text-anchor="middle">{text}</text>')
            end = x + half
    parts.append(f'<text class="axis" x="{LEFT}" y="{HEIGHT - 6}">ms (log)</text>')
    return parts


def _bars(milliseconds: npt.NDArray[np.float64], axis: Axis) -> list[str]:
    edges = np.geomspace(axis.low, axis.high, BINS + 1)
    # The ends are those of the axis exactly, whatever the powers round to.
    edges[[0, -1]] = axis.low, axis.high
    counts, _ = np.histogram(milliseconds, edges)
    up = Axis(0.0, float(counts.max()), FLOOR, TOP)
    path = f"M{axis.at(axis.low):g} {FLOOR}" + "".join(
        f"V{up.at(float(count)):g}H{axis.at(float(right)):g}"
        for right, count in zip(edges[1:], counts, strict=True)
    )
    path += f"V{FLOOR}z"
    return [
        f'<path class="s0 bar" d="{path}"/>',
        f'<text x="{LEFT - 4}" y="{TOP + 4}" text-anchor="end">{int(counts.max())}</text>',
        f'<text x="{LEFT - 4}" y="{FLOOR + 4}" text-anchor="end">0</text>',
        f'<text class="axis" x="11" y="{(TOP + FLOOR) / 2}" '
        f'transform="rotate(-90 11 {(TOP + FLOOR) / 2})" text-anchor="middle">rounds</text>',
    ]


def _lines(milliseconds: npt.NDArray[np.float64], axis: Axis) -> list[str]:
    path = "".join(f"M{axis.at(float(value))} {FLOOR}v-40" for value in milliseconds)
    return [f'<path class="s0 line" d="{path}"/>']


def _mark(number: int, text: str, x: float) -> tuple[str, str]:
    """A line and its name, each name in a row of its own."""
    y = LABEL_ROW * (number + 1)
    right = x + 4 + BOLD_LETTER * len(text) <= WIDTH
    at = f'x="{x + 4}"' if right else f'x="{round(x - 4, 1)}" text-anchor="end"'
    line = f'<path class="mark m{number}" d="M{x} {y - 9}V{FLOOR}"/>'
    return line, f'<text class="strong" {at} y="{y}">{clean(text)}</text>'
