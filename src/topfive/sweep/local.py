"""Running shards on this machine: in this process, or in workers that may be lost."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from topfive.errors import CacheError, SweepError
from topfive.sweep.engine import TRIES, Failure, Finished, Outcome, Task, error_text
from topfive.sweep.evaluate import Evaluator, Job
from topfive.sweep.state import SweepState

__all__ = ["prepare_workers", "run_local"]

GRACE_SECONDS = 10.0
PRELOADED = ["topfive.cli", "topfive.sweep.local", "onnx"]
"""What workers need, without onnxruntime: importing that starts a thread, after which forking is not safe."""
STOPPING = (CacheError, SweepError)
"""No room, or nowhere to write: the next shard would meet the same."""


def run_local(
    job: Job, states: Mapping[int, SweepState], tasks: Sequence[Task], *, workers: int, finished: Finished
) -> Outcome:
    """Run tasks on so many workers, each with `job.threads` threads; one worker is this process itself.

    Results are kept by the workers as they come, so that killing this process loses none that is done. A
    worker that dies is replaced and its shard tried again. Raises what only this process can meet; what a
    shard meets is in the outcome.
    """
    if min(workers, len(tasks)) <= 1:
        return _run_here(job, states, tasks, finished)
    crew = _Crew(job, states, tasks, finished)
    try:
        crew.run(min(workers, len(tasks)))
    finally:
        crew.dismiss()
    return crew.outcome


def _run_here(
    job: Job, states: Mapping[int, SweepState], tasks: Sequence[Task], finished: Finished
) -> Outcome:
    outcome = Outcome()
    with Evaluator(job) as evaluator:
        for task in tasks:
            for tries in range(1, TRIES + 1):
                try:
                    results = evaluator.run(task.number, task.cases)
                    for case, result in zip(task.cases, results, strict=True):
                        states[case].write(result)
                except STOPPING as error:
                    outcome.failures.append(Failure(task.number, error_text(error)))
                    return outcome
                except Exception as error:
                    if tries == TRIES:
                        outcome.failures.append(Failure(task.number, error_text(error)))
                else:
                    finished(results)
                    break
    return outcome


def prepare_workers() -> None:
    """Start, in the background, the process that workers are forked from; it imports what they need once.

    Called early, it is ready when the models are built.
    """
    _context()
    forkserver.ensure_running()


def _context() -> multiprocessing.context.ForkServerContext:
    """Not forked from this process, which may hold threads of an inference library."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection[Any, Any]
    task: Task | None = None
    ready: bool = False


class _Crew:
    """Workers, the tasks that wait, and how often each was tried."""

    def __init__(
        self, job: Job, states: Mapping[int, SweepState], tasks: Sequence[Task], finished: Finished
    ) -> None:
        self.job, self.states, self.finished = job, states, finished
        self.waiting = deque(tasks)
        self.tries: dict[int, int] = {}
        self.outcome = Outcome()
        self.workers: list[_Worker] = []
        self._context = _context()

    def run(self, count: int) -> None:
        """Go on until every task is finished or given up."""
        for _ in range(count):
            self.workers.append(self._hired())
        while self.waiting or any(worker.task for worker in self.workers):
            ready = wait([worker.connection for worker in self.workers])
            for worker in [worker for worker in self.workers if worker.connection in ready]:
                try:
                    self._heard(worker, worker.connection.recv())
                except (EOFError, OSError):
                    self._lost(worker)
            for worker in self.workers:
                if self.waiting and worker.ready and worker.task is None:
                    worker.task = self.waiting.popleft()
                    worker.connection.send(worker.task)

    def dismiss(self) -> None:
        """End the workers; those in the middle of a shard are stopped."""
        for worker in self.workers:
            worker.connection.close()
            if worker.task is not None:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(GRACE_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _hired(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self.job, dict(self.states)), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _heard(self, worker: _Worker, message: tuple[str, Any]) -> None:
        kind, content = message
        task, worker.task, worker.ready = worker.task, None, True
        if task is not None and kind == "finished":
            self.finished(content)
        elif task is not None and kind == "stopped":
            self.outcome.failures.append(Failure(task.number, content))
            self.waiting.clear()
        elif task is not None:
            self._failed(task, content)

    def _lost(self, worker: _Worker) -> None:
        """A worker is gone: killed, out of memory, or crashed in native code."""
        worker.process.join(GRACE_SECONDS)
        worker.connection.close()
        self.workers.remove(worker)
        self.outcome.lost_workers += 1
        code = worker.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if worker.task is not None:
            self._failed(worker.task, f"its worker was lost ({how})")
        elif self.outcome.lost_workers > TRIES * (len(self.workers) + 1):
            raise SweepError(f"workers cannot start: the last ended with {how}")
        if self.waiting:
            self.workers.append(self._hired())

    def _failed(self, task: Task, error: str) -> None:
        self.tries[task.number] = self.tries.get(task.number, 0) + 1
        if self.tries[task.number] < TRIES:
            self.waiting.append(task)
        else:
            self.outcome.failures.append(Failure(task.number, error))


def _work(connection: Connection[Any, Any], job: Job, states: Mapping[int, SweepState]) -> None:
    """A worker: takes tasks until the connection closes, also because the process at its end was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends the others
    with Evaluator(job) as evaluator:
        message: tuple[str, Any] = ("ready", None)
        while True:
            try:
                connection.send(message)
                task: Task = connection.recv()
            except (EOFError, OSError):
                return
            try:
                results = evaluator.run(task.number, task.cases)
                for case, result in zip(task.cases, results, strict=True):
                    states[case].write(result)
                message = ("finished", results)
            except STOPPING as error:
                message = ("stopped", error_text(error))
            except Exception as error:
                message = ("failed", error_text(error))
