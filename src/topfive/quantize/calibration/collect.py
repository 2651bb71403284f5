"""What calibration keeps of the pictures it has seen: of each tensor a range, or a histogram.

Memory does not grow with the number of pictures. A collector can be stored and taken up again (`arrays`,
`restore`), and gives the same bits then.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.errors import CalibrateError
from topfive.graph import Graph
from topfive.quantize.calibration.histogram import Histogram, Scratch
from topfive.quantize.calibration.method import Method
from topfive.quantize.calibration.source import RangeSession, ValueSession, clipped_tensors
from topfive.quantize.calibration.thresholds import histogram_range, onnxruntime_window

__all__ = ["Collector", "NotFiniteError", "collector_for"]

FEWEST_BINS = 4096
"""A histogram that was made from another's has at least so many bins on its longer side."""
Arrays = dict[str, NDArray[Any]]
Ranges = dict[str, tuple[float, float]]


class NotFiniteError(CalibrateError):
    """An activation is NaN or infinite; `tensor` names it."""

    def __init__(self, tensor: str) -> None:
        super().__init__(f"activation {tensor!r} is not finite")
        self.tensor = tensor


class Collector(ABC):
    """Runs batches through a model and keeps what a method needs, in one pass over the data or two."""

    def __init__(self, tensors: list[str]) -> None:
        self.tensors = tensors

    @abstractmethod
    def add(self, batch: NDArray[np.float32]) -> None:
        """Take in one batch in the model's input layout. NotFiniteError ends the calibration."""

    def next_pass(self) -> bool:
        """Called after a pass: whether the same data are needed once more."""
        return False

    @abstractmethod
    def ranges(self, method: Method) -> Ranges:
        """The range of each tensor by a method."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """Everything kept, as arrays that `restore` takes."""

    @abstractmethod
    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `arrays` gave."""


def _table(tensors: list[str], low: NDArray[np.float32], high: NDArray[np.float32], method: Method) -> Ranges:
    if method.symmetric:
        high = np.maximum(abs(low), abs(high))
        low = -high
    return {name: (float(a), float(b)) for name, a, b in zip(tensors, low, high, strict=True)}


class MinMaxCollector(Collector):
    """Two numbers a tensor, found inside the graph."""

    def __init__(self, graph: Graph, tensors: list[str], threads: int | None = None) -> None:
        super().__init__(tensors)
        self._session = RangeSession(graph, tensors, threads)
        self.low = np.full(len(tensors), np.inf, np.float32)
        self.high = np.full(len(tensors), -np.inf, np.float32)

    def add(self, batch: NDArray[np.float32]) -> None:
        """See Collector.add."""
        low, high = self._session.run(batch)
        bad = ~(np.isfinite(low) & np.isfinite(high))
        if bad.any():
            raise NotFiniteError(self.tensors[int(np.flatnonzero(bad)[0])])
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    def ranges(self, method: Method) -> Ranges:
        """See Collector.ranges."""
        return _table(self.tensors, self.low, self.high, method)

    def arrays(self) -> Arrays:
        """See Collector.arrays."""
        return {"low": self.low, "high": self.high}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See Collector.restore."""
        self.low, self.high = arrays["low"], arrays["high"]


class HistogramCollector(Collector):
    """A histogram a tensor. Pictures are best added one at a time: all activations are in memory at once.

    The histogram of a Relu or Clip is made from its input's. Should that leave it with few bins, because the
    input reaches much further, its own values are counted in a second pass.
    """

    def __init__(self, graph: Graph, tensors: list[str], threads: int | None = None) -> None:
        super().__init__(tensors)
        self._graph, self._threads = graph, threads
        self._clipped = clipped_tensors(graph, tensors)
        self._scratch = Scratch()
        self._histograms: dict[int, Histogram] = {}
        self._second = False
        self._count([i for i in range(len(tensors)) if i not in self._clipped])

    def _count(self, places: list[int]) -> None:
        """Count the values of these tensors from now on."""
        self._counted = places
        self._session = ValueSession(self._graph, [self.tensors[i] for i in places], self._threads)
        self._histograms |= {i: Histogram(self._scratch) for i in places}

    def next_pass(self) -> bool:
        """See Collector.next_pass."""
        found = self._complete()
        coarse = [
            i for i in self._clipped if found[i].bound and found[i].bound < found[i].width * FEWEST_BINS
        ]
        if self._second or not coarse:
            return False
        self._second = True
        self._count(coarse)
        return True

    def _complete(self) -> dict[int, Histogram]:
        """All histograms: those counted, and those made from them."""
        found = dict(self._histograms)
        for i, (source, low, high) in self._clipped.items():
            if i not in found:
                found[i] = found[source].clipped(float(low), float(high))
        return found

    def add(self, batch: NDArray[np.float32]) -> None:
        """See Collector.add."""
        for i, values in zip(self._counted, self._session.run(batch), strict=True):
            try:
                self._histograms[i].add(values)
            except ValueError:
                raise NotFiniteError(self.tensors[i]) from None

    def ranges(self, method: Method) -> Ranges:
        """See Collector.ranges."""
        found = self._complete()
        return {name: histogram_range(found[i], method) for i, name in enumerate(self.tensors)}

    def arrays(self) -> Arrays:
        """See Collector.arrays."""
        kept = list(self._histograms.values())
        return {
            "places": np.array(list(self._histograms), np.int64),
            "counted": np.array(self._counted, np.int64),
            "second": np.array(self._second),
            "counts": np.stack([h.counts for h in kept]),
            "exponents": np.array([h.exponent for h in kept], np.int64),
            "ends": np.array([(h.low, h.high) for h in kept]),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See Collector.restore."""
        self._second = bool(arrays["second"])
        self._histograms = {}
        self._count([int(i) for i in arrays["counted"]])
        for n, place in enumerate(arrays["places"]):
            kept = self._histograms.setdefault(int(place), Histogram(self._scratch))
            kept.counts[:] = arrays["counts"][n]
            kept.exponent = int(arrays["exponents"][n])
            kept.low, kept.high = (float(end) for end in arrays["ends"][n])


