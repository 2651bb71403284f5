"""MLPerf scenarios with LoadGen itself (package mlcommons-loadgen): one process a run, judged by its logs."""

from __future__ import annotations

from topfive.loadgen.logs import Accuracy, LoadGenResult, read_accuracy, read_result
from topfive.loadgen.plan import (
    MODES,
    SCENARIOS,
    Plan,
    ScenarioError,
    asked_runs,
    command_key,
    is_stream,
    parse_command_key,
)
from topfive.loadgen.runs import Run, described, run_scenario, unavailable_reason
from topfive.loadgen.user_conf import read_user_conf

__all__ = [
    "MODES",
    "SCENARIOS",
    "Accuracy",
    "LoadGenResult",
    "Plan",
    "Run",
    "ScenarioError",
    "asked_runs",
    "command_key",
    "described",
    "is_stream",
    "parse_command_key",
    "read_accuracy",
    "read_result",
    "read_user_conf",
    "run_scenario",
    "unavailable_reason",
]
