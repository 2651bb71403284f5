"""topfive's emulated onnxruntime with the QAic provider: the one that is installed, and a stand-in beside it.

It takes the place of the installed package, which it imports from the rest of sys.path, and checks strictly
what a session is told. The provider computes as `aic100_sim` does. TOPFIVE_EMULATED_AIC100 (see common.py)
may hold
  device_option  the name that this build knows the device's number by (default device_id)
  failure        provider_falls_back, provider_open, provider_run, provider_hang_open, provider_hang_run,
                 provider_dies, provider_shape
  asked          a file to which what a session was told is written
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAME = "QAicExecutionProvider"
KEYS = {
    "aic-binary-dir": str,
    "device-id": int,
    "set-size": int,
    "aic-num-of-activations": int,
    "aic-num-cores": int,
    "batchsize": int,
    "convert-to-fp16": bool,
    "aic-hw": bool,
    "mos": (int, str),
    "ols": int,
    "multicast-weights": bool,
    "aic-enable-depth-first": bool,
    "aic-depth-first-mem": int,
    "onnx-define-symbol": str,
}
HERE = Path(__file__).resolve().parent.parent


def installed() -> Any:
    """The package that this one hides, in its place among the modules."""
    path, words = list(sys.path), __doc__
    sys.path[:] = [entry for entry in path if Path(entry or ".").resolve() != HERE]
    del sys.modules[__name__]
    try:
        found = importlib.import_module("onnxruntime")
    finally:
        sys.path[:] = path
    found.__doc__ = words
    return found


def told() -> dict[str, Any]:
    sys.path.insert(0, str(HERE.parent))
    try:
        import common
    finally:
        sys.path.remove(str(HERE.parent))
    return {"device_option": "device_id", "asked": "", **common.state()}


def hang() -> None:
    """Deaf to everything, in C, with the interpreter's lock held."""
    import ctypes

    ctypes.PyDLL(None).sleep(600)


def read_settings(path: str) -> dict[str, Any]:
    """The settings of a YAML file with a plain value a key."""
    found = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, text = line.partition(": ")
        value = {"True": True, "False": False}.get(text)
        found[key] = json.loads(text) if value is None else value
        if key not in KEYS or not isinstance(found[key], KEYS[key]):
            raise RuntimeError(f"model settings: {line!r}")
    return found


class Session:
    """A model open in the provider."""

    def __init__(
        self, model: str, options: Any, providers: Sequence[str], provider_options: Sequence[dict[str, str]]
    ) -> None:
        now = told()
        failure, name = now["failure"], now["device_option"]
        (chosen,) = provider_options
        unknown = sorted(set(chosen) - {"config", name})
        if list(providers) != [NAME] or unknown:
            raise RuntimeError(f"Unknown provider option: {', '.join(unknown) or providers}")
        if options.get_session_config_entry("session.disable_cpu_ep_fallback") != "1":
            raise RuntimeError("the model may fall back to the CPU")
        self._settings = read_settings(chosen["config"])
        if now["asked"]:
            text = json.dumps({"chosen": chosen, "settings": self._settings})
            Path(now["asked"]).write_text(text, encoding="utf-8")
        if int(chosen[name]) != self._settings["device-id"] or int(chosen[name]) not in now["devices"]:
            raise RuntimeError(f"Failed to open device {chosen[name]}")
        if failure == "provider_hang_open":
            hang()
        if failure == "provider_open":
            raise RuntimeError("Failed to load the program: not enough NSPs")
        self._falls_back = failure == "provider_falls_back"
        self._session = lowered(model)

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"] if self._falls_back else [NAME, "CPUExecutionProvider"]

    def run(self, outputs: None, inputs: dict[str, Any]) -> list[Any]:
        failure = told()["failure"]
        if failure == "provider_hang_run":
            hang()
        if failure == "provider_dies":
            import os
            import signal

            os.kill(os.getpid(), signal.SIGSEGV)
        if failure == "provider_run":
            raise RuntimeError("device lost")
        (batch,) = inputs.values()
        if len(batch) != self._settings["batchsize"]:
            raise RuntimeError(f"a batch of {len(batch)}, not {self._settings['batchsize']}")
        found = list(self._session.run(outputs, inputs))
        return [value[:, 1:] for value in found] if failure == "provider_shape" else found


def lowered(model: str) -> Any:
    import onnx

    from topfive.targets.cpu_sessions import open_float
    from topfive.targets.twins.lowering import lower_twin

    return open_float(lower_twin(onnx.load(model), half=True).model, 1)


def add_provider(ort: Any) -> None:
    """Let the package have the provider, too."""
    others, real = ort.get_available_providers, ort.InferenceSession

    def session(*arguments: Any, **named: Any) -> Any:
        return (Session if NAME in named.get("providers", ()) else real)(*arguments, **named)

    ort.get_available_providers = lambda: [NAME, *others()]
    ort.InferenceSession = session


add_provider(installed())
