"""Trace events and the file that holds them.

The form is the JSON Array Format of the Trace Event Format (Chromium's document of that name), which
chrome://tracing and Perfetto open: complete events (`ph` "X") with times in microseconds, and metadata events
("M") that name processes and threads. An array, not an object, so that `jq 'map(...)'` works on it. What
there is to say of the whole trace stands in one metadata event, DESCRIPTION.

Only an event of the host lane that stands for a node carries `args.op_name`: a sum over all events that have
one counts nothing twice. What is inside a node, and everything modelled, says its operator under another key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from topfive.errors import TraceError

__all__ = [
    "DESCRIPTION",
    "HOST",
    "KERNEL",
    "MODELLED",
    "MODELLED_CATEGORY",
    "NODE_CATEGORY",
    "SESSION_CATEGORY",
    "Event",
    "check_place",
    "complete",
    "description",
    "process_names",
    "thread_names",
    "trace_text",
    "write_trace",
]

Event = dict[str, Any]

HOST, MODELLED = 1, 2
"""Process ids of the lanes."""
SESSION_CATEGORY, NODE_CATEGORY, MODELLED_CATEGORY = "Session", "Node", "Modelled"
METADATA_CATEGORY = "__metadata"
DESCRIPTION = "topfive_trace"
KERNEL = "_kernel_time"
# Nanoseconds suffice, and their decimals stay short.
DIGITS = 3


def complete(
    name: str,
    category: str,
    lane: tuple[int, int],
    start: float,
    duration: float,
    args: Mapping[str, Any],
) -> Event:
    """Something that took from `start` for `duration` microseconds, on a lane (process id, thread id)."""
    begin, end = round(start, DIGITS), round(start + duration, DIGITS)
    return {
        "cat": category,
        "pid": lane[0],
        "tid": lane[1],
        "dur": round(end - begin, DIGITS),
        "ts": begin,
        "ph": "X",
        "name": name,
        "args": dict(args),
    }


def _metadata(name: str, lane: tuple[int, int], args: Mapping[str, Any]) -> Event:
    return {
        "cat": METADATA_CATEGORY,
        "pid": lane[0],
        "tid": lane[1],
        "ts": 0,
        "ph": "M",
        "name": name,
        "args": dict(args),
    }


def process_names(process: int, name: str, labels: str) -> list[Event]:
    """The events that name a process, label it, and put it in the order of its number."""
    lane = (process, 0)
    return [
        _metadata("process_name", lane, {"name": name}),
        _metadata("process_labels", lane, {"labels": labels}),
        _metadata("process_sort_index", lane, {"sort_index": process}),
    ]


def thread_names(process: int, names: Mapping[int, str]) -> list[Event]:
    """The events that name a process's threads and put them in the order of their numbers."""
    found = []
    for thread, name in names.items():
        lane = (process, thread)
        found.append(_metadata("thread_name", lane, {"name": name}))
        found.append(_metadata("thread_sort_index", lane, {"sort_index": thread}))
    return found


def description(about: Mapping[str, Any]) -> Event:
    """The event that says what the whole trace is of; viewers pass over it."""
    return _metadata(DESCRIPTION, (HOST, 0), about)


def trace_text(events: Iterable[Event]) -> str:
    """The events as a JSON array, one a line."""
    lines = ",\n".join(json.dumps(event, allow_nan=False) for event in events)
    return f"[\n{lines}\n]\n"


def check_place(out: Path) -> None:
    """Raise TraceError if a trace file cannot be at `out`, before anything long is done for it."""
    if out.is_dir():
        raise TraceError(f"no trace can be written to {out}: it is a folder; name a file in it")
    if not out.parent.is_dir():
        raise TraceError(
            f"no trace can be written to {out}: the folder {out.parent} does not exist; make it first"
        )


def write_trace(events: Iterable[Event], out: Path) -> None:
    """Write a trace file whole or not at all; TraceError when it cannot be written."""
    # A device or a pipe is written to, never replaced.
    replaces = out.is_file() or not out.exists()
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part") if replaces else out
    try:
        temporary.write_text(trace_text(events), encoding="utf-8")
        if replaces:
            temporary.replace(out)
    except OSError as error:
        raise TraceError(f"{out}: the trace cannot be written: {error.strerror or error}") from error
    finally:
        if replaces:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
