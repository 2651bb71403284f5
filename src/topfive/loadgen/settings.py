"""LoadGen's TestSettings from a plan: every field is set here, none by a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from topfive.loadgen.plan import Plan, ScenarioError

__all__ = ["expected_seconds", "test_settings"]

# Seeds of a short run: fixed, so that two runs ask for the same samples in the same order.
SEEDS = {"qsl_rng_seed": 1, "sample_index_rng_seed": 2, "schedule_rng_seed": 3}
SINGLE_HINT, MULTI_HINT, OFFLINE_HINT = 4.0, 5.0, 2.0
"""How far LoadGen's expectation is set above what was measured: a run that is faster than expected runs out
of prepared queries and is invalid."""
SERVER_LOAD = 0.3
"""Server's arrival rate, as a share of what one call after another could serve."""
SERVER_LATENCY_SECONDS = 0.015
SERVER_LATENCIES = 10.0
SERVER_SLOWEST = 3.0
"""Server's latency limit where none is given: MLPerf's 15 ms for ResNet-50, or so many times the
median or the slowest call that was measured: a machine that is shared has calls that take that long."""
GENTLE_RATE, GENTLE_SECONDS = 40.0, 0.5
"""Of a gentle plan: the most queries a second, and the shortest latency limit."""
OFFLINE_SLACK = 1.1
"""LoadGen's Offline query has so many times the samples that its duration and expected rate ask for."""
PEAK_TESTS = 20
"""Tests of a find-peak run: the rate is doubled until one fails, then halved towards it."""
MODE_NAMES = {
    "performance": "PerformanceOnly",
    "accuracy": "AccuracyOnly",
    "find-peak": "FindPeakPerformance",
}


def test_settings(
    loadgen: Any, plan: Plan, *, latency: float, slowest: float, batch_rate: float, folder: Path
) -> Any:
    """TestSettings of a plan. latency, slowest: measured seconds of one call; batch_rate: samples/s.

    Raises ScenarioError if LoadGen refuses its own mlperf.conf in submission mode.
    """
    settings = loadgen.TestSettings()
    if plan.submission:
        _official(settings, plan, folder)
    settings.scenario = getattr(loadgen.TestScenario, plan.scenario)
    settings.mode = getattr(loadgen.TestMode, MODE_NAMES[plan.mode])
    if not plan.submission:
        for name, seed in SEEDS.items():
            setattr(settings, name, seed)
    if not plan.submission or plan.seconds is not None:
        settings.min_duration_ms = round(1000 * plan.least_seconds)
    if not plan.submission or plan.count is not None:
        settings.min_query_count = plan.least_queries
    settings.multi_stream_samples_per_query = plan.samples_per_query
    settings.single_stream_expected_latency_ns = _nanoseconds(latency / SINGLE_HINT)
    expected = plan.max_latency or latency * plan.samples_per_query / MULTI_HINT
    settings.multi_stream_expected_latency_ns = _nanoseconds(expected)
    settings.offline_expected_qps = plan.qps or batch_rate * OFFLINE_HINT
    rate = min(SERVER_LOAD / latency, GENTLE_RATE) if plan.gentle else SERVER_LOAD / latency
    settings.server_target_qps = plan.qps or rate
    if plan.max_latency is not None or not plan.submission:
        limit = plan.max_latency or max(
            GENTLE_SECONDS if plan.gentle else SERVER_LATENCY_SECONDS,
            SERVER_LATENCIES * latency,
            SERVER_SLOWEST * slowest,
        )
        settings.server_target_latency_ns = _nanoseconds(limit)
    for name, value in plan.overrides.items():
        kind = type(getattr(settings, name))
        setattr(settings, name, kind(value))
    return settings


def expected_seconds(plan: Plan, settings: Any, *, latency: float, samples: int) -> float:
    """How long a run takes with these settings if every sample takes `latency` seconds, one after another.

    A guess for a watchdog. samples: of the whole set, which an accuracy run answers.
    """
    rate = float(settings.server_target_qps)
    if plan.mode == "accuracy":
        return max(samples * latency, samples / rate if plan.scenario == "Server" else 0.0)
    least, queries = float(settings.min_duration_ms) / 1e3, int(settings.min_query_count)
    if plan.scenario == "Offline":
        asked = max(queries, OFFLINE_SLACK * least * float(settings.offline_expected_qps))
        return max(least, asked * latency)
    if plan.scenario == "Server":
        tests = PEAK_TESTS if plan.mode == "find-peak" else 1
        return tests * max(least, queries / rate, max(queries, least * rate) * latency)
    per_query = int(settings.multi_stream_samples_per_query) if plan.scenario == "MultiStream" else 1
    return max(least, queries * per_query * latency)


def _official(settings: Any, plan: Plan, folder: Path) -> None:
    """LoadGen's built-in mlperf.conf, which it reads on the first call in a process only."""
    empty = folder / "empty_user.conf"
    empty.write_text("", encoding="utf-8")
    status = settings.FromConfig(os.fspath(empty), "resnet50", plan.scenario)
    if status:
        raise ScenarioError(f"LoadGen's own mlperf.conf was refused with status {status}")


def _nanoseconds(seconds: float) -> int:
    return max(1, round(1e9 * seconds))
