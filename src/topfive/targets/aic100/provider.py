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
from topfive.targets.aic100.runner import BatchRunner
from topfive.targets.aic100.toolchain import binary_folder
from topfive.targets.aic100.work import INPUT, MODEL
from topfive.targets.base import Artifact

if TYPE_CHECKING:
    import onnxruntime as ort

    from topfive.targets.aic100.target import Aic100Target

__all__ = ["DEVICE_OPTIONS", "ProviderRunner", "settings", "write_settings"]

DEVICE_OPTIONS = ("device_id", "aic_device_id")
"""The documentation's samples use the first name, its table the second."""
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
    """A session on the device; nothing falls back to the CPU."""

    def __init__(self, artifact: Artifact, target: Aic100Target) -> None:
        super().__init__(artifact, target)
        if reason := provider_missing():
            raise RunError(reason)
        program = artifact.path / binary_folder(self.configuration)
        compiled = program if "program_sha256" in artifact.meta else None
        self._folder = Path(tempfile.mkdtemp(prefix="topfive-aic100-provider-"))
        try:
            device = int(target.setting("device"))
            found = settings(self.configuration, artifact.meta["symbols"], device, compiled)
            write_settings(self._folder / SETTINGS_FILE, found)
            self._session = self._opened(artifact.path / MODEL, device)
        except BaseException:
            self.close()
            raise

    def _opened(self, model: Path, device: int) -> ort.InferenceSession:
        """A session with the device's number under the one of its names that this provider knows."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        failures = []
        for name in DEVICE_OPTIONS:
            chosen = {"config": str(self._folder / SETTINGS_FILE), name: str(device)}
            try:
                session = ort.InferenceSession(
                    str(model), options, providers=[PROVIDER_NAME], provider_options=[chosen]
                )
            except Exception as error:
                failures.append(f"with {name}: {error}")
                if name not in str(error):
                    break
                continue
            if PROVIDER_NAME not in session.get_providers():
                raise RunError(
                    f"ONNX Runtime opened the model without {PROVIDER_NAME}: {session.get_providers()}"
                )
            return session
        raise RunError(f"{PROVIDER_NAME} cannot open the model", details="\n".join(failures))

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """One batch in the session."""
        try:
            (found,) = self._session.run(None, {INPUT: batch})
        except Exception as error:
            raise RunError(f"{PROVIDER_NAME} failed", details=str(error)) from error
        output = np.asarray(found, np.float32)
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
        """Remove the settings file."""
        shutil.rmtree(self._folder, ignore_errors=True)
