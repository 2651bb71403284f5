"""Gemmini's layers under its roofs: what the array and the memory bus allow, and what is modelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topfive.report.site.charts.frame import Axis, Frame, Labels, clean, figure, fitting, short

__all__ = ["Roof", "Spot", "roofline_chart"]

WIDTH, HEIGHT = 680, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 20, 52
STYLES = {"compute": "s2", "load": "s0", "store": "s1"}
SHAPES = {"compute": "M-5 -5h10v10h-10z", "load": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z"}
OTHER_SHAPE = "M0 -6l6 11h-12z"
NAMED = 5
"""So many layers of the most cycles have their names in the figure."""
NAME_WIDTH = 110


@dataclass(frozen=True)
class Spot:
    """A layer: multiply-accumulates a byte moved, and a modelled cycle. bound_by: what takes it longest."""

    name: str
    intensity: float
    rate: float
    bound_by: str
    cycles: int = 0


@dataclass(frozen=True)
class Roof:
    """peak: multipliers of the array. bus: bytes a cycle at full speed; share: of it at which loads run."""

    peak: float
    bus: float
    share: float


def roofline_chart(spots: Sequence[Spot], roof: Roof, title: str) -> str:
    """A figure, both axes logarithmic; "" without layers. Three roofs: the array, and the bus twice."""
    if not spots:
        return ""
    slow = roof.bus * roof.share
    corners = [roof.peak / roof.bus, roof.peak / slow]
    across = Axis.around([*corners, *(s.intensity for s in spots)], LEFT, WIDTH - RIGHT, log=True)
    up = Axis.around([roof.peak, *(s.rate for s in spots)], HEIGHT - BOTTOM, TOP, log=True)
    parts = Frame(across, up, "MAC a byte moved (log)", "MAC a modelled cycle (log)").grid()
    parts += [*_roof(roof.peak, roof.bus, across, up, ""), *_roof(roof.peak, slow, across, up, " dashed")]
    words = (
        f"array {short(roof.peak)} MAC/cycle; bus {roof.bus:g} B/cycle, "
        f"dashed {slow:.3g} B/cycle: the calibrated share of loads"
    )
    parts.append(f'<text x="{LEFT + 4}" y="{TOP - 6}">{clean(words)}</text>')
    places = [(across.at(spot.intensity), up.at(spot.rate)) for spot in spots]
    parts += [
        _mark(spot.bound_by, x, y, _said(spot, roof)) for spot, (x, y) in zip(spots, places, strict=True)
    ]
    labels = Labels(places, (LEFT, TOP, WIDTH, HEIGHT - BOTTOM))
    heavy = sorted(zip(spots, places, strict=True), key=lambda pair: -pair[0].cycles)[:NAMED]
    parts += [labels.text(fitting(spot.name, NAME_WIDTH), x, y) for spot, (x, y) in heavy]
    bounds = sorted({spot.bound_by for spot in spots})
    for number, bound in enumerate(bounds):
        x = LEFT + 170 * number
        parts.append(_mark(bound, x, HEIGHT + 6, ""))
        parts.append(f'<text x="{x + 12}" y="{HEIGHT + 10}">bound by {clean(bound)}</text>')
    counts = [f"{sum(s.bound_by == bound for s in spots)} bound by {bound}" for bound in bounds]
    heaviest = "; ".join(_said(spot, roof) for spot, _ in heavy)
    said = f"{len(spots)} layers, {', '.join(counts)}. Those of the most cycles: {heaviest}."
    return figure(WIDTH, HEIGHT + 20, title, parts, said=said)


def _said(spot: Spot, roof: Roof) -> str:
    return (
        f"{spot.name}: {spot.intensity:.3g} MAC/B, {spot.rate:.3g} MAC/cycle, "
        f"{100 * spot.rate / roof.peak:.1f} % of the array, bound by {spot.bound_by}"
    )


def _mark(bound: str, x: float, y: float, said: str) -> str:
    """A square, a circle or a triangle: what bounds a layer shows without colours, too."""
    shape, style = SHAPES.get(bound, OTHER_SHAPE), STYLES.get(bound, "s3")
    title = f"<title>{clean(said)}</title>" if said else ""
    return f'<path class="{style} dot" transform="translate({x} {y})" d="{shape}">{title}</path>'


def _roof(peak: float, bytes_a_cycle: float, across: Axis, up: Axis, style: str) -> list[str]:
    """The slope up to the corner, then the array's flat roof."""
    corner = peak / bytes_a_cycle
    start = max(across.low, up.low / bytes_a_cycle)
    path = f"M{across.at(start)} {up.at(start * bytes_a_cycle)}L{across.at(corner)} {up.at(peak)}"
    return [f'<path class="roof{style}" d="{path}H{across.end}"/>']
