"""The process of one LoadGen run: `python -m topfive.loadgen.child FOLDER` with FOLDER/job.json.

LoadGen cannot be stopped, hangs on a query without an answer, and aborts the process after an exception in a
callback; so each run has a process of its own, and callbacks keep their exception and answer with nothing.
"""

from __future__ import annotations

import ctypes
import json
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.loadgen.plan import CROPS, JOB, OUTCOME, TOP5, Plan
from topfive.loadgen.settings import expected_seconds, test_settings
from topfive.sweep.shards import best_classes

__all__ = ["Samples", "System", "main", "start_test"]

WARM_UP_CALLS, LEAST_CALLS, MOST_CALLS, TIMED_SECONDS = 3, 5, 1000, 0.5
SLOW_SECONDS = 5.0
"""After so many seconds fewer calls have to do."""
Infer = Callable[[NDArray[Any]], NDArray[Any]]


class Samples:
    """Input tensors by sample index; those that LoadGen asks for are in memory while it says so.

    Samples that are loaded together lie in one array, so that a batch of neighbours is a part of it.
    """

    def __init__(self, crops: NDArray[np.uint8], profile: str) -> None:
        from topfive.images import load_profile, normalise

        loaded = load_profile(profile)
        self._crops, self._normalise, self._profile = crops, normalise, loaded
        self.count = len(crops)
        self._loaded: dict[int, NDArray[Any]] = {}
        self._places: dict[int, tuple[NDArray[Any], int]] = {}
        self._gathered: NDArray[Any] | None = None

    def load(self, indices: Sequence[int]) -> None:
        """LoadGen's load_samples: outside the measured time."""
        new = sorted({index for index in indices if index not in self._loaded})
        if not new:
            return
        first = self._normalise(self._crops[new[0]][None], self._profile)
        together = np.empty((len(new), *first.shape[1:]), first.dtype)
        for place, index in enumerate(new):
            together[place] = self._normalise(self._crops[index][None], self._profile)[0]
            self._loaded[index], self._places[index] = together[place : place + 1], (together, place)

    def unload(self, indices: Sequence[int]) -> None:
        """LoadGen's unload_samples; memory is free with the last of the samples loaded together."""
        for index in indices:
            self._loaded.pop(index, None)
            self._places.pop(index, None)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """The input of one sample, [1, ...]; not a copy."""
        return self._loaded[index]

    def batch(self, indices: Sequence[int]) -> NDArray[Any]:
        """The inputs of several samples, [N, ...], good until the next call; neighbours are not copied."""
        together, place = self._places[indices[0]]
        end = place + len(indices)
        neighbours = all(index == indices[0] + n for n, index in enumerate(indices))
        last, at = self._places[indices[-1]]
        if neighbours and last is together and at == end - 1:
            return together[place:end]
        if self._gathered is None or len(self._gathered) < len(indices):
            self._gathered = np.empty((len(indices), *together.shape[1:]), together.dtype)
        for n, index in enumerate(indices):
            self._gathered[n] = self._loaded[index][0]
        return self._gathered[: len(indices)]


class System:
    """The system under test: answers queries through one runner, with one buffer for answers.

    The answer to a sample is its class number as float32, as MLPerf's reference writes it. top5: int32
    [samples, 5] in accuracy runs, filled with the five best classes of each; None for none.
    """

    def __init__(
        self,
        loadgen: Any,
        infer: Infer,
        samples: Samples,
        *,
        batch: int,
        background: bool,
        top5: NDArray[np.int32] | None = None,
    ) -> None:
        self._infer, self._samples = infer, samples
        self._response, self._complete = loadgen.QuerySampleResponse, loadgen.QuerySamplesComplete
        self._batch, self._background = batch, int(background)
        self._answers = np.empty(batch, np.float32)
        self._address = self._answers.ctypes.data
        self.failure = ""
        self._top5 = top5

    def issue(self, ids: list[int], indices: list[int]) -> None:
        """Answer a query; an exception is kept, and this and all later samples get empty answers."""
        for start in range(0, len(ids), self._batch):
            some = ids[start : start + self._batch]
            try:
                if self.failure:
                    self._refuse(some)
                elif len(some) == 1:
                    self._answer_one(some[0], indices[start])
                else:
                    self._answer(some, indices[start : start + self._batch])
            except BaseException:  # LoadGen aborts the process if anything leaves this function
                self.failure = self.failure or traceback.format_exc()
                self._refuse(some)

    def _answer_one(self, name: int, index: int) -> None:
        """`_answer` of one sample, with less around the model: SingleStream counts microseconds."""
        output = self._infer(self._samples[index])
        if self._top5 is not None:
            self._top5[index] = best_classes(output.reshape(1, -1), bool(self._background))[0]
        self._answers[0] = int(output.argmax()) - self._background
        self._complete([self._response(name, self._address, 4)])

    def _answer(self, ids: list[int], indices: list[int]) -> None:
        count = len(ids)
        scores = self._infer(self._samples.batch(indices)).reshape(count, -1)
        if self._top5 is not None:
            self._top5[indices] = best_classes(scores, bool(self._background))
        self._answers[:count] = scores.argmax(axis=1) - self._background
        response, address = self._response, self._address
        self._complete([response(name, address + 4 * place, 4) for place, name in enumerate(ids)])

    def _refuse(self, ids: list[int]) -> None:
        self._complete([self._response(name, 0, 0) for name in ids])

    def flush(self) -> None:
        """Nothing is held back."""


