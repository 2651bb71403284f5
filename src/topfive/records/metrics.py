"""What a test's record says of each metric that a gate can name."""

from __future__ import annotations

from typing import Any

import numpy as np

from topfive.records.entries import Entry
from topfive.records.gates import TIMES

__all__ = ["Pictures", "count_of", "device_time_of", "figures_of", "pictures_of", "throughput_of", "time_of"]

Pictures = dict[tuple[Any, ...], bool]
"""What identifies a picture, and whether the answer to it is right."""
CYCLES = ("modelled_estimate", "modelled_bus")
LOADGEN = "loadgen_"
STREAMS = ("singlestream", "multistream")


def time_of(entry: Entry, metric: str) -> float:
    """A metric of TIMES of the raw rounds: seconds, or images a second. Percentiles are linear."""
    if metric == "mean":
        return float(entry.rounds.mean())
    if metric == "images_per_s":
        return float((entry.case.get("batch") or 1) * len(entry.rounds) / entry.rounds.sum())
    return float(np.quantile(entry.rounds, TIMES[metric] or 0.5))


def device_time_of(entry: Entry, metric: str) -> float | None:
    """The same as the device's own tool measured it; None where none did, or where it does not give it.

    Raw rounds of such a test are starts of the tool.
    """
    found = (entry.values.get("device_figures") or {}).get(metric)
    return None if found is None else float(found)


def throughput_of(entry: Entry) -> float | None:
    """Images a second of a test, the device's own where it has any; None without rounds, as of sweeps."""
    own = device_time_of(entry, "images_per_s")
    if own is not None:
        return own
    return time_of(entry, "images_per_s") if len(entry.rounds) else None


def count_of(entry: Entry, metric: str) -> dict[str, Any]:
    """The figures without noise of a metric, by name; {} where the test has none."""
    if metric == "cycles":
        return {name: entry.values[name] for name in CYCLES if entry.values.get(name) is not None}
    if metric == "instructions" and entry.values.get("instructions"):
        return {f"{kind} instructions": count for kind, count in entry.values["instructions"].items()}
    if metric == "bits" and entry.values.get("bits"):
        return {"bits": entry.values["bits"]}
    return {}


def figures_of(entry: Entry) -> dict[str, tuple[float, bool]]:
    """LoadGen's figures by name, and whether more of it is better."""
    return {
        name: (float(value), not name.startswith(tuple(LOADGEN + stream for stream in STREAMS)))
        for name, value in entry.values.items()
        if name.startswith(LOADGEN) and not name.endswith("_queries") and value is not None
    }


def pictures_of(entry: Entry, metric: str) -> Pictures | None:
    """Which pictures are answered right at top1 or top5; None where that is not recorded."""
    if entry.sweep is not None:
        sweep = entry.sweep
        right = sweep.right1 if metric == "top1" else sweep.right5
        keys = zip(sweep.indices.tolist(), sweep.digests.tolist(), sweep.labels.tolist(), strict=True)
        return dict(zip(keys, right.tolist(), strict=True))
    if (answers := entry.answers) is not None:
        right = answers.right1 if metric == "top1" else answers.right5
        places = range(len(right))
        keys = zip(places, answers.digests.tolist(), answers.labels.tolist(), strict=True)
        return dict(zip(keys, right.tolist(), strict=True))
    stored = entry.values.get("right1") if metric == "top1" else None
    return {(name,): bool(right) for name, right in stored.items()} if stored else None
