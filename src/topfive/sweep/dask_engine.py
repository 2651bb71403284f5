"""Running shards on a Dask cluster, whoever deployed it: SSH, SLURM, Kubernetes, or processes of one machine.

Artifacts and the job travel as worker plugins, named by their hash: Dask sends each once to every worker, and
to workers that join later. Results come back as JSON values and are kept by this process, so that resuming
does not depend on the cluster. Dask itself runs a lost worker's tasks again elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import tempfile
import threading
import zipfile
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from topfive.cache import cache_root
from topfive.errors import SweepError
from topfive.sweep.engine import TRIES, Failure, Finished, Outcome, Task, error_text
from topfive.sweep.evaluate import Evaluator, Job
from topfive.sweep.plan import version_differences
from topfive.sweep.shards import ShardResult
from topfive.sweep.state import SweepState

try:
    import distributed
except ImportError as error:
    raise SweepError("--engine dask needs Dask: pip install 'topfive[dask]'") from error

__all__ = ["DaskEngine"]

CONNECT_SECONDS = 10


class DaskEngine:
    """Runs jobs on the cluster of a scheduler: an address (tcp://host:8786) or the path of its JSON file."""

    def __init__(self, scheduler: str) -> None:
        self.scheduler = scheduler

    def run(
        self, job: Job, states: Mapping[int, SweepState], tasks: Sequence[Task], finished: Finished
    ) -> Outcome:
        """Run tasks and keep their results as they come. Raises SweepError when the scheduler is gone."""
        with self._connected() as client, client.as_current():
            return _Run(client, job, states, finished).go(tasks)

    def _connected(self) -> Any:
        place = {"address": self.scheduler}
        if self.scheduler.endswith(".json"):
            place = {"scheduler_file": self.scheduler}
            if not Path(self.scheduler).is_file():  # Dask would wait for it for ever
                raise SweepError(f"no Dask scheduler has written {self.scheduler}: correct --scheduler")
        try:
            return distributed.Client(**place, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise SweepError(
                f"no Dask scheduler answers at {self.scheduler} within {CONNECT_SECONDS} s: start one with "
                f"`dask scheduler`, or correct --scheduler ({error or type(error).__name__})"
            ) from error


class _Run:
    """One job on one cluster."""

    def __init__(self, client: Any, job: Job, states: Mapping[int, SweepState], finished: Finished) -> None:
        self.client, self.job, self.states, self.finished = client, job, states, finished
        self.scheduler = client.scheduler.address
        self.name = (
            f"topfive-{hashlib.sha256(''.join(run.id for run in job.cases).encode()).hexdigest()[:16]}"
        )
        self.outcome = Outcome()
        self.plugins: list[str] = []

    def go(self, tasks: Sequence[Task]) -> Outcome:
        """Ship, submit, gather."""
        counters = [distributed.Variable(f"{self.name}-{task.number}", client=self.client) for task in tasks]
        try:
            self._ship()
            for counter in counters:
                counter.set({"starts": 0, "error": ""})
            by_key = {}
            for task in tasks:
                future = self.client.submit(
                    run_task,
                    self.name,
                    task.number,
                    task.cases,
                    key=f"{self.name}-{task.number}",
                    retries=TRIES - 1,
                    pure=False,
                )
                by_key[future.key] = (task, future)
            self._gather(by_key)
        finally:
            with suppress(Exception):  # the cluster may be gone
                for counter in counters:
                    counter.delete()
                for name in self.plugins:
                    self.client.unregister_worker_plugin(name)
        return self.outcome

    def _gather(self, by_key: dict[str, tuple[Task, Any]]) -> None:
        """Keep each result as it comes. Raises SweepError when the scheduler is lost."""
        lost = ""
        ready = distributed.as_completed([future for _, future in by_key.values()])
        try:
            for future in ready:
                task, _ = by_key[future.key]
                stored = self._result(future)
                if stored is not None:
                    self._keep(task, stored)
                    future.release()
                elif future.status == "error":
                    self.outcome.failures.append(Failure(task.number, _told(future.exception())))
                elif future.status == "cancelled":
                    lost = f"it forgot shard {task.number}"
                    break
                else:  # lost with its worker after it was told to be ready: the scheduler runs it again
                    ready.add(future)
        except (OSError, TimeoutError, CancelledError) as error:
            lost = str(error) or type(error).__name__
        if lost:
            raise SweepError(
                f"the Dask scheduler at {self.scheduler} was lost: start it again, then the same command "
                "goes on",
                details=lost,
            )

    def _result(self, future: Any) -> Sequence[Mapping[str, Any]] | None:
        """What a task gave, or None where its status says why there is nothing (yet)."""
        if future.status != "finished":
            return None
        try:
            stored: Sequence[Mapping[str, Any]] = future.result()
        except Exception:
            if future.status == "error":  # lost with its worker, and the next try failed
                return None
            raise
        return stored

    def _keep(self, task: Task, stored: Sequence[Mapping[str, Any]]) -> None:
        results = [ShardResult.from_json(one) for one in stored]
        for case, result in zip(task.cases, results, strict=True):
            self.states[case].write(result)
        self.finished(results)

    def _ship(self) -> None:
        """Send the artifacts and the job to every worker, and to those that will join."""
        hashes = []
        try:
            for run in self.job.cases:
                data = packed_folder(run.artifact)
                digest = hashlib.sha256(data).hexdigest()
                hashes.append(digest)
                self._register(ArtifactPlugin(digest, data))
            self._register(JobPlugin(self.name, self.job, tuple(hashes)))
        except Exception as error:
            raise SweepError(
                f"a worker of {self.scheduler} cannot take the models: {error_text(error)}; "
                "install the same topfive on every machine of the cluster"
            ) from error

    def _register(self, plugin: ArtifactPlugin | JobPlugin) -> None:
        self.client.register_plugin(plugin, name=plugin.name)
        if plugin.name not in self.plugins:
            self.plugins.append(plugin.name)


def _told(error: BaseException | None) -> str:
    if isinstance(error, distributed.KilledWorker):
        return "its worker was lost again and again: see the workers' logs"
    return error_text(error) if isinstance(error, Exception) else repr(error)


def packed_folder(folder: Path) -> bytes:
    """A folder as a zip file whose bytes depend on names and contents only."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())
    return stream.getvalue()


class ArtifactPlugin(distributed.WorkerPlugin):  # type: ignore[misc]
    """Holds one artifact on a worker, unpacked in a folder that goes with the worker."""

    idempotent = True

    def __init__(self, digest: str, data: bytes) -> None:
        self.name = f"topfive-artifact-{digest}"
        self.digest, self.data = digest, data
        self.folder: Path | None = None

    def setup(self, worker: Any) -> None:
        """Unpack. Raises SweepError when what arrived is not what was sent."""
        if hashlib.sha256(self.data).hexdigest() != self.digest:
            raise SweepError(f"artifact {self.digest[:12]} arrived damaged at {worker.address}")
        # In the worker's own folder, which Dask removes even if the worker is killed.
        self.folder = Path(tempfile.mkdtemp(prefix="topfive-", dir=worker.local_directory))
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            archive.extractall(self.folder)
        self.data = b""

    def teardown(self, worker: Any) -> None:
        """Remove the folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class JobPlugin(distributed.WorkerPlugin):  # type: ignore[misc]
    """Holds a job on a worker, and for each of its threads what runs it."""

    idempotent = True

    def __init__(self, name: str, job: Job, artifacts: tuple[str, ...]) -> None:
        self.name, self.job, self.artifacts = name, job, artifacts

    def setup(self, worker: Any) -> None:
        """Note the worker, whose artifacts are found through it."""
        self.worker = worker
        self.threads = threading.local()
        self.evaluators: list[Evaluator] = []

    def teardown(self, worker: Any) -> None:
        """Close what is open."""
        for evaluator in self.evaluators:
            evaluator.close()

    def evaluator(self) -> Evaluator:
        """What runs this job in the calling thread. Raises SweepError when versions differ from the plan."""
        found: Evaluator | None = getattr(self.threads, "evaluator", None)
        if found is None:
            differences = version_differences(self.job.cases[0].plan)
            if differences:
                raise SweepError(
                    f"worker {self.worker.address} on {socket.gethostname()}: {'; '.join(differences)}: "
                    "install the same versions on every machine of the cluster"
                )
            plugins = self.worker.plugins
            cases = tuple(
                replace(run, artifact=plugins[f"topfive-artifact-{digest}"].folder)
                for run, digest in zip(self.job.cases, self.artifacts, strict=True)
            )
            packed = cache_root() if self.job.cache is not None else None
            found = Evaluator(replace(self.job, cases=cases, cache=packed))
            self.threads.evaluator = found
            self.evaluators.append(found)
        return found


def run_task(name: str, number: int, cases: Sequence[int]) -> list[dict[str, Any]]:
    """A shard on a worker; its results as JSON values.

    Starts are counted on the scheduler: a shard that ends its worker each time is not started a fourth time.
    """
    worker = distributed.get_worker()
    counter = distributed.Variable(f"{name}-{number}", client=distributed.get_client())
    tries = counter.get(timeout=CONNECT_SECONDS)
    if tries["starts"] >= TRIES:
        raise SweepError(tries["error"] or f"its worker was lost {TRIES} times")
    counter.set({**tries, "starts": tries["starts"] + 1})
    try:
        results = worker.plugins[name].evaluator().run(number, tuple(cases))
    except Exception as error:
        counter.set({"starts": tries["starts"] + 1, "error": error_text(error)})
        raise
    # It is sound: that its result may be lost with its worker and it be run again does not count as a try.
    counter.set({"starts": 0, "error": ""})
    return [result.to_json() for result in results]
