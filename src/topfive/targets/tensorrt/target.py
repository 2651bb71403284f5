"""`tensorrt`: an NVIDIA GPU, built for and run by TensorRT 10.x or 11.x."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from topfive.cache import file_sha256
from topfive.errors import CompileError, OptionError, RunError
from topfive.quantize.quantiser import Quantiser
from topfive.targets.base import Artifact, Runner, Target, TargetOption
from topfive.targets.tensorrt import library
from topfive.targets.tensorrt.options import AUTO, CACHE, OPTIONS, QDQ, plugin_libraries

if TYPE_CHECKING:
    import onnx

__all__ = ["ENGINE", "TensorrtTarget", "environment"]

ENGINE, MODEL, CACHE_FILE = "engine.plan", "model.onnx", "calibration.cache"
TYPED_MODULES = ("topfive.targets.tensorrt.quantising", "topfive.quantize.float16")
TABLE_MODULES = ("topfive.targets.tensorrt.quantising", "topfive.quantize.ranges")
QDQ_MODULES = (
    "topfive.graph",
    "topfive.quantize.rewriter",
    "topfive.quantize.symmetric",
    "topfive.quantize.qdq_placement",
    "topfive.quantize.scales.qdq",
)


def environment(way: str, device: int) -> dict[str, str]:
    """What an engine is bound to: TensorRT's version, the GPU, its driver. Raises RunError without a GPU."""
    return {"tensorrt": library.find_version(way), **library.gpu(device).as_json()}


