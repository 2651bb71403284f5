"""Reading a trace file and checking it against the Trace Event Format.

Checked is what the format's document says of the fields: which phases exist, which fields each needs, and of
what kind they are; that begin and end events pair up; and that complete events of one thread nest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topfive.errors import TraceError
from topfive.trace.events import DESCRIPTION, Event

__all__ = ["SLACK", "Trace", "problems", "read_trace"]

# Duration, complete, instant, counter, async, flow, sample, object, metadata, memory dump, mark, clock sync
# and context events; capitals among I, S, T, F are the deprecated forms.
PHASES = tuple("BEXIiCbneSTpFstfPNODMVvRc()")
TIMELESS = ("M",)
WITH_THREAD = ("B", "E", "X")
WITH_ID = ("b", "n", "e", "S", "T", "p", "F", "s", "t", "f", "N", "O", "D")
SCOPES = ("g", "p", "t")
# Metadata events that the document names, and the one argument of each.
METADATA: dict[str, tuple[str, type]] = {
    "process_name": ("name", str),
    "process_labels": ("labels", str),
    "process_sort_index": ("sort_index", int),
    "thread_name": ("name", str),
    "thread_sort_index": ("sort_index", int),
}
SLACK = 2.0
"""Microseconds by which an event may outlast the one around it: writers cut times to whole ones."""
SHOWN = 12
# Whole numbers beyond this are no times: a viewer keeps them in 64 bits.
LARGEST = 2**63


@dataclass(frozen=True)
class Trace:
    """A trace file: its events in file order, and what it says of itself ({} if another tool made it)."""

    path: Path
    events: tuple[Event, ...]
    about: Mapping[str, Any] = field(default_factory=dict)


def read_trace(path: Path) -> Trace:
    """Read and check a trace; an array whose closing bracket is missing is allowed, as the format says.

    Raises TraceError naming the file and the first problems.
    """
    try:
        value = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: is not JSON: {error}") from None
    found = problems(value)
    if found:
        more = [f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        details = "\n".join([*(f"  {line}" for line in found[1:SHOWN]), *more])
        raise TraceError(f"{path}: is no trace of the Trace Event Format: {found[0]}", details=details)
    events = value["traceEvents"] if isinstance(value, dict) else value
    about: Mapping[str, Any] = next(
        (e.get("args", {}) for e in events if e["ph"] == "M" and e["name"] == DESCRIPTION), {}
    )
    return Trace(path, tuple(events), about)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        cut = text.rstrip().removesuffix(",")
        if not cut.startswith("[") or cut.endswith("]"):
            raise
        return json.loads(f"{cut}]")


def problems(value: Any, slack: float = SLACK) -> list[str]:
    """What is wrong with a parsed trace, a line each; [] for a good one. slack: see SLACK."""
    if isinstance(value, dict):
        value = value.get("traceEvents")
        if not isinstance(value, list):
            return ["the object has no array 'traceEvents'"]
    if not isinstance(value, list):
        return [f"the file holds {_kind(value)}, not an array of events"]
    found = []
    for number, event in enumerate(value):
        if not isinstance(event, dict):
            found.append(f"event {number} is {_kind(event)}, not an object")
            continue
        name = event.get("name")
        label = f"event {number}{f' ({name})' if isinstance(name, str) else ''}"
        found += [f"{label}: {what}" for what in _event_problems(event)]
    return found or _unpaired(value) + _crossing(value, slack)


def _kind(value: Any) -> str:
    names = {list: "an array", dict: "an object", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _whole(value) and abs(value) < LARGEST


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _event_problems(event: Event) -> list[str]:
    phase = event.get("ph")
    if phase not in PHASES:
        return [f"'ph' is {phase!r}, not a phase of the format"]
    found = []
    if phase != "E" and not isinstance(event.get("name"), str):
        found.append("'name' must be text")
    if phase not in TIMELESS and not _number(event.get("ts")):
        found.append(f"'ts' must be a number of microseconds, not {event.get('ts')!r}")
    for key, needed in (("pid", True), ("tid", phase in WITH_THREAD)):
        if (key in event or needed) and not _whole(event.get(key)):
            found.append(f"{key!r} must be a whole number, not {event.get(key)!r}")
    if "cat" in event and not isinstance(event["cat"], str):
        found.append("'cat' must be text")
    if "args" in event and not isinstance(event["args"], dict):
        found.append(f"'args' must be an object, not {_kind(event['args'])}")
    return found + (_phase_problems(phase, event) if not found else [])


def _phase_problems(phase: str, event: Event) -> list[str]:
    """What one phase needs besides the fields of all."""
    if phase == "X" and not (_number(event.get("dur")) and event["dur"] >= 0):
        return [f"'dur' must be a number of microseconds of 0 or more, not {event.get('dur')!r}"]
    if phase == "C" and not (event.get("args") and all(map(_number, event["args"].values()))):
        return ["a counter's 'args' must be numbers"]
    if phase in ("i", "I") and event.get("s", "t") not in SCOPES:
        return [f"'s' must be g, p or t, not {event['s']!r}"]
    if phase in WITH_ID and not any(key in event for key in ("id", "id2")):
        return ["'id' is missing"]
    if phase == "M":
        key, kind = METADATA.get(event["name"], ("", object))
        value = event.get("args", {}).get(key)
        if key and (not isinstance(value, kind) or isinstance(value, bool)):
            return [f"'args.{key}' must be {'text' if kind is str else 'a whole number'}, not {value!r}"]
    return []


def _by_thread(events: Sequence[Event], phases: str) -> dict[tuple[int, int], list[Event]]:
    found: dict[tuple[int, int], list[Event]] = {}
    for event in events:
        if event["ph"] in phases:
            found.setdefault((event["pid"], event["tid"]), []).append(event)
    return found


def _unpaired(events: Sequence[Event]) -> list[str]:
    """End events without a beginning, on each thread, and times that run backwards."""
    found = []
    for (process, thread), those in _by_thread(events, "BE").items():
        place, depth, last = f"process {process}, thread {thread}", 0, -math.inf
        for event in those:
            depth += 1 if event["ph"] == "B" else -1
            if depth < 0:
                found.append(f"{place}: an end event at {event['ts']} has no begin event")
                depth = 0
            if event["ts"] < last:
                found.append(f"{place}: begin and end events go back in time at {event['ts']}")
            last = event["ts"]
    return found


def _crossing(events: Sequence[Event], slack: float) -> list[str]:
    """Complete events that overlap another of their thread without lying in it."""
    found = []
    for (process, thread), those in _by_thread(events, "X").items():
        open_until: list[Event] = []
        for event in sorted(those, key=lambda e: (e["ts"], -e["dur"])):
            while open_until and _end(open_until[-1]) <= event["ts"] + slack / 2:
                open_until.pop()
            if open_until and _end(event) > _end(open_until[-1]) + slack:
                around = open_until[-1]["name"]
                found.append(
                    f"process {process}, thread {thread}: {event['name']} at {event['ts']} begins in "
                    f"{around} and ends after it"
                )
            open_until.append(event)
    return found


def _end(event: Event) -> float:
    return float(event["ts"] + event["dur"])
