"""Where the time of a trace goes: by operator, provider or layer.

The host lane counts what has `args.op_name` and is no step inside a node, as the `jq` line of the imagenet
runner's README does, so that the sums are the same; a node inside another (the body of an If) is taken out of
the outer one. The modelled lane counts layers, in cycles. Traces that onnxruntime writes itself are read too.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from topfive.errors import TraceError, UnknownNameError
from topfive.trace.events import MODELLED_CATEGORY, Event
from topfive.trace.nesting import Nested, nested
from topfive.trace.validation import SLACK, Trace

__all__ = [
    "GROUPINGS",
    "LANES",
    "RUN",
    "Counted",
    "Row",
    "Summary",
    "counted",
    "cycles_of",
    "is_node",
    "lanes_of",
    "layer_of",
    "operator_of",
    "provider_of",
    "run_count",
    "summarise",
]

LANES = ("host", "modelled")
RUN = "model_run"
# What onnxruntime adds to a node's name: the event's kind.
_ENDING = re.compile(r"_(?:kernel_time|fence_before|fence_after)$")


@dataclass
class Row:
    """Time of one group: microseconds by run, modelled cycles (0 on the host), nodes, events."""

    name: str
    by_run: dict[str, float] = field(default_factory=dict)
    cycles: int = 0
    events: int = 0
    layers: set[str] = field(default_factory=set)

    @property
    def microseconds(self) -> float:
        """The sum over all runs."""
        return sum(self.by_run.values())

    def median(self, runs: int) -> float:
        """The median over `runs` runs, 0 in those that it is not in."""
        absent = [0.0] * (runs - len(self.by_run))
        return statistics.median([*self.by_run.values(), *absent])

    def as_json(self, total: float, runs: int) -> dict[str, Any]:
        """The row as JSON-able values; share of `total`."""
        values: dict[str, Any] = {
            "name": self.name,
            "us": round(self.microseconds, 3),
            "us_per_run": round(self.microseconds / runs, 3),
            "us_median": round(self.median(runs), 3),
            "share": self.microseconds / total if total else 0.0,
            "nodes": len(self.layers),
            "events": self.events,
        }
        return {**values, "cycles": self.cycles} if self.cycles else values


@dataclass(frozen=True)
class Summary:
    """Rows, longest first; in running order for layers. runs: how many runs the times are of."""

    lane: str
    by: str
    runs: int
    rows: tuple[Row, ...]

    @property
    def microseconds(self) -> float:
        """The sum of the rows."""
        return sum(row.microseconds for row in self.rows)

    @property
    def cycles(self) -> int:
        """The modelled cycles of all rows."""
        return sum(row.cycles for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON-able values."""
        total = self.microseconds
        return {
            "lane": self.lane,
            "modelled": self.lane == "modelled",
            "by": self.by,
            "runs": self.runs,
            "us": round(total, 3),
            **({"cycles": self.cycles} if self.lane == "modelled" else {}),
            "rows": [row.as_json(total, self.runs) for row in self.rows],
        }


def layer_of(event: Event) -> str:
    """The node that an event is for: as topfive wrote it, else the name without onnxruntime's endings."""
    node = event["args"].get("node")
    return node if isinstance(node, str) else _ENDING.sub("", str(event["name"]))


def is_node(event: Event) -> bool:
    """Whether an event of the host lane stands for a node, and not for a step in one."""
    args = event.get("args", {})
    return isinstance(args.get("op_name"), str) and args.get("sub_action") is None


def lanes_of(trace: Trace) -> tuple[str, ...]:
    """The lanes that hold something to count; the host's if none does."""
    modelled = any(map(_is_modelled, trace.events))
    host = not modelled or any(map(is_node, trace.events))
    return tuple(lane for lane, there in zip(LANES, (host, modelled), strict=True) if there)


def _is_modelled(event: Event) -> bool:
    layer = event["ph"] == "X" and event.get("cat") == MODELLED_CATEGORY
    return bool(layer and "modelled_op" in event.get("args", {}))


@dataclass(frozen=True)
class Counted:
    """An event that stands for a node, its microseconds without the nodes in it, and which run it is of."""

    event: Event
    microseconds: float
    run: str


def counted(trace: Trace, lane: str) -> list[Counted]:
    """What a lane's sums are of.

    Raises UnknownNameError for a lane that is neither "host" nor "modelled", TraceError for an empty one.
    """
    if lane not in LANES:
        raise UnknownNameError("lane", lane, LANES)
    if lane == "host":
        found = list(_host(trace))
    else:
        found = [_modelled(event) for event in trace.events if _is_modelled(event)]
    if not found:
        what = (
            "events with args.op_name" if lane == "host" else "modelled layers (Gemmini's targets have some)"
        )
        raise TraceError(f"{trace.path}: holds no {what}: nothing to count in lane {lane!r}")
    return found


def run_count(trace: Trace, lane: str) -> int:
    """How many runs a lane holds, at least 1."""
    if lane == "host":
        return max(1, sum(bool(e["ph"] == "X" and e["name"] == RUN) for e in trace.events))
    return len({found.run for found in counted(trace, lane)})


def operator_of(event: Event) -> str:
    """The operator that an event of either lane stands for."""
    args = event["args"]
    return str(args["op_name"] if "op_name" in args else args["modelled_op"])


def cycles_of(event: Event) -> int:
    """The modelled cycles of an event; 0 if it names none."""
    cycles: object = event["args"].get("cycles", 0)
    return int(cycles) if isinstance(cycles, int) else 0


def provider_of(event: Event) -> str:
    """The provider that an event of either lane names."""
    return str(event["args"].get("provider", "not said"))


GROUPINGS: dict[str, Callable[[Event], str]] = {
    "op": operator_of,
    "provider": provider_of,
    "layer": layer_of,
}


def summarise(trace: Trace, by: str = "op", lane: str = "host") -> Summary:
    """Time by "op", "provider" or "layer" of the lane "host" or "modelled".

    Raises UnknownNameError for another, TraceError when the lane holds nothing to count.
    """
    if by not in GROUPINGS:
        raise UnknownNameError("grouping", by, GROUPINGS)
    rows: dict[str, Row] = {}
    for found in counted(trace, lane):
        name = GROUPINGS[by](found.event)
        row = rows.setdefault(name, Row(name))
        row.by_run[found.run] = row.by_run.get(found.run, 0.0) + found.microseconds
        row.cycles += cycles_of(found.event)
        row.events += 1
        row.layers.add(layer_of(found.event))
    order = list(rows.values())
    if by != "layer":
        order.sort(key=lambda row: (-row.microseconds, row.name))
    return Summary(lane, by, run_count(trace, lane), tuple(order))


def _modelled(event: Event) -> Counted:
    return Counted(event, float(event["dur"]), str(event["args"].get("run")))


def _host(trace: Trace) -> Iterator[Counted]:
    run = 0
    for trees in nested(trace.events, SLACK / 2).values():
        for found in (found for tree in trees for found in tree.walk()):
            # What is in a run comes after it, before the next.
            run += found.event["name"] == RUN
            if is_node(found.event):
                inner = sum(node.duration for node in _inner(found))
                yield Counted(found.event, found.duration - inner, str(run))


def _inner(found: Nested) -> Iterator[Nested]:
    """The nearest nodes inside an event."""
    for child in found.children:
        if is_node(child.event):
            yield child
        else:
            yield from _inner(child)
