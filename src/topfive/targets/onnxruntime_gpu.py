"""`ort_cuda` and `ort_tensorrt`: ONNX Runtime's CUDA and TensorRT providers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.errors import RunError
from topfive.quantize.quantiser import QUANTISERS, Quantiser
from topfive.targets.base import Artifact, Runner, Target, TargetOption
from topfive.targets.device_session import process_option

if TYPE_CHECKING:
    import onnx

__all__ = ["OrtCudaTarget", "OrtTensorrtTarget", "ProviderTarget"]

QDQ_MODULES = (
    "topfive.graph",
    "topfive.quantize.rewriter",
    "topfive.quantize.symmetric",
    "topfive.quantize.qdq_placement",
    "topfive.quantize.scales.qdq",
)


class ProviderTarget(Target):
    """One execution provider; a node that it cannot run is ONNX Runtime's to place on the CPU."""

    provider: ClassVar[str]
    package: ClassVar[str] = "onnxruntime-gpu"
    options: ClassVar[Mapping[str, TargetOption]] = MappingProxyType(
        {
            "device": TargetOption(tuple(str(n) for n in range(8)), "0", "the GPU", running=True),
            "run_limit": TargetOption(
                (),
                "600",
                "seconds that opening or a batch may take",
                r"[1-9]\d{0,6}",
                "SECONDS",
                running=True,
            ),
            "process": process_option(),
        }
    )

    def provider_options(self, quant: str) -> dict[str, str]:
        """What the provider is told."""
        return {"device_id": self.setting("device")}

    def probe(self) -> str:
        """Whether this ONNX Runtime has the provider."""
        import onnxruntime as ort

        available = ort.get_available_providers()
        if self.provider in available:
            return ""
        return (
            f"this onnxruntime has no {self.provider} (only {', '.join(available)}): install {self.package}"
        )

    def versions(self) -> dict[str, str]:
        """ONNX Runtime does not decide what is written."""
        import onnx

        return {"onnx": onnx.__version__}

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Write the model as it is."""
        from topfive.graph import save_model
        from topfive.targets.onnxruntime_runner import MODEL_FILE, describe_input

        save_model(model, out / MODEL_FILE)
        half = {"float16_output": True} if quant == "force_float16" else {}
        return {"input": describe_input(model), **half}

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open with the provider; RunError where ONNX Runtime would quietly use the CPU instead."""
        from topfive.targets.onnxruntime_apart import ProviderRunner

        reason = self.probe()
        if reason:
            raise artifact.located(RunError(reason))
        return ProviderRunner(
            artifact,
            threads,
            provider=self.provider,
            options=self.provider_options(artifact.quant),
            process=self.setting("process"),
            seconds=float(self.setting("run_limit")),
        )


class OrtCudaTarget(ProviderTarget):
    """float32 without TF32, float16, and models as they are."""

    name: ClassVar[str] = "ort_cuda"
    provider: ClassVar[str] = "CUDAExecutionProvider"
    quants: ClassVar[tuple[str, ...]] = ("force_float32", "force_float16", "as_is")

    def provider_options(self, quant: str) -> dict[str, str]:
        """Without TF32: float32 is float32."""
        return {**super().provider_options(quant), "use_tf32": "0"}


class OrtTensorrtTarget(ProviderTarget):
    """float32, float16 by the provider's own flag, int8 by Q/DQ from the scale table."""

    name: ClassVar[str] = "ort_tensorrt"
    provider: ClassVar[str] = "TensorrtExecutionProvider"
    quants: ClassVar[tuple[str, ...]] = ("force_float32", "force_float16", "int8")

    def quantiser(self, quant: str) -> Quantiser | None:
        """Q/DQ for int8; a float16 model for float16."""
        if quant == "int8":
            function = "topfive.quantize.scales.qdq:with_table"
            return Quantiser(function, calibrated=True, modules=QDQ_MODULES)
        return QUANTISERS.get(quant)

    def provider_options(self, quant: str) -> dict[str, str]:
        """Flags of precision."""
        return {
            **super().provider_options(quant),
            "trt_fp16_enable": str(int(quant == "force_float16")),
            "trt_int8_enable": str(int(quant == "int8")),
        }
