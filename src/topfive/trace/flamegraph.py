"""A trace as a flame graph: one static SVG, without scripts or outside files.

Each lane is a band that shows one run; what lies in an event is drawn below it, in running order. Tooltips
are <title> elements. Light colours stand in attributes, dark ones in a style sheet for viewers that prefer
dark; either way the figure brings its own background.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from xml.sax import saxutils

from topfive.errors import UnknownNameError
from topfive.trace.blocks import Block, host_block, modelled_block
from topfive.trace.summary import LANES, lanes_of
from topfive.trace.validation import Trace

__all__ = ["BOTH", "flame_svg"]

BOTH = "both"
WIDTH, MARGIN, ROW, HEAD, SUBTITLE, LEGEND, GAP = 1200, 20, 26, 46, 26, 22, 14
"""Pixels."""
LETTER = 7.0
"""Mean width of a letter of 12 pixels."""
NARROWEST = 0.25
LEAST_LETTERS = 5
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Colour = tuple[str, str]
# (light, dark). Systolic in blues and greens, the CPU in warm colours: the provider shows at a glance.
FAMILIES: dict[str, tuple[Colour, ...]] = {
    "Systolic": (
        ("#5b9bd5", "#2f6ea8"),
        ("#4fb39c", "#1e7260"),
        ("#9cc3ea", "#3f6791"),
        ("#8fd0bf", "#376d60"),
        ("#8f9bdc", "#525fae"),
    ),
    "": (
        ("#f0a860", "#955621"),
        ("#e8cb75", "#7c6324"),
        ("#e39180", "#a04f3f"),
        ("#d0ad8c", "#7d6047"),
        ("#dba6c6", "#85587a"),
        ("#c6c08d", "#716b3d"),
        ("#f4c6cf", "#84505d"),
        ("#bdb6ae", "#5f5953"),
    ),
}
FRAME: Colour = ("#d9dee5", "#3a424e")
STEPS: dict[str, Colour] = {
    "im2col": ("#f2c9a0", "#8a5a34"),
    "bias splat": ("#e3d9b0", "#6f6636"),
    "matmul": ("#b9d3ee", "#3f6288"),
    "load": ("#b4c6dc", "#4a617d"),
    "compute": ("#a3d3b4", "#3f7354"),
    "store": ("#e0c4b0", "#7f5e48"),
}
PAPER: Colour = ("#ffffff", "#14181d")
INK: Colour = ("#17202b", "#f1f4f7")
FAINT: Colour = ("#56606d", "#aab4c0")


def _escape(text: str) -> str:
    """Text as XML; what XML cannot hold becomes the replacement character."""
    return saxutils.escape(_UNPRINTABLE.sub("\ufffd", text))


class _Palette:
    """A colour for each (provider, operator), of the provider's family, in the order of first use."""

    def __init__(self) -> None:
        self.chosen: dict[tuple[str, str], Colour] = {}
        self.used: dict[str, int] = {}

    def of(self, pair: tuple[str, str]) -> Colour:
        """The colour of a node; FRAME for what is none."""
        if not pair[1]:
            return FRAME
        if pair not in self.chosen:
            family = pair[0] if pair[0] in FAMILIES else ""
            place = self.used.get(family, 0)
            self.used[family] = place + 1
            self.chosen[pair] = FAMILIES[family][place % len(FAMILIES[family])]
        return self.chosen[pair]


class _Sheet:
    """The style sheet for dark viewers. Classes are named by their light colour, so that several figures in
    one page do not disturb each other.
    """

    def __init__(self) -> None:
        self.dark: dict[str, str] = {}

    def fill(self, colour: Colour) -> str:
        """The attributes that fill with a colour."""
        name = f"flame{colour[0][1:]}"
        self.dark[name] = colour[1]
        return f'class="{name}" fill="{colour[0]}"'

    def style(self) -> str:
        """The element, once all is drawn."""
        rules = "".join(f".{name}{{fill:{dark}}}" for name, dark in self.dark.items())
        return f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"


def flame_svg(trace: Trace, lane: str = BOTH, title: str = "") -> str:
    """The text of an SVG file; lane: "host", "modelled" or "both" (those that the trace has).

    Raises UnknownNameError for another lane, TraceError for one that the trace does not have.
    """
    if lane not in (*LANES, BOTH):
        raise UnknownNameError("lane", lane, (*LANES, BOTH))
    sheet, palette, parts, y = _Sheet(), _Palette(), [], float(HEAD)
    heading = title or _heading(trace)
    for name in lanes_of(trace) if lane == BOTH else (lane,):
        band = _Band(trace, name, sheet, palette)
        parts += band.draw(y)
        y += band.height
    large = f'x="{MARGIN}" y="30" font-size="17" font-weight="600"'
    head = f"<text {large} {sheet.fill(INK)}>{_escape(heading)}</text>"
    paper = f'<rect width="{WIDTH}" height="{y:.0f}" rx="8" {sheet.fill(PAPER)}/>'
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" '
        f'height="{y:.0f}" font-family="system-ui, \'DejaVu Sans\', Verdana, sans-serif" font-size="12" '
        'role="img">'
    )
    return "\n".join(
        [opening, f"<title>{_escape(heading)}</title>", sheet.style(), paper, head, *parts, "</svg>", ""]
    )


