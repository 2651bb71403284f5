"""`bench/suite.toml`: which models each kind of test runs when nobody says, and how long it measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from topfive.cards.schema import fill, read_toml
from topfive.errors import CardError

__all__ = ["KINDS", "Kind", "Settings", "read_settings"]

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
class Settings:
    """Settings of every kind."""

    golden: Kind = field(default_factory=Kind)
    latency: Kind = field(default_factory=Kind)
    throughput: Kind = field(default_factory=Kind)
    accuracy: Kind = field(default_factory=Kind)
    scenario: Kind = field(default_factory=Kind)
    emulated: Emulated = field(default_factory=Emulated)
    functional: Functional = field(default_factory=Functional)

    def of(self, kind: str) -> Kind:
        """The settings of a kind."""
        found: Kind = getattr(self, kind)
        return found


def read_settings(path: Path) -> Settings:
    """The settings in a file, or the defaults (all bundled models) if there is no such file; CardError."""
    if not path.is_file():
        return Settings()
    settings = fill(Settings, read_toml(path), path)
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
