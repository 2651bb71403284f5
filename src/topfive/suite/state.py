"""The state of one pytest session: what is selected, what is built, what was found."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from topfive import targets
from topfive.cache import cache_root
from topfive.cards import load_cards
from topfive.records import records_folder
from topfive.suite.accuracy import Accuracy
from topfive.suite.results import Results
from topfive.suite.selection import Case, Choice, Selection
from topfive.suite.settings import KINDS
from topfive.suite.workshop import Workshop

__all__ = ["FOUND", "SUITE", "Suite", "case_of", "kind_of"]

NAMES = ("model", "target", "quant")


class Suite:
    """Made once a session; everything in it is made when it is first asked for."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.results = Results()
        self.traced: set[Path] = set()
        self.cache = cache_root(config.getoption("artifact_cache"))
        self.folder = config.rootpath / "bench"
        self.goldens = config.rootpath / "golden"
        given = config.getoption("records")
        # None: this session keeps no records.
        self.records = None if config.getoption("no_record") else records_folder(given, config.rootpath)

    @property
    def wanted(self) -> bool:
        """Whether this session is about topfive: the plugin is loaded wherever topfive is installed."""
        options = ("models", "targets", "quant", "cards", "batch_sizes")
        asked = any(self.config.getoption(name) for name in options)
        return asked or (self.folder / "suite.toml").is_file() or bool(os.environ.get("TOPFIVE_CARDS"))

    @cached_property
    def selection(self) -> Selection:
        """The cases; CardError for a malformed card."""
        option = self.config.getoption
        choice = Choice(option("models"), option("targets"), option("quant"), option("batch_sizes"))
        return Selection(load_cards(option("cards")), choice, self.folder)

    @cached_property
    def workshop(self) -> Workshop:
        """What builds and opens the models."""
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        return Workshop(self.selection.cards, self.cache, self.config.getoption("threads"), workers)

    @cached_property
    def accuracy(self) -> Accuracy:
        """The sweeps of this session."""
        return Accuracy(self.config, self.selection, self.cache, self.workshop)

    def repeat_command(self, nodeid: str, case: Case) -> str:
        """The shell command that runs one test again."""
        cards = "".join(f" --cards {Path(folder)}" for folder in self.config.getoption("cards"))
        names = f"--models {case.model} --targets {case.target} --quant {case.quant}"
        return f"pytest '{nodeid}' {names}{cards}"

    def most_pictures(self, target: str) -> int | None:
        """How many golden pictures a target runs at most; None for all."""
        found = targets.get(target)
        return self.selection.settings.emulated.pictures if found.emulated or found.slow_start else None

    def measuring_limits(self, kind: str, target: str) -> dict[str, Any]:
        """pytest-benchmark's max_time and min_rounds for a kind of test; its own options win if given."""
        settings = self.selection.settings.of(kind)
        seconds, rounds = settings.max_seconds, settings.least_rounds
        if targets.get(target).emulated or targets.get(target).slow_start:
            rounds = self.selection.settings.emulated.least_rounds
        elif targets.get(target).functional:
            brief = self.selection.settings.functional
            seconds, rounds = brief.max_seconds, brief.least_rounds
        limits: dict[str, Any] = {}
        if float(self.config.getoption("benchmark_max_time", 1.0)) == 1.0:
            limits["max_time"] = seconds
        if self.config.getoption("benchmark_min_rounds", 5) == 5:
            limits["min_rounds"] = rounds
        return limits


SUITE = pytest.StashKey[Suite]()
FOUND = pytest.StashKey[dict[str, Any]]()


def kind_of(node: pytest.Item | pytest.Function) -> str:
    """The kind of a test by its markers, or ""."""
    return next((kind for kind in KINDS if node.get_closest_marker(kind)), "")


def case_of(item: pytest.Item) -> Case | None:
    """The case of a test that the plugin parametrised."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or not kind_of(item) or not all(name in callspec.params for name in NAMES):
        return None
    params = callspec.params
    return Case(params["model"], params["target"], params["quant"], params.get("batch"))
