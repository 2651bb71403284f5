"""A model open in ONNX Runtime's QAic provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from topfive.errors import RunError
from topfive.targets.aic100.probe import PROVIDER_NAME
from topfive.targets.aic100.work import INPUT
from topfive.targets.base import Array
from topfive.targets.device_session import DeviceSession

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["DEVICE_OPTIONS", "ProviderSession"]

DEVICE_OPTIONS = ("device_id", "aic_device_id")
"""The documentation's samples use the first name, its table the second."""


class ProviderSession(DeviceSession):
    """job: `model` (an ONNX file), `settings` (a file of the provider's), `device` (its number).

    Nothing falls back to the CPU.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self._session = _opened(job, options)

    def infer(self, batch: Array) -> Array:
        """One batch in the session."""
        try:
            (found,) = self._session.run(None, {INPUT: batch})
        except Exception as error:
            raise RunError(f"{PROVIDER_NAME} failed", details=str(error)) from error
        return np.asarray(found)

    def close(self) -> None:
        """The session goes with the process, or with the last name of it."""
        del self._session


def _opened(job: Mapping[str, Any], options: ort.SessionOptions) -> ort.InferenceSession:
    """A session with the device's number under the one of its names that this provider knows."""
    import onnxruntime as ort

    failures = []
    for name in DEVICE_OPTIONS:
        chosen = {"config": job["settings"], name: str(job["device"])}
        try:
            session = ort.InferenceSession(
                job["model"], options, providers=[PROVIDER_NAME], provider_options=[chosen]
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
