"""Targets by name, found through the entry points of the group `topfive.targets`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from topfive.errors import UnknownNameError
from topfive.targets.base import QUANT_MODES, Artifact, Runner, Target, TargetOption

__all__ = ["QUANT_MODES", "Artifact", "Runner", "Target", "TargetOption", "get", "names"]

GROUP = "topfive.targets"


@cache
def names() -> tuple[str, ...]:
    """Every installed target's name, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


@cache
def get(name: str) -> Target:
    """The target of this name; UnknownNameError names the nearest."""
    for point in entry_points(group=GROUP):
        if point.name == name:
            target: Target = point.load()()
            return target
    raise UnknownNameError("target", name, names())
