"""Emulated: networks, configurations, calibration, models, devices."""

import enum
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx

from magicmind import clusters, devices, failing
from magicmind.python.common.types import DataType, get_datatype_by_numpy
from topfive.quantize.calibration import Method, measure
from topfive.quantize.qdq_placement import quantize_qdq
from topfive.quantize.ranges import RangeTable
from topfive.targets.cpu_sessions import open_as_written, open_float
from topfive.targets.twins.mlu370 import Mlu370SimTarget

MAGIC = b"emulated MagicMind model\n"
KEYS = {
    "archs": list,
    "opt_config": dict,
    "cross_compile_toolchain_path": str,
    "convert_input_layout": dict,
    "graph_shape_mutable": bool,
    "dim_range": dict,
    "precision_config": dict,
    "computation_preference": str,
}
PRECISION = {
    "precision_mode": ("force_float32", "force_float16", "qint8_mixed_float16"),
    "activation_quant_algo": ("symmetric",),
    "weight_quant_granularity": ("per_tensor", "per_axis"),
}
state = {"systems": 0, "active": None}


class Code(enum.Enum):
    OK = 0
    INVALID_ARGUMENT = 3
    OUT_OF_RANGE = 11
    UNAVAILABLE = 14
    INTERNAL = 13


class Status:
    def __init__(self, code=Code.OK, message=""):
        self.code, self.message = code, message

    def ok(self):
        return self.code is Code.OK

    def __str__(self):
        return "OK" if self.ok() else f"{self.code.name}: {self.message}"


class ModelKind(enum.Enum):
    kOnnx = 1  # noqa: N815
    kCaffe = 2  # noqa: N815


class QuantizationAlgorithm(enum.Enum):
    LINEAR_ALGORITHM = 0
    EQNM_ALGORITHM = 1


class Dims:
    def __init__(self, sizes):
        self.sizes = [int(size) for size in sizes]

    def GetDims(self):  # noqa: N802
        return list(self.sizes)


class ITensor:
    def __init__(self, network):
        self.network = network

    def set_dimension(self, dims):
        if failing("set_dimension"):
            return Status(Code.INVALID_ARGUMENT, "dims do not fit")
        wanted = self.network.shape()
        fits = len(wanted) == len(dims.sizes) and all(
            not w or w == g for w, g in zip(wanted, dims.sizes, strict=True)
        )
        if not fits:
            return Status(Code.INVALID_ARGUMENT, f"dims {dims.sizes} do not fit {wanted}")
        self.network.dims = list(dims.sizes)
        return Status()


class Network:
    def __init__(self):
        self.model, self.dims, self.ranges = None, None, None

    def shape(self):
        constants = {t.name for t in self.model.graph.initializer}
        (value,) = [v for v in self.model.graph.input if v.name not in constants]
        return [d.dim_value for d in value.type.tensor_type.shape.dim]

    def get_input_count(self):
        return 1

    def get_input(self, index):
        if index:
            raise IndexError(index)
        return ITensor(self)


class BuilderConfig:
    def __init__(self):
        self.values = {}

    def parse_from_string(self, text):
        if failing("config"):
            return Status(Code.INVALID_ARGUMENT, "configuration refused")
        try:
            given = json.loads(text)
        except ValueError as error:
            return Status(Code.INVALID_ARGUMENT, str(error))
        for key, value in given.items():
            if key not in KEYS or not isinstance(value, KEYS[key]):
                return Status(Code.INVALID_ARGUMENT, f"unknown or malformed: {key}")
            if key == "precision_config":
                for name, chosen in value.items():
                    if chosen not in PRECISION.get(name, ()):
                        return Status(Code.INVALID_ARGUMENT, f"{name} cannot be {chosen!r}")
            if isinstance(value, dict):
                self.values.setdefault(key, {}).update(value)
            else:
                self.values[key] = value
        return Status()


class CalibDataInterface:
    def __init__(self):
        pass


class _Drawn:
    """What the calibration data gave, as topfive measures files."""

    def __init__(self, samples):
        self.samples = samples
        self.names = [f"sample {i}" for i in range(len(samples))]

    def load(self, index):
        return self.samples[index]


class Calibrator:
    def __init__(self, data):
        (self.data,) = data
        if not isinstance(self.data, CalibDataInterface):
            raise TypeError("calibration data must be a CalibDataInterface")
        self.algorithm = None

    def set_quantization_algorithm(self, algorithm):
        self.algorithm = QuantizationAlgorithm(algorithm)
        return Status()

    def calibrate(self, network, config):
        if failing("calibrate"):
            return Status(Code.INTERNAL, "calibration failed")
        if not state["systems"] or state["active"] is None:
            return Status(Code.UNAVAILABLE, "no active device")
        samples = []
        if not self.data.reset().ok():
            return Status(Code.INTERNAL, "reset")
        while True:
            status = self.data.next()
            if not status.ok():
                if status.code is not Code.OUT_OF_RANGE:
                    return status
                break
            sample = self.data.get_sample()
            if self.data.get_data_type() is not DataType.FLOAT32 or sample.dtype != np.float32:
                return Status(Code.INVALID_ARGUMENT, "float32 samples are expected")
            if self.data.get_shape().sizes != list(sample.shape):
                return Status(Code.INVALID_ARGUMENT, "shape of a sample")
            samples.append(np.array(sample))
        if not samples:
            return Status(Code.INVALID_ARGUMENT, "no samples")
        linear = self.algorithm is QuantizationAlgorithm.LINEAR_ALGORITHM
        method = Method() if linear else Method("mse", symmetric=True)
        network.ranges = measure(network.model, _Drawn(samples), method, threads=1).ranges
        return Status()


