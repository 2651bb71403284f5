"""Figures of a model by layer: what quantisation costs, and Gemmini's modelled cycles, from a trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topfive.errors import TopfiveError
from topfive.layer_diff import LayerQuality
from topfive.report.site.charts.bars import Bar, bar_chart
from topfive.report.site.charts.roofline import Roof, Spot, roofline_chart
from topfive.targets.gemmini.cycles import load_calibration
from topfive.targets.gemmini.hardware import load_hardware
from topfive.trace.events import MODELLED_CATEGORY
from topfive.trace.flamegraph import flame_svg
from topfive.trace.summary import lanes_of
from topfive.trace.validation import Trace

__all__ = ["LayerLoss", "LayerStudy", "cycle_bars", "flame", "loss_chart", "roofline"]

CEILING = 60.0
BOUNDS = {"compute": "s2", "load": "s0", "store": "s1"}
# Below 10 dB a layer is mostly noise, below 20 it is suspect.
LOSSES = ((10.0, "bad"), (20.0, "doubtful"), (math.inf, "good"))


@dataclass(frozen=True)
class LayerLoss:
    """How far each tensor of one artifact is from another's, in running order."""

    label: str
    reference: str
    layers: tuple[LayerQuality, ...]


@dataclass(frozen=True)
class LayerStudy:
    """What was found by layer for one model. problems: what could not be found, and why."""

    losses: Sequence[LayerLoss] = ()
    traces: Sequence[Trace] = ()
    problems: Sequence[str] = ()


def loss_chart(loss: LayerLoss) -> str:
    """SQNR in dB, a bar a tensor, cut at 60."""
    bars = []
    for layer in loss.layers:
        style = next(style for limit, style in LOSSES if layer.sqnr < limit or limit == math.inf)
        equal = math.isinf(layer.sqnr) and layer.sqnr > 0
        text = "equal" if equal else f"{layer.sqnr:.1f}"
        bars.append(Bar(layer.tensor, min(layer.sqnr, CEILING), text, style))
    title = f"SQNR by layer of {loss.label} against {loss.reference}"
    return bar_chart(bars, title, "SQNR in dB, higher is closer", CEILING)


def _layers(trace: Trace) -> list[Mapping[str, Any]]:
    """The modelled layers of a trace's first run, in running order."""
    modelled = [e for e in trace.events if e.get("cat") == MODELLED_CATEGORY and e["ph"] == "X"]
    return [
        e["args"] for e in modelled if e["args"].get("modelled_op") is not None and e["args"].get("run") == 1
    ]


def cycle_bars(trace: Trace) -> str:
    """Modelled cycles a layer, in it the cycles of a fully used array; "" without a modelled lane."""
    layers = _layers(trace)
    bars = [
        Bar(
            str(layer["node"]),
            float(layer["cycles"]),
            f"{layer['cycles']:,}, {layer['bound_by']}",
            BOUNDS.get(str(layer["bound_by"]), "s3"),
            float(layer["ideal_cycles"]),
            f"{layer['node']} ({layer['modelled_op']}): {layer['cycles']:,} modelled cycles, "
            f"{layer['bus_cycles']:,} with the bus at full speed, ideal {layer['ideal_cycles']:,}, "
            f"bound by {layer['bound_by']}",
        )
        for layer in layers
    ]
    total = sum(int(layer["cycles"]) for layer in layers)
    scale = f"modelled cycles (calibrated estimate, not measured), {total:,} in all; what a layer is bound by"
    return bar_chart(bars, "Modelled cycles by layer", scale)


def roofline(trace: Trace) -> str:
    """The layers that multiply, under the roofs of the trace's hardware; "" where it is not known."""
    said = trace.about.get("modelled") or {}
    try:
        hardware = load_hardware(str(said["hardware"]))
    except (KeyError, TypeError, TopfiveError):
        return ""
    calibration = load_calibration()
    roof = Roof(float(hardware.elements), float(hardware.bus_bytes), calibration.load_share_per_10000 / 1e4)
    spots = [
        Spot(
            str(layer["node"]),
            layer["macs"] / (layer["load_bytes"] + layer["store_bytes"]),
            layer["macs"] / layer["cycles"],
            str(layer["bound_by"]),
            int(layer["cycles"]),
        )
        for layer in _layers(trace)
        if layer["macs"] and layer["cycles"]
    ]
    return roofline_chart(spots, roof, "Roofline of the modelled layers")


def flame(trace: Trace) -> str:
    """The flame graph of every lane that the trace has; "" if it has none."""
    return flame_svg(trace) if lanes_of(trace) else ""
