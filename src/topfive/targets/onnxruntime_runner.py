"""Running a compiled ONNX file through ONNX Runtime's CPU provider, for `cpu` and simulated targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from topfive.cache import file_sha256
from topfive.errors import RunError
from topfive.sessions import SHIFT, custom_operators, default_threads
from topfive.targets.base import Array, Artifact, Runner
from topfive.targets.onnxruntime_profile import OnnxRuntimeProfiler, Opener

__all__ = ["MODEL_FILE", "OnnxRuntimeRunner", "describe_input"]

MODEL_FILE = "model.onnx"
NUMPY_TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "uint8",
}


def describe_input(model: onnx.ModelProto) -> dict[str, Any]:
    """The one input's name, shape (symbols as text) and dtype, as artifacts store it."""
    constants = {t.name for t in model.graph.initializer}
    (value,) = [i for i in model.graph.input if i.name not in constants]
    dims = value.type.tensor_type.shape.dim
    shape = [d.dim_value if d.HasField("dim_value") else (d.dim_param or "batch") for d in dims]
    dtype = NUMPY_TYPES.get(value.type.tensor_type.elem_type, "?")
    return {"name": value.name, "shape": shape, "dtype": dtype, "layout": "NCHW"}


def _libraries(artifact: Artifact) -> list[Path]:
    """The artifact's libraries of custom operators; RunError for one that is not as it was built."""
    found = []
    for plugin in artifact.meta.get("plugins", ()):
        path = artifact.path / plugin["file"]
        if not path.is_file() or file_sha256(path) != plugin["sha256"]:
            raise artifact.located(RunError(f"{path} is not the library that the artifact was built with"))
        found.append(path)
    return found


class OnnxRuntimeRunner(Runner):
    """An artifact whose `model.onnx` runs whole in one session.

    `open_session` decides the kernels; tensors named in the artifact's `int8_tensors` are uint8 shifted by
    128 inside the graph and are given back as int8.
    """

    def __init__(self, artifact: Artifact, threads: int | None, open_session: Opener, kernels: str) -> None:
        super().__init__(artifact, threads or default_threads())
        self.kernels = kernels
        self._open = open_session
        self._file = artifact.path / MODEL_FILE
        self._libraries = _libraries(artifact)
        self._session = self._opened(self._file)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        self._with_outputs: dict[tuple[str, ...], ort.InferenceSession] = {}

    def _opened(self, model: Path | onnx.ModelProto) -> ort.InferenceSession:
        try:
            with custom_operators(self._libraries):
                return self._open(model, self.threads)
        except RunError as error:
            raise self.artifact.located(error) from None
        except Exception as error:
            failure = RunError("ONNX Runtime cannot load the compiled model", details=str(error))
            raise self.artifact.located(failure) from error

    def callable(self) -> Callable[[Array], Array]:
        """A function of one batch that is nothing but the session's run."""
        run, name, outputs = self._session.run, self._input, [self._output]

        def infer(batch: Array) -> Array:
            return run(outputs, {name: batch})[0]  # type: ignore[no-any-return]

        return infer

    def run(self, batch: Array) -> Array:
        """Run one batch; see Runner.run."""
        self._check(batch)
        try:
            return self.callable()(batch)
        except Exception as error:
            raise self.artifact.located(RunError("ONNX Runtime failed", details=str(error))) from error

    def exact_outputs(self, batch: Array) -> dict[str, NDArray[np.int8]]:
        """The int8 tensors that no inexact float operator comes before, last ones only."""
        return self._fetch(self.artifact.meta.get("exact_tensors", ()), batch)

    def run_exact(self, batch: Array) -> tuple[Array, dict[str, NDArray[np.int8]]]:
        """Both from one run; see Runner.run_exact."""
        names = self.artifact.meta.get("exact_tensors", ())
        if not names:
            return self.run(batch), {}
        found = self._fetch((*names, self._output), batch)
        return found.pop(self._output), found

    def tensors(self, batch: Array) -> dict[str, Array]:
        """Every tensor between nodes, by name in running order; int8 tensors as int8."""
        model = onnx.load(self._file)
        return self._fetch([name for node in model.graph.node for name in node.output if name], batch)

    def _fetch(self, names: Iterable[str], batch: Array) -> dict[str, Array]:
        wanted = tuple(names)
        if not wanted:
            return {}
        self._check(batch)
        if wanted not in self._with_outputs:
            model = onnx.load(self._file)
            del model.graph.output[:]
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
            self._with_outputs[wanted] = self._opened(model)
        values = self._with_outputs[wanted].run(list(wanted), {self._input: batch})
        shifted = set(self.artifact.meta.get("int8_tensors", ()))
        return {
            name: (value.astype(np.int16) - SHIFT).astype(np.int8) if name in shifted else value
            for name, value in zip(wanted, values, strict=True)
        }

    def profiler(self) -> OnnxRuntimeProfiler:
        """A second session that notes when each node runs. Raises RunError."""

        def open_runner(opener: Opener) -> OnnxRuntimeRunner:
            return OnnxRuntimeRunner(self.artifact, self.threads, opener, self.kernels)

        return OnnxRuntimeProfiler(self.artifact, self._open, open_runner)

    def describe(self) -> dict[str, Any]:
        """Threads, kernels and version."""
        return {"threads": self.threads, "kernels": self.kernels, "onnxruntime": ort.__version__}

    def close(self) -> None:
        """Drop the sessions."""
        self._with_outputs.clear()
