"""A session in a process of its own: each call has a time limit; a crash or a hang there is an error here.

Batches and outputs go through memory that both processes map; a call is two short messages of JSON on a pair
of sockets. Two copies and two wake-ups of a process are what it costs.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import accumulate
from multiprocessing import Pipe
from typing import Any

import numpy as np

from topfive.errors import RunError
from topfive.targets.base import Array
from topfive.targets.device_session import LONGER, DeviceSession
from topfive.targets.tools import end_group, ending

__all__ = ["ApartSession", "SharedMemory"]

PAGE = mmap.PAGESIZE
ALIGNED = 64
CLOSE_SECONDS = 10.0
MOST_SHOWN = 4000


class SharedMemory:
    """Memory that two processes map through one file descriptor; it grows, and both follow."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._map: mmap.mmap | None = None

    def view(self, size: int) -> Array:
        """The first bytes of it, [size] uint8, writable; the memory grows to hold them."""
        if self._map is None or len(self._map) < size:
            whole = max(os.fstat(self.number).st_size, -(-size // PAGE) * PAGE, PAGE)
            os.ftruncate(self.number, whole)
            # Views of the old mapping stay valid: it goes with the last of them.
            self._map = mmap.mmap(self.number, whole)
        view: Array = np.frombuffer(self._map, np.uint8, size)
        return view

    def put(self, values: Array, at: int = 0) -> dict[str, Any]:
        """Copy an array into it, from byte `at` on; the array's form, for `get`."""
        room = self.view(at + values.nbytes)[at:].view(values.dtype).reshape(values.shape)
        np.copyto(room, values)
        return {"shape": list(values.shape), "dtype": values.dtype.str, "at": at}

    def put_all(self, values: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
        """Copy several arrays into it, side by side; the form of each, for `get`."""
        ends = list(
            accumulate((-(-value.nbytes // ALIGNED) * ALIGNED for value in values.values()), initial=0)
        )
        self.view(ends[-1])
        return {
            name: self.put(value, at) for (name, value), at in zip(values.items(), ends[:-1], strict=True)
        }

    def get(self, form: Mapping[str, Any]) -> Array:
        """The array of this form in it, as a view: good until the next `put`."""
        dtype, shape, at = np.dtype(form["dtype"]), tuple(form["shape"]), int(form["at"])
        size = dtype.itemsize * int(np.prod(shape))
        values: Array = self.view(at + size)[at:].view(dtype).reshape(shape)
        return values


class ApartSession(DeviceSession):
    """A DeviceSession that another process holds; that process ends with this one, however this one ends."""

    def __init__(
        self,
        opener: str,
        job: Mapping[str, Any],
        *,
        library: str,
        seconds: float,
        opening: float | None = None,
        longer: str = LONGER,
    ) -> None:
        """Start the process and open the session. Raises RunError; see `open_session`."""
        self._library, self._seconds, self._longer = library, seconds, longer
        self._gone, self._last_words = "", ""
        self._memory = SharedMemory(os.memfd_create("topfive-batches"))
        self._said = os.memfd_create("topfive-said")
        self._line, theirs = Pipe()
        watched, self._lifeline = os.pipe()
        numbers = (theirs.fileno(), self._memory.number, watched)
        self._command = [sys.executable, "-m", "topfive.targets.apart_process", *map(str, numbers)]
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            # The library must be the one that this process would import.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            pass_fds=numbers,
            start_new_session=True,
        )
        theirs.close()
        os.close(watched)
        self._poll = select.poll()
        self._poll.register(self._line.fileno(), select.POLLIN)
        try:
            limit = seconds if opening is None else opening
            self._ask({"opener": opener, "job": dict(job)}, "opening the model", limit)
        except BaseException:
            self._end("opening the model")
            raise

    def infer(self, batch: Array) -> Array:
        """See DeviceSession.infer."""
        doing = f"running a batch of {len(batch)}"
        self._refuse_if_gone()
        form = self._memory.put(batch)
        found = self._ask({"call": "infer", **form}, doing, self._seconds)
        return np.array(self._memory.get(found))

    def tensors(self, batch: Array) -> dict[str, Array]:
        """See DeviceSession.tensors."""
        doing = f"running a batch of {len(batch)} for every tensor"
        self._refuse_if_gone()
        form = self._memory.put(batch)
        found = self._ask({"call": "tensors", **form}, doing, self._seconds)
        return {name: np.array(self._memory.get(made)) for name, made in found["tensors"].items()}

    def measure(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """See DeviceSession.measure; the plan's "seconds" are added to the time limit."""
        limit = self._seconds + float(plan.get("seconds", 0))
        return self._ask({"call": "measure", "plan": dict(plan)}, "measuring", limit)

    def close(self) -> None:
        """Close the session and end its process; one that does not end by itself is killed."""
        if self._gone:
            return
        doing = "closing the model"
        try:
            with suppress(RunError):
                self._ask({"call": "close"}, doing, CLOSE_SECONDS)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_SECONDS)
        finally:
            self._end(doing)

    def _refuse_if_gone(self) -> None:
        if self._gone:
            raise RunError(f"{self._library}'s process has ended since {self._gone}: open the artifact again")

    def _ask(self, question: Mapping[str, Any], doing: str, seconds: float) -> dict[str, Any]:
        """The answer to a question. Raises RunError, and ends a process that gives none."""
        self._refuse_if_gone()
        try:
            answer = self._answer(question, doing, seconds)
        except BaseException:
            # Whatever interrupted it, a late answer must not be taken for the next one.
            self._end(doing)
            raise
        if "failed" in answer:
            raise RunError(answer["failed"], details=answer["details"])
        found: dict[str, Any] = answer["returned"]
        return found

    def _answer(self, question: Mapping[str, Any], doing: str, seconds: float) -> dict[str, Any]:
        try:
            self._line.send_bytes(json.dumps(question).encode())
            if not self._poll.poll(1e3 * seconds):
                left = self._end(doing)
                raise RunError(
                    f"{doing} in {self._library} did not end within {seconds:g} s and was killed{left}: "
                    f"{self._longer} allows more",
                    details=self._last_words,
                )
            answer: dict[str, Any] = json.loads(self._line.recv_bytes())
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_SECONDS)
            self._end(doing)
            how = ending(self._process.returncode)
            raise RunError(
                f"{self._library}'s process {how} while {doing}", details=self._last_words
            ) from None
        return answer

    def _end(self, doing: str) -> str:
        """End the process, once, and give back what was held for it; what is left of it, in words, or ""."""
        if self._gone:
            return ""
        self._gone = doing
        left = end_group(self._process, self._command) if self._process.poll() is None else ""
        size = os.fstat(self._said).st_size
        said = os.pread(self._said, MOST_SHOWN, max(size - MOST_SHOWN, 0))
        self._last_words = said.decode("utf-8", errors="replace").strip()
        self._line.close()
        for number in (self._lifeline, self._said, self._memory.number):
            os.close(number)
        return left
