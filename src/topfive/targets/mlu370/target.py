"""`mlu370`: a Cambricon MLU370, built for and run by MagicMind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.errors import CompileError, OptionError, RunError
from topfive.targets.base import Artifact, Runner, Target, TargetOption
from topfive.targets.mlu370 import library
from topfive.targets.mlu370.configuration import PRECISIONS, QUANTISED, batch_refusal, build_configuration
from topfive.targets.mlu370.options import ALIASES, CLUSTERS, OPTIONS, translated

if TYPE_CHECKING:
    import onnx

__all__ = ["Mlu370Target"]

SAMPLES_FILE = "samples.npy"


class Mlu370Target(Target):
    """MagicMind parses, calibrates on the card's pictures, and builds the float model itself."""

    name: ClassVar[str] = "mlu370"
    quants: ClassVar[tuple[str, ...]] = PRECISIONS
    plugins: ClassVar[str] = ""
    options: ClassVar[Mapping[str, TargetOption]] = OPTIONS

    def configured(self, chosen: Mapping[str, str]) -> Target:
        """See Target.configured; options under their later names are those under the earlier ones."""
        super().configured(chosen)
        for later, (earlier, _) in ALIASES.items():
            if later in chosen and earlier in chosen:
                raise OptionError(f"options {later} and {earlier} of target mlu370 are the same: give one")
        return super().configured(translated(chosen))

    @property
    def _all(self) -> dict[str, str]:
        return {name: self.setting(name) for name in self.options}

    def refuses(self, quant: str) -> str:
        """Only MagicMind's precision modes, and only batch sizes inside dim_range."""
        if quant not in self.quants:
            return f"mlu370 runs MagicMind's precision modes {', '.join(self.quants)}, not {quant}"
        return batch_refusal(int(self.setting("batch_size")), self._all)

    def quantiser(self, quant: str) -> None:
        """MagicMind itself makes float16 and int8."""

    def calibrates(self, quant: str) -> bool:
        """Whether `compile` needs the calibration pictures."""
        return quant == QUANTISED

    def tuned(self, kind: str) -> Mapping[str, str]:
        """Throughput tests measure the sample's largest batch size."""
        return {"batch_size": "8"} if kind == "throughput" else {}

    def batches(self) -> tuple[int, ...]:
        """The one that mm_run measures."""
        return (int(self.setting("batch_size")),)

    def probe(self) -> str:
        """Names the package and the tool that are missing."""
        return library.missing()

    def simulation(self) -> str:
        """Whether the library or the tool says that it is emulated."""
        return library.SIMULATED if library.emulated() else ""

    def versions(self) -> dict[str, str]:
        """MagicMind's."""
        import onnx

        return {"onnx": onnx.__version__, **library.identities()}

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Write the model file. Raises CompileError naming the call that failed, or how the process ended."""
        from topfive.targets.mlu370.runner import MODEL_FILE
        from topfive.targets.onnxruntime_runner import describe_input
        from topfive.targets.worker import call_apart

        if library.missing():
            raise CompileError(library.missing())
        described = describe_input(model)
        shape = self._shape(described)
        self._save(model, out / "model.onnx")
        batch, mutable = int(self.setting("batch_size")), self.setting("shape_mutable") == "true"
        configuration = build_configuration(quant, self._all, shape)
        (out / "build_config.json").write_text(json.dumps(configuration, indent=1), encoding="utf-8")
        job = {
            "model": "model.onnx",
            "output": MODEL_FILE,
            "name": f"{self.model or 'model'}_{quant}_{str(mutable).lower()}_{batch}",
            "dims": [batch, *shape],
            "configuration": configuration,
            "samples": self._write_samples(out) if self.calibrates(quant) else "",
            "algorithm": self.setting("calibration_algo"),
            "device": int(self.setting("device_id")),
        }
        limit = float(self.setting("build_limit"))
        made = call_apart(
            "topfive.targets.mlu370.building:build",
            job,
            folder=out,
            name="build",
            seconds=limit,
            error=CompileError,
        )
        (out / SAMPLES_FILE).unlink(missing_ok=True)
        described["shape"] = ["batch" if mutable else batch, *shape]
        clusters = [CLUSTERS[card] for card in self.setting("archs").split(",")]
        return {
            "input": described,
            "magicmind": {"shape": list(shape), "clusters": clusters, "mutable": mutable, **made},
            **({"float16_output": True} if quant != PRECISIONS[0] else {}),
        }

    def _shape(self, described: Mapping[str, Any]) -> tuple[int, ...]:
        shape, dtype = described["shape"], described["dtype"]
        if len(shape) != 4 or dtype != "float32" or not all(isinstance(size, int) for size in shape[1:]):
            raise CompileError(f"mlu370 needs a float32 input NCHW of fixed size, not {dtype} {shape}")
        return tuple(int(size) for size in shape[1:])

    def _save(self, model: onnx.ModelProto, path: Path) -> None:
        from topfive.graph import save_model

        save_model(model, path)

    def _write_samples(self, out: Path) -> str:
        import numpy as np

        if self.samples is None:
            raise CompileError(f"{QUANTISED} needs calibration pictures: the model's card names none")
        np.save(out / SAMPLES_FILE, np.concatenate(list(self.samples.batches())))
        return SAMPLES_FILE

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open an artifact. `threads` is not used: the device has its own."""
        from topfive.targets.mlu370.runner import MluRunner

        if library.missing():
            raise artifact.located(RunError(library.missing()))
        try:
            return MluRunner(artifact, self._all)
        except RunError as error:
            raise artifact.located(error) from None
