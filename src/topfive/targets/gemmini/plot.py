"""The design points of an exploration as an SVG: modelled cycles against SRAM, one colour an array size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

from topfive.targets.gemmini.explore import DesignPoint, Exploration

__all__ = ["exploration_svg"]

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 80, 150, 52, 60
# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
TEXT = 'font-family="sans-serif" fill="#333"'


class _Axis:
    """A logarithmic axis with ticks at powers of a base."""

    def __init__(self, values: Sequence[int], start: float, end: float, base: int) -> None:
        self.start, self.end, self.base = start, end, base
        self.ends = sorted({min(values), max(values)})
        self.low = math.log(min(values), base) - 0.08
        self.high = math.log(max(values), base) + 0.08

    def at(self, value: float) -> float:
        share = (math.log(value, self.base) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[int]:
        """Powers of the base within the axis, of ten also their double and fivefold; or else its ends."""
        steps = (1, 2, 5) if self.base == 10 else (1,)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        found = [step * self.base**power for power in powers if power >= 0 for step in steps]
        return [tick for tick in found if self.low <= math.log(tick, self.base) <= self.high] or self.ends


def exploration_svg(exploration: Exploration, title: str) -> str:
    """An SVG document. Horizontal: bytes of SRAM. Vertical: modelled cycles, estimated. Both logarithmic.

    A line joins each array size's points that no smaller memory matches, at any bus width. Without points the
    picture says so.
    """
    points = exploration.points
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" {TEXT}>{escape(title)}</text>',
        f'<text x="{LEFT}" y="40" font-size="11" {TEXT}>modelled cycles, not measured; calibration '
        f"{escape(exploration.calibration.name)}; {len(points)} design points</text>",
    ]
    if not points:
        return "\n".join(
            [*head, f'<text x="{LEFT}" y="90" font-size="13" {TEXT}>no points</text>', "</svg>\n"]
        )
    across = _Axis([point.sram_bytes for point in points], LEFT, WIDTH - RIGHT, 2)
    up = _Axis([point.estimate_cycles for point in points], HEIGHT - BOTTOM, TOP, 10)
    body = [*_grid(across, up)]
    for number, dim in enumerate(sorted({point.hardware.dim for point in points})):
        mine = [point for point in points if point.hardware.dim == dim]
        body += _series(mine, dim, COLOURS[number % len(COLOURS)], 70 + 18 * number, across, up)
    return "\n".join([*head, *body, "</svg>\n"])


def _grid(across: _Axis, up: _Axis) -> list[str]:
    lines = []
    for tick in across.ticks():
        x = across.at(tick)
        lines.append(f'<path d="M{x} {TOP}V{HEIGHT - BOTTOM}" stroke="#e4e4e4"/>')
        label = f"{tick / 1024:g} KiB" if tick < 1 << 20 else f"{tick / (1 << 20):g} MiB"
        lines.append(
            f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" font-size="11" text-anchor="middle" {TEXT}>'
            f"{label}</text>"
        )
    for tick in up.ticks():
        y = up.at(tick)
        lines.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        lines.append(
            f'<text x="{LEFT - 8}" y="{y + 4}" font-size="11" text-anchor="end" {TEXT}>{_short(tick)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(
        f'<text x="{middle}" y="{HEIGHT - 18}" font-size="12" text-anchor="middle" {TEXT}>'
        "scratchpad and accumulator</text>"
    )
    half = (TOP + HEIGHT - BOTTOM) / 2
    lines.append(
        f'<text x="20" y="{half}" font-size="12" text-anchor="middle" transform="rotate(-90 20 {half})" '
        f"{TEXT}>cycles (estimate)</text>"
    )
    return lines


def _short(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:g} {unit}"
    return str(number)


def _series(
    points: Sequence[DesignPoint], dim: int, colour: str, legend: int, across: _Axis, up: _Axis
) -> list[str]:
    lines = [
        f'<circle cx="{across.at(p.sram_bytes)}" cy="{up.at(p.estimate_cycles)}" r="2.6" fill="{colour}" '
        'fill-opacity="0.35"/>'
        for p in points
    ]
    best = _steps(points)
    path = f"M{across.at(best[0].sram_bytes)} {up.at(best[0].estimate_cycles)}"
    for _, point in pairwise(best):
        path += f"H{across.at(point.sram_bytes)}V{up.at(point.estimate_cycles)}"
    lines.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    lines += [
        f'<circle cx="{across.at(p.sram_bytes)}" cy="{up.at(p.estimate_cycles)}" r="3.6" fill="{colour}" '
        f'stroke="#fff"><title>{escape(_described(p))}</title></circle>'
        for p in best
    ]
    x = WIDTH - RIGHT + 18
    lines.append(f'<circle cx="{x}" cy="{legend}" r="4" fill="{colour}"/>')
    lines.append(f'<text x="{x + 10}" y="{legend + 4}" font-size="12" {TEXT}>{dim}x{dim} array</text>')
    return lines


def _steps(points: Sequence[DesignPoint]) -> list[DesignPoint]:
    """The points of one array size with fewer cycles than every point with as little or less SRAM."""
    best: list[DesignPoint] = []
    for point in sorted(points, key=lambda p: (p.sram_bytes, p.estimate_cycles)):
        if not best or point.estimate_cycles < best[-1].estimate_cycles:
            best.append(point)
    return best


def _described(point: DesignPoint) -> str:
    hardware = point.hardware
    return (
        f"{hardware.dim}x{hardware.dim}, scratchpad {hardware.scratchpad_bytes} B, accumulator "
        f"{hardware.accumulator_capacity} B, bus {hardware.bus_bytes} B: {point.estimate_cycles} cycles"
    )
