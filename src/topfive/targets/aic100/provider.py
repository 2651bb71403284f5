"""The second way to run: ONNX Runtime's QAic provider, configured by a file of settings.

Options and keys are those of the provider's documentation (quic/cloud-ai-sdk-pages, "ONNXRT QAIC"): provider
options `config` and the device's number; keys of the settings as `KEYS` lists them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topfive.errors import RunError
from topfive.targets.aic100.configuration import Configuration
from topfive.targets.aic100.probe import PROVIDER_NAME, provider_missing
from topfive.targets.aic100.runner import BatchRunner, check_tools
from topfive.targets.aic100.toolchain import binary_folder
from topfive.targets.aic100.work import MODEL, PROGRAM
from topfive.targets.base import Artifact
from topfive.targets.device_session import DeviceSession, open_session
from topfive.targets.tools import check_compiled

if TYPE_CHECKING:
    from topfive.targets.aic100.target import Aic100Target

__all__ = ["ProviderRunner", "settings", "write_settings"]

OPENER = "topfive.targets.aic100.provider_session:ProviderSession"
SETTINGS_FILE = "settings.yaml"
# Flags of the compiler that the settings have too.
FLAGS = (
    "multicast-weights",
    "aic-enable-depth-first",
    "aic-depth-first-mem",
    "allocator-dealloc-delay",
    "size-split-granularity",
)


def settings(
    configuration: Configuration, symbols: Mapping[str, int], device: int, program: Path | None
) -> dict[str, str | int | bool]:
    """The keys of the settings file. program: the folder of a compiled program; None to compile now.

    Raises RunError for a flag of the compiler that has no key, unless the program is compiled already.
    """
    found: dict[str, str | int | bool] = {
        "device-id": device,
        "set-size": configuration.set_size,
        "aic-num-of-activations": configuration.instances,
        "aic-num-cores": configuration.cores,
        "batchsize": configuration.batch_size,
        "convert-to-fp16": True,
        "aic-hw": True,
        "ols": configuration.ols,
    }
    if configuration.mos:
        found["mos"] = configuration.mos
    if symbols:
        found["onnx-define-symbol"] = " ".join(f"{name},{value}" for name, value in symbols.items())
    if program is not None:
        found["aic-binary-dir"] = str(program)
    for flag in configuration.extra:
        name, separator, value = flag.lstrip("-").partition("=")
        if name in FLAGS:
            found[name] = value if separator else True
        elif program is None:
            raise RunError(f"ONNX Runtime's provider has no setting for the compiler's flag {flag}")
    return found


def write_settings(path: Path, found: Mapping[str, str | int | bool]) -> None:
    """Write settings as YAML, a key a line; text is quoted as JSON is, which YAML reads."""
    lines = []
    for name, value in found.items():
        plain = not isinstance(value, str) or value.isdecimal()
        lines.append(f"{name}: {value if plain else json.dumps(value)}\n")
    path.write_text("".join(lines), encoding="utf-8")


class ProviderRunner(BatchRunner):
    """A session on the device, in a process apart unless `process` says otherwise."""

    def __init__(self, artifact: Artifact, target: Aic100Target) -> None:
        super().__init__(artifact, target)
        if reason := provider_missing():
            raise RunError(reason)
        check_tools(artifact, target.simulation(), PROVIDER_NAME)
        compiled = self._program()
        self._session: DeviceSession | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="topfive-aic100-provider-"))
        try:
            self._session = self._opened(compiled)
        except BaseException:
            self.close()
            raise

    def _program(self) -> Path | None:
        """The folder of the compiled program, if there is one: it must be the one that was compiled."""
        stored = self.artifact.meta.get("program_sha256")
        if stored is None:
            return None
        folder = self.artifact.path / binary_folder(self.configuration)
        check_compiled(folder / PROGRAM, stored)
        return folder

    def _opened(self, program: Path | None) -> DeviceSession:
        device = int(self.target.setting("device"))
        found = settings(self.configuration, self.artifact.meta["symbols"], device, program)
        write_settings(self._folder / SETTINGS_FILE, found)
        job = {
            "model": str(self.artifact.path / MODEL),
            "settings": str(self._folder / SETTINGS_FILE),
            "device": device,
        }
        limit = float(self.target.setting("run-limit"))
        compiling = float(self.target.setting("compile-limit")) if program is None else 0.0
        return open_session(
            OPENER,
            job,
            library=PROVIDER_NAME,
            process=self.target.setting("process"),
            seconds=limit,
            opening=limit + compiling,
            longer="--option run-limit=SECONDS" + (" or compile-limit=SECONDS" if compiling else ""),
        )

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """One batch in the session."""
        assert self._session is not None
        output = np.asarray(self._session.infer(batch), np.float32)
        if output.shape != self.output_shape:
            raise RunError(f"{PROVIDER_NAME} gave {list(output.shape)}, not {list(self.output_shape)}")
        return output

    def describe(self) -> dict[str, Any]:
        """The provider and the configuration."""
        import onnxruntime as ort

        return super().describe() | {
            "kernels": f"{PROVIDER_NAME} {self.configuration.motif}",
            "onnxruntime": ort.__version__,
            "configuration": self.configuration.as_json(),
        }

    def close(self) -> None:
        """Give the device back, and remove the settings file."""
        if self._session is not None:
            self._session.close()
        shutil.rmtree(self._folder, ignore_errors=True)
