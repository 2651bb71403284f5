"""`gemmini_sim`: Gemmini's int8 arithmetic, exact, at ONNX Runtime's speed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.targets.base import Artifact, Runner, Target, TargetOption

if TYPE_CHECKING:
    import onnx

    from topfive.targets.gemmini.execution import Plan

__all__ = ["INT8_FILE", "GemminiSimTarget"]

# The int8 graph before lowering: what the numpy form runs.
INT8_FILE = "model_int8.onnx"
MODELLED_BATCHES = (1, 4, 8)
# The mode that the target as it comes is closest to, and the values of what is left out of another mode.
AS_IT_COMES = {"execution": "2", "optimization": "99"}
RUNNERS_DEFAULTS = {"execution": "2", "optimization": "1"}


def _modelled_cycles(int8: onnx.ModelProto, mode: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Batch (as text) to modelled cycles on the default hardware, {} for a mode that emulates Gemmini.

    mode: the target's settings; empty for the current library's own use of the hardware, weight stationary.
    """
    from topfive.targets.gemmini.cycles import model_cycles, model_layers
    from topfive.targets.gemmini.execution import plan

    found: dict[str, dict[str, int]] = {}
    if mode.get("execution") == "0":
        return found
    for batch in MODELLED_BATCHES:
        if mode:
            planned = plan(int8, mode["execution"], mode["optimization"], batch)
            modelled = model_cycles(planned.layers(), dataflow=planned.dataflow, batch=batch)
        else:
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
    quants: ClassVar[tuple[str, ...]] = ("int8", "int8_dw", "as_is")
    options: ClassVar[Mapping[str, TargetOption]] = MappingProxyType(
        {
            "execution": TargetOption(
                ("0", "1", "2"), "", "as the imagenet runner's -x: emulated, output or weight stationary"
            ),
            "optimization": TargetOption(
                ("0", "1", "2", "99"), "", "as the imagenet runner's -O: 99 fuses max pools in NHWC"
            ),
        }
    )
    simulated: ClassVar[str] = "exact Gemmini arithmetic on the CPU; times are the CPU's, not Gemmini's"

    def configured(self, chosen: Mapping[str, str]) -> Target:
        """See Target.configured; one of the two options chosen, the other is the runner's default."""
        return super().configured({**RUNNERS_DEFAULTS, **chosen} if chosen else chosen)

    def refuses(self, quant: str) -> str:
        """The int8 build has no float arithmetic."""
        if quant in self.quants:
            return ""
        return f"gemmini_sim is Gemmini's int8 build: it runs {', '.join(self.quants)}, not {quant}"

    def versions(self) -> dict[str, str]:
        """Lowering depends on topfive's own code only."""
        import onnx

        return {"onnx": onnx.__version__}

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Lower the int8 graph in the chosen mode.

        `as_is` models are refused node by node if they are not Gemmini's, and so are nodes that the mode
        cannot run.
        """
        from topfive.graph import save_model
        from topfive.quantize.exactness import exact_int8_tensors
        from topfive.targets.gemmini.admission import admit
        from topfive.targets.gemmini.execution import plan
        from topfive.targets.gemmini.lowering import lower
        from topfive.targets.onnxruntime_runner import MODEL_FILE, describe_input

        int8 = admit(model).to_model() if quant == "as_is" else model
        mode = self.settings or AS_IT_COMES
        planned = plan(int8, mode["execution"], mode["optimization"])
        if self.settings:
            planned.check()
        lowered = lower(int8, zero_padded=planned.zero_padded if self.settings else None)
        save_model(int8, out / INT8_FILE)
        save_model(lowered.model, out / MODEL_FILE)
        return {
            "input": describe_input(lowered.model),
            "int8_tensors": list(lowered.int8_tensors),
            "exact_tensors": exact_int8_tensors(int8),
            "modelled_cycles": _modelled_cycles(int8, self.settings),
            **self._explained(planned),
        }

    def _explained(self, planned: Plan) -> dict[str, Any]:
        """The plan, and which pools count padding as 0 if not all do."""
        explained: dict[str, Any] = {"execution_plan": {**planned.described(), "chosen": bool(self.settings)}}
        if self.settings:
            explained["zero_padded_pools"] = sorted(planned.zero_padded)
        return explained

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open with kernels that are exact on this processor."""
        from topfive.sessions import native_kernels_are_exact
        from topfive.targets.cpu_sessions import open_lowered
        from topfive.targets.onnxruntime_runner import OnnxRuntimeRunner

        kernels = "uint8 x int8" if native_kernels_are_exact() else "uint8 x uint8"
        return OnnxRuntimeRunner(artifact, threads, open_lowered, kernels)
