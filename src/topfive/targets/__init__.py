"""Targets by name, found through the entry points of the group `topfive.targets`.

A name may choose options, as `mlu370_sim+weight_quant_granularity=per_axis` does. That is a variant, which is
a target of its own wherever cases are told apart: in ids of tests, goldens, records, tables.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from topfive.errors import OptionError, UnknownNameError
from topfive.targets.base import CHOOSES, QUANT_MODES, Artifact, Runner, Target, TargetOption, variant_name

__all__ = [
    "QUANT_MODES",
    "Artifact",
    "Runner",
    "Target",
    "TargetOption",
    "get",
    "names",
    "plain_name",
    "split_name",
]

GROUP = "topfive.targets"
FORM = "TARGET+OPTION=VALUE[+OPTION=VALUE...]"


@cache
def names() -> tuple[str, ...]:
    """Every installed target's name, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def plain_name(name: str) -> str:
    """The name of a target, without the options that a variant's name chooses."""
    return name.partition(CHOOSES)[0]


def split_name(name: str) -> tuple[str, dict[str, str]]:
    """(a target's name, the options that the name chooses). OptionError for another form."""
    plain, *chosen = name.split(CHOOSES)
    if not all(option and separator for option, separator, _ in (text.partition("=") for text in chosen)):
        raise OptionError(f"target {name!r} is not of the form {FORM}")
    return plain, dict(text.partition("=")[::2] for text in chosen)


@cache
def get(name: str) -> Target:
    """The target of this name, configured as a variant's name says.

    Raises UnknownNameError naming the nearest, OptionError for an option that it has not, and for a variant
    that is not named in the one way: options in order, none that is the default.
    """
    plain, chosen = split_name(name)
    point = next((point for point in entry_points(group=GROUP) if point.name == plain), None)
    if point is None:
        raise UnknownNameError("target", plain, names())
    target: Target = point.load()()
    if not chosen:
        return target
    target = target.configured(chosen)
    proper = variant_name(plain, target.settings)
    if proper != name:
        raise OptionError(f"target {name!r} must be written {proper!r}")
    return target
