"""A model that a vendor's runtime holds open: in this process, or in one of its own that can be ended."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from topfive.targets.base import Array, TargetOption

__all__ = ["APART", "LONGER", "OWN", "DeviceSession", "found_class", "open_session", "process_option"]

APART, OWN = "apart", "own"
LONGER = "--option run_limit=SECONDS"


class DeviceSession(ABC):
    """A vendor's runtime with one model, open until `close`; made from one JSON-able job."""

    @abstractmethod
    def infer(self, batch: Array) -> Array:
        """The model's output for one batch, [N, ...] each. Raises RunError naming the vendor's call."""

    def tensors(self, batch: Array) -> dict[str, Array]:
        """Every tensor between the model's nodes for one batch; {} where the runtime cannot tell."""
        return {}

    def measure(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """What the runtime itself measures; plan and result are JSON-able. Raises RunError without that."""
        raise NotImplementedError(f"{type(self).__name__} measures nothing")

    @abstractmethod
    def close(self) -> None:
        """Give back what the runtime holds."""


def process_option(limit: str = "run_limit") -> TargetOption:
    """The option `process` of a target whose runs are calls of a library. limit: its option for seconds."""
    text = f"where the library runs: in a process apart, which {limit} bounds, or in topfive's own"
    return TargetOption((APART, OWN), APART, text, running=True)


def open_session(
    opener: str,
    job: Mapping[str, Any],
    *,
    library: str,
    process: str,
    seconds: float,
    opening: float | None = None,
    longer: str = LONGER,
) -> DeviceSession:
    """Open a session.

    opener: "module:class" of a DeviceSession that takes the job. library: how messages call what it runs.
    process: APART or OWN. seconds: the time limit of opening it and of each batch, in a process apart.
    opening: that of opening it, where it is another. longer: what messages name that allows more. Raises
    RunError.
    """
    if process == OWN:
        session: DeviceSession = found_class(opener)(job)
        return session
    from topfive.targets.apart import ApartSession

    return ApartSession(opener, job, library=library, seconds=seconds, opening=opening, longer=longer)


def found_class(opener: str) -> type[Any]:
    """The class that "module:class" names."""
    module, _, name = opener.partition(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found
