"""Building an engine with TensorRT's Python API, of 10.x or 11.x. Runs in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topfive.errors import CompileError, RunError
from topfive.targets.tensorrt import library
from topfive.targets.tensorrt.cuda import Cuda

__all__ = ["build", "load_plugins", "logger"]

MOST_MESSAGES = 40


def logger(trt: Any) -> Any:
    """A TensorRT logger that keeps warnings and errors in its attribute `messages`."""

    class Messages(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                self.messages.append(message)

    return Messages()


def load_plugins(trt: Any, log: Any, paths: list[str], error: Any) -> None:
    """Load libraries of plugins; `error` naming the one that does not load."""
    if not paths:
        return
    trt.init_libnvinfer_plugins(log, "")
    for path in paths:
        try:
            handle = trt.get_plugin_registry().load_library(path)
        except Exception as cause:
            raise error(f"TensorRT cannot load the plugins in {path}", details=str(cause)) from cause
        if handle is None:
            raise error(f"TensorRT cannot load the plugins in {path}", details=_said(log))


def _said(log: Any) -> str:
    return "\n".join(log.messages[-MOST_MESSAGES:])


def build(job: Mapping[str, Any]) -> dict[str, Any]:
    """Make the engine that a job describes.

    job: `model` (ONNX file), `engine` (file to write), `quant`, `quantisation` ("cache", "qdq" or ""),
    `cache` (calibration cache) and `method`, `plugins` (paths), `input`, `profile` (min, opt, max shapes, or
    None for a fixed batch), `workspace` (MiB, 0 for all), `device` (its number), `gpu` (see Cuda). Raises
    CompileError with TensorRT's own messages.
    """
    try:
        Cuda(job["device"], job["gpu"])
    except RunError as error:
        raise CompileError(error.message, details=error.details) from None
    trt = library.tensorrt()
    log = logger(trt)
    load_plugins(trt, log, job["plugins"], CompileError)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(job["model"]):
        errors = "\n".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise CompileError("TensorRT cannot parse the model", details=errors or _said(log))
    config = builder.create_builder_config()
    # Alive until the engine is built: TensorRT keeps no reference of its own.
    calibrator = _set_precision(trt, config, job)
    if job["workspace"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace"] * 2**20)
    if job["profile"] is not None:
        profile = builder.create_optimization_profile()
        profile.set_shape(job["input"], *(tuple(shape) for shape in job["profile"]))
        if config.add_optimization_profile(profile) < 0:
            raise CompileError(f"TensorRT refuses the batch sizes {job['profile']}", details=_said(log))
        if calibrator is not None and not config.set_calibration_profile(profile):
            raise CompileError("TensorRT refuses the calibration profile", details=_said(log))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise CompileError("TensorRT cannot build the engine", details=_said(log))
    Path(job["engine"]).write_bytes(bytes(engine))
    return {"messages": log.messages[-MOST_MESSAGES:]}


def _set_precision(trt: Any, config: Any, job: Mapping[str, Any]) -> Any:
    """Set the flags of 10.x; 11.x takes precision from the model alone. Returns the calibrator, or None."""
    config.clear_flag(trt.BuilderFlag.TF32)
    flags = trt.BuilderFlag
    if job["quant"] == "force_float16" and hasattr(flags, "FP16"):
        config.set_flag(flags.FP16)
    if job["quant"] == "int8" and hasattr(flags, "INT8"):
        config.set_flag(flags.INT8)
    if job["quantisation"] != "cache":
        return None
    if not hasattr(trt, "IInt8EntropyCalibrator2"):
        raise CompileError(
            f"TensorRT {trt.__version__} has no implicit int8: choose --option quantisation=qdq"
        )
    base = trt.IInt8MinMaxCalibrator if job["method"] == "minmax" else trt.IInt8EntropyCalibrator2
    calibrator = _calibrator(base, Path(job["cache"]).read_bytes())
    config.int8_calibrator = calibrator
    return calibrator


def _calibrator(base: Any, cache: bytes) -> Any:
    """A calibrator with a cache and no data: TensorRT reads the scales, or says what it lacks."""

    class CacheCalibrator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, written: bytes) -> None:
            return None

    return CacheCalibrator()
