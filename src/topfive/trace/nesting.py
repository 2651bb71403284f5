"""Which events of a thread lie in which: the trees that a viewer draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from topfive.trace.events import SESSION_CATEGORY, Event

__all__ = ["Nested", "nested"]


@dataclass
class Nested:
    """A complete event and the events in it, in order of time."""

    event: Event
    children: list[Nested] = field(default_factory=list)

    @property
    def duration(self) -> float:
        """Microseconds."""
        return float(self.event["dur"])

    def walk(self) -> Iterator[Nested]:
        """This event, then all in it, outer ones first."""
        yield self
        for child in self.children:
            yield from child.walk()


def nested(events: Iterable[Event], slack: float = 0.0005) -> dict[tuple[int, int], list[Nested]]:
    """The trees of each (process, thread), from its complete events.

    An event that begins before another ends lies in it; slack: microseconds that rounding may cost.
    """
    threads: dict[tuple[int, int], list[Event]] = {}
    for event in events:
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append(event)
    return {place: _trees(those, slack) for place, those in sorted(threads.items())}


def _trees(events: Sequence[Event], slack: float) -> list[Nested]:
    roots: list[Nested] = []
    around: list[Nested] = []
    # Of events of one length a session's holds the other: a run of a single node.
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"], e.get("cat") != SESSION_CATEGORY)):
        while around and around[-1].event["ts"] + around[-1].duration <= event["ts"] + slack:
            around.pop()
        node = Nested(event)
        (around[-1].children if around else roots).append(node)
        around.append(node)
    return roots
