"""`bench/suite.toml`: which models each kind of test runs when nobody says, and how long it measures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from topfive import targets
from topfive.cards.schema import fill, read_toml
from topfive.errors import CardError, TopfiveError
from topfive.targets.base import QUANT_MODES

__all__ = ["KINDS", "Kind", "Settings", "Variant", "read_settings"]

KINDS = ("golden", "latency", "throughput", "accuracy", "scenario")
"""Kinds of test; each is a marker, and a test of a kind is parametrised with cases."""


@dataclass(frozen=True)
class Kind:
    """Settings of one kind of test.

    models: names, globs, or "tag:NAME". batches: sizes for tests that ask for `batch`. max_seconds and
    least_rounds bound a measurement: it stops after max_seconds, but never before least_rounds calls.
    """

    models: tuple[str, ...] = ("tag:bundled",)
    batches: tuple[int, ...] = (1,)
    max_seconds: float = 1.0
    least_rounds: int = 5


@dataclass(frozen=True)
class Emulated:
    """What emulated targets run of it all, because they are thousands of times slower.

    models: as for a kind, when nobody asks for others. pictures: golden pictures, the first of the card's.
    least_rounds: of a measurement, which is at batch 1 only.
    """

    models: tuple[str, ...] = ("tag:bundled",)
    pictures: int = 8
    least_rounds: int = 3


@dataclass(frozen=True)
class Functional:
    """How long functional targets are measured, whose times mean nothing: at one batch size only."""

    max_seconds: float = 0.1
    least_rounds: int = 3


@dataclass(frozen=True)
class Variant:
    """A target with options chosen, that tests of some kinds run beside the target as it comes.

    target: its name, as `topfive.targets` reads it. quants: the quant modes that its options change.
    """

    target: str
    quants: tuple[str, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """Settings of every kind, and variants of targets (tables [[variant]])."""

    golden: Kind = field(default_factory=Kind)
    latency: Kind = field(default_factory=Kind)
    throughput: Kind = field(default_factory=Kind)
    accuracy: Kind = field(default_factory=Kind)
    scenario: Kind = field(default_factory=Kind)
    emulated: Emulated = field(default_factory=Emulated)
    functional: Functional = field(default_factory=Functional)
    variants: tuple[Variant, ...] = ()

    def of(self, kind: str) -> Kind:
        """The settings of a kind."""
        found: Kind = getattr(self, kind)
        return found


def read_settings(path: Path) -> Settings:
    """The settings in a file, or the defaults (all bundled models) if there is no such file; CardError."""
    if not path.is_file():
        return Settings()
    table = read_toml(path)
    variants = _variants(table.pop("variant", []), path)
    settings = replace(fill(Settings, table, path), variants=variants)
    for name in KINDS:
        kind = settings.of(name)
        if any(batch < 1 for batch in kind.batches) or not kind.batches:
            raise CardError(f"{path}: key '{name}.batches' must be whole numbers of 1 or more")
        if kind.max_seconds <= 0 or kind.least_rounds < 1:
            raise CardError(f"{path}: keys '{name}.max_seconds' and '{name}.least_rounds' must be positive")
    if settings.emulated.pictures < 1 or settings.emulated.least_rounds < 1:
        raise CardError(f"{path}: keys of 'emulated' must be 1 or more")
    if settings.functional.max_seconds <= 0 or settings.functional.least_rounds < 1:
        raise CardError(f"{path}: keys of 'functional' must be positive")
    return settings


def _variants(rows: Any, path: Path) -> tuple[Variant, ...]:
    """Tables [[variant]]; CardError for what is no target's option, no quant mode of it, or there twice."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CardError(f"{path}: key 'variant' must be [[variant]] tables")
    found = [fill(Variant, row, path, f"variant[{number}]") for number, row in enumerate(rows)]
    for number, variant in enumerate(found):
        place = f"{path}: key 'variant[{number}]"
        try:
            target = targets.get(variant.target)
        except TopfiveError as error:
            raise CardError(f"{place}.target': {error.message}") from None
        if not target.settings:
            raise CardError(f"{place}.target' must choose options: {targets.FORM}")
        if variant.target in [other.target for other in found[:number]]:
            raise CardError(f"{place}.target': {variant.target} is there twice")
        for name, values, known in (("quants", variant.quants, QUANT_MODES), ("kinds", variant.kinds, KINDS)):
            if not values or not set(values) <= set(known):
                raise CardError(f"{place}.{name}' must be some of {', '.join(known)}")
        for quant in variant.quants:
            if reason := target.refuses(quant):
                raise CardError(f"{place}.quants': {reason}")
    return tuple(found)
