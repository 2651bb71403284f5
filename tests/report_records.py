"""Records made up for tests of the report: any number of models, quant modes and runs, the same each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topfive.records import new_record, write_record
from topfive.records.arrays import pack_array

CASES = (
    ("cpu", "force_float32"),
    ("cpu", "force_float16"),
    ("cpu", "int8"),
    ("gemmini_sim", "int8"),
    ("tensorrt_sim", "int8"),
)
SIMULATED = "an arithmetic on the CPU; times are the CPU's"
MACHINE = {"host": "bench-1", "cpu_features": ["avx2", "fma"], "versions": {"topfive": "0.1.0"}}


def rounds_of(seed: int, base: float, count: int) -> np.ndarray:
    return base * np.random.default_rng(seed).lognormal(0.0, 0.05, count)


def case_tests(model: str, target: str, quant: str, seed: int, rounds: int) -> list[dict[str, Any]]:
    """A golden, and a latency at batches 1, 4 and 8."""
    simulated = SIMULATED if target.endswith("_sim") else ""
    modelled = {"modelled_estimate": 1_000_000 + seed, "modelled_bus": 900_000} if "gemmini" in target else {}
    case = {"model": model, "target": target, "quant": quant, "batch": None}
    golden = {
        "test": f"golden {model}-{target}-{quant}",
        "kind": "golden",
        "outcome": "passed",
        "case": case,
        "values": {
            "golden": ("exact", "drift")[seed % 2],
            "top1": 0.9 + seed % 7 / 100,
            "simulated": simulated,
        }
        | modelled,
    }
    tests = [golden]
    for batch in (1, 4, 8):
        seconds = rounds_of(seed * 10 + batch, 1e-3 * batch**0.8 * (1 + seed % 5), rounds)
        p50, p90, p99 = np.quantile(seconds, (0.5, 0.9, 0.99))
        values = {"p50": p50, "p90": p90, "p99": p99, "rounds": rounds, "simulated": simulated}
        values["images_per_s"] = batch * rounds / seconds.sum()
        tests.append(
            {
                "test": f"latency {model}-{target}-{quant}-b{batch}",
                "kind": "latency",
                "outcome": "passed",
                "case": {**case, "batch": batch},
                "values": values,
                "rounds": pack_array(seconds),
            }
        )
    return tests


def write_run(root: Path, tests: Sequence[dict[str, Any]], number: int = 0, **more: Any) -> Path:
    """One record of a session, made so many days after the first one."""
    content = {"command": "pytest bench", "machine": MACHINE, "commit": {"id": f"{number:07x}abcdef"}, **more}
    record = new_record(
        "session",
        created=f"2026-01-{1 + number:02d}T10:00:00+00:00",
        identity=f"session-{number:03d}",
        tests=list(tests),
        **content,
    )
    return write_record(root, record)


def write_models(root: Path, models: Sequence[str], runs: int = 1, rounds: int = 300) -> None:
    """Every model in each of CASES, in every run."""
    for number in range(runs):
        tests = [
            test
            for place, model in enumerate(models)
            for at, (target, quant) in enumerate(CASES)
            for test in case_tests(model, target, quant, 17 * place + at + number, rounds)
        ]
        write_run(root, tests, number)
