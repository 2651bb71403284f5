"""`gemmini_spike`: Gemmini's own instructions, run on the RISC-V ISA simulator spike with its extension."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.targets.base import Artifact, Runner, Target, TargetOption

if TYPE_CHECKING:
    import onnx

    from topfive.targets.gemmini_qemu.kit import Kit

__all__ = ["GemminiSpikeTarget"]


class GemminiSpikeTarget(Target):
    """A static program for spike's proxy kernel: convolutions, products and residual additions on Gemmini."""

    name: ClassVar[str] = "gemmini_spike"
    quants: ClassVar[tuple[str, ...]] = ("int8", "int8_dw", "as_is")
    emulated: ClassVar[bool] = True
    simulated: ClassVar[str] = "Gemmini's instructions on a functional simulator; times are the simulator's"
    options: ClassVar[Mapping[str, TargetOption]] = MappingProxyType(
        {"dataflow": TargetOption(("ws", "os"), "ws", "weight stationary (ws) or output stationary (os)")}
    )

    def probe(self) -> str:
        """Runs a small program on the simulator: the reason is what went wrong with it."""
        from topfive.targets.gemmini_spike.spike import probe

        return probe()

    def refuses(self, quant: str) -> str:
        """The program computes int8 only."""
        if quant in self.quants:
            return ""
        return f"gemmini_spike is Gemmini's int8 build: it runs {', '.join(self.quants)}, not {quant}"

    def versions(self) -> dict[str, str]:
        """The compiler, and code outside this package's Python files; the simulator decides nothing."""
        import onnx

        from topfive.targets.gemmini_qemu import toolchain
        from topfive.targets.gemmini_qemu.artifact import shared_code_hash
        from topfive.targets.gemmini_spike.machine import HARDWARE

        return {
            "onnx": onnx.__version__,
            "compiler": toolchain.compiler_version(toolchain.find_compiler()),
            "runtime": toolchain.runtime_hash(self._kit()),
            "shared_code": shared_code_hash("hardware", "tiling"),
            "hardware": hashlib.sha256(HARDWARE.path.read_bytes()).hexdigest()[:16],
        }

    def _kit(self) -> Kit:
        from topfive.targets.gemmini_spike.kit import kit

        return kit(self.setting("dataflow"))

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Emit the program and compile it; `as_is` models are refused node by node if not Gemmini's.

        Its meta holds the instructions of each layer, as the tiles predict them, and their sums.
        """
        from topfive.targets.gemmini_qemu.artifact import write_program
        from topfive.targets.gemmini_spike.machine import Instructions

        program, meta = write_program(model, quant, out, self._kit())
        layers = program.layout.get("accelerator", [])
        total = Instructions()
        for layer in layers:
            total.update(layer["instructions"])
        return meta | {
            "dataflow": self.setting("dataflow"),
            "gemmini_layers": layers,
            "gemmini_instructions": dict(total),
        }

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open a program; each thread runs a simulator of its own."""
        from topfive.sessions import default_threads
        from topfive.targets.gemmini_spike.runner import SpikeRunner

        return SpikeRunner(artifact, threads or default_threads())