def _heading(trace: Trace) -> str:
    about = trace.about
    if not {"model", "target", "quant"} <= about.keys():
        return trace.path.name
    options = about.get("options")
    chosen = [f"{name}={value}" for name, value in options.items()] if isinstance(options, dict) else []
    mark = "~" if about.get("simulated") else ""
    words = [f"{about['model']} on {about['target']}{mark}", str(about["quant"]), *chosen]
    return ", ".join([*words, f"batch {about.get('batch', 1)}"])


class _Band:
    """One lane: a line of words, the blocks, the legend."""

    def __init__(self, trace: Trace, lane: str, sheet: _Sheet, palette: _Palette) -> None:
        self.sheet, self.palette = sheet, palette
        self.simulated = str(trace.about.get("simulated", ""))
        self.root = host_block(trace) if lane == "host" else modelled_block(trace)
        self.scale = (WIDTH - 2 * MARGIN) / max(self.root.microseconds, 1e-9)
        self.sums = self.root.sums()
        steps = dict.fromkeys(block.step for block in self.root.walk() if block.step)
        self.legend = list(_lines([*self._operators(), *((STEPS.get(s, FRAME), s) for s in steps)]))
        self.words = self._words(lane)

    def _operators(self) -> Iterator[tuple[Colour, str]]:
        total = sum(self.sums.values()) or 1.0
        for pair, microseconds in self.sums.items():
            words = f"{pair[1]} ({pair[0]}) {_time(microseconds)}, {100 * microseconds / total:.0f} %"
            yield self.palette.of(pair), words

    def _words(self, lane: str) -> str:
        length = _time(self.root.microseconds)
        if lane == "host":
            simulated = f"; ~ simulated: {self.simulated}" if self.simulated else ""
            return f"Host time, measured: {length} ({self.root.said}){simulated}"
        return (
            f"Gemmini, modelled (calibrated estimate, not measured): {length}, {self.root.cycles:,} cycles; "
            "below each layer, how long load, compute and store are busy in it"
        )

    @property
    def height(self) -> float:
        return SUBTITLE + self.root.rows * ROW + GAP / 2 + len(self.legend) * LEGEND + GAP

    def draw(self, top: float) -> list[str]:
        """The band's elements, from `top` pixels down."""
        words = f'<text x="{MARGIN}" y="{top + 14:.1f}" {self.sheet.fill(FAINT)}>{_escape(self.words)}</text>'
        parts = [words, *self._blocks(self.root, float(MARGIN), top + SUBTITLE)]
        y = top + SUBTITLE + self.root.rows * ROW + GAP / 2
        for line in self.legend:
            parts += self._legend_line(line, y)
            y += LEGEND
        return parts

    def _blocks(self, block: Block, x: float, y: float) -> Iterator[str]:
        width = block.microseconds * self.scale
        if width < NARROWEST:
            return
        yield self._rectangle(block, x, y, width)
        for child in block.children.values():
            yield from self._blocks(child, x, y + ROW)
            x += child.microseconds * self.scale
        left = x - sum(child.microseconds for child in block.children.values()) * self.scale
        for place, beside in enumerate(block.beside.values(), start=1):
            yield from self._blocks(beside, left, y + ROW * place)

    def _rectangle(self, block: Block, x: float, y: float, width: float) -> str:
        colour = STEPS.get(block.step, FRAME) if block.step else self.palette.of(block.pair)
        shown = max(width - 0.7, NARROWEST)
        said = f"{block.said}: {_time(block.microseconds)}"
        share = 100 * block.microseconds / self.root.microseconds
        letters = int((shown - 8) / LETTER)
        # Of a long name the end tells more: the beginning is its neighbours' too.
        label = block.label if len(block.label) <= letters else f"\u2026{block.label[1 - letters :]}"
        text = (
            f'<text x="{x + 4:.2f}" y="{y + 16:.1f}" {self.sheet.fill(INK)}>{_escape(label)}</text>'
            if letters >= LEAST_LETTERS
            else ""
        )
        return (
            f"<g><title>{_escape(f'{said} ({share:.1f} %)')}</title>"
            f'<rect x="{x:.2f}" y="{y:.1f}" width="{shown:.2f}" height="{ROW - 2}" rx="2" '
            f"{self.sheet.fill(colour)}/>{text}</g>"
        )

    def _legend_line(self, line: Iterable[tuple[float, Colour, str]], y: float) -> Iterator[str]:
        for x, colour, text in line:
            place = f'x="{x:.1f}" y="{y + 4:.1f}" width="12" height="12"'
            yield f'<rect {place} rx="2" {self.sheet.fill(colour)}/>'
            yield f'<text x="{x + 18:.1f}" y="{y + 14:.1f}" {self.sheet.fill(FAINT)}>{_escape(text)}</text>'


def _lines(entries: Iterable[tuple[Colour, str]]) -> Iterator[list[tuple[float, Colour, str]]]:
    """Legend entries with their places, as many a line as fit."""
    x, line = float(MARGIN), list[tuple[float, Colour, str]]()
    for colour, text in entries:
        width = 18 + len(text) * LETTER + 18
        if line and x + width > WIDTH - MARGIN:
            yield line
            x, line = float(MARGIN), []
        line.append((x, colour, text))
        x += width
    if line:
        yield line


def _time(microseconds: float) -> str:
    if microseconds < 1000:
        return f"{microseconds:.3g} us" if microseconds < 100 else f"{microseconds:.0f} us"
    return f"{microseconds / 1000:.2f} ms" if microseconds < 100_000 else f"{microseconds / 1000:.0f} ms"
