"""`cpu`: ONNX Runtime's CPU provider, with the model's own integer arithmetic or the runtime's default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.errors import RunError
from topfive.targets.base import Artifact, Runner, Target

if TYPE_CHECKING:
    import onnx

__all__ = ["KERNELS", "CpuTarget"]

KERNELS = ("exact", "native")
KERNELS_VARIABLE = "TOPFIVE_CPU_KERNELS"


class CpuTarget(Target):
    """ONNX Runtime on this processor. Heavy libraries load when something is compiled or opened."""

    name: ClassVar[str] = "cpu"
    quants: ClassVar[tuple[str, ...]] = ("force_float32", "force_float16", "int8", "int8_dw", "as_is")

    def versions(self) -> dict[str, str]:
        """Lowering depends on topfive's own code only."""
        import onnx

        return {"onnx": onnx.__version__}

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Write the model as it is; an int8 graph with uint8 activations, which run fast everywhere."""
        from topfive.graph import save_model
        from topfive.quantize.exactness import exact_int8_tensors
        from topfive.targets.gemmini.lowering import lower
        from topfive.targets.onnxruntime_runner import MODEL_FILE, describe_input

        meta: dict[str, Any] = {}
        if quant in ("int8", "int8_dw"):
            lowered = lower(model, arithmetic="onnx")
            meta = {"int8_tensors": list(lowered.int8_tensors), "exact_tensors": exact_int8_tensors(model)}
            model = lowered.model
        elif quant == "force_float16":
            meta = {"float16_output": True}
        save_model(model, out / MODEL_FILE)
        return {"input": describe_input(model), **meta}

    def open(self, artifact: Artifact, *, threads: int | None = None, kernels: str | None = None) -> Runner:
        """Open with `kernels` "exact" (default) or "native"; TOPFIVE_CPU_KERNELS sets the default."""
        from topfive.targets import cpu_sessions as sessions
        from topfive.targets.onnxruntime_runner import OnnxRuntimeRunner

        chosen = kernels or os.environ.get(KERNELS_VARIABLE, KERNELS[0])
        if chosen not in KERNELS:
            raise RunError(f"unknown kernels {chosen!r}: choose {' or '.join(KERNELS)}")
        if artifact.quant in ("force_float32", "force_float16"):
            return OnnxRuntimeRunner(artifact, threads, sessions.open_float, "float")
        if chosen == "native":
            return OnnxRuntimeRunner(artifact, threads, sessions.open_native, chosen)
        opener = sessions.open_foreign if artifact.quant == "as_is" else sessions.open_lowered
        return OnnxRuntimeRunner(artifact, threads, opener, chosen)
