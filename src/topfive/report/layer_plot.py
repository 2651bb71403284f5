"""SQNR by layer as an SVG bar chart, without scripts or outside files."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from topfive.layer_diff import LayerQuality

__all__ = ["layer_plot"]

WIDTH, ROW, TOP, LEFT, RIGHT = 900, 18, 64, 300, 60
CEILING = 60.0
STEPS = (0, 10, 20, 30, 40, 50, 60)
# Below 10 dB a layer is mostly noise, below 20 it is suspect.
COLOURS = ((10.0, "#b3261e"), (20.0, "#b26a00"), (float("inf"), "#2f6f4f"))


def layer_plot(layers: Sequence[LayerQuality], title: str) -> str:
    """One bar a layer in running order, length its SQNR in dB (cut at 60); the text of an SVG file."""
    height = TOP + ROW * len(layers) + 16
    scale = (WIDTH - LEFT - RIGHT) / CEILING
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="11" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="15" fill="#1b1b1b">{escape(title)}</text>',
        f'<text x="{LEFT}" y="44" fill="#555555">SQNR in dB (higher is closer)</text>',
    ]
    for step in STEPS:
        x = LEFT + step * scale
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{height - 16}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP - 5}" text-anchor="middle" fill="#555555">{step}</text>')
    for number, layer in enumerate(layers):
        parts += _bar(layer, TOP + ROW * number, scale)
    return "\n".join([*parts, "</svg>", ""])


def _bar(layer: LayerQuality, y: float, scale: float) -> list[str]:
    length = max(0.0, min(layer.sqnr, CEILING)) * scale
    colour = next(colour for limit, colour in COLOURS if layer.sqnr < limit or limit == float("inf"))
    name = layer.tensor if len(layer.tensor) <= 48 else f"...{layer.tensor[-45:]}"
    value = "equal" if layer.sqnr == float("inf") else f"{layer.sqnr:.1f}"
    return [
        f'<text x="{LEFT - 8}" y="{y + 13:.1f}" text-anchor="end" fill="#1b1b1b">{escape(name)}</text>',
        f'<rect x="{LEFT}" y="{y + 3:.1f}" width="{length:.1f}" height="{ROW - 6}" fill="{colour}"/>',
        f'<text x="{LEFT + length + 4:.1f}" y="{y + 13:.1f}" fill="#1b1b1b">{value}</text>',
    ]
