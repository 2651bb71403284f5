"""topfive's emulated TensorRT: the documented Python API of 10.x or 11.x, its arithmetic on the CPU.

TOPFIVE_EMULATED_TENSORRT: the version it says it is (default 10.13.3.9; from 11 on, without implicit int8,
calibrators and precision flags). TOPFIVE_EMULATED_FAILURE: a step that fails as documented, see `failing`.
TOPFIVE_EMULATED_GPU: "name, driver, capability" of the GPU; "none" for no GPU.
TOPFIVE_EMULATED_SECOND_GPU: the same of another one.
"""

import enum
import json
import os
import time
from pathlib import Path

import numpy as np
import onnx
from emulated_version import MAJOR, VERSION

__version__ = VERSION
FAILURE = "TOPFIVE_EMULATED_FAILURE"
MAGIC = b"emulated TensorRT engine\n"


def failing(step):
    """Whether a step is to fail; "hang:STEP" never comes back from it, "die:STEP" ends the process."""
    wanted = os.environ.get(FAILURE, "")
    if wanted == f"hang:{step}":
        time.sleep(3600)
    if wanted == f"die:{step}":
        os._exit(77)
    return wanted == step


def gpu():
    return os.environ.get("TOPFIVE_EMULATED_GPU", "Emulated GPU, 580.10, 9.0")


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    INT64 = 4


float32, float16, int8, int32, int64 = DataType
TYPES = {"float32": float32, "float16": float16, "int64": int64, "int32": int32}


def nptype(kind):
    return {float32: np.float32, float16: np.float16, int8: np.int8, int32: np.int32, int64: np.int64}[kind]


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


FLAGS = {"TF32": 7, "DEBUG": 2, **({"FP16": 0, "INT8": 1, "BF16": 17} if MAJOR < 11 else {})}
BuilderFlag = enum.Enum("BuilderFlag", FLAGS)


class _Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = _Severity

    def __init__(self):
        self.base_made = True


if MAJOR < 11:

    class IInt8Calibrator:
        algorithm = ""

        def __init__(self):
            self.base_made = True

    class IInt8EntropyCalibrator2(IInt8Calibrator):
        algorithm = "EntropyCalibration2"

    class IInt8MinMaxCalibrator(IInt8Calibrator):
        algorithm = "MinMaxCalibration"


def init_libnvinfer_plugins(logger, namespace):
    return True


class _Registry:
    def load_library(self, path):
        if not Path(path).is_file() or b"plugin" not in Path(path).read_bytes():
            raise RuntimeError(f"Unable to open library: {path}")
        return object()


def get_plugin_registry():
    return _Registry()


class INetworkDefinition:
    def __init__(self):
        self.model = None


class IOptimizationProfile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, best, most):
        self.shapes[name] = [list(least), list(best), list(most)]


class IBuilderConfig:
    def __init__(self):
        # As documented, TF32 is on unless it is cleared.
        self.flags = {BuilderFlag.TF32}
        self.profiles = []
        self.calibration_profile = None
        if MAJOR < 11:
            self.int8_calibrator = None

    def __setattr__(self, name, value):
        if name == "int8_calibrator" and MAJOR >= 11:
            raise AttributeError(name)
        super().__setattr__(name, value)

    def set_flag(self, flag):
        self.flags.add(BuilderFlag(flag))

    def clear_flag(self, flag):
        self.flags.discard(BuilderFlag(flag))

    def set_memory_pool_limit(self, pool, size):
        MemoryPoolType(pool)

    def add_optimization_profile(self, profile):
        if failing("profile"):
            return -1
        ordered = all(
            all(a <= b <= c for a, b, c in zip(*ends, strict=True)) for ends in profile.shapes.values()
        )
        if not ordered:
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    if MAJOR < 11:

        def set_calibration_profile(self, profile):
            self.calibration_profile = profile
            return not failing("calibration-profile")


