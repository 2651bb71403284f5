"""Calibration itself: samples through a model, a range table out.

For `minmax` the samples go through in batches (of the model's own size if that is fixed), for the methods
that look at histograms one at a time, so that no result depends on how samples are batched and memory holds
the activations of one picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from topfive.errors import CalibrateError, ImageError
from topfive.graph import Graph
from topfive.quantize.calibration.collect import NotFiniteError, collector_for
from topfive.quantize.calibration.method import Method
from topfive.quantize.calibration.source import calibrated_tensors
from topfive.quantize.calibration.state import Progressed, State
from topfive.quantize.ranges import RangeTable

__all__ = ["Files", "measure", "minmax"]

MINMAX_BATCH = 8
STORE_SECONDS = 10.0
Progress = Callable[[int, int], None]
Values = NDArray[np.float32]


class Files(Protocol):
    """Calibration data: files in a fixed order, each of one or more samples."""

    @property
    def names(self) -> list[str]:
        """The files' names, for messages."""

    def load(self, index: int) -> Values:
        """The samples of one file in the model's input layout, [n, ...] float32."""


def measure(
    model: onnx.ModelProto,
    files: Files,
    method: Method,
    *,
    skip_bad: bool = False,
    state: State | None = None,
    store_seconds: float = STORE_SECONDS,
    progress: Progress | None = None,
    threads: int | None = None,
) -> RangeTable:
    """Ranges of the calibrated tensors of a float model, with `method` and `pictures` in the provenance.

    model: float ONNX with one input. skip_bad: leave out files that cannot be read; their names are in the
    provenance as `skipped`. state: where to go on after a kill, stored every `store_seconds`. progress:
    called with (files done, files in all). threads: of the session.
    Raises CalibrateError when there is nothing to measure, or naming tensor and file when an activation is
    not finite; ImageError naming a picture that cannot be read, unless `skip_bad`.
    """
    return _Run(model, files, method, skip_bad, state, store_seconds, progress, threads).run()


class _Run:
    """One calibration."""

    def __init__(
        self,
        model: onnx.ModelProto,
        files: Files,
        method: Method,
        skip_bad: bool,
        state: State | None,
        store_seconds: float,
        progress: Progress | None,
        threads: int | None,
    ) -> None:
        graph = Graph(model)
        tensors = calibrated_tensors(graph)
        self.collector = collector_for(method, graph, tensors, threads)
        self.fixed = int(graph.inputs[0].type.tensor_type.shape.dim[0].dim_value)
        self.batch = self.fixed or (MINMAX_BATCH if method.name == "minmax" else 1)
        self.files, self.method, self.skip_bad, self.state = files, method, skip_bad, state
        self.store_seconds, self.progress = store_seconds, progress
        self.skipped: list[int] = []
        self.samples = 0
        self.passes = 1
        self.waiting: list[Values] = []
        self.waiting_names: list[str] = []

    def run(self) -> RangeTable:
        done, again = self._resumed(), True
        while again:
            self._run_pass(done)
            self._finish_pass()
            again = self.collector.next_pass()
            done = 0
            self.passes += again
            self.samples *= not again
        provenance: dict[str, object] = {"pictures": self.samples}
        if self.skipped:
            provenance["skipped"] = [self.files.names[i] for i in self.skipped]
        if self.method != Method():
            provenance |= {k: v for k, v in self.method.fields().items() if k != "method"}
        return RangeTable(self.collector.ranges(self.method), self.method.name, provenance)

    def _run_pass(self, done: int) -> None:
        """All files from number `done` on."""
        count = len(self.files.names)
        stored = time.monotonic()
        for index in range(done, count):
            self._take(index)
            while self._held() >= self.batch:
                self._run_batch(self.batch)
            # Only between batches: what waits for the rest of its batch is not stored.
            if self.state and not self.waiting and time.monotonic() - stored >= self.store_seconds:
                self.state.write(self._progressed(index + 1))
                stored = time.monotonic()
            if self.progress:
                self.progress((self.passes - 1) * count + index + 1, self.passes * count)

    def _finish_pass(self) -> None:
        """Run what is left over for a last, smaller batch."""
        if self.waiting and self.fixed:
            raise CalibrateError(
                f"the model's batch is fixed at {self.fixed}, and {self._held()} calibration samples are "
                f"left over: give a multiple of {self.fixed}"
            )
        if self.waiting:
            self._run_batch(self._held())
        if not self.samples:
            what = "every picture of it was skipped" if self.skipped else "name a folder with pictures"
            raise CalibrateError(f"the calibration set is empty: {what}")

    def _resumed(self) -> int:
        """How many files are done already."""
        found = self.state.read() if self.state else None
        if found is None:
            return 0
        self.collector.restore(found.arrays)
        self.samples, self.skipped, self.passes = found.samples, list(found.skipped), found.passes
        return found.files

    def _progressed(self, files: int) -> Progressed:
        return Progressed(self.passes, files, self.samples, tuple(self.skipped), self.collector.arrays())

    def _held(self) -> int:
        return sum(map(len, self.waiting))

    def _take(self, index: int) -> None:
        if index in self.skipped:
            return
        try:
            loaded = self.files.load(index)
        except ImageError as error:
            if self.skip_bad:
                self.skipped.append(index)
                return
            raise ImageError(
                f"{error.message} (calibration picture {index + 1} of {len(self.files.names)}); "
                "--skip-bad leaves such pictures out and counts them",
                details=error.details,
            ) from error
        self.waiting.append(loaded)
        self.waiting_names.append(self.files.names[index])

    def _run_batch(self, count: int) -> None:
        joined = self.waiting[0] if len(self.waiting) == 1 else np.concatenate(self.waiting)
        names = self.waiting_names
        try:
            self.collector.add(joined[:count])
        except NotFiniteError as error:
            where = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
            raise CalibrateError(f"{error.message} for {where}, after {self.samples} samples") from error
        self.samples += min(count, len(joined))
        self.waiting = [joined[count:]] if len(joined) > count else []
        self.waiting_names = names[-1:] if self.waiting else []


def minmax(
    model: onnx.ModelProto,
    batches: Iterable[Values],
    *,
    progress: Callable[[int], None] | None = None,
) -> RangeTable:
    """Ranges by minimum and maximum over all batches, run as they are.

    model: float ONNX with one input. batches: arrays in the model's input layout, float32. Raises
    CalibrateError when there are no batches or an activation is not finite.
    """
    graph = Graph(model)
    collector = collector_for(Method(), graph, calibrated_tensors(graph))
    count = 0
    for batch in batches:
        try:
            collector.add(batch)
        except NotFiniteError as error:
            raise CalibrateError(f"{error.message} after {count} calibration pictures") from error
        count += len(batch)
        if progress:
            progress(count)
    if not count:
        raise CalibrateError("the calibration set is empty: name a folder with pictures in [calibration]")
    return RangeTable(collector.ranges(Method()), "minmax", {"pictures": count})
