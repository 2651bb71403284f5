"""Accuracy tests: one item a shard of a case. What a process needs to collect and to run them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from topfive import targets
from topfive.cards import Card
from topfive.datasets import Listing
from topfive.images.packed import refuse_without_room
from topfive.suite.environment import library_versions
from topfive.suite.exclusive import named_markers
from topfive.suite.selection import Case, Selection
from topfive.suite.workshop import Workshop
from topfive.sweep.data import DRAWN_PICTURES, default_listing, given_listing
from topfive.sweep.evaluate import CaseRun, Evaluator, Job
from topfive.sweep.plan import make_plan, shard_count, shard_range
from topfive.sweep.state import SweepState

__all__ = ["ACCURACY", "Accuracy", "ShardItem", "accuracy_asked"]

ACCURACY = "accuracy"


@dataclass(frozen=True)
class ShardItem:
    """One test: a shard of a case. `shards` is how many the case has."""

    case: Case
    shard: int
    shards: int

    @property
    def id(self) -> str:
        """`pocket_fire-cpu-int8-shard03of08`: part of the test's name."""
        return f"{self.case.id}-shard{self.shard:02d}of{self.shards:02d}"


SHARD_ID = re.compile(r"-shard\d+of\d+\]$")
"""How the id of such a test ends."""


def accuracy_asked(config: pytest.Config) -> bool:
    """Whether this session is to sweep: -m accuracy, --imagenet, or a test file or id that says accuracy.

    A sweep takes its time and keeps records: `pytest -m gemmini_sim` alone does not start one.
    """
    if config.getoption("imagenet") is not None:
        return True
    expression = str(config.getoption("markexpr", "") or "")
    if named_markers(expression, (ACCURACY,)):
        return True
    return any(
        ACCURACY in str(argument) for argument in config.invocation_params.args if "-" not in argument[:1]
    )


class Accuracy:
    """The sweeps of one process: which shards there are, and running one. Made once a session."""

    def __init__(self, config: pytest.Config, selection: Selection, cache: Path, workshop: Workshop) -> None:
        self.selection, self.cache, self.workshop = selection, cache, workshop
        option = config.getoption
        self.imagenet: str | None = option("imagenet")
        self.map_file: Path | None = option("image_map")
        self.count: int | None = option("count")
        self.shards: int | None = option("shards")
        self.batch: int = option("sweep_batch")
        self.allow_missing = bool(option("allow_missing"))
        self.packed = not option("no_cache")
        self.left_out: dict[str, str] = {}
        self._own: dict[str, Listing] = {}
        self._states: dict[str, SweepState] = {}
        self._open: tuple[str, Evaluator] | None = None

    @cached_property
    def given(self) -> Listing | None:
        """The pictures of --imagenet. Raises ImageError, CardError, UnknownNameError."""
        if self.imagenet is None:
            return None
        return given_listing(
            self.imagenet, map_file=self.map_file, count=self.count, allow_missing=self.allow_missing
        )

    @cached_property
    def cases(self) -> list[Case]:
        """The cases to sweep; models that nobody named and that do not fit the set are left out."""
        found = self.selection.cases(ACCURACY, batched=False)
        if not self.selection.choice.targets:
            found = [case for case in found if not targets.get(case.target).emulated]
        if self.given is None or self.selection.choice.models:
            return found
        classes = self._classes_of(self.given, found)
        for case in found:
            own = self.selection.cards[case.model].output.classes
            if own != classes:
                self.left_out[case.model] = f"{case.model} has {own} classes, {self.given.name} {classes}"
        return [case for case in found if case.model not in self.left_out]

    def _classes_of(self, listing: Listing, cases: Sequence[Case]) -> int:
        """As the set states, else the fewest of any model that has its highest label."""
        if listing.classes:
            return listing.classes
        highest = max(picture.label for picture in listing.pictures)
        fitting = [self.selection.cards[case.model].output.classes for case in cases]
        return min((classes for classes in fitting if classes > highest), default=highest + 1)

    def listing(self, card: Card) -> Listing:
        """The pictures of a model: those of --imagenet, else its own photographs or drawn ones."""
        if self.given is not None:
            return self.given
        name = card.name if card.pictures.set.startswith("folder:") else ""
        if name not in self._own:
            self._own[name] = default_listing(card, self.cache, count=self.count)
        return self._own[name]

    def items(self, workers: int) -> list[ShardItem]:
        """Every shard, in the order in which `workers` processes are best given contiguous parts.

        Each worker's part has its own shards for all cases, one case after the other: a picture is decoded by
        the worker that needs it next, and one model is open at a time.
        """
        shards = {case: self._shard_count(case) for case in self.cases}
        return [
            ShardItem(case, shard, shards[case])
            for part in range(workers)
            for case in self.cases
            for shard in shard_range(shards[case], workers, part)
        ]

    def _shard_count(self, case: Case) -> int:
        """Without reading more than collection needs: cases that cannot run have one item, which says why."""
        card = self.selection.cards[case.model]
        if self.selection.expected_failure(case, ACCURACY) or card.missing_reason():
            return 1
        drawn = self.given is None and not card.pictures.set.startswith("folder:")
        pictures = (self.count or DRAWN_PICTURES) if drawn else len(self.listing(card).pictures)
        return shard_count(pictures, self.shards)

    def run(self, case: Case, number: int) -> dict[str, Any]:
        """Run one shard, or find it done; what the reporting process needs to know of it.

        Raises the StageError of a build that fails, SweepError, ImageError, CacheError, RunError.
        """
        state = self._state(case)
        listing = self.listing(self.selection.cards[case.model])
        new = number not in state.done()
        if new:
            (result,) = self._evaluator(case, state).run(number, [0])
            state.write(result)
        else:
            state.check_pictures([number], listing, listing.storage())
            result = state.result(number)
        return {
            "folder": str(state.folder),
            "model": case.model,
            "case": case.id,
            "shard": number,
            "total": state.plan.pictures,
            "pictures": len(result.indices),
            "right1": result.right1,
            "new": new,
        }

    def _state(self, case: Case) -> SweepState:
        if case.id not in self._states:
            card = self.selection.cards[case.model]
            artifact = self.workshop.artifact(case.model, case.target, case.quant)
            listing = self.listing(card)
            plan = make_plan(
                card,
                artifact,
                listing,
                shards=self.shards,
                batch=self.batch,
                versions=tuple(sorted(library_versions().items())),
                target=case.target,
            )
            self._states[case.id] = SweepState.open(self.cache, plan, listing)
        return self._states[case.id]

    def _evaluator(self, case: Case, state: SweepState) -> Evaluator:
        """What runs a case; the one before is closed, so that a worker holds one session."""
        if self._open is not None and self._open[0] == case.id:
            return self._open[1]
        self.close()
        artifact = self.workshop.artifact(case.model, case.target, case.quant)
        run = CaseRun(state.plan, state.id, artifact.path)
        listing = self.listing(self.selection.cards[case.model])
        evaluator = Evaluator(
            Job(listing, (run,), self.cache if self.packed else None, self.workshop.threads)
        )
        self._open = (case.id, evaluator)
        if self.packed:
            refuse_without_room(self.cache, evaluator.missing_bytes())
        return evaluator

    def close(self) -> None:
        """Close what is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
