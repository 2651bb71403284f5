"""Gemmini's layers under its roofs: what the array and the memory bus allow, and what is modelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topfive.report.site.charts.frame import Axis, Frame, clean, figure, short

__all__ = ["Roof", "Spot", "roofline_chart"]

WIDTH, HEIGHT = 680, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 20, 52
STYLES = {"compute": "s2", "load": "s0", "store": "s1"}


@dataclass(frozen=True)
class Spot:
    """A layer: multiply-accumulates a byte moved, and a modelled cycle. bound_by: what takes it longest."""

    name: str
    intensity: float
    rate: float
    bound_by: str


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
    words = f"array: {short(roof.peak)} MAC/cycle; bus: {roof.bus:g} B/cycle, dashed at the calibrated share"
    parts.append(f'<text x="{LEFT + 4}" y="{TOP - 6}">{clean(words)}</text>')
    for spot in spots:
        said = (
            f"{spot.name}: {spot.intensity:.3g} MAC/B, {spot.rate:.3g} MAC/cycle, "
            f"{100 * spot.rate / roof.peak:.1f} % of the array, bound by {spot.bound_by}"
        )
        parts.append(
            f'<circle class="{STYLES.get(spot.bound_by, "s3")} dot" cx="{across.at(spot.intensity)}" '
            f'cy="{up.at(spot.rate)}" r="5"><title>{clean(said)}</title></circle>'
        )
    for number, bound in enumerate(sorted({spot.bound_by for spot in spots})):
        x = LEFT + 170 * number
        parts.append(f'<circle class="{STYLES.get(bound, "s3")} dot" cx="{x}" cy="{HEIGHT + 6}" r="5"/>')
        parts.append(f'<text x="{x + 12}" y="{HEIGHT + 10}">bound by {clean(bound)}</text>')
    return figure(WIDTH, HEIGHT + 20, title, parts)


def _roof(peak: float, bytes_a_cycle: float, across: Axis, up: Axis, style: str) -> list[str]:
    """The slope up to the corner, then the array's flat roof."""
    corner = peak / bytes_a_cycle
    start = max(across.low, up.low / bytes_a_cycle)
    path = f"M{across.at(start)} {up.at(start * bytes_a_cycle)}L{across.at(corner)} {up.at(peak)}"
    return [f'<path class="roof{style}" d="{path}H{across.end}"/>']
