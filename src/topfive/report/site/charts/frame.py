"""Axes, ticks and the element around a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

__all__ = ["SERIES", "Axis", "Frame", "Labels", "clean", "figure", "fitting", "short"]

SERIES = 8
"""How many colours the style sheet has: classes s0 to s7."""
LETTER = 6.4
"""Mean width of a letter of 11 pixels."""
FAR = (9.0, 18.0, 30.0, 44.0)
"""Pixels from a point to its text, tried in this order."""
AROUND = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))


def clean(text: str) -> str:
    """Text for an element or an attribute in double quotes; what XML cannot hold becomes a question mark."""
    shown = "".join(c if c >= " " and not "\ud800" <= c <= "\udfff" else "?" for c in text)
    return escape(shown, {'"': "&quot;"})


def short(number: float, digits: int = 3) -> str:
    """A number of a tick in few letters: so many digits at most, k M G for thousands."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.{digits}g}{unit}"
    return f"{number:.{digits}g}"


@dataclass(frozen=True)
class Axis:
    """From values low..high to pixels start..end, linear or logarithmic (then low > 0)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @staticmethod
    def around(
        values: Sequence[float], start: float, end: float, *, log: bool = False, zero: bool = False
    ) -> Axis:
        """An axis that shows all values, with a little room; zero: it begins at 0."""
        low, high = min(values), max(values)
        if log:
            room = max((high / low) ** 0.08, 1.15)
            return Axis(low / room, high * room, start, end, log=True)
        room = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
        return Axis(0.0 if zero else low - room, high + room, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value, to a tenth."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round numbers on the axis: 1, 2, 5 times powers of ten; about five where it is linear or short."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            wide = self.high / self.low > 500
            found = [step * 10.0**power for power in powers for step in ((1,) if wide else (1, 2, 5))]
            inside = [tick for tick in found if self.low <= tick <= self.high]
            if len(inside) > 2:
                return inside
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def labelled(self) -> list[tuple[float, str]]:
        """Ticks and their texts, with as many digits as tell them apart."""
        ticks = self.ticks()
        steps = [upper - lower for lower, upper in pairwise(ticks)]
        # Steps that grow with the numbers are those of a logarithmic axis: 1, 2, 5.
        even = bool(steps) and max(steps) < 1.5 * min(steps)
        needed = math.floor(math.log10(max(map(abs, ticks)) / min(steps)) + 1e-9) + 2 if even else 3
        return [(tick, short(tick, max(3, needed))) for tick in ticks]


@dataclass(frozen=True)
class Frame:
    """The area of a plot within its figure, and its axes. across: left to right; up: bottom to top."""

    across: Axis
    up: Axis
    across_title: str
    up_title: str

    def grid(self, *, across_ticks: Sequence[tuple[float, str]] | None = None) -> list[str]:
        """Lines and numbers of both axes, and their titles. across_ticks: in place of round numbers."""
        left, right, bottom, top = self.across.start, self.across.end, self.up.start, self.up.end
        marks = self.across.labelled() if across_ticks is None else across_ticks
        columns = [(self.across.at(value), text) for value, text in marks]
        rows = [(self.up.at(value), text) for value, text in self.up.labelled()]
        path = "".join(f"M{x:g} {top}V{bottom}" for x, _ in columns)
        path += "".join(f"M{left} {y:g}H{right}" for y, _ in rows)
        below = "".join(f'<text x="{x:g}" y="{bottom + 16}">{clean(text)}</text>' for x, text in columns)
        beside = "".join(f'<text x="{left - 6}" y="{y + 4:g}">{text}</text>' for y, text in rows)
        lines = [
            f'<path class="grid" d="{path}"/>',
            f'<g text-anchor="middle">{below}</g><g text-anchor="end">{beside}</g>',
        ]
        middle = (left + right) / 2
        titled = f'text-anchor="middle">{clean(self.across_title)}</text>'
        lines.append(f'<text class="axis" x="{middle}" y="{bottom + 34}" {titled}')
        half = (top + bottom) / 2
        turned = f'transform="rotate(-90 14 {half})" text-anchor="middle">{clean(self.up_title)}</text>'
        lines.append(f'<text class="axis" x="14" y="{half}" {turned}')
        return lines


def fitting(text: str, pixels: float) -> str:
    """A text of 11 pixels, cut with an ellipsis where it would be wider than so many pixels."""
    most = max(int(pixels / LETTER), 2)
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"


class Labels:
    """Places short texts beside points, where they hide neither one another nor a point.

    points: pixels of all points. area: left, top, right, bottom that no text may leave.
    """

    def __init__(
        self, points: Sequence[tuple[float, float]], area: tuple[float, float, float, float]
    ) -> None:
        self._taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
        self._area = area

    def text(self, words: str, x: float, y: float) -> str:
        """An element beside x, y; a thin line leads to it where it could not stand close by."""
        wide, left, top, right, bottom = LETTER * len(words) + 2, *self._area
        for far in FAR:
            for across, down in AROUND:
                start = x + across * (far + wide / 2) - wide / 2
                middle = y + down * far
                box = (start, middle - 6, start + wide, middle + 6)
                inside = left <= box[0] and box[2] <= right and top <= box[1] and box[3] <= bottom
                if inside and not any(_meet(box, other) for other in self._taken):
                    self._taken.append(box)
                    leader = ""
                    if far > FAR[0]:
                        leader = f'<path class="leader" d="M{x} {y}L{x + across * far:.1f} {middle:.1f}"/>'
                    return f'{leader}<text x="{start + 1:.1f}" y="{middle + 4:.1f}">{clean(words)}</text>'
        return ""


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def figure(
    width: int, height: int, title: str, parts: Sequence[str], *, kind: str = "", said: str = ""
) -> str:
    """An SVG element for a page. title: what it shows; said: what it says, both for who cannot see it."""
    description = f"<desc>{clean(said)}</desc>" if said else ""
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{clean(title)}"><title>{clean(title)}</title>{description}'
        f"{''.join(parts)}</svg>"
    )
