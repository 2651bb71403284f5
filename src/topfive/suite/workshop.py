"""What a test session builds and opens, each at most once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import topfive
from topfive import targets
from topfive.cards import Card
from topfive.errors import TopfiveError
from topfive.suite.pictures import Pictures, pictures_key
from topfive.targets.base import Artifact, Runner

__all__ = ["Workshop"]

OPEN_RUNNERS = 4
# Model, target, quant mode, and the options that tests of a kind measure the target with.
Names = tuple[str, str, str, tuple[tuple[str, str], ...]]


class Workshop:
    """Artifacts, runners and pictures of a session. Builds are shared by xdist workers through the cache."""

    def __init__(self, cards: Mapping[str, Card], cache: Path, threads: int | None, workers: int = 1) -> None:
        self.cards = cards
        self.cache = cache
        self._threads, self._workers = threads, workers
        self._artifacts: dict[Names, Artifact | TopfiveError] = {}
        self._runners: OrderedDict[Names, Runner] = OrderedDict()
        self._pictures: dict[tuple[object, ...], Pictures] = {}

    @cached_property
    def threads(self) -> int:
        """Threads of a runner: workers share the processor, so together they use what one session would."""
        from topfive.sessions import default_threads

        return self._threads or max(1, default_threads() // self._workers)

    def artifact(self, model: str, target: str, quant: str, kind: str = "") -> Artifact:
        """The compiled model; a build that failed once fails at once the next time.

        kind: of the tests it is for: a target may be tuned for each.
        """
        names = self._names(model, target, quant, kind)
        if names not in self._artifacts:
            try:
                self._artifacts[names] = topfive.build(
                    self.cards[model], target=target, quant=quant, cache=self.cache, options=dict(names[3])
                )
            except TopfiveError as error:
                self._artifacts[names] = error
        found = self._artifacts[names]
        if isinstance(found, TopfiveError):
            raise found
        return found

    def _names(self, model: str, target: str, quant: str, kind: str) -> Names:
        return model, target, quant, tuple(sorted(targets.get(target).tuned(kind).items()))

    def runner(self, model: str, target: str, quant: str, kind: str = "") -> Runner:
        """The open model; the few used last stay open."""
        names = self._names(model, target, quant, kind)
        if names in self._runners:
            self._runners.move_to_end(names)
            return self._runners[names]
        while len(self._runners) >= OPEN_RUNNERS:
            self._runners.popitem(last=False)[1].close()
        runner = topfive.open(self.artifact(model, target, quant, kind), threads=self.threads)
        self._runners[names] = runner
        return runner

    def pictures(self, model: str, most: int | None = None) -> Pictures:
        """The fixture pictures of a model, at most so many."""
        key = (*pictures_key(self.cards[model]), most)
        if key not in self._pictures:
            self._pictures[key] = Pictures(self.cards[model], self.threads, most)
        return self._pictures[key]

    def close(self) -> None:
        """Close what is open."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()
