"""What may change between two records: `p50:5%,p99:10%,cycles:0,top1:0.2`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from topfive.errors import OptionError, UnknownNameError

__all__ = ["ACCURACIES", "COUNTS", "DEFAULT_GATES", "FIGURES", "MAGICMIND", "TIMES", "Gate", "parse_gates"]

TIMES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "mean": None, "images_per_s": None}
"""Metrics of raw rounds; the quantile of those that are one."""
COUNTS = ("cycles", "instructions", "bits")
"""Metrics without noise."""
ACCURACIES = ("top1", "top5")
FIGURES = ("loadgen",)
"""Figures without raw rounds: LoadGen's own, judged by their size alone."""
MAGICMIND = "magicmind"
"""Cambricon's own rules, whose limits are theirs: named without a limit."""
MISSING = "missing"
METRICS = (*TIMES, *COUNTS, *ACCURACIES, *FIGURES, MAGICMIND, MISSING)
DEFAULT_GATES = "p50:5%,p99:10%,cycles:0,instructions:0,top1:0.2,bits:0,missing:0"
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
LIMIT = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<unit>%|ns|us|ms|s)?")


@dataclass(frozen=True)
class Gate:
    """A metric and how much worse it may become.

    relative: whether `limit` is a fraction of the base; else it is seconds (times), counts, percentage points
    (top1, top5), or tests (missing).
    """

    metric: str
    limit: float
    relative: bool

    @property
    def text(self) -> str:
        """The limit as people read it."""
        if self.metric == MAGICMIND:
            return "vendor's"
        if self.relative:
            return f"{100 * self.limit:g}%"
        if self.metric in TIMES and self.metric != "images_per_s":
            return f"{self.limit:g}s"
        return f"{self.limit:g} points" if self.metric in ACCURACIES else f"{self.limit:g}"


def parse_gates(text: str) -> tuple[Gate, ...]:
    """The gates of `METRIC:LIMIT,...`. Raises UnknownNameError for a metric, OptionError for a limit.

    A limit is a number, with % relative to the base, with s, ms, us or ns a time; `magicmind` has none.
    """
    gates: dict[str, Gate] = {}
    for part in text.split(","):
        name, separator, limit = (piece.strip() for piece in part.partition(":"))
        if name == MAGICMIND and not separator:
            gates[name] = Gate(name, 0, relative=False)
            continue
        if not name or not separator:
            raise OptionError(f"gate {part.strip()!r} is not METRIC:LIMIT, as in {DEFAULT_GATES}")
        if name not in METRICS:
            raise UnknownNameError("gate metric", name, METRICS)
        if name in gates:
            raise OptionError(f"gate {name} is given twice")
        gates[name] = _gate(name, limit)
    gates.setdefault(MISSING, Gate(MISSING, 0, relative=False))
    return tuple(gates.values())


def _gate(name: str, text: str) -> Gate:
    if name == MAGICMIND:
        raise OptionError(f"gate {name}:{text}: its limits are the vendor's; give {name} alone")
    if name == MISSING and text == "any":
        return Gate(name, math.inf, relative=False)
    match = LIMIT.fullmatch(text)
    if match is None:
        raise OptionError(f"gate {name}:{text}: the limit is a number such as 5%, 0.2 or 0")
    number, unit = float(match["number"]), match["unit"]
    timed = name in TIMES and name != "images_per_s"
    if unit == "%" and name not in (*ACCURACIES, MISSING, "bits"):
        return Gate(name, number / 100, relative=True)
    if unit in UNITS and timed:
        return Gate(name, number * UNITS[unit], relative=False)
    if unit or (number and (timed or name in ("images_per_s", "bits", *FIGURES))):
        wants = {
            "top1": "percentage points, as 0.2",
            "top5": "percentage points, as 0.2",
            "bits": "0: bits are equal or not",
            MISSING: "a number of tests, or any",
        }.get(name, "a percentage, as 5%" + (", or a time, as 0.2ms" if timed else ""))
        raise OptionError(f"gate {name}:{text}: this metric takes {wants}")
    return Gate(name, number, relative=name in (*TIMES, *FIGURES))
