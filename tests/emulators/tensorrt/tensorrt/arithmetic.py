"""Emulated: what building an engine does, with topfive's numeric twin."""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from cuda.bindings import runtime

from tensorrt import MAGIC, MAJOR, BuilderFlag, ILogger, __version__
from topfive.graph import Graph
from topfive.quantize.qdq_placement import quantize_qdq
from topfive.quantize.ranges import RangeTable
from topfive.quantize.scales.tensorrt_cache import cache_header, parse_cache
from topfive.targets.cpu_sessions import open_as_written, open_float
from topfive.targets.twins.tensorrt import TensorrtSimTarget


def _flag(config, name):
    return hasattr(BuilderFlag, name) and BuilderFlag[name] in config.flags


def build(model, config, logger):
    """(quant, ONNX bytes) of the lowered model, or None."""
    explicit = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
    if BuilderFlag.TF32 in config.flags:
        logger.log(ILogger.Severity.WARNING, "TF32 is on: this emulation computes float32")
    quant = "force_float16" if _flag(config, "FP16") else "force_float32"
    if explicit:
        if MAJOR < 11 and not _flag(config, "INT8"):
            logger.log(ILogger.Severity.ERROR, "Error Code 4: Q/DQ layers need BuilderFlag.INT8")
            return None
        quant = "int8"
    elif _flag(config, "INT8"):
        table = _ranges(config, logger)
        if table is None:
            return None
        model = quantize_qdq(model, table, placement="tensorrt", weights="per_axis")
        quant = "int8"
    if half:
        return "typed", model.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        TensorrtSimTarget().compile(model, quant, Path(folder))
        return quant, (Path(folder) / "model.onnx").read_bytes()


def _ranges(config, logger):
    """What the calibrator's cache says; None without a calibrator or a cache of this version."""
    calibrator = config.int8_calibrator
    if calibrator is None or not calibrator.base_made:
        logger.log(ILogger.Severity.ERROR, "Error Code 2: calibrator is not set")
        return None
    cache = calibrator.read_calibration_cache()
    method = "minmax" if calibrator.algorithm == "MinMaxCalibration" else "entropy"
    wanted = cache_header(method, ".".join(__version__.split(".")[:3]))
    if cache is None or bytes(cache).decode().splitlines()[0] != wanted:
        logger.log(ILogger.Severity.ERROR, f"Error Code 2: the calibration cache is not {wanted}")
        return None
    return RangeTable(parse_cache(bytes(cache), "cache").ranges)


def packed(made, config, model):
    """The bytes of an engine."""
    quant, data = made
    graph = Graph(model)
    sizes = [d.dim_value for d in graph.inputs[0].type.tensor_type.shape.dim]
    profile = next(iter(config.profiles[0].shapes.values())) if config.profiles else [sizes] * 3
    session = opened({"quant": quant}, data)
    (found,) = session.run(None, {session.get_inputs()[0].name: np.zeros(profile[0], np.float32)})
    about = {
        "quant": quant,
        "profile": profile,
        "output": list(found.shape[1:]),
        "version": __version__,
        "gpu": runtime.current(),
    }
    return MAGIC + json.dumps(about).encode() + b"\n" + data


def opened(about, data):
    opener = open_as_written if about["quant"] == "int8" else open_float
    return opener(onnx.load_model_from_string(data), 1)
