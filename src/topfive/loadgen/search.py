"""Finding a Server arrival rate that this machine can hold, when nobody says one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from topfive.loadgen.plan import Plan
from topfive.loadgen.runs import Run

__all__ = ["TRIES", "until_valid"]

TRIES = 4
SLOWER = 0.5


def until_valid(plan: Plan, run: Callable[[Plan, int], Run]) -> tuple[Run, int]:
    """The first valid run, and how many were needed; after TRIES the last invalid one.

    run: does a plan, given the number of the try. Only a Server run whose rate nobody asked for is tried
    again, each time at SLOWER times the rate before; every other plan is run once, whatever comes.
    """
    free = plan.scenario == "Server" and plan.mode == "performance" and not plan.submission
    free = free and plan.qps is None and "server_target_qps" not in plan.overrides
    for number in range(1, TRIES + 1):
        found = run(plan, number)
        if found.valid or not free or found.performance is None or number == TRIES:
            return found, number
        rate = float(found.performance.detail["requested_server_target_qps"])
        plan = replace(plan, qps=rate * SLOWER)
    raise AssertionError("unreachable: the loop returns")
