"""`topfive gemmini`: modelled cycles by layer, and the exploration of hardware parameters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

import topfive
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.errors import TopfiveError
from topfive.sessions import default_threads
from topfive.targets.gemmini.cycles import ModelCycles, model_cycles, model_layers
from topfive.targets.gemmini.explore import DesignPoint, explore, parse_bytes
from topfive.targets.gemmini.plot import exploration_svg
from topfive.targets.gemmini.target import INT8_FILE

__all__ = ["explore_hardware", "print_cycles"]

WIDEST_NAME = 44


def _int8(model: str, quant: str, cards: Sequence[Path], cache: Path | None) -> onnx.ModelProto:
    artifact = topfive.build(
        model, target="gemmini_sim", quant=quant, cards=cards, cache=cache, progress=progress
    )
    return onnx.load(artifact.path / INT8_FILE)


def print_cycles(
    model: str,
    *,
    quant: str,
    batch: int,
    hardware: str,
    dataflow: str,
    cards: Sequence[Path],
    cache: Path | None,
    as_json: bool,
) -> None:
    """Print the modelled cycles of each layer and of the model."""
    layers = model_layers(_int8(model, quant, cards, cache), batch)
    modelled = model_cycles(layers, hardware, dataflow, batch=batch)
    if as_json:
        print_json({"summary": modelled.summary(), "layers": modelled.rows()})
    else:
        sys.stdout.write(cycles_text(model, modelled))


def cycles_text(model: str, modelled: ModelCycles) -> str:
    """A line a layer that Gemmini runs, then the totals, the CPU's share and the calibration."""
    lines = [
        f"{model}, batch {modelled.batch}, {modelled.hardware.name}, {modelled.dataflow}: modelled cycles",
        f"{'layer':<{WIDEST_NAME}} {'kMAC':>9} {'ideal':>9} {'compute':>9} {'load':>9} {'store':>9} "
        f"{'kB moved':>9} {'bus':>9} {'estimate':>9} {'util %':>6}  bound by",
    ]
    rows = modelled.rows()
    lines += [_line(row) for row in rows if row["on"] == "gemmini"]
    for figure in ("bus", "estimate"):
        lines.append(
            f"{figure}: {modelled.cycles(figure):,} cycles, "
            f"utilisation {100 * modelled.utilisation(figure):.1f} %, "
            f"{modelled.milliseconds(figure):.3f} ms and {modelled.images_per_second(figure):.1f} images/s "
            f"at {modelled.hardware.clock_mhz} MHz"
        )
    on_cpu = [row for row in rows if row["on"] == "cpu"]
    names = ", ".join(sorted({row["op_type"] for row in on_cpu}))
    lines.append(f"on the CPU, not counted: {len(on_cpu)} nodes ({names})")
    calibration = modelled.calibration
    lines.append(f"estimate calibrated on {calibration.source}")
    lines.append(f"another published point: {calibration.other_source} ({calibration.other_note})")
    return "\n".join([*lines, ""])


def _line(row: dict[str, Any]) -> str:
    name = row["name"] if len(row["name"]) <= WIDEST_NAME else f"...{row['name'][3 - WIDEST_NAME :]}"
    return (
        f"{name:<{WIDEST_NAME}} {row['macs'] / 1e3:9.0f} {row['ideal_cycles']:9} {row['compute']:9} "
        f"{row['load']:9} {row['store']:9} {(row['load_bytes'] + row['store_bytes']) / 1e3:9.1f} "
        f"{row['bus']:9} {row['estimate']:9} "
        f"{100 * row['utilisation']:6.1f}  {row['bound_by']}"
    )


def explore_hardware(
    model: str,
    *,
    quant: str,
    batch: int,
    dims: str,
    scratchpads: str,
    accumulators: str,
    base: str,
    plot: Path | None,
    cards: Sequence[Path],
    cache: Path | None,
    as_json: bool,
) -> None:
    """Print modelled cycles against area for every combination, the Pareto front marked."""
    found = explore(
        model_layers(_int8(model, quant, cards, cache), batch),
        dims=[_size(part) for part in dims.split(",")],
        scratchpads=[parse_bytes(part) for part in scratchpads.split(",")],
        accumulators=[parse_bytes(part) for part in accumulators.split(",")],
        base=base,
        processes=default_threads(),
    )
    if not found.points:
        options, reason = found.refused[0]
        raise TopfiveError(
            f"no design is possible: {options}: {reason}", details=_refusals(found.refused[1:])
        )
    if plot is not None:
        plot.write_text(exploration_svg(found, f"{model}, batch {batch}: modelled"), encoding="utf-8")
    front = set(found.front)
    if as_json:
        print_json([{**point.row(), "pareto": point in front} for point in found.points])
        return
    lines = [
        f"{model}, batch {batch}: modelled cycles of {len(found.points)} designs, * on the Pareto front",
        f"  {'dim':>4} {'scratchpad':>10} {'accumulator':>11} {'SRAM KiB':>8} {'bus':>12} {'estimate':>12} "
        f"{'util %':>6}",
    ]
    lines += [_design(point, "*" if point in front else " ") for point in found.points]
    lines += [_refusals(found.refused)] if found.refused else []
    sys.stdout.write("\n".join([*lines, ""]))


def _refusals(refused: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"left out: {options}: {reason}" for options, reason in refused)


def _size(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise TopfiveError(f"--dim: {text!r} is not a size: write whole numbers such as 8,16,32")
    return int(text)


def _design(point: DesignPoint, mark: str) -> str:
    hardware = point.hardware
    return (
        f"{mark} {hardware.dim:>4} {hardware.scratchpad_bytes // 1024:>9}K "
        f"{hardware.accumulator_capacity // 1024:>10}K {point.sram_bytes // 1024:>8} {point.bus_cycles:>12,} "
        f"{point.estimate_cycles:>12,} {100 * point.utilisation:>6.1f}"
    )