class TensorrtTarget(Target):
    """float32 without TF32, float16, int8 from topfive's scale table; batches 1 to max_batch at once."""

    name: ClassVar[str] = "tensorrt"
    quants: ClassVar[tuple[str, ...]] = ("force_float32", "force_float16", "int8")
    plugins: ClassVar[str] = "tensorrt"
    options: ClassVar[Mapping[str, TargetOption]] = OPTIONS

    @property
    def _all(self) -> dict[str, str]:
        return {name: self.setting(name) for name in self.options}

    def _major(self) -> int:
        """TensorRT's major version; 0 where it is not known."""
        found = re.match(r"\d+", library.find_version(self.setting("way")))
        return int(found[0]) if found else 0

    def quantisation(self) -> str:
        """How int8 comes about: "cache" or "qdq"."""
        chosen = self.setting("quantisation")
        if chosen != AUTO:
            return chosen
        return QDQ if self._major() >= library.EXPLICIT_ONLY else CACHE

    def refuses(self, quant: str) -> str:
        """Modes that TensorRT has not, and a calibration cache where it can read none."""
        if quant not in self.quants:
            return super().refuses(quant)
        batch, most = int(self.setting("batch_size")), int(self.setting("max_batch"))
        if batch > most:
            return f"batch size {batch} is beyond max_batch {most}: choose --option max_batch={batch}"
        if quant == "int8" and self.quantisation() == CACHE and self._major() >= library.EXPLICIT_ONLY:
            return "TensorRT 11 reads no calibration cache: choose --option quantisation=qdq"
        return ""

    def quantiser(self, quant: str) -> Quantiser | None:
        """Nothing where TensorRT itself lowers precision; a typed or Q/DQ model where it takes only that."""
        if quant == "int8" and self.quantisation() == CACHE:
            function = "topfive.targets.tensorrt.quantising:with_ranges"
            return Quantiser(function, calibrated=True, modules=TABLE_MODULES)
        if quant == "int8":
            function = "topfive.quantize.scales.qdq:with_table"
            settings = MappingProxyType({"weights": self.setting("weights")})
            return Quantiser(function, calibrated=True, settings=settings, modules=QDQ_MODULES)
        if quant == "force_float16" and self._major() >= library.EXPLICIT_ONLY:
            function = "topfive.targets.tensorrt.quantising:typed_float16"
            return Quantiser(function, modules=TYPED_MODULES, packages=("onnxruntime",))
        return None

    def tuned(self, kind: str) -> Mapping[str, str]:
        """Throughput tests measure batches of 32."""
        return {"batch_size": "32"} if kind == "throughput" else {}

    def batches(self) -> tuple[int, ...]:
        """The one that the engine is optimised for."""
        return (int(self.setting("batch_size")),)

    def probe(self) -> str:
        """Names the packages or the tool that are missing, or says that there is no GPU."""
        try:
            return library.missing(self.setting("way"), int(self.setting("device")))
        except OptionError as error:
            return error.message

    def simulation(self) -> str:
        """Whether a library or tool says that it is emulated."""
        return library.SIMULATED if library.emulated() else ""

    def versions(self) -> dict[str, str]:
        """TensorRT's version, the GPU's name and its driver: another of them needs another engine."""
        import onnx

        try:
            found = environment(self.setting("way"), int(self.setting("device")))
        except RunError as error:
            found = {"gpu": error.message}
        return {"onnx": onnx.__version__, "emulated": str(library.emulated()), **found}

    def compile(self, model: onnx.ModelProto, quant: str, out: Path) -> dict[str, Any]:
        """Write the engine. Raises CompileError with TensorRT's or trtexec's own words."""
        from topfive.graph import save_model
        from topfive.targets.onnxruntime_runner import describe_input

        if self.probe():
            raise CompileError(self.probe())
        described = describe_input(model)
        bound = self._bound()
        quantisation, method = (self.quantisation() if quant == "int8" else ""), ""
        if quantisation == CACHE:
            method = self._write_cache(model, bound["tensorrt"], out)
        save_model(model, out / MODEL)
        profile = self._profile(described)
        libraries = self._copy_plugins(out)
        build = self._by_api if self.setting("way") == library.API else self._by_trtexec
        made = build(out, quant, quantisation, method, described["name"], profile, libraries)
        if not (out / ENGINE).is_file():
            raise CompileError(f"TensorRT ended well but wrote no {ENGINE}")
        return {
            "input": described,
            "tensorrt": {
                **bound,
                "way": self.setting("way"),
                "quantisation": quantisation,
                "profile": profile,
                "plugins": libraries,
                "sha256": file_sha256(out / ENGINE),
                **made,
            },
            **({"float16_output": True} if quant == "force_float16" else {}),
        }

    def _bound(self) -> dict[str, str]:
        try:
            return environment(self.setting("way"), int(self.setting("device")))
        except RunError as error:
            raise CompileError(error.message, details=error.details) from None

    def _write_cache(self, model: onnx.ModelProto, version: str, out: Path) -> str:
        """Write the calibration cache and return its method; the model loses its table."""
        from topfive.targets.tensorrt.quantising import calibration_cache

        cache, method = calibration_cache(model, version)
        (out / CACHE_FILE).write_bytes(cache)
        del model.metadata_props[:]
        return method

    def _profile(self, described: Mapping[str, Any]) -> list[list[int]] | None:
        """Least, best and largest shape of the input; None for a model of a fixed batch size."""
        first, *rest = described["shape"]
        if not all(isinstance(size, int) for size in rest) or described["dtype"] != "float32":
            raise CompileError(f"tensorrt needs a float32 input of fixed size, not {described}")
        if isinstance(first, int):
            return None
        return [[n, *rest] for n in (1, int(self.setting("batch_size")), int(self.setting("max_batch")))]

    def _copy_plugins(self, out: Path) -> list[dict[str, str]]:
        """Put the libraries of plugins into the artifact, which then needs no other."""
        try:
            found = plugin_libraries(self.setting("plugins"))
        except OptionError as error:
            raise CompileError(error.message, details=error.details) from None
        for path, _ in found:
            shutil.copyfile(path, out / path.name)
        return [{"file": path.name, "sha256": digest} for path, digest in found]

    def _by_api(
        self,
        out: Path,
        quant: str,
        quantisation: str,
        method: str,
        name: str,
        profile: list[list[int]] | None,
        libraries: list[dict[str, str]],
    ) -> dict[str, Any]:
        from topfive.targets.worker import call_apart

        job = {
            "model": MODEL,
            "engine": ENGINE,
            "quant": quant,
            "quantisation": quantisation,
            "cache": CACHE_FILE,
            "method": method,
            "plugins": [f"./{entry['file']}" for entry in libraries],
            "input": name,
            "profile": profile,
            "workspace": int(self.setting("workspace")),
            "device": int(self.setting("device")),
            "gpu": self._bound(),
        }
        return call_apart(
            "topfive.targets.tensorrt.building:build",
            job,
            folder=out,
            name="build",
            seconds=float(self.setting("build_limit")),
            error=CompileError,
        )

    def _by_trtexec(
        self,
        out: Path,
        quant: str,
        quantisation: str,
        method: str,
        name: str,
        profile: list[list[int]] | None,
        libraries: list[dict[str, str]],
    ) -> dict[str, Any]:
        from topfive.targets.tensorrt.trtexec import build_command, check_device
        from topfive.targets.tools import run_tool

        flags: list[str] = []
        if self._major() < library.EXPLICIT_ONLY:
            flags = {"force_float16": ["--fp16"], "int8": ["--int8"]}.get(quant, [])
            flags += [f"--calib={CACHE_FILE}"] if quantisation == CACHE else []
        command = build_command(
            library.find_trtexec() or library.TRTEXEC,
            name=name,
            profile=profile,
            flags=flags,
            plugins=[f"./{entry['file']}" for entry in libraries],
            device=int(self.setting("device")),
        )
        limit = float(self.setting("build_limit"))
        run = run_tool(command, folder=out, logs=out, name="build", seconds=limit, error=CompileError)
        try:
            check_device(f"{run.stdout}\n{run.stderr}", self._bound()["name"])
        except RunError as error:
            raise CompileError(error.message, details=run.shown()) from None
        return {"command": run.text}

    def open(self, artifact: Artifact, *, threads: int | None = None) -> Runner:
        """Open an engine on the GPU that it was built on. `threads` is not used: the GPU has its own."""
        from topfive.targets.tensorrt.runner import ApiRunner, TrtexecRunner

        try:
            if self.probe():
                raise RunError(self.probe())
            kind = ApiRunner if self.setting("way") == library.API else TrtexecRunner
            return kind(artifact, self._all)
        except (RunError, OptionError) as error:
            failure = error if isinstance(error, RunError) else RunError(error.message, details=error.details)
            raise artifact.located(failure) from None
