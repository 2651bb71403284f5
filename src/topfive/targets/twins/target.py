"""What the numeric twins share: quantise as the vendor documents, lower, run on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.quantize.quantiser import Quantiser
from topfive.targets.base import Artifact, Runner, Target

if TYPE_CHECKING:
    import onnx

__all__ = ["FLOATS", "TwinTarget"]

FLOATS = ("force_float32", "force_float16")
PLACEMENT_MODULES = (
    "topfive.graph",
    "topfive.quantize.rewriter",
    "topfive.quantize.symmetric",
    "topfive.quantize.qdq_placement",
)


class TwinTarget(Target):
    """An accelerator's documented arithmetic on the CPU. Heavy libraries load when something is compiled.

    placements: of the int8 modes, where they compute in int8 (see topfive.quantize.qdq_placement). halves:
    the modes whose other tensors are float16.
    """

    functional: ClassVar[bool] = True
    placements: ClassVar[dict[str, str]] = {}
    halves: ClassVar[tuple[str, ...]] = ("force_float16",)

    def weights(self) -> str:
        """Granularity of weight scales: per_tensor or per_axis."""
        return "per_axis"

    def quantiser(self, quant: str) -> Quantiser | None:
        """Q/DQ pairs where the vendor computes in int8; float16 is made when the model is compiled."""
        if quant not in self.placements:
            return None
        settings = {"placement": self.placements[quant], "weights": self.weights()}
        function = "topfive.quantize.qdq_placement:quantize_qdq"
        return Quantiser(function, calibrated=True, settings=settings, modules=PLACEMENT_MODULES)

    def versions(self) -> dict[str, str]:
        """Lowering depends on topfive's own code only."""
        import onnx

        return {"onnx": onnx.__version__}

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Lower to the vendor's arithmetic; `clipped_weights` counts what was beyond float16's range."""
        from topfive.graph import save_model
        from topfive.targets.onnxruntime_runner import MODEL_FILE, describe_input
        from topfive.targets.twins.lowering import lower_twin

        if quant == "force_float32":
            save_model(model, out / MODEL_FILE)
            return {"input": describe_input(model)}
        half = quant in self.halves
        lowered = lower_twin(model, half=half)
        save_model(lowered.model, out / MODEL_FILE)
        meta: dict[str, Any] = {
            "input": describe_input(lowered.model),
            "int8_tensors": list(lowered.int8_tensors),
            "exact_tensors": list(lowered.exact_tensors),
        }
        if half:
            meta["float16_output"] = True
            meta["clipped_weights"] = dict(lowered.clipped)
        return meta

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open the float modes as ONNX Runtime does best, the integer modes exactly as they are written."""
        from topfive.targets import cpu_sessions
        from topfive.targets.onnxruntime_runner import OnnxRuntimeRunner

        if artifact.quant in FLOATS:
            return OnnxRuntimeRunner(artifact, threads, cpu_sessions.open_float, "float")
        return OnnxRuntimeRunner(artifact, threads, cpu_sessions.open_as_written, "uint8 x uint8")
