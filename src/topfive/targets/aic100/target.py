"""`aic100`: a Cloud AI 100, compiled for and run by Qualcomm's own tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.errors import CompileError, OptionError, RunError
from topfive.targets.aic100.configuration import (
    Configuration,
    configure,
    read_table,
    table_source,
)
from topfive.targets.aic100.options import OPTIONS, PROVIDER
from topfive.targets.base import Artifact, Runner, Target, TargetOption

if TYPE_CHECKING:
    import onnx

__all__ = ["Aic100Target"]

TUNED = {"latency": "best-latency", "throughput": "best-throughput"}


class Aic100Target(Target):
    """Every floating-point tensor in float16 (`-convert-to-fp16`), one batch size an artifact."""

    name: ClassVar[str] = "aic100"
    quants: ClassVar[tuple[str, ...]] = ("force_float16",)
    plugins: ClassVar[str] = ""
    slow_start: ClassVar[bool] = True
    options: ClassVar[Mapping[str, TargetOption]] = OPTIONS

    def configuration(self) -> Configuration:
        """What its model is compiled and run with. Raises OptionError for a malformed table or flag."""
        return configure(self.model, self.settings, read_table(table_source(self.setting("lut"))))

    def refuses(self, quant: str) -> str:
        """Only what `-convert-to-fp16` makes."""
        if quant in self.quants:
            return ""
        return f"aic100 runs what `-convert-to-fp16` makes of a model: force_float16, not {quant}"

    def quantiser(self, quant: str) -> None:
        """The compiler itself turns float32 into float16."""

    def tuned(self, kind: str) -> Mapping[str, str]:
        """Latency tests measure the configuration for best latency, throughput tests that for throughput."""
        return {"objective": TUNED[kind]} if kind in TUNED else {}

    def batches(self) -> tuple[int, ...]:
        """The one batch size that it is compiled for."""
        return (self.configuration().batch_size,)

    def probe(self) -> str:
        """Names the tools that are missing, or says why there is no device."""
        from topfive.targets.aic100.probe import missing

        try:
            return missing(self)
        except OptionError as error:
            return error.message

    def simulation(self) -> str:
        """Whether the tools that are installed, or the provider that runs, say that they are emulated."""
        from topfive.targets.aic100.probe import provider_emulated
        from topfive.targets.aic100.toolchain import SIMULATED, find_tools

        if self.setting("runtime") == PROVIDER and provider_emulated():
            return SIMULATED
        return find_tools().simulation()

    def versions(self) -> dict[str, str]:
        """The compiler, and the configuration: what of a table and of defaults decides what is compiled."""
        import onnx

        from topfive.targets.aic100.toolchain import find_tools

        tools = find_tools().identities()
        return {
            "onnx": onnx.__version__,
            "compiler": tools.get("compiler", "absent"),
            "configuration": json.dumps(self.configuration().as_json(), sort_keys=True),
        }

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Write the working directory with the compiled program. Raises CompileError, OptionError."""
        from topfive.targets.aic100.compiling import compile_program

        if self.setting("run-only") == "yes":
            raise CompileError(
                f"nothing is compiled for {self.model} with these options: build once without run-only"
            )
        return compile_program(self, model, out)

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open an artifact once the device is free. `threads` is not used: the tools have their own."""
        from topfive.targets.aic100.provider import ProviderRunner
        from topfive.targets.aic100.runner import Aic100Runner

        made = self.for_model(artifact.model)
        assert isinstance(made, Aic100Target)
        try:
            if self.setting("runtime") == PROVIDER:
                return ProviderRunner(artifact, made)
            return Aic100Runner(artifact, made)
        except RunError as error:
            raise artifact.located(error) from None
