"""How far a sweep is, in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

__all__ = ["Progress", "Tally"]

SHOWN = 4


class Tally:
    """Pictures done and right of one case; `total` pictures in all."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.right = total, 0, 0


class Progress:
    """Adds up what shards report and says so from time to time.

    totals: pictures of each case, by its name. say: takes a line of text. every: seconds between lines; the
    last is always said. clock: seconds.
    """

    def __init__(
        self,
        totals: Mapping[str, int],
        say: Callable[[str], None],
        *,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tallies = {name: Tally(total) for name, total in totals.items()}
        self._say, self._every, self._clock = say, every, clock
        self._started = self._last = clock()
        self._new = 0

    def expect(self, name: str, total: int) -> None:
        """A case that was not known at the start."""
        self.tallies.setdefault(name, Tally(total))

    def add(self, name: str, pictures: int, right: int, *, new: bool = True) -> None:
        """Pictures of a shard; new: run now, not found done."""
        tally = self.tallies[name]
        tally.done += pictures
        tally.right += right
        self._new += pictures if new else 0

    def tell(self) -> None:
        """Say how far it is, if it is time to."""
        now = self._clock()
        finished = all(tally.done >= tally.total for tally in self.tallies.values())
        if finished or now - self._last >= self._every:
            self._last = now
            self._say(self.text())

    def text(self) -> str:
        """Done of total, images a second since the start, the time left at this rate, top-1 so far."""
        done = sum(tally.done for tally in self.tallies.values())
        total = sum(tally.total for tally in self.tallies.values())
        rate = self._new / max(self._clock() - self._started, 1e-9)
        left = _duration((total - done) / rate) if self._new else "?"
        return f"{done:,}/{total:,} images, {rate:,.0f} images/s, {left} left, top-1 {self._accuracies()}"

    def _accuracies(self) -> str:
        begun = [(name, tally) for name, tally in self.tallies.items() if tally.done]
        if len(self.tallies) == 1:
            return "".join(f"{100 * tally.right / tally.done:.2f} %" for _, tally in begun) or "-"
        running = [(name, tally) for name, tally in begun if tally.done < tally.total] or begun
        shown = [f"{name} {100 * tally.right / tally.done:.2f} %" for name, tally in running[-SHOWN:]]
        return ", ".join(shown) + (", ..." if len(running) > SHOWN else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
