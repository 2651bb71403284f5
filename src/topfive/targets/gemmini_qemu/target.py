"""`gemmini_qemu`: Gemmini's int8 arithmetic as a RISC-V program, run under QEMU."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.targets.base import Artifact, Runner, Target
from topfive.targets.gemmini.target import INT8_FILE
from topfive.targets.gemmini_qemu import emulator

if TYPE_CHECKING:
    import onnx

__all__ = ["GemminiQemuTarget"]

# Modules of other packages that decide what the program is.
SHARED_CODE = ("admission", "arithmetic", "qdq", "reference")


class GemminiQemuTarget(Target):
    """A self-contained program: constants in its data section, a static memory plan, no C library."""

    name: ClassVar[str] = "gemmini_qemu"
    quants: ClassVar[tuple[str, ...]] = ("int8", "as_is")
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
        return f"gemmini_qemu is Gemmini's int8 build: it runs {' and '.join(self.quants)}, not {quant}"

    def versions(self) -> dict[str, str]:
        """Compiler, emulator (it counts instructions), and code outside this package's Python files."""
        import onnx

        from topfive.targets.gemmini_qemu import toolchain

        found = emulator.find_emulator()
        digest = hashlib.sha256()
        for name in SHARED_CODE:
            spec = find_spec(f"topfive.targets.gemmini.{name}")
            if spec is not None and spec.origin is not None:
                digest.update(Path(spec.origin).read_bytes())
        return {
            "onnx": onnx.__version__,
            "compiler": toolchain.compiler_version(toolchain.find_compiler()),
            "emulator": emulator.emulator_version(found) if found else "absent",
            "runtime": toolchain.runtime_hash(),
            "arithmetic": digest.hexdigest()[:16],
        }

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Emit the program and compile it; `as_is` models are refused node by node if not Gemmini's."""
        from topfive.graph import save_model
        from topfive.quantize.exactness import exact_int8_tensors
        from topfive.targets.gemmini.admission import admit
        from topfive.targets.gemmini_qemu import toolchain
        from topfive.targets.gemmini_qemu.program import emit
        from topfive.targets.gemmini_qemu.runner import LAYOUT_FILE
        from topfive.targets.onnxruntime_runner import describe_input

        int8 = admit(model).to_model() if quant == "as_is" else model
        program = emit(int8, int8.graph.name or "graph")
        save_model(int8, out / INT8_FILE)
        (out / LAYOUT_FILE).write_text(json.dumps(program.layout, indent=1), encoding="utf-8")
        command = toolchain.build(program, out)
        return {
            "input": describe_input(int8),
            "exact_tensors": exact_int8_tensors(int8),
            "command": command,
            "compiler": toolchain.compiler_version(toolchain.find_compiler()),
            "instructions_per_image": self._instructions(out / toolchain.PROGRAM, program.layout),
        }

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
