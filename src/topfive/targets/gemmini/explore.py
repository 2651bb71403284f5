"""Design points of Gemmini: modelled cycles of a model against what the hardware costs in area.

Area is given by two proxies, never in square millimetres: multipliers (processing elements) and SRAM bytes.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from topfive.errors import CardError, CompileError
from topfive.targets.gemmini.costs import work_costs
from topfive.targets.gemmini.cycles import Calibration, load_calibration
from topfive.targets.gemmini.hardware import Hardware, as_hardware, scaled
from topfive.targets.gemmini.layers import Layer, Work

__all__ = ["DesignPoint", "Exploration", "explore", "pareto", "parse_bytes"]

UNITS = {"": 1, "K": 1024, "M": 1024 * 1024}


@dataclass(frozen=True)
class DesignPoint:
    """One hardware description and a model's modelled cycles on it, for a batch."""

    hardware: Hardware
    macs: int
    bus_cycles: int
    estimate_cycles: int

    @property
    def elements(self) -> int:
        """Area proxy: multipliers."""
        return self.hardware.elements

    @property
    def sram_bytes(self) -> int:
        """Area proxy: scratchpad and accumulator in bytes."""
        return self.hardware.scratchpad_bytes + self.hardware.accumulator_capacity

    @property
    def utilisation(self) -> float:
        """Share of multipliers that do useful work, by the estimate."""
        return self.macs / (self.elements * self.estimate_cycles) if self.estimate_cycles else 0.0

    def row(self) -> dict[str, Any]:
        """The point as a row of a table; cycles are modelled."""
        hardware = self.hardware
        return {
            "dim": hardware.dim,
            "scratchpad_bytes": hardware.scratchpad_bytes,
            "accumulator_bytes": hardware.accumulator_capacity,
            "bus_bytes": hardware.bus_bytes,
            "elements": self.elements,
            "sram_bytes": self.sram_bytes,
            "bus_cycles": self.bus_cycles,
            "estimate_cycles": self.estimate_cycles,
            "utilisation": self.utilisation,
        }


@dataclass(frozen=True)
class Exploration:
    """Design points in the order of the options, and those left out: (options, reason)."""

    points: tuple[DesignPoint, ...]
    refused: tuple[tuple[str, str], ...]
    calibration: Calibration

    @property
    def front(self) -> tuple[DesignPoint, ...]:
        """The points that no other beats: see `pareto`."""
        return pareto(self.points)


def parse_bytes(text: str) -> int:
    """A capacity such as "256K", "1M" or "65536" in bytes; CardError for anything else."""
    digits = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = digits[-1:] if digits[-1:] in ("K", "M") else ""
    number = digits.removesuffix(unit)
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise CardError(f"{text!r} is not a capacity: write a whole number of bytes, or such as 256K or 1M")
    return int(number) * UNITS[unit]


def explore(
    layers: Iterable[Layer],
    *,
    dims: Sequence[int],
    scratchpads: Sequence[int],
    accumulators: Sequence[int],
    buses: Sequence[int] = (16,),
    base: Hardware | str = "default",
    library: str = "current",
    processes: int = 1,
) -> Exploration:
    """Modelled cycles, weight stationary, at every combination of the options.

    dims: sizes of the array; scratchpads, accumulators: capacities in bytes; buses: bytes a cycle. What they
    leave open is as in `base`. processes: how many to use. Combinations that are no hardware, or too small
    for a layer, are left out with the reason. Raises CardError when there is nothing to vary or to run.
    """
    described = as_hardware(base)
    works = tuple(Counter(layer.work for layer in layers if layer.work is not None).items())
    options = list(itertools.product(dims, scratchpads, accumulators, buses))
    if not works or not options:
        raise CardError("nothing to explore: give layers that run on Gemmini and at least one of each option")
    calibration = load_calibration()
    evaluate = partial(
        _evaluate, works=works, base=described, library=library, share=calibration.load_share_per_10000
    )
    if processes > 1:
        # Spawned, because a fork of a process with threads (ONNX Runtime's) may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            results = list(pool.map(evaluate, options, chunksize=max(len(options) // (8 * processes), 1)))
    else:
        results = [evaluate(option) for option in options]
    points = tuple(found for found in results if isinstance(found, DesignPoint))
    refused = tuple(
        (_shown(option), found)
        for option, found in zip(options, results, strict=True)
        if isinstance(found, str)
    )
    return Exploration(points, refused, calibration)


def pareto(points: Sequence[DesignPoint]) -> tuple[DesignPoint, ...]:
    """The points that no other matches or beats in multipliers, SRAM, bus width and estimated cycles at once.

    Of points equal in all four the first is kept. Sorted by multipliers, then SRAM, then bus width.
    """
    kept: list[DesignPoint] = []
    for point in sorted(points, key=_rank):
        if not any(_no_worse(other, point) for other in kept):
            kept.append(point)
    return tuple(kept)


def _rank(point: DesignPoint) -> tuple[int, int, int, int]:
    return point.elements, point.sram_bytes, point.hardware.bus_bytes, point.estimate_cycles


def _no_worse(other: DesignPoint, point: DesignPoint) -> bool:
    return all(mine <= theirs for mine, theirs in zip(_rank(other), _rank(point), strict=True))


def _shown(option: tuple[int, int, int, int]) -> str:
    dim, scratchpad, accumulator, bus = option
    return f"{dim}x{dim}, scratchpad {scratchpad}, accumulator {accumulator}, bus {bus}"


def _evaluate(
    option: tuple[int, int, int, int],
    *,
    works: Sequence[tuple[Work, int]],
    base: Hardware,
    library: str,
    share: int,
) -> DesignPoint | str:
    dim, scratchpad, accumulator, bus = option
    try:
        hardware = scaled(
            base, dim=dim, scratchpad_bytes=scratchpad, accumulator_bytes=accumulator, bus_bytes=bus
        )
        costs = [(work_costs(work, hardware, "ws", library, share), count) for work, count in works]
    except (CardError, CompileError) as error:
        return error.message
    return DesignPoint(
        hardware,
        sum(work.macs * count for work, count in works),
        sum(cost.bus * count for cost, count in costs),
        sum(cost.estimate * count for cost, count in costs),
    )
