"""Running pictures through models: one pass over a shard for all cases, each picture decoded once."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

import topfive
from topfive.datasets import Listing, Picture
from topfive.datasets.storage import STAMP_BYTES, is_url
from topfive.errors import RunError
from topfive.images import Profile, load_profile, normalise
from topfive.images.packed import File, Pack, make_crops, pack_source
from topfive.sweep.plan import Plan, shard_range
from topfive.sweep.shards import ShardResult, best_classes
from topfive.targets.base import Runner

__all__ = ["CaseRun", "Evaluator", "Job"]

REMOTE_READERS = 8


@dataclass(frozen=True)
class CaseRun:
    """One case of a job: its plan, the sweep's id, and its artifact's folder."""

    plan: Plan
    id: str
    artifact: Path


@dataclass(frozen=True)
class Job:
    """Cases over the same pictures, shards and batch. cache: its root, or None for no packed pictures."""

    listing: Listing
    cases: tuple[CaseRun, ...]
    cache: Path | None
    threads: int

    @property
    def shards(self) -> int:
        """How many shards there are: the same for each case."""
        return self.cases[0].plan.shards


@dataclass
class _Group:
    """The cases that share crops."""

    profile: Profile
    size: tuple[int, int]
    cases: list[int] = field(default_factory=list)


class Evaluator:
    """Holds the open runners, packs and threads of one process; use as a context manager.

    open_runner: opens the runner of an artifact's folder with so many threads (default: `topfive.open`).
    """

    def __init__(self, job: Job, open_runner: Callable[[Path, int], Runner] | None = None) -> None:
        self.job = job
        self._open = open_runner or (lambda path, threads: topfive.open(path, threads=threads))
        self._exits = ExitStack()
        self._runners: dict[int, Runner] = {}
        self._packs: dict[str, Pack] = {}
        self._storage = job.listing.storage()
        readers = REMOTE_READERS if is_url(job.listing.root) else job.threads
        self._pool = self._exits.enter_context(ThreadPoolExecutor(readers)) if readers > 1 else None
        self._profiles = {run.plan.profile: load_profile(run.plan.profile) for run in job.cases}

    def run(self, number: int, cases: Sequence[int]) -> list[ShardResult]:
        """One shard for these cases (positions in the job), in their order.

        Raises ImageError naming a picture, RunError naming the case, CacheError.
        """
        plan = self.job.cases[cases[0]].plan
        positions = shard_range(plan.pictures, plan.shards, number)
        pictures = self.job.listing.pictures[positions.start : positions.stop]
        for case in cases:
            self._runner(case)  # opened before the clock starts
        started, used = time.time(), time.process_time()
        parts = {case: _Parts() for case in cases}
        hashes: list[bytes] = []
        stamps: list[bytes] = []
        batch = max(self.job.cases[case].plan.batch for case in cases)
        clock = _Clock()
        for start in range(0, len(pictures), batch):
            part = pictures[start : start + batch]
            files = [self._file(picture) for picture in part]
            self._run_part(part, files, parts, clock)
            hashes += [file.sha256 for file in files]
            stamps += [file.stamp or bytes(STAMP_BYTES) for file in files]
        about = {
            "started": started,
            "ended": time.time(),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        cpu = time.process_time() - used
        shared = {name: seconds / len(cases) for name, seconds in clock.seconds.items()}
        own = {case: sum(shared.values()) + found.seconds["run"] for case, found in parts.items()}
        shares = {case: seconds / sum(own.values()) for case, seconds in own.items()}
        return [
            ShardResult(
                plan=self.job.cases[case].id,
                number=number,
                indices=np.array([picture.index for picture in pictures], np.int32),
                labels=np.array([picture.label for picture in pictures], np.int32),
                top5=np.concatenate(found.best),
                sha256=np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32),
                stamps=np.frombuffer(b"".join(stamps), np.uint8).reshape(-1, STAMP_BYTES),
                seconds={**shared, **found.seconds, "cpu": cpu * shares[case]},
                about={
                    **about,
                    "share": shares[case],
                    "runner": self._runner(case).describe(),
                },
            )
            for case, found in parts.items()
        ]

    def missing_bytes(self) -> int:
        """Room that the packed pictures of this job still need."""
        if self.job.cache is None:
            return 0
        rows = [picture.index for picture in self.job.listing.pictures]
        return sum(
            self._pack(group).missing_bytes(rows) for group in self._groups(range(len(self.job.cases)))
        )

    def _run_part(
        self, pictures: Sequence[Picture], files: Sequence[File], parts: dict[int, _Parts], clock: _Clock
    ) -> None:
        if self._pool and is_url(self.job.listing.root):
            with clock.of("read"):
                list(self._pool.map(lambda file: file.data, files))
        for group in self._groups(parts):
            with clock.of("crop"):
                crops = self._crops(group, pictures, files)
            tensors: dict[str, npt.NDArray[Any]] = {}
            for case in group.cases:
                plan = self.job.cases[case].plan
                if plan.profile not in tensors:
                    with clock.of("tensor"):
                        tensors[plan.profile] = normalise(crops, self._profiles[plan.profile])
                start = time.perf_counter()
                best = self._best(case, tensors[plan.profile], files)
                parts[case].best.append(best)
                parts[case].seconds["run"] += time.perf_counter() - start

    def _best(self, case: int, tensor: npt.NDArray[Any], files: Sequence[File]) -> npt.NDArray[np.int32]:
        plan, runner = self.job.cases[case].plan, self._runner(case)
        outputs = [
            _run(runner, tensor[n : n + plan.batch], plan.batch) for n in range(0, len(tensor), plan.batch)
        ]
        output = np.concatenate(outputs).reshape(len(tensor), -1)
        entries = plan.classes + plan.background
        if output.shape[1] != entries:
            raise runner.artifact.located(
                RunError(f"the model gives {output.shape[1]} numbers a picture, its card says {entries}")
            )
        bad = np.flatnonzero(np.isnan(output).any(axis=1))
        if len(bad):
            raise runner.artifact.located(RunError(f"the output for {files[int(bad[0])].name} holds NaN"))
        return best_classes(output, plan.background)

    def _groups(self, cases: Sequence[int] | Mapping[int, Any] | range) -> list[_Group]:
        groups: dict[str, _Group] = {}
        for case in cases:
            plan = self.job.cases[case].plan
            group = groups.setdefault(plan.crop, _Group(self._profiles[plan.profile], plan.size))
            group.cases.append(case)
        return list(groups.values())

    def _crops(
        self, group: _Group, pictures: Sequence[Picture], files: Sequence[File]
    ) -> npt.NDArray[np.uint8]:
        if self.job.cache is None:
            return make_crops(files, group.profile, group.size, self._pool)
        return self._pack(group).crops([picture.index for picture in pictures], files, self._pool)

    def _pack(self, group: _Group) -> Pack:
        key = self.job.cases[group.cases[0]].plan.crop
        if key not in self._packs and self.job.cache is not None:
            listing = self.job.listing
            source = pack_source(listing.root, listing.labels_from)
            pack = Pack(self.job.cache, source, listing.listed, group.profile, group.size)
            self._packs[key] = self._exits.enter_context(pack)
        return self._packs[key]

    def _runner(self, case: int) -> Runner:
        if case not in self._runners:
            self._runners[case] = self._exits.enter_context(
                self._open(self.job.cases[case].artifact, self.job.threads)
            )
        return self._runners[case]

    def _file(self, picture: Picture) -> File:
        name = picture.name
        return File(name, lambda: self._storage.read(name), self._storage.stamp(name))

    def close(self) -> None:
        """Close runners, packs and threads."""
        self._exits.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class _Parts:
    best: list[npt.NDArray[np.int32]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"run": 0.0})


class _Clock:
    def __init__(self) -> None:
        self.seconds = {"read": 0.0, "crop": 0.0, "tensor": 0.0}

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start


def _run(runner: Runner, batch: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """One run; a model of a fixed batch size gets the last picture again until the batch is full."""
    fixed = isinstance(runner.artifact.meta["input"]["shape"][0], int)
    if not fixed or len(batch) == size:
        return runner.run(batch)
    padded = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
    return runner.run(padded)[: len(batch)]
