"""The modelled lane: what Gemmini's time is estimated to be, layer by layer, at the description's clock.

Nothing here is measured: see docs/gemmini-cycles.md. The estimate is the calibrated one; the bus bound stands
beside it in each event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topfive.targets.gemmini.cycles import LayerCycles, ModelCycles
from topfive.trace.events import MODELLED, MODELLED_CATEGORY, Event, complete

__all__ = ["LAYERS", "THREADS", "modelled_events", "modelled_lane_name"]

LAYERS = 1
ENGINES = {"load": 2, "compute": 3, "store": 4}
THREADS = {
    LAYERS: "layers (modelled)",
    2: "load: the read DMA is busy (modelled)",
    3: "compute: the array is busy (modelled)",
    4: "store: the write DMA is busy (modelled)",
}


def modelled_lane_name(modelled: ModelCycles) -> str:
    """The lane's name: it says that nothing in it is measured."""
    hardware = modelled.hardware
    return (
        f"Gemmini, modelled: calibrated estimate, not measured ({hardware.name}, {modelled.dataflow}, "
        f"{hardware.clock_mhz} MHz)"
    )


def modelled_events(
    modelled: ModelCycles, facts: Mapping[str, Mapping[str, Any]], start: float, run: int
) -> tuple[list[Event], float]:
    """The layers one after another from `start` (microseconds), each with its engines; and when they end.

    facts: sizes and shapes by layer. What takes no cycles has no event.
    """
    clock, done = modelled.hardware.clock_mhz, 0
    events: list[Event] = []
    for layer in modelled.layers:
        if not layer.costs.estimate:
            continue
        args = {**_layer_args(layer), **facts.get(layer.layer.name, {}), "run": run}
        begin, length = start + done / clock, layer.costs.estimate / clock
        name = f"{layer.layer.name}_modelled_time"
        events.append(complete(name, MODELLED_CATEGORY, (MODELLED, LAYERS), begin, length, args))
        events += _engines(layer, modelled, start, done, run)
        done += layer.costs.estimate
    return events, start + done / clock


def _layer_args(layer: LayerCycles) -> dict[str, Any]:
    costs = layer.costs
    return {
        "modelled_op": layer.layer.op_type,
        "provider": "Systolic",
        "node": layer.layer.name,
        "cycles": costs.estimate,
        "bus_cycles": costs.bus,
        "ideal_cycles": layer.ideal,
        "utilisation": round(layer.utilisation(), 6),
        "bound_by": layer.bound_by,
        "macs": layer.macs,
        "tiles": costs.tiles,
        "load_bytes": costs.load_bytes,
        "store_bytes": costs.store_bytes,
    }


def _engines(layer: LayerCycles, modelled: ModelCycles, start: float, done: int, run: int) -> list[Event]:
    """For how many cycles of the layer each engine is busy, tile by tile and so in many pieces, as one block.

    Where they overlap (weight stationary) each block starts with the layer, else after the one before.
    """
    clock = modelled.hardware.clock_mhz
    busy = {"load": layer.costs.slow_load, "compute": layer.costs.compute, "store": layer.costs.store}
    overlap = sum(busy.values()) > layer.costs.estimate
    events, first = [], done
    for engine, cycles in busy.items():
        if not cycles:
            continue
        args = {
            "sub_action": engine,
            "parent_op": layer.layer.op_type,
            "parent": layer.layer.name,
            "provider": "Systolic",
            "cycles": cycles,
            "run": run,
        }
        name = f"{layer.layer.name}_modelled_{engine}_time"
        lane = (MODELLED, ENGINES[engine])
        events.append(complete(name, MODELLED_CATEGORY, lane, start + first / clock, cycles / clock, args))
        first += 0 if overlap else cycles
    return events
