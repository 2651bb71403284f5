"""The device: whether it is there, free, well and cool, as `qaic-util -q` says.

The lines that are read are those of QUtil.cpp and QaicUtil.cpp of
quic/software-kit-for-qualcomm-cloud-ai-100: "QID 0", "Status:Ready", "Nsp Total:14", "Nsp Free:14",
"SoC temperature(degree C):41.50".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from topfive.errors import RunError

__all__ = [
    "COOL",
    "MOST_NSPS",
    "POLL_SECONDS",
    "DeviceState",
    "parse_query",
    "too_many",
    "unready",
    "wait_until_ready",
]

COOL = 65.0
"""Degrees Celsius at which a measurement may start, and the seconds between two looks:
run_cv_classifier.py's."""
POLL_SECONDS = 10.0
MOST_NSPS = 16
"""Neural signal processors of one AI 100; some products use fewer."""
READY = "Ready"
QID = re.compile(r"^\s*QID (\d+)\s*$", re.MULTILINE)
FIELDS = {
    "status": re.compile(r"^\s*Status:\s*(\S+)\s*$", re.MULTILINE),
    "nsp_total": re.compile(r"^\s*Nsp Total:\s*(\d+)\s*$", re.MULTILINE),
    "nsp_free": re.compile(r"^\s*Nsp Free:\s*(\d+)\s*$", re.MULTILINE),
}
TEMPERATURE = re.compile(r"^\s*SoC temperature\(degree C\):\s*(-?\d+(?:\.\d+)?)\s*$", re.MULTILINE)
RESET = (
    "its documentation resets it with: sudo sh -c 'echo 1 > /sys/bus/mhi/devices/mhi<MHI ID>/soc_reset' "
    "(the MHI ID is in `qaic-util -q`)"
)


@dataclass(frozen=True)
class DeviceState:
    """One device at one moment: its number, NSPs, status, and degrees Celsius if it says them."""

    qid: int
    status: str
    nsp_total: int
    nsp_free: int
    temperature: float | None


def parse_query(text: str) -> Mapping[int, DeviceState]:
    """The devices that `qaic-util -q` printed, by number.

    Raises RunError with the text when a device's status or NSPs are missing or said twice. A temperature is
    not said by all versions.
    """
    marks = list(QID.finditer(text))
    ends = (*(mark.start() for mark in marks[1:]), len(text))
    found = {}
    for mark, end in zip(marks, ends, strict=False):
        part = text[mark.end() : end]
        values = {name: field.findall(part) for name, field in FIELDS.items()}
        wrong = [name for name, said in values.items() if len(said) != 1]
        if wrong:
            field, times = wrong[0].replace("_", " "), len(values[wrong[0]])
            raise RunError(
                f"qaic-util says the {field} of device {mark[1]} {times} times, not once",
                details=part.strip() or "(nothing)",
            )
        degrees = TEMPERATURE.findall(part)
        found[int(mark[1])] = DeviceState(
            qid=int(mark[1]),
            status=values["status"][0],
            nsp_total=int(values["nsp_total"][0]),
            nsp_free=int(values["nsp_free"][0]),
            temperature=float(degrees[0]) if degrees else None,
        )
    return found


def unready(state: DeviceState, nsps: int, *, measuring: bool) -> str:
    """What there is to wait for, or "": a device that is free and, for a measurement, alone and cool.

    nsps: how many are needed. Raises RunError for what waiting does not help: too few NSPs, an error.
    """
    if state.status != READY:
        raise RunError(f"device {state.qid} is not ready: its status is {state.status}", details=RESET)
    if nsps > state.nsp_total:
        raise RunError(f"{nsps} NSPs are needed, but device {state.qid} has {state.nsp_total}")
    if state.nsp_free < (state.nsp_total if measuring else nsps):
        return f"{state.nsp_free} of {state.nsp_total} NSPs are free: somebody else uses it"
    if measuring and state.temperature is not None and state.temperature > COOL:
        return f"it has {state.temperature:g} degrees Celsius, more than {COOL:g}"
    return ""


def wait_until_ready(
    query: Callable[[], DeviceState], nsps: int, *, measuring: bool, most_seconds: float
) -> DeviceState:
    """Look at the device until it is ready, as `unready` says, and return how it was then.

    query: asks the device. Raises RunError when it is not ready after `most_seconds`, and what `query` and
    `unready` raise.
    """
    end = time.monotonic() + most_seconds
    while True:
        state = query()
        reason = unready(state, nsps, measuring=measuring)
        if not reason:
            return state
        left = end - time.monotonic()
        if left <= 0:
            raise RunError(
                f"device {state.qid} is not free after {most_seconds:g} s: {reason}; "
                "wait longer with --option max-wait=SECONDS"
            )
        time.sleep(min(POLL_SECONDS, max(left, 0.0)))


def too_many(cores: int, instances: int, total: int | None) -> str:
    """Why so many cores and instances fit on no device, or on one with `total` NSPs; "" if they fit."""
    most = MOST_NSPS if total is None else total
    if cores * instances <= most:
        return ""
    device = "an AI 100" if total is None else "the device"
    return (
        f"{cores} cores x {instances} instances are {cores * instances} NSPs, but {device} has {most}: "
        "choose fewer with --option cores=N --option instances=N"
    )
