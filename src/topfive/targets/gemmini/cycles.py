"""Modelled cycles of Gemmini: an analytical estimate from tile sizes. Not cycle-accurate, and not measured.

Two figures are always given: `bus`, a bound with the memory bus at full speed, and `estimate`, with loads at
the share of the bus that reproduces one published measurement (`Calibration`). docs/gemmini-cycles.md says
what the figures are worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from topfive.cards.schema import fill, read_toml
from topfive.errors import CardError, CompileError, UnknownNameError
from topfive.targets.gemmini.costs import WHOLE, Costs, work_costs
from topfive.targets.gemmini.hardware import DATAFLOWS, Hardware, as_hardware
from topfive.targets.gemmini.layers import Layer, Matmul, ResidualAdd, Work, model_layers
from topfive.targets.gemmini.tiling import LIBRARIES

__all__ = [
    "Calibration",
    "Costs",
    "Layer",
    "LayerCycles",
    "ModelCycles",
    "fitted_share",
    "load_calibration",
    "model_cycles",
    "model_layers",
]

CALIBRATION_FILE = Path(__file__).resolve().parent / "calibration.toml"
FIGURES = ("bus", "estimate")


@dataclass(frozen=True)
class Calibration:
    """The one fitted parameter and where it comes from; shares and utilisations are per 10,000."""

    name: str
    model: str
    hardware: str
    utilisation_per_10000: int
    source: str
    load_share_per_10000: int
    other_cycles: int
    other_source: str
    other_note: str


@cache
def load_calibration(path: Path = CALIBRATION_FILE) -> Calibration:
    """The calibration that comes with topfive, or another file of the same form; CardError if malformed."""
    calibration = fill(Calibration, read_toml(path), path)
    if not 1 <= calibration.load_share_per_10000 <= WHOLE:
        raise CardError(f"{path}: key 'load_share_per_10000' must be from 1 to {WHOLE}")
    return calibration


@dataclass(frozen=True)
class LayerCycles:
    """One layer's modelled cycles. `ideal`: multiply-accumulates over multipliers, rounded up."""

    layer: Layer
    macs: int
    ideal: int
    costs: Costs

    def utilisation(self, figure: str = "estimate") -> float:
        """Ideal over modelled cycles: the share of multipliers that do useful work; 0.0 on the CPU."""
        cycles = _figure(self.costs, figure)
        return self.ideal / cycles if cycles else 0.0

    @property
    def bound_by(self) -> str:
        """What takes longest at the calibrated bandwidth: "compute", "load" or "store"; "" on the CPU."""
        costs = self.costs
        if not costs.estimate:
            return ""
        engines = {"compute": costs.compute, "load": costs.slow_load, "store": costs.store}
        return max(engines, key=lambda name: engines[name])


