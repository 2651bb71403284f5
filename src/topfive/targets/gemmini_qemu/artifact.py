"""From an int8 graph to the files of an artifact that is a program."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topfive.targets.gemmini.target import INT8_FILE
from topfive.targets.gemmini_qemu.kit import Kit

if TYPE_CHECKING:
    import onnx

    from topfive.targets.gemmini_qemu.program import Program

__all__ = ["shared_code_hash", "write_program"]

# Modules outside the program targets that decide what a program is.
SHARED_CODE = ("admission", "arithmetic", "qdq", "reference")


def shared_code_hash(*more: str) -> str:
    """What identifies the code of other packages: part of the artifact's key.

    more: further modules of `topfive.targets.gemmini`.
    """
    digest = hashlib.sha256()
    for name in (*SHARED_CODE, *more):
        spec = find_spec(f"topfive.targets.gemmini.{name}")
        if spec is not None and spec.origin is not None:
            digest.update(Path(spec.origin).read_bytes())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_program(model: onnx.ModelProto, quant: str, out: Path, kit: Kit) -> tuple[Program, dict[str, Any]]:
    """Write the graph, the program, its sources and its layout into `out`.

    model: the output of the quantize stage; with quant "as_is" it is admitted first. Returns the program and
    the artifact's meta fields. Raises CompileError naming what has no form, or with the compiler's words.
    """
    from topfive.graph import save_model
    from topfive.quantize.exactness import exact_int8_tensors
    from topfive.targets.gemmini.admission import admit
    from topfive.targets.gemmini_qemu import toolchain
    from topfive.targets.gemmini_qemu.program import emit
    from topfive.targets.gemmini_qemu.runner import LAYOUT_FILE
    from topfive.targets.onnxruntime_runner import describe_input

    int8 = admit(model).to_model() if quant == "as_is" else model
    program = emit(int8, int8.graph.name or "graph", kit)
    save_model(int8, out / INT8_FILE)
    (out / LAYOUT_FILE).write_text(json.dumps(program.layout, indent=1), encoding="utf-8")
    command = toolchain.build(program, out, kit)
    return program, {
        "input": describe_input(int8),
        "exact_tensors": exact_int8_tensors(int8),
        "command": command,
        "compiler": toolchain.compiler_version(toolchain.find_compiler()),
    }