class System:
    def __enter__(self):
        state["systems"] += 1
        return self

    def __exit__(self, *error):
        state["systems"] -= 1
        if not state["systems"]:
            state["active"] = None

    def device_count(self):
        return 0 if failing("no-device") else devices()


class Queue:
    def sync(self):
        return Status(Code.INTERNAL, "the queue failed") if failing("sync") else Status()


class Device:
    id = 0

    def active(self):
        if failing("active") or not state["systems"] or self.id >= devices():
            return Status(Code.UNAVAILABLE, f"device {self.id} is not available")
        state["active"] = self.id
        return Status()

    def create_queue(self):
        return None if failing("queue") else Queue()


class Builder:
    def build_model(self, name, network, config):
        if failing("build") or network.dims is None:
            return None
        values = config.values
        quant = values["precision_config"]["precision_mode"]
        granularity = values["precision_config"]["weight_quant_granularity"]
        model = network.model
        if "archs" not in values:
            return None
        if quant == "qint8_mixed_float16":
            if network.ranges is None:
                return None
            table = RangeTable(network.ranges)
            model = quantize_qdq(model, table, placement="magicmind", weights=granularity)
        twin = Mlu370SimTarget().configured({"weight_quant_granularity": granularity})
        with tempfile.TemporaryDirectory() as folder:
            twin.compile(model, quant, Path(folder))
            made = Model()
            made.data = (Path(folder) / "model.onnx").read_bytes()
        made.about = {
            "name": name,
            "quant": quant,
            "dims": network.dims,
            "range": values["dim_range"]["0"] if values["graph_shape_mutable"] else None,
            "archs": values["archs"],
            "layout": values["convert_input_layout"]["0"]["dst"],
        }
        return made


class EngineConfig:
    device_type = ""


class Model:
    EngineConfig = EngineConfig

    def serialize_to_file(self, path):
        if failing("serialize"):
            return Status(Code.INTERNAL, "cannot write")
        if failing("serialize-nothing"):
            return Status()
        Path(path).write_bytes(MAGIC + json.dumps(self.about).encode() + b"\n" + self.data)
        return Status()

    def deserialize_from_file(self, path):
        content = Path(path).read_bytes()
        if failing("deserialize") or not content.startswith(MAGIC):
            return Status(Code.INVALID_ARGUMENT, f"{path} is not a model")
        about, self.data = content[len(MAGIC) :].split(b"\n", 1)
        self.about = json.loads(about)
        return Status()

    def get_input_num(self):
        return 1

    def get_output_num(self):
        return 1

    def create_i_engine(self, config):
        fits = any(clusters() in counts for arch in self.about["archs"] for counts in arch.values())
        return None if failing("engine") or config.device_type != "MLU" or not fits else IEngine(self)


class IEngine:
    def __init__(self, model):
        self.model = model

    def create_i_context(self):
        return None if failing("context") else IContext(self.model)


class IRTTensor:
    def __init__(self, values=None):
        self.values, self.on_device = values, False

    def from_numpy(self, values):
        get_datatype_by_numpy(values.dtype)
        self.values, self.on_device = np.ascontiguousarray(values), False

    def to(self, device):
        if failing("to"):
            return Status(Code.INTERNAL, "copy failed")
        self.on_device = True
        return Status()

    def asnumpy(self):
        return self.values


class IContext:
    def __init__(self, model):
        self.about = model.about
        opener = open_as_written if self.about["quant"] == "qint8_mixed_float16" else open_float
        self.session = opener(onnx.load_model_from_string(model.data), 1)

    def create_inputs(self):
        return [IRTTensor()]

    def enqueue(self, inputs, outputs, queue):
        if failing("enqueue"):
            return Status(Code.INTERNAL, "enqueue failed")
        values = inputs[0].values
        if state["active"] is None or not inputs[0].on_device or values.dtype != np.float32:
            return Status(Code.INVALID_ARGUMENT, "input is not float32 on the device")
        if self.about["layout"] == "NHWC":
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        ends = self.about["range"] or {"min": self.about["dims"], "max": self.about["dims"]}
        low, high = np.array(ends["min"]), np.array(ends["max"])
        if values.ndim != len(low) or (values.shape < low).any() or (values.shape > high).any():
            return Status(Code.INVALID_ARGUMENT, f"{list(values.shape)} is outside dim_range")
        (found,) = self.session.run(None, {self.session.get_inputs()[0].name: values})
        outputs.append(IRTTensor(np.full_like(found, np.nan) if failing("nan") else found))
        return Status()
