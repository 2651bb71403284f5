"""`gemmini_sim`: Gemmini's int8 arithmetic, exact, at ONNX Runtime's speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.targets.base import Artifact, Runner, Target

if TYPE_CHECKING:
    import onnx

__all__ = ["INT8_FILE", "GemminiSimTarget"]

# The int8 graph before lowering: what the numpy form runs.
INT8_FILE = "model_int8.onnx"
MODELLED_BATCHES = (1, 4, 8)


def _modelled_cycles(int8: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """Batch (as text) to modelled cycles on the default hardware, weight stationary."""
    from topfive.targets.gemmini.cycles import model_cycles, model_layers

    found = {}
    for batch in MODELLED_BATCHES:
        modelled = model_cycles(model_layers(int8, batch), batch=batch)
        found[str(batch)] = {
            "ideal": modelled.ideal,
            "bus": modelled.cycles("bus"),
            "estimate": modelled.cycles("estimate"),
        }
    return found


class GemminiSimTarget(Target):
    """The int8 build of Gemmini (DIM 16), its integer results reproduced bit for bit on the CPU.

    Heavy libraries load when something is compiled or opened.
    """

    name: ClassVar[str] = "gemmini_sim"
    quants: ClassVar[tuple[str, ...]] = ("int8", "as_is")
    simulated: ClassVar[str] = "exact Gemmini arithmetic on the CPU; times are the CPU's, not Gemmini's"

    def refuses(self, quant: str) -> str:
        """The int8 build has no float arithmetic."""
        if quant in self.quants:
            return ""
        return f"gemmini_sim is Gemmini's int8 build: it runs {' and '.join(self.quants)}, not {quant}"

    def versions(self) -> dict[str, str]:
        """Lowering depends on topfive's own code only."""
        import onnx

        return {"onnx": onnx.__version__}

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Lower the int8 graph; `as_is` models are refused node by node if they are not Gemmini's."""
        from topfive.graph import save_model
        from topfive.quantize.exactness import exact_int8_tensors
        from topfive.targets.gemmini.admission import admit
        from topfive.targets.gemmini.lowering import lower
        from topfive.targets.onnxruntime_runner import MODEL_FILE, describe_input

        int8 = admit(model).to_model() if quant == "as_is" else model
        lowered = lower(int8)
        save_model(int8, out / INT8_FILE)
        save_model(lowered.model, out / MODEL_FILE)
        return {
            "input": describe_input(lowered.model),
            "int8_tensors": list(lowered.int8_tensors),
            "exact_tensors": exact_int8_tensors(int8),
            "modelled_cycles": _modelled_cycles(int8),
        }

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open with kernels that are exact on this processor."""
        from topfive.sessions import native_kernels_are_exact
        from topfive.targets.cpu_sessions import open_lowered
        from topfive.targets.onnxruntime_runner import OnnxRuntimeRunner

        kernels = "uint8 x int8" if native_kernels_are_exact() else "uint8 x uint8"
        return OnnxRuntimeRunner(artifact, threads, open_lowered, kernels)
