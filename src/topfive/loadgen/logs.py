"""What LoadGen wrote: its detail log and its accuracy log, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from topfive.loadgen.plan import ScenarioError

__all__ = ["Accuracy", "LoadGenResult", "read_accuracy", "read_detail", "read_result"]

PREFIX = ":::MLLOG "
PERCENTILES = ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90")
METRICS = {
    "SingleStream": ("early_stopping_latency_ss", "result_90.00_percentile_latency_ns"),
    "MultiStream": ("early_stopping_latency_ms", "result_99.00_percentile_per_query_latency_ns"),
    "Server": ("result_completed_samples_per_sec",),
    "Offline": ("result_samples_per_second",),
}
"""The figure that MLPerf reports for a scenario, the first that the log has."""


@dataclass(frozen=True)
class LoadGenResult:
    """A performance run. metric: nanoseconds for the streams, samples a second for Server and Offline.

    percentiles: "50.00" ... "99.90" -> nanoseconds (of queries in MultiStream, else of samples). advice:
    LoadGen's own words of why a run is invalid and what to change.
    """

    valid: bool
    scenario: str
    metric_name: str
    metric: float
    queries: int
    percentiles: Mapping[str, float]
    samples_per_second: float
    advice: tuple[str, ...]
    errors: tuple[str, ...]
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Accuracy:
    """What MLPerf's accuracy script counts: right answers of the samples answered, each counted once."""

    right: int
    total: int

    @property
    def fraction(self) -> float:
        """right / total."""
        return self.right / self.total

    @property
    def line(self) -> str:
        """The line that MLPerf's accuracy-imagenet.py prints."""
        return f"accuracy={100 * self.fraction:.3f}%, good={self.right}, total={self.total}"


def read_detail(folder: Path) -> tuple[dict[str, Any], list[str], list[str]]:
    """Values by key (the last of each), errors and warnings of mlperf_log_detail.txt; ScenarioError."""
    path = folder / "mlperf_log_detail.txt"
    values: dict[str, Any] = {}
    errors: list[str] = []
    warnings: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"LoadGen left no readable {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.startswith(PREFIX):
            continue
        try:
            entry = json.loads(line[len(PREFIX) :])
            key, value, about = entry["key"], entry["value"], entry["metadata"]
        except (ValueError, KeyError, TypeError) as error:
            raise ScenarioError(f"{path}:{number} is not a line of LoadGen's: {error}") from error
        values[key] = value
        if about.get("is_error") and key != "num_errors":
            errors.append(f"{key}: {value}")
        elif about.get("is_warning") and key != "num_warnings":
            warnings.append(f"{key}: {value}")
    return values, errors, warnings


def read_result(folder: Path, scenario: str) -> LoadGenResult:
    """The result of a performance run. Raises ScenarioError if the log ends before the result."""
    values, errors, _ = read_detail(folder)
    if "result_validity" not in values:
        raise ScenarioError(
            f"{folder / 'mlperf_log_detail.txt'} has no result: LoadGen was stopped in the middle",
            details="\n".join(errors),
        )
    name = next((name for name in METRICS[scenario] if name in values), "")
    if not name:
        raise ScenarioError(f"{folder / 'mlperf_log_detail.txt'} has none of {', '.join(METRICS[scenario])}")
    middle = "_percentile_per_query_latency_ns" if scenario == "MultiStream" else "_percentile_latency_ns"
    percentiles = {
        p: float(values[f"result_{p}{middle}"]) for p in PERCENTILES if f"result_{p}{middle}" in values
    }
    return LoadGenResult(
        valid=values["result_validity"] == "VALID",
        scenario=scenario,
        metric_name=name,
        metric=float(values[name]),
        queries=int(values.get("result_query_count", values.get("generated_query_count", 0))),
        percentiles=percentiles,
        samples_per_second=_rate(values, scenario),
        advice=_advice(folder),
        errors=tuple(errors),
        detail=values,
    )


def _rate(values: Mapping[str, Any], scenario: str) -> float:
    for key in (
        "result_samples_per_second",
        "result_completed_samples_per_sec",
        "result_qps_with_loadgen_overhead",
    ):
        if key in values:
            return float(values[key])
    samples = float(values.get("effective_samples_per_query", 1)) if scenario == "MultiStream" else 1.0
    mean = float(values.get("result_mean_query_latency_ns", values.get("result_mean_latency_ns", 0.0)))
    return samples * 1e9 / mean if mean else 0.0


def _advice(folder: Path) -> tuple[str, ...]:
    """The lines of the summary between the verdict and the statistics that say what is not satisfied."""
    try:
        lines = (folder / "mlperf_log_summary.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ()
    block: list[str] = []
    inside = False
    for line in lines:
        if line.startswith("Result is"):
            inside = True
        elif line.startswith("======"):
            inside = False
        elif inside and line.strip():
            block.append(line.strip())
    return tuple(block)


def _class_number(data: str, index: int, path: Path) -> int:
    """The class of one float32 in hexadecimal digits, little-endian, cut off as MLPerf's script does."""
    try:
        value = float(np.frombuffer(bytes.fromhex(data), "<f4")[0]) if len(data) == 8 else float("nan")
        return int(value)
    except (ValueError, OverflowError):
        message = f"{path}: the answer to sample {index} is {data!r}, not one float32"
        raise ScenarioError(message) from None


def read_accuracy(folder: Path, labels: Sequence[int]) -> Accuracy:
    """Right answers in mlperf_log_accuracy.json, each sample counted once (its first answer).

    Answers are float32 class numbers, little-endian, as MLPerf's reference writes them. labels: by sample
    index. Raises ScenarioError for empty answers, indices out of range and samples never answered: MLPerf's
    own script would count them silently as something else.
    """
    path = folder / "mlperf_log_accuracy.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{path} cannot be read: {error}") from error
    if not isinstance(entries, list):
        raise ScenarioError(f"{path} is not a list of answers")
    answers: dict[int, int] = {}
    for entry in entries:
        try:
            index, data = int(entry["qsl_idx"]), str(entry["data"])
        except (KeyError, TypeError, ValueError) as error:
            raise ScenarioError(f"{path}: {entry!r} is not an answer of LoadGen's") from error
        if not 0 <= index < len(labels):
            raise ScenarioError(f"{path}: sample {index} is not one of the {len(labels)} of this run")
        answers.setdefault(index, _class_number(data, index, path))
    missing = [index for index in range(len(labels)) if index not in answers]
    if missing:
        raise ScenarioError(
            f"{path}: {len(missing)} of {len(labels)} samples were never answered, the first is {missing[0]}"
        )
    return Accuracy(sum(answers[index] == labels[index] for index in answers), len(labels))
