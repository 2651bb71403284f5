"""Opening an artifact of `gemmini_spike`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from topfive.targets.gemmini_qemu.runner import ProgramRunner
from topfive.targets.gemmini_spike import spike

__all__ = ["SpikeRunner"]


class SpikeRunner(ProgramRunner):
    """A program on spike's proxy kernel."""

    def _execute(self, arguments: Sequence[str], images: int) -> None:
        limit = spike.time_limit(self.artifact.meta["gemmini_instructions"], images)
        spike.run_program(self._program, arguments, images, limit)

    def describe(self) -> dict[str, Any]:
        """Also the simulator, the dataflow and the number of Gemmini's instructions a picture."""
        found = spike.find_simulator()
        issued = self.artifact.meta["gemmini_instructions"]
        return super().describe() | {
            "kernels": f"Gemmini, {self.artifact.meta['dataflow']}",
            "simulator": spike.simulator_version(found) if found else "absent",
            "gemmini_instructions_per_image": sum(n for kind, n in issued.items() if kind != "fence"),
        }