class Queued:
    """Queries answered by a thread, so that the Server scenario's arrivals keep their schedule.

    Whatever has arrived when the runner is free is answered as one batch.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._queue: queue.SimpleQueue[tuple[list[int], list[int]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def issue(self, ids: list[int], indices: list[int]) -> None:
        """Take a query."""
        self._queue.put((ids, indices))

    def _work(self) -> None:
        while (taken := self._queue.get()) is not None:
            ids, indices = taken
            while True:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._queue.put(None)
                    break
                ids, indices = ids + more[0], indices + more[1]
            self._system.issue(ids, indices)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Stop the thread."""
        self._queue.put(None)
        self._thread.join()


def main(folder: Path) -> int:
    """Run the job in `folder`; 0 if LoadGen ran to its end without a failure in a callback."""
    import mlperf_loadgen

    import topfive

    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    plan = Plan(**job["plan"])
    samples = Samples(np.load(folder / CROPS, mmap_mode="r"), job["profile"])
    batch = plan.batch if job["batch"] is None else int(job["batch"])
    with topfive.open(Path(job["artifact"]), threads=job["threads"]) as runner:
        infer = runner.callable()
        latency, slowest, rate = _measure(
            infer, samples, batch, folder, 0.0 if plan.mode == "accuracy" else TIMED_SECONDS
        )
        settings = test_settings(
            mlperf_loadgen, plan, latency=latency, slowest=slowest, batch_rate=rate, folder=folder
        )
        expected = expected_seconds(plan, settings, latency=latency, samples=samples.count)
        _write(folder, {"latency": latency, "rate": rate, "expected": expected})
        top5 = np.full((samples.count, 5), -1, np.int32) if plan.mode == "accuracy" else None
        system = System(mlperf_loadgen, infer, samples, batch=batch, background=job["background"], top5=top5)
        queued = Queued(system) if plan.scenario == "Server" else None
        start_test(mlperf_loadgen, folder, queued or system, samples, settings)
        if queued is not None:
            queued.close()
    if top5 is not None:
        np.save(folder / TOP5, top5)
    _write(folder, {"latency": latency, "rate": rate, "failure": system.failure, "ended": True})
    return 1 if system.failure else 0


def start_test(loadgen: Any, folder: Path, system: Any, samples: Samples, settings: Any) -> None:
    """One test of LoadGen from its start to its end; its logs are in `folder`, which must exist."""
    output = loadgen.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    logs = loadgen.LogSettings()
    logs.log_output = output
    logs.enable_trace = False
    sut = loadgen.ConstructFastSUT(system.issue, system.flush)
    qsl = loadgen.ConstructQSL(samples.count, samples.count, samples.load, samples.unload)
    # An audit.config in the current folder would change the run silently: name one that does not exist.
    loadgen.StartTestWithLogSettings(sut, qsl, settings, logs, str(folder / "no-audit.config"))
    loadgen.DestroyQSL(qsl)
    loadgen.DestroyFastSUT(sut)


def _measure(
    infer: Infer, samples: Samples, batch: int, folder: Path, enough: float
) -> tuple[float, float, float]:
    """Median and largest seconds of one call of one sample, and samples a second in full batches.

    enough: seconds after which there are calls enough, if they are LEAST_CALLS.
    What the measurement will take, judged by the first call, is written for the watchdog.
    """
    samples.load([0])
    one = samples[0]
    first = _seconds(infer, one)
    calls = WARM_UP_CALLS + LEAST_CALLS
    _write(folder, {"expected": 2 * SLOW_SECONDS + calls * (1 + batch) * first})
    times = _timed(infer, one, enough)
    single, slowest = float(np.median(times)), max(times)
    rate = 1 / single
    if batch > 1:
        rate = max(rate, batch / float(np.median(_timed(infer, np.concatenate([one] * batch), enough))))
    samples.unload([0])
    return single, slowest, rate


def _timed(infer: Infer, data: NDArray[Any], enough: float) -> list[float]:
    """Seconds of calls after WARM_UP_CALLS; one call, unmeasured or not, does for a very slow model."""
    spent = [_seconds(infer, data)]
    while len(spent) < WARM_UP_CALLS and sum(spent) < SLOW_SECONDS:
        spent.append(_seconds(infer, data))
    times: list[float] = [] if sum(spent) < SLOW_SECONDS else spent[-1:]
    while len(times) < MOST_CALLS and sum(times) < (SLOW_SECONDS if len(times) < LEAST_CALLS else enough):
        times.append(_seconds(infer, data))
    return times


def _seconds(infer: Infer, data: NDArray[Any]) -> float:
    start = time.perf_counter()
    infer(data)
    return time.perf_counter() - start


def _write(folder: Path, outcome: dict[str, Any]) -> None:
    temporary = folder / f"{OUTCOME}.part"
    temporary.write_text(json.dumps(outcome), encoding="utf-8")
    temporary.replace(folder / OUTCOME)


def _die_with_parent() -> None:
    """Ask Linux for SIGKILL when the process that started this one is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)


if __name__ == "__main__":
    _die_with_parent()
    sys.exit(main(Path(sys.argv[1])))
