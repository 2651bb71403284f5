"""Defects that were found in MLPerf's reference application and have no home among other tests.

Those of queries that are counted, indices, swallowed errors and stale caches are in the tests of LoadGen, of
sweeps and of packed pictures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from topfive.images.profiles import load_profile, profile_names
from topfive.loadgen import SCENARIOS, Plan, unavailable_reason
from topfive.loadgen import settings as made
from topfive.suite.workshop import Workshop

# Every line that ONNX Runtime has to say about providers, and the threads of the process while it is open.
OPENED = """
import sys, topfive
from pathlib import Path
runner = topfive.open(topfive.build("pocket_fire", target="cpu", quant="force_float32", cache=sys.argv[1]))
print(len(list(Path("/proc/self/task").iterdir())))
"""


def test_a_processor_is_asked_for_no_gpu_and_no_threads_but_those_given(tmp_path: Path) -> None:
    threads = {}
    for wanted in ("1", "3"):
        environment = {**os.environ, "TOPFIVE_THREADS": wanted, "OMP_NUM_THREADS": "1", "USE_GPU": "yes"}
        environment |= {"OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-c", OPENED, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        threads[wanted] = int(done.stdout)
        assert done.stderr == ""
    assert threads["3"] - threads["1"] == 2


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_workers_together_have_no_more_threads_than_one_session(workers: int, tmp_path: Path) -> None:
    from topfive.sessions import default_threads

    workshop = Workshop({}, tmp_path, None, workers)
    assert workshop.threads == max(1, default_threads() // workers)


@pytest.mark.skipif(find_spec("mlperf_loadgen") is None, reason=unavailable_reason())
@pytest.mark.parametrize("latency", [1e-5, 1e-3, 0.3], ids=["10 us", "1 ms", "300 ms"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_for_which_nothing_is_said_is_short(scenario: str, latency: float, tmp_path: Path) -> None:
    import mlperf_loadgen

    plan = Plan(scenario)
    settings = made.test_settings(
        mlperf_loadgen, plan, latency=latency, slowest=latency, batch_rate=1 / latency, folder=tmp_path
    )
    asked = made.expected_seconds(plan, settings, latency=latency, samples=64)
    calls = plan.least_queries * (plan.samples_per_query if scenario == "MultiStream" else 1)
    # What LoadGen's early stopping needs is not to be had sooner; Server's calls come at 0.3 of the pace.
    assert asked <= max(2.0, calls * latency / 0.3 + 1)


def _shared(value: Any) -> bool:
    """Whether a value can be changed in place."""
    if is_dataclass(value) and not isinstance(value, type):
        with pytest.raises(FrozenInstanceError):
            setattr(value, fields(value)[0].name, None)
        return any(_shared(getattr(value, one.name)) for one in fields(value))
    if isinstance(value, tuple):
        return any(_shared(one) for one in value)
    return not (value is None or isinstance(value, (str, int, float, Path)))


@pytest.mark.parametrize("name", profile_names())
def test_nobody_can_change_a_profile_for_others(name: str) -> None:
    assert not _shared(load_profile(name))
    assert load_profile(name) == load_profile(name)
