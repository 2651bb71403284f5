"""A stand-in for an onnxruntime built with the QAic provider: what a session is told is checked strictly.

It computes as `aic100_sim` does. `Provider(known).session` takes the place of onnxruntime.InferenceSession.
"""

from __future__ import annotations

import json
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


class Provider:
    """One build of the provider.

    device_option: the name that it knows the device's number by. falls_back: opens sessions on the CPU
    instead. failure: what it says instead of running.
    """

    def __init__(self, device_option: str, *, falls_back: bool = False, failure: str = "") -> None:
        self.device_option = device_option
        self.falls_back = falls_back
        self.failure = failure
        self.settings: dict[str, Any] = {}
        self.asked: list[dict[str, str]] = []

    def session(
        self, model: str, options: Any, providers: Sequence[str], provider_options: Sequence[dict[str, str]]
    ) -> Session:
        """As InferenceSession(model, options, providers=[NAME], provider_options=[{...}])."""
        assert list(providers) == [NAME]
        (chosen,) = provider_options
        self.asked.append(chosen)
        if set(chosen) - {"config", self.device_option}:
            raise RuntimeError(f"Unknown provider option: {(set(chosen) - {'config'}).pop()}")
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        self.settings = read_settings(chosen["config"])
        assert self.settings["device-id"] == int(chosen[self.device_option])
        return Session(self, model)


class Session:
    """An open model."""

    def __init__(self, provider: Provider, model: str) -> None:
        import onnx

        from topfive.targets.cpu_sessions import open_float
        from topfive.targets.twins.lowering import lower_twin

        self._provider = provider
        self._session = open_float(lower_twin(onnx.load(model), half=True).model, 1)

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"] if self._provider.falls_back else [NAME, "CPUExecutionProvider"]

    def run(self, outputs: None, inputs: dict[str, Any]) -> list[Any]:
        if self._provider.failure:
            raise RuntimeError(self._provider.failure)
        (batch,) = inputs.values()
        assert len(batch) == self._provider.settings["batchsize"]
        return list(self._session.run(outputs, inputs))