class _Error:
    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.errors = network, []

    @property
    def num_errors(self):
        return len(self.errors)

    def get_error(self, index):
        return self.errors[index]

    def parse_from_file(self, path):
        if failing("parse"):
            self.errors.append(_Error("In node 3 (importNode): UNSUPPORTED_NODE"))
            return False
        try:
            self.network.model = onnx.load(path)
            onnx.checker.check_model(self.network.model)
        except Exception as error:
            self.errors.append(_Error(str(error)))
            return False
        return True


class Builder:
    platform_has_fast_fp16 = True

    def __init__(self, logger):
        if not isinstance(logger, ILogger) or not getattr(logger, "base_made", False):
            raise TypeError("the logger must be an ILogger that is initialised")
        if gpu() == "none":
            raise RuntimeError("CUDA initialization failure with error: 100")
        self.logger = logger

    def create_network(self, flags=0):
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        if failing("build"):
            self.logger.log(
                ILogger.Severity.ERROR, "Error Code 10: Could not find any implementation for node"
            )
            return None
        from tensorrt import arithmetic

        made = arithmetic.build(network.model, config, self.logger)
        if made is None:
            return None
        return memoryview(arithmetic.packed(made, config, network.model))


class _Engine:
    def __init__(self, about, data):
        from tensorrt import arithmetic

        self.about = about
        self.session = arithmetic.opened(about, data)
        self.io = [self.session.get_inputs()[0].name, self.session.get_outputs()[0].name]
        self.num_io_tensors = 2

    def get_tensor_name(self, index):
        return self.io[index]

    def get_tensor_mode(self, name):
        return (TensorIOMode.INPUT, TensorIOMode.OUTPUT)[self.io.index(name)]

    def get_tensor_dtype(self, name):
        values = [*self.session.get_inputs(), *self.session.get_outputs()]
        (kind,) = [value.type for value in values if value.name == name]
        return {"tensor(float)": float32, "tensor(int64)": int64, "tensor(float16)": float16}[kind]

    def create_execution_context(self):
        return None if failing("context") else IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine):
        self.engine, self.shape, self.addresses = engine, None, {}

    def set_input_shape(self, name, shape):
        ends = self.engine.about["profile"]
        fits = name == self.engine.io[0] and all(
            a <= s <= b for a, s, b in zip(ends[0], shape, ends[2], strict=True)
        )
        if failing("shape") or not fits:
            return False
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        if name == self.engine.io[0]:
            return self.shape
        return (self.shape[0], *self.engine.about["output"])

    def set_tensor_address(self, name, address):
        from cuda.bindings import runtime

        if failing("address") or address not in runtime.DEVICE:
            return False
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        from cuda.bindings import runtime

        if failing("execute") or set(self.addresses) != set(self.engine.io):
            return False
        source, found = (runtime.DEVICE[self.addresses[name]] for name in self.engine.io)
        count = int(np.prod(self.shape))
        batch = source[: 4 * count].view(np.float32).reshape(self.shape)
        (output,) = self.engine.session.run(None, {self.engine.io[0]: np.array(batch)})
        if failing("nan"):
            output = np.full_like(output, np.nan)
        found[: output.nbytes] = np.ascontiguousarray(output).view(np.uint8).reshape(-1)
        return True


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, content):
        content = bytes(content)
        if failing("deserialize") or not content.startswith(MAGIC):
            self.logger.log(
                ILogger.Severity.ERROR, "Error Code 1: Serialization assertion magicTagRead failed"
            )
            return None
        about, data = content[len(MAGIC) :].split(b"\n", 1)
        about = json.loads(about)
        if about["version"] != __version__:
            text = (
                "Error Code 6: the engine plan file is not compatible with this version of TensorRT, "
                f"expecting {__version__} got {about['version']}"
            )
            self.logger.log(ILogger.Severity.ERROR, text)
            return None
        from cuda.bindings import runtime

        if about["gpu"] != runtime.current():
            text = "Error Code 6: the engine plan file is generated on an incompatible device"
            self.logger.log(ILogger.Severity.ERROR, text)
            return None
        return _Engine(about, data)
