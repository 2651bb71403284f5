"""A case as the command line names it: MODEL:TARGET:QUANT[:OPTION=VALUE...]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FORM", "OF_MODEL", "NamedCase", "parse_case"]

OF_MODEL = "TARGET:QUANT[:OPTION=VALUE...]"
FORM = f"MODEL:{OF_MODEL}"


@dataclass(frozen=True)
class NamedCase:
    """What to build, as the arguments of `topfive.build`."""

    model: str
    target: str
    quant: str
    options: Mapping[str, str]


def parse_case(text: str, model: str = "") -> NamedCase | None:
    """The case that a text names; of `model`, if given, the rest of the form. None for another form."""
    named, *parts = ([model] if model else []) + text.split(":")
    options = parts[2:]
    if len(parts) < 2 or not all((named, *parts[:2])) or not all("=" in option for option in options):
        return None
    return NamedCase(named, parts[0], parts[1], dict(option.partition("=")[::2] for option in options))
