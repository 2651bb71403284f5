"""`topfive targets` and `topfive models`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

from topfive import targets
from topfive.cards import Card, load_cards
from topfive.commands import print_json
from topfive.errors import OptionError, UnknownNameError

__all__ = ["list_models", "list_targets", "tagged_cards"]

OF_EVERY_CARD = frozenset({"model", "image-classification"})
"""Tags that no card needs to name: Collective Knowledge's lists for a classifier start with them."""


def list_targets(*, as_json: bool) -> None:
    """Every installed target: its quant modes, what of it is simulated, and why it cannot run here."""
    rows = [
        {
            "name": name,
            "runs_here": not targets.get(name).probe(),
            "reason": targets.get(name).probe(),
            "quants": list(targets.get(name).quants),
            "simulated": targets.get(name).simulation(),
            "options": {key: asdict(option) for key, option in targets.get(name).options.items()},
        }
        for name in targets.names()
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        state = "runs here" if row["runs_here"] else f"cannot run here: {row['reason']}"
        simulated = f"; simulated: {row['simulated']}" if row["simulated"] else ""
        sys.stdout.write(f"{row['name']}: {state}; {', '.join(map(str, _list(row['quants'])))}{simulated}\n")
        for key, option in targets.get(str(row["name"])).options.items():
            sys.stdout.write(f"  --option {key}={'|'.join(option.choices)}: {option.help}\n")


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def list_models(
    patterns: Sequence[str], tags: Sequence[str], extra: Sequence[Path], *, as_json: bool
) -> None:
    """Print tagged_cards, with what is missing of each here."""
    rows = [_row(card) for card in tagged_cards(load_cards(extra), patterns, tags)]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        missing = f" [missing: {row['missing']}]" if row["missing"] else ""
        labels = ", ".join(str(tag) for tag in _list(row["tags"]))
        sys.stdout.write(f"{row['name']} ({labels}): {row['description']}{missing}\n")


def tagged_cards(cards: Mapping[str, Card], patterns: Sequence[str], tags: Sequence[str]) -> list[Card]:
    """The cards whose name matches one of `patterns` (all, without any) and that have all of `tags`.

    Raises UnknownNameError for a pattern or a tag that no card has, OptionError if no card has all of them.
    """
    known_tags = {tag for card in cards.values() for tag in _tags(card)}
    for tag in tags:
        if tag not in known_tags:
            raise UnknownNameError("tag", tag, known_tags)
    named = _named(cards, patterns)
    found = [card for card in named if _tags(card) >= set(tags)]
    if named and not found:
        counts = [sum(tag in _tags(card) for card in named) for tag in tags]
        shown = ", ".join(f"{tag} ({count})" for tag, count in zip(tags, counts, strict=True))
        like = f" of the {len(named)} named" if patterns else ""
        raise OptionError(f"no model{like} has all of the tags {shown}, where (n) have it: leave one out")
    return found


def _tags(card: Card) -> frozenset[str]:
    return OF_EVERY_CARD.union(card.tags)


def _named(cards: Mapping[str, Card], patterns: Sequence[str]) -> list[Card]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in cards):
            raise UnknownNameError("model", pattern, cards)
    return [c for n, c in cards.items() if not patterns or any(fnmatchcase(n, p) for p in patterns)]


def _row(card: Card) -> dict[str, object]:
    return {
        "name": card.name,
        "description": card.description,
        "tags": list(card.tags),
        "trained": card.trained,
        "quantised": card.quantised,
        "input": list(card.input.size),
        "profile": card.input.profile,
        "classes": card.output.classes,
        "published": {
            "top1": card.published.top1,
            "top5": card.published.top5,
            "images": card.published.images,
        },
        "card": str(card.path),
        "missing": card.missing_reason(),
    }
