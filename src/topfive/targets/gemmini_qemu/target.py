"""`gemmini_qemu`: Gemmini's int8 arithmetic as a RISC-V program, run under QEMU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.targets.base import Artifact, Runner, Target
from topfive.targets.gemmini_qemu import emulator

if TYPE_CHECKING:
    import onnx

__all__ = ["GemminiQemuTarget"]


class GemminiQemuTarget(Target):
    """A self-contained program: constants in its data section, a static memory plan, no C library."""

    name: ClassVar[str] = "gemmini_qemu"
    quants: ClassVar[tuple[str, ...]] = ("int8", "int8_dw", "as_is")
    emulated: ClassVar[bool] = True
    simulated: ClassVar[str] = "RISC-V program under QEMU; times are the emulator's"

    def probe(self) -> str:
        """Names exactly the packages that are missing."""
        from topfive.targets.gemmini_qemu import toolchain

        missing = []
        if toolchain.find_compiler() is None:
            missing.append((toolchain.COMPILER, toolchain.PACKAGE))
        if emulator.find_emulator() is None:
            missing.append((emulator.EMULATORS[0], emulator.PACKAGE))
        if not missing:
            return ""
        tools, packages = zip(*missing, strict=True)
        are = "is" if len(missing) == 1 else "are"
        return f"{' and '.join(tools)} {are} not installed: apt-get install {' '.join(packages)}"

    def refuses(self, quant: str) -> str:
        """The program computes int8 only."""
        if quant in self.quants:
            return ""
        return f"gemmini_qemu is Gemmini's int8 build: it runs {', '.join(self.quants)}, not {quant}"

    def versions(self) -> dict[str, str]:
        """Compiler, emulator (it counts instructions), and code outside this package's Python files."""
        import onnx

        from topfive.targets.gemmini_qemu import toolchain
        from topfive.targets.gemmini_qemu.artifact import shared_code_hash

        found = emulator.find_emulator()
        return {
            "onnx": onnx.__version__,
            "compiler": toolchain.compiler_version(toolchain.find_compiler()),
            "emulator": emulator.emulator_version(found) if found else "absent",
            "runtime": toolchain.runtime_hash(),
            "shared_code": shared_code_hash(),
        }

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Emit the program and compile it; `as_is` models are refused node by node if not Gemmini's."""
        from topfive.targets.gemmini_qemu import toolchain
        from topfive.targets.gemmini_qemu.artifact import write_program
        from topfive.targets.gemmini_qemu.kit import SCALAR

        program, meta = write_program(model, quant, out, SCALAR)
        counted = self._instructions(out / toolchain.PROGRAM, program.layout)
        return meta | {"instructions_per_image": counted}

    def _instructions(self, program: Path, layout: dict[str, Any]) -> int | str:
        """Retired instructions a picture, or why they cannot be counted here."""
        from topfive.errors import RunError
        from topfive.targets.gemmini_qemu.instructions import per_image

        try:
            return per_image(program, layout)
        except RunError as error:
            return error.message

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open a program; each thread runs a process of its own."""
        from topfive.sessions import default_threads
        from topfive.targets.gemmini_qemu.runner import QemuRunner

        return QemuRunner(artifact, threads or default_threads())
