"""Which cases a run has: model x target x quant mode (x batch), as plain strings with stable ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from topfive import targets
from topfive.cards import Card
from topfive.errors import CardError, TopfiveError, UnknownNameError
from topfive.suite.expectations import Expectation, read_expectations
from topfive.suite.settings import KINDS, Kind, Settings, Variant, read_settings
from topfive.targets.base import QUANT_MODES

__all__ = ["Case", "Choice", "Selection", "SelectionError"]

TAG = "tag:"
REASONS = 3


class SelectionError(TopfiveError):
    """What the options ask for does not exist, or is excluded by nature."""


@dataclass(frozen=True)
class Choice:
    """What the options ask for; None where they say nothing."""

    models: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    quants: tuple[str, ...] | None = None
    batches: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Case:
    """One row of the suite. batch is None for tests that do not ask for one."""

    model: str
    target: str
    quant: str
    batch: int | None = None

    @property
    def id(self) -> str:
        """`pocket_resnet-gemmini_sim-int8-b1`: part of the test's name, so it must never change."""
        name = f"{self.model}-{self.target}-{self.quant}"
        return name if self.batch is None else f"{name}-b{self.batch}"


@dataclass(frozen=True)
class Selection:
    """All cards, what is asked of them, and what is expected. Nothing here opens a model."""

    cards: Mapping[str, Card]
    choice: Choice
    folder: Path
    """Where suite.toml and expectations.toml are."""

    @cached_property
    def settings(self) -> Settings:
        """The settings of suite.toml; CardError for a pattern that matches no card."""
        path = self.folder / "suite.toml"
        settings = read_settings(path)
        if path.is_file():
            for name in (*KINDS, "emulated"):
                for pattern in getattr(settings, name).models:
                    if not self._matching(pattern):
                        raise CardError(f"{path}: key '{name}.models': {pattern!r} matches no card")
        return settings

    @cached_property
    def expectations(self) -> tuple[Expectation, ...]:
        """The rows of expectations.toml."""
        names = (*targets.names(), *self._variants)
        everything = self._combinations(self.cards, names, QUANT_MODES)
        return read_expectations(self.folder / "expectations.toml", everything)

    @cached_property
    def _variants(self) -> dict[str, Variant]:
        return {variant.target: variant for variant in self.settings.variants}

    def validate(self) -> None:
        """Raise for every name that the options get wrong and every file of settings that is malformed.

        UnknownNameError names the nearest names. SelectionError gives the reason when something is asked for
        by its name but has no case: not a glob, which may match models that do not apply.
        """
        models = self._models(self.choice.models) if self.choice.models else tuple(self.cards)
        chosen_targets = _known_targets(self.choice.targets)
        quants = _known("quant mode", self.choice.quants, QUANT_MODES)
        cases = list(self._combinations(models, chosen_targets, quants))
        named = [
            *((0, name) for name in self.choice.models or () if name in self.cards),
            *((1, name) for name in self.choice.targets or ()),
            *((2, name) for name in self.choice.quants or ()),
        ]
        for place, name in named:
            if not any(case[place] == name for case in cases):
                wanted = [models, chosen_targets, quants]
                wanted[place] = (name,)
                raise SelectionError(self._why_none(*wanted))
        if not cases:
            raise SelectionError(self._why_none(models, chosen_targets, quants))
        _ = self.settings, self.expectations

    def cases(self, kind: str, *, batched: bool) -> list[Case]:
        """The cases of tests of a kind, models outermost, in a fixed order."""
        settings = self.settings.of(kind)
        models = self._models(self.choice.models or settings.models)
        few = self._models(self.choice.models or self.settings.emulated.models)
        usual = [name for name, variant in self._variants.items() if kind in variant.kinds]
        names = self.choice.targets or (*targets.names(), *usual)
        combinations = self._combinations(models, names, self.choice.quants or QUANT_MODES)
        return [
            Case(model, target, quant, batch)
            for model, target, quant in combinations
            if model in few or not targets.get(target).emulated
            for batch in (self._batches(settings, kind, model, target) if batched else (None,))
        ]

    def _batches(self, settings: Kind, kind: str, model: str, target: str) -> tuple[int, ...]:
        found = targets.get(target)
        if self.choice.batches:
            return self.choice.batches
        if own := found.configured({**found.settings, **found.tuned(kind)}).for_model(model).batches():
            return own
        return settings.batches[:1] if found.emulated or found.functional else settings.batches

    def expected_failure(self, case: Case, kind: str) -> Expectation | None:
        """The row of expectations.toml that says that this case fails."""
        names = (case.model, case.target, case.quant)
        rows = (row for row in self.expectations if row.covers(*names) and row.applies_to(kind))
        return next(rows, None)

    def _matching(self, pattern: str) -> list[str]:
        if pattern.startswith(TAG):
            return [n for n, card in self.cards.items() if pattern.removeprefix(TAG) in card.tags]
        return [name for name in self.cards if fnmatchcase(name, pattern)]

    def _models(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """The names that the patterns match, in order of name; UnknownNameError for one that matches none."""
        found: set[str] = set()
        for pattern in patterns:
            matched = self._matching(pattern)
            if not matched and pattern.startswith(TAG):
                tags = {tag for card in self.cards.values() for tag in card.tags}
                raise UnknownNameError("tag", pattern.removeprefix(TAG), tags)
            if not matched:
                raise UnknownNameError("model", pattern, self.cards)
            found.update(matched)
        return tuple(sorted(found))

    def _combinations(
        self, models: Iterable[str], names: Iterable[str], quants: Iterable[str]
    ) -> Iterator[tuple[str, str, str]]:
        for model in models:
            for target in names:
                for quant in quants:
                    if not self._refusal(model, target, quant):
                        yield model, target, quant

    def _refusal(self, model: str, target: str, quant: str) -> str:
        variant = self._variants.get(target)
        if variant is not None and quant not in variant.quants:
            return f"{target} is another {', '.join(variant.quants)}, its {quant} is its target's own"
        return refusal(self.cards[model], target, quant)

    def _why_none(self, models: Sequence[str], names: Sequence[str], quants: Sequence[str]) -> str:
        reasons = Counter(
            self._refusal(model, target, quant) for model in models for target in names for quant in quants
        )
        shown = [reason for reason, _ in reasons.most_common(REASONS)]
        return "nothing to run: " + "; ".join(shown + ["..."] * (len(reasons) > REASONS))


def refusal(card: Card, target: str, quant: str) -> str:
    """Why there is no such case by the nature of model and target, or ""."""
    if card.quantised and quant != "as_is":
        return f"{card.name} is already quantised, only quant mode as_is applies"
    if not card.quantised and quant == "as_is":
        return f"{card.name} is a float model, quant mode as_is is for models that are already quantised"
    if quant == "int8_dw" and "depthwise" not in card.tags:
        return (
            f"{card.name} has no depthwise convolutions (no tag 'depthwise'), quant mode int8_dw is its int8"
        )
    return targets.get(target).refuses(quant)


def _known_targets(given: Sequence[str] | None) -> Sequence[str]:
    """Those given, variants among them, else all. Raises UnknownNameError, OptionError."""
    for name in given or ():
        targets.get(name)
    return given or targets.names()


def _known(kind: str, given: Sequence[str] | None, known: Sequence[str]) -> Sequence[str]:
    for name in given or ():
        if name not in known:
            raise UnknownNameError(kind, name, known)
    return given or known
