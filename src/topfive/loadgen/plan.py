"""What a LoadGen run is asked for, as plain values that travel to the process that does it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from topfive.errors import TopfiveError, UnknownNameError

__all__ = [
    "CROPS",
    "JOB",
    "LEAST_QUERIES",
    "MODES",
    "OUTCOME",
    "SCENARIOS",
    "TOP5",
    "Plan",
    "ScenarioError",
    "as_json",
    "asked_runs",
    "command_key",
    "is_stream",
    "parse_command_key",
]

SCENARIOS = ("SingleStream", "MultiStream", "Server", "Offline")
MODES = ("performance", "accuracy", "find-peak")
LEAST_QUERIES = {"SingleStream": 64, "MultiStream": 662, "Server": 459, "Offline": 1}
"""Queries below which LoadGen's early stopping cannot find a run valid (p90 for SingleStream, else p99)."""

JOB, OUTCOME, CROPS, TOP5 = "job.json", "outcome.json", "samples.npy", "top5.npy"
"""Files in a run's folder: what its process is asked for, says and finds."""
SUBMISSION_SECONDS = 600.0
SHORT_SECONDS = {"SingleStream": 1.0, "MultiStream": 0.5, "Server": 1.0, "Offline": 0.5}
SHORT_QUERIES = {"SingleStream": 64, "MultiStream": 662, "Server": 700, "Offline": 64}


class ScenarioError(TopfiveError):
    """A scenario that cannot be run as asked, or a run of LoadGen that broke."""


@dataclass(frozen=True)
class Plan:
    """One run. None means: choose, from a short measurement of the runner, what gives a short valid run.

    seconds: least duration. count: samples in the set (all of the model's pictures if None) in accuracy mode,
    queries in performance mode. qps: Server's arrival rate, Offline's expected rate. max_latency: seconds,
    Server's limit at its percentile, and MultiStream's expectation. overrides: fields of LoadGen's
    TestSettings from a user.conf. submission: official durations and seeds of LoadGen's own mlperf.conf.
    gentle: a Server for which nobody says more has a low rate and a long limit, which a machine holds that
    does other work, too.
    """

    scenario: str
    mode: str = "performance"
    seconds: float | None = None
    count: int | None = None
    qps: float | None = None
    max_latency: float | None = None
    samples_per_query: int = 8
    batch: int = 8
    submission: bool = False
    gentle: bool = False
    overrides: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, value, known in (("scenario", self.scenario, SCENARIOS), ("mode", self.mode, MODES)):
            if value not in known:
                raise UnknownNameError(what, value, known)
        if self.mode == "find-peak" and self.scenario != "Server":
            raise ScenarioError(f"mode find-peak is LoadGen's search in Server only, not in {self.scenario}")
        for name in ("seconds", "count", "qps", "max_latency", "samples_per_query", "batch"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ScenarioError(f"{name.replace('_', '-')} must be positive, not {value}")

    @property
    def least_seconds(self) -> float:
        """Least duration of a performance run."""
        if self.seconds is not None:
            return self.seconds
        return SUBMISSION_SECONDS if self.submission else SHORT_SECONDS[self.scenario]

    @property
    def least_queries(self) -> int:
        """Least number of queries of a performance run."""
        if self.count is not None and self.mode == "performance":
            return self.count
        return SHORT_QUERIES[self.scenario]


def command_key(scenario: str, mode: str) -> str:
    """The name that CK's program gives this run: accuracy-offline, performance-singlestream ..."""
    return f"{mode}-{scenario.lower()}"


def is_stream(name: str) -> bool:
    """Whether LoadGen's figure of a scenario, or of a command key, is a latency; else it is a rate."""
    return name.lower().endswith("stream")


def parse_command_key(text: str) -> tuple[str, str]:
    """(scenario, mode) of a name such as performance-singlestream; UnknownNameError with the nearest."""
    known = {command_key(scenario, mode): (scenario, mode) for scenario in SCENARIOS for mode in MODES[:2]}
    name = re.sub(r"[\s_]", "-", text.strip().lower())
    if name not in known:
        raise UnknownNameError("command key", text, known)
    return known[name]


def asked_runs(names: Sequence[str], mode: str) -> list[tuple[str, str]]:
    """(scenario, mode) of what a command line asks for: scenarios, "all", or command keys, in any case.

    A command key carries its own mode. Raises UnknownNameError with the nearest names.
    """
    by_name = {scenario.lower(): scenario for scenario in SCENARIOS}
    found: list[tuple[str, str]] = []
    for name in names:
        if name.lower() == "all":
            found += [(scenario, mode) for scenario in SCENARIOS]
        elif name.lower() in by_name:
            found.append((by_name[name.lower()], mode))
        elif "-" in name or "_" in name:
            found.append(parse_command_key(name))
        else:
            raise UnknownNameError("scenario", name, SCENARIOS)
    return list(dict.fromkeys(found))


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-able values."""
    return {**vars(plan), "overrides": dict(plan.overrides)}
