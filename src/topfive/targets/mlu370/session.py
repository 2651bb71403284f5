"""A MagicMind model in its runtime: engine, context and queue of one device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from topfive.errors import RunError
from topfive.targets.base import Array
from topfive.targets.device_session import DeviceSession
from topfive.targets.mlu370 import library
from topfive.targets.mlu370.building import opened
from topfive.targets.mlu370.library import checked, present

__all__ = ["OPENER", "MluSession"]

OPENER = "topfive.targets.mlu370.session:MluSession"


class MluSession(DeviceSession):
    """job: `model` (the model file), `device` (its number). Batches are NCHW, the model's NHWC."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._stack = ExitStack()
        try:
            self._open(job)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, job: Mapping[str, Any]) -> None:
        mm = library.runtime()
        model = mm.Model()
        checked(model.deserialize_from_file(job["model"]), "Model.deserialize_from_file", RunError)
        self._device = opened(mm, job["device"], self._stack, RunError)
        config = mm.Model.EngineConfig()
        config.device_type = "MLU"
        engine = present(model.create_i_engine(config), "Model.create_i_engine", RunError)
        self._context = present(engine.create_i_context(), "IEngine.create_i_context", RunError)
        self._queue = present(self._device.create_queue(), "Device.create_queue", RunError)
        self._inputs = present(self._context.create_inputs(), "IContext.create_inputs", RunError)
        # The context uses both as long as it lives.
        self._held = (model, engine)

    def infer(self, batch: Array) -> Array:
        """One batch: to the device, enqueue, wait, back."""
        outputs: list[Any] = []
        self._inputs[0].from_numpy(np.ascontiguousarray(batch.transpose(0, 2, 3, 1)))
        checked(self._inputs[0].to(self._device), "IRTTensor.to", RunError)
        checked(self._context.enqueue(self._inputs, outputs, self._queue), "IContext.enqueue", RunError)
        checked(self._queue.sync(), "Queue.sync", RunError)
        if len(outputs) != 1:
            raise RunError(f"MagicMind's IContext.enqueue gave {len(outputs)} outputs, not one")
        return np.asarray(outputs[0].asnumpy())

    def close(self) -> None:
        """Give the device back."""
        self._stack.close()
