"""How many processors other processes were using while something was measured.

A clock cannot tell a slow model from a busy machine; the kernel's accounts of processor time can.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DISTURBED", "Watch", "processor_seconds"]

PROC = Path("/proc")
DISTURBED = 0.2
"""From so many processors on, a measurement is marked: the accounts are kept in ticks of 10 ms."""
# Fields of /proc/stat's first line that are work: user, nice, system, irq, softirq, steal (proc(5)). The
# guests' time is in user's, and steal is what the host of a virtual machine gave to others.
BUSY = (0, 1, 2, 5, 6, 7)
# Of /proc/PID/stat, counted after the name: parent, then utime, stime, cutime, cstime.
PARENT, SPENT = 1, (11, 12, 13, 14)


def processor_seconds(proc: Path = PROC) -> tuple[float, float] | None:
    """Processor time since the machine started: of all processes, and of this one with its descendants.

    In seconds, children that have ended included. None where the system does not tell.
    """
    try:
        tick = os.sysconf("SC_CLK_TCK")
        first = (proc / "stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        everything = sum(int(first[1 + place]) for place in BUSY)
        spent, parents = _processes(proc)
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return everything / tick, sum(spent[pid] for pid in _family(os.getpid(), parents)) / tick


def _processes(proc: Path) -> tuple[dict[int, int], dict[int, int]]:
    """Ticks spent and parent of every process that is there."""
    spent: dict[int, int] = {}
    parents: dict[int, int] = {}
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            # The name stands in brackets, and may have brackets and blanks itself.
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended meanwhile
            continue
        fields, pid = text.rpartition(")")[2].split(), int(folder.name)
        parents[pid] = int(fields[PARENT])
        spent[pid] = sum(int(fields[place]) for place in SPENT)
    return spent, parents


def _family(pid: int, parents: dict[int, int]) -> set[int]:
    """A process that is there, and its descendants."""
    children: dict[int, list[int]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    family: set[int] = set()
    waiting = [pid] if pid in parents else []
    while waiting:
        found = waiting.pop()
        if found not in family:
            family.add(found)
            waiting += children.get(found, [])
    return family


@dataclass(frozen=True)
class Watch:
    """Since when, and what had been spent by then; made by `Watch.start()`."""

    at: float
    spent: tuple[float, float] | None

    @classmethod
    def start(cls) -> Watch:
        """Begin to watch."""
        return cls(time.monotonic(), processor_seconds())

    def others(self) -> float | None:
        """Processors that all other processes used since then, on average; None where that is not known."""
        now, passed = processor_seconds(), time.monotonic() - self.at
        if now is None or self.spent is None or passed <= 0:
            return None
        (all_now, ours_now), (all_then, ours_then) = now, self.spent
        return max(0.0, (all_now - all_then) - (ours_now - ours_then)) / passed