@dataclass(frozen=True)
class ModelCycles:
    """A model's modelled cycles on one hardware description."""

    layers: tuple[LayerCycles, ...]
    hardware: Hardware
    dataflow: str
    batch: int
    calibration: Calibration

    @property
    def costs(self) -> Costs:
        """Sums over the layers, which run one after another."""
        return sum((layer.costs for layer in self.layers), Costs())

    @property
    def macs(self) -> int:
        """Multiply-accumulates on Gemmini."""
        return sum(layer.macs for layer in self.layers)

    @property
    def ideal(self) -> int:
        """Cycles if every multiplier worked in every cycle."""
        return -(-self.macs // self.hardware.elements)

    def cycles(self, figure: str = "estimate") -> int:
        """Modelled cycles for the whole batch; figure: "bus" or "estimate"."""
        return _figure(self.costs, figure)

    def utilisation(self, figure: str = "estimate") -> float:
        """Ideal over modelled cycles; 0.0 when nothing runs on Gemmini."""
        cycles = self.cycles(figure)
        return self.ideal / cycles if cycles else 0.0

    def milliseconds(self, figure: str = "estimate") -> float:
        """Modelled latency of the batch at the description's clock, Gemmini's part only."""
        return self.cycles(figure) / (self.hardware.clock_mhz * 1000)

    def images_per_second(self, figure: str = "estimate") -> float:
        """Modelled throughput at the description's clock, Gemmini's part only; 0.0 with nothing to run."""
        cycles = self.cycles(figure)
        return self.batch * self.hardware.clock_mhz * 1_000_000 / cycles if cycles else 0.0

    def summary(self) -> dict[str, Any]:
        """Everything that a table or a record needs, named as modelled."""
        return {
            "modelled": True,
            "calibration": self.calibration.name,
            "calibration_source": self.calibration.source,
            "hardware": self.hardware.name,
            "dataflow": self.dataflow,
            "batch": self.batch,
            "clock_mhz": self.hardware.clock_mhz,
            "macs": self.macs,
            "ideal_cycles": self.ideal,
            "load_bytes": self.costs.load_bytes,
            "store_bytes": self.costs.store_bytes,
            **{
                f"{figure}_{what}": value(figure)
                for figure in FIGURES
                for what, value in (
                    ("cycles", self.cycles),
                    ("utilisation", self.utilisation),
                    ("milliseconds", self.milliseconds),
                    ("images_per_second", self.images_per_second),
                )
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row a layer, in running order."""
        return [
            {
                "name": layer.layer.name,
                "op_type": layer.layer.op_type,
                "on": layer.layer.on,
                "note": layer.layer.note,
                "macs": layer.macs,
                "ideal_cycles": layer.ideal,
                **{f.name: getattr(layer.costs, f.name) for f in fields(Costs)},
                "utilisation": layer.utilisation(),
                "bound_by": layer.bound_by,
            }
            for layer in self.layers
        ]


def model_cycles(
    layers: Iterable[Layer],
    hardware: Hardware | str = "default",
    dataflow: str = "ws",
    *,
    batch: int = 1,
    library: str = "current",
    calibration: Calibration | None = None,
) -> ModelCycles:
    """Modelled cycles of the layers, one after another.

    batch: the pictures that the layers were made for (for images per second). Output stationary, as in the
    library: convolutions become matrix products, depthwise ones channel by channel, and residual additions
    run on the CPU. Raises UnknownNameError for an unknown dataflow, CompileError for a dataflow that the
    hardware lacks or a layer that does not fit.
    """
    described = as_hardware(hardware)
    if dataflow not in DATAFLOWS:
        raise UnknownNameError("dataflow", dataflow, DATAFLOWS)
    if library not in LIBRARIES:
        raise UnknownNameError("Gemmini library", library, LIBRARIES)
    if dataflow not in described.dataflows:
        raise CompileError(
            f"hardware {described.name!r} has no dataflow {dataflow!r}, only {', '.join(described.dataflows)}"
        )
    calibrated = calibration or load_calibration()
    share = calibrated.load_share_per_10000
    found = tuple(_layer_cycles(layer, described, dataflow, library, share) for layer in layers)
    return ModelCycles(found, described, dataflow, batch, calibrated)


def fitted_share(layers: Sequence[Layer], hardware: Hardware | str, utilisation_per_10000: int) -> int:
    """The largest load share per 10,000 at which the modelled utilisation is at most the wanted one.

    Utilisation rises with the share. This made `load_share_per_10000` of calibration.toml.
    """
    described, low, high = as_hardware(hardware), 1, WHOLE
    macs = sum(layer.work.macs for layer in layers if layer.work is not None)
    while low < high:
        middle = (low + high + 1) // 2
        total = sum(
            _layer_cycles(layer, described, "ws", "current", middle).costs.estimate for layer in layers
        )
        if macs * WHOLE <= utilisation_per_10000 * described.elements * total:
            low = middle
        else:
            high = middle - 1
    return low


def _figure(costs: Costs, figure: str) -> int:
    if figure not in FIGURES:
        raise UnknownNameError("modelled figure", figure, FIGURES)
    return costs.bus if figure == "bus" else costs.estimate


def _layer_cycles(layer: Layer, hardware: Hardware, dataflow: str, library: str, share: int) -> LayerCycles:
    work, refused = _as_dataflow(layer.work, dataflow)
    if work is None:
        return LayerCycles(replace(layer, work=None, note=refused or layer.note), 0, 0, Costs())
    costs = work_costs(work, hardware, dataflow, library, share)
    return LayerCycles(layer, work.macs, -(-work.macs // hardware.elements), costs)


def _as_dataflow(work: Work | None, dataflow: str) -> tuple[Work | None, str]:
    if dataflow == "ws" or work is None or isinstance(work, Matmul):
        return work, ""
    if isinstance(work, ResidualAdd):
        return None, "residual additions are weight stationary only: runs on the CPU"
    pixels = work.batch * work.out_dim[0] * work.out_dim[1]
    if work.depthwise:
        return Matmul(pixels, 1, work.kernel**2, work.out_channels, work.bias, work.scales), ""
    depth = work.in_channels * work.kernel**2
    return Matmul(pixels, work.out_channels, depth, work.groups, work.bias), ""
