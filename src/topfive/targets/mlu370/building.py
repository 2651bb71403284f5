"""Parse, calibrate, build and serialise through MagicMind's Python API. Runs in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.cache import file_sha256
from topfive.errors import CompileError
from topfive.targets.mlu370 import library
from topfive.targets.mlu370.library import checked, present

__all__ = ["ALGORITHMS", "build", "calibration_data"]

ALGORITHMS = {"linear": "LINEAR_ALGORITHM", "eqnm": "EQNM_ALGORITHM"}


def calibration_data(mm: Any, get_datatype: Any, samples: Sequence[NDArray[np.float32]]) -> Any:
    """Calibration data as MagicMind asks for it: an object of a class derived from CalibDataInterface.

    samples: [1, C, H, W] float32 each. `next` loads one, and says OUT_OF_RANGE after the last.
    """

    class CalibrationData(mm.CalibDataInterface):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._next = 0
            self._sample: NDArray[np.float32] = samples[0]

        def next(self) -> Any:
            if self._next >= len(samples):
                return mm.Status(mm.Code.OUT_OF_RANGE, "no more samples")
            self._sample = np.ascontiguousarray(samples[self._next])
            self._next += 1
            return mm.Status()

        def get_shape(self) -> Any:
            return mm.Dims(self._sample.shape)

        def get_data_type(self) -> Any:
            return get_datatype(self._sample.dtype)

        def get_sample(self) -> Any:
            return self._sample

        def reset(self) -> Any:
            self._next = 0
            return mm.Status()

    return CalibrationData()


def build(job: Mapping[str, Any]) -> dict[str, Any]:
    """Make the model file that a job describes.

    job: `model` (ONNX file), `output` (file to write), `name`, `dims` (NCHW with the batch), `configuration`
    (JSON strings), `samples` (a .npy file, [n, C, H, W] float32, or ""), `algorithm`, `device`. Raises
    CompileError naming the call of MagicMind that failed.
    """
    mm = library.runtime()
    network = mm.Network()
    parser = library.parser_class()(mm.ModelKind.kOnnx)
    checked(parser.parse(network, job["model"]), "Parser.parse", CompileError)
    dims = mm.Dims(tuple(job["dims"]))
    checked(network.get_input(0).set_dimension(dims), "ITensor.set_dimension", CompileError)
    config = mm.BuilderConfig()
    for step in job["configuration"]:
        checked(config.parse_from_string(step), f"BuilderConfig.parse_from_string({step!r})", CompileError)
    with ExitStack() as stack:
        if job["samples"]:
            _calibrate(mm, network, config, job, stack)
        builder = mm.Builder()
        model = present(
            builder.build_model(job["name"], network, config), "Builder.build_model", CompileError
        )
        checked(model.serialize_to_file(job["output"]), "Model.serialize_to_file", CompileError)
    if not Path(job["output"]).is_file():
        raise CompileError(f"MagicMind's Model.serialize_to_file is ok but wrote no {job['output']}")
    return {"bytes": Path(job["output"]).stat().st_size, "sha256": file_sha256(Path(job["output"]))}


def _calibrate(mm: Any, network: Any, config: Any, job: Mapping[str, Any], stack: ExitStack) -> None:
    """Let MagicMind find the ranges of activations: that needs a device."""
    samples = [row[None] for row in np.load(job["samples"], allow_pickle=False)]
    data = calibration_data(mm, library.datatypes().get_datatype_by_numpy, samples)
    calibrator = present(mm.Calibrator([data]), "Calibrator", CompileError)
    algorithm = getattr(mm.QuantizationAlgorithm, ALGORITHMS[job["algorithm"]])
    checked(
        calibrator.set_quantization_algorithm(algorithm),
        "Calibrator.set_quantization_algorithm",
        CompileError,
    )
    opened(mm, job["device"], stack, CompileError)
    checked(calibrator.calibrate(network, config), "Calibrator.calibrate", CompileError)


def opened(mm: Any, number: int, stack: ExitStack, error: type[CompileError] | Any) -> Any:
    """A device, active as long as the stack is open. Raises `error` when there is no such device."""
    system = stack.enter_context(mm.System())
    count = int(system.device_count())
    if number >= count:
        raise error(f"MagicMind finds {count} devices: there is no device {number}")
    device = mm.Device()
    device.id = number
    checked(device.active(), "Device.active", error)
    return device