class WindowCollector(MinMaxCollector):
    """The equal bins over [-bound, bound] that onnxruntime's entropy calibrator counts, edge for edge.

    They need the range first: one pass for it, one for the bins. With as many bins as levels there is only
    one window, the whole, and the first pass is enough.
    """

    def __init__(self, graph: Graph, tensors: list[str], method: Method, threads: int | None = None) -> None:
        super().__init__(graph, tensors, threads)
        one_window = method.histogram_bins // 2 == method.histogram_levels // 2
        self._values = None if one_window else ValueSession(graph, tensors, threads)
        self._counting = False
        self.counts = np.zeros((len(tensors), method.histogram_bins), np.int64)

    def next_pass(self) -> bool:
        """See Collector.next_pass."""
        wanted = self._values is not None and not self._counting
        self._counting = self._counting or wanted
        return wanted

    def add(self, batch: NDArray[np.float32]) -> None:
        """See Collector.add."""
        if not self._counting or self._values is None:
            super().add(batch)
            return
        for i, values in enumerate(self._values.run(batch)):
            bound = float(self._bound(i))
            self.counts[i] += np.histogram(values, self.counts.shape[1], range=(-bound, bound))[0]

    def _bound(self, tensor: int) -> np.float32:
        return np.float32(max(abs(self.low[tensor]), abs(self.high[tensor])))

    def ranges(self, method: Method) -> Ranges:
        """See Collector.ranges."""
        low, high = self.low.copy(), self.high.copy()
        if self._counting:
            for i, counts in enumerate(self.counts):
                start, end = onnxruntime_window(counts, method.histogram_levels)
                edges = np.linspace(-self._bound(i), self._bound(i), counts.size + 1, dtype=np.float32)
                low[i], high[i] = max(edges[start], low[i]), min(edges[end], high[i])
        return _table(self.tensors, low, high, method)

    def arrays(self) -> Arrays:
        """See Collector.arrays."""
        return {**super().arrays(), "counts": self.counts, "counting": np.array(self._counting)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See Collector.restore."""
        super().restore(arrays)
        self.counts, self._counting = arrays["counts"], bool(arrays["counting"])


def collector_for(method: Method, graph: Graph, tensors: list[str], threads: int | None = None) -> Collector:
    """The collector that a method needs."""
    if method.name == "minmax":
        return MinMaxCollector(graph, tensors, threads)
    if method.name == "entropy_onnxruntime":
        return WindowCollector(graph, tensors, method, threads)
    return HistogramCollector(graph, tensors, threads)
