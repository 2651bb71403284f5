"""Sessions of a vendor's runtime in a process apart: memory, time limits, deaths, and who outlives whom."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from topfive.errors import RunError
from topfive.targets import tools as tools_module
from topfive.targets.apart import ApartSession, SharedMemory
from topfive.targets.base import Array
from topfive.targets.device_session import APART, OWN, DeviceSession, open_session

SHORT, ENOUGH, LONG = 0.5, 6.0, 60.0
BATCH = np.zeros((2, 3), np.float32)


class Told(DeviceSession):
    """A session that does what its job says: `open`, `infer`, `measure` or `close` may be told an action."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job
        self._do("open")

    def _do(self, step: str) -> None:
        action = self._job.get(step, "")
        if self._job.get("pids"):
            Path(self._job["pids"]).write_text(str(os.getpid()), encoding="utf-8")
            Path(f"{self._job['pids']}.{step}").touch()
        if action == "hang":
            print("about to hang", flush=True)
            # In C, with the interpreter's lock held, as a vendor's library may be.
            import ctypes

            ctypes.PyDLL(None).sleep(600)
        if action == "fail":
            raise RunError(f"{step} failed", details="status 7")
        if action == "raise":
            raise ValueError(f"{step} is broken")
        if action == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if action == "exit":
            os._exit(5)

    def infer(self, batch: Array) -> Array:
        self._do("infer")
        if self._job.get("larger"):
            return np.repeat(batch, 100, axis=0)
        return np.asarray(batch * 2)

    def tensors(self, batch: Array) -> dict[str, Array]:
        self._do("tensors")
        return {
            "twice": batch * 2,
            "": np.array(7),
            "none": batch[:0],
            "large": np.repeat(batch, 100, axis=0),
        }

    def measure(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        self._do("measure")
        return {"plan": dict(plan), "process": os.getpid()}

    def close(self) -> None:
        self._do("close")


@pytest.fixture(autouse=True)
def quick_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools_module, "GRACE_SECONDS", 0.2)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def opened(seconds: float = LONG, process: str = APART, **job: Any) -> DeviceSession:
    return open_session("test_apart:Told", job, library="The library", process=process, seconds=seconds)


def call(session: DeviceSession, step: str) -> None:
    if step == "infer":
        session.infer(BATCH)
    elif step == "tensors":
        session.tensors(BATCH)
    else:
        session.measure({})


def gone(number: int) -> bool:
    """Whether a process is no more; a zombie is none."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@given(
    st.lists(
        arrays.arrays(
            st.sampled_from([np.float32, np.float16, np.int64, np.uint8]),
            arrays.array_shapes(max_dims=4, max_side=40),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_memory_gives_back_what_was_put_on_either_side(values: list[np.ndarray]) -> None:
    """Both sides map the same memory, which either of them may have let grow."""
    number = os.memfd_create("test")
    try:
        sides = SharedMemory(number), SharedMemory(number)
        for turn, value in enumerate(values):
            form = sides[turn % 2].put(value)
            found = sides[1 - turn % 2].get(form)
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)
    finally:
        os.close(number)


@given(
    st.lists(
        arrays.arrays(
            st.sampled_from([np.float32, np.bool_, np.int64, np.uint8]),
            arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=20),
        ),
        max_size=6,
    )
)
def test_memory_holds_several_arrays_at_once(values: list[np.ndarray]) -> None:
    number = os.memfd_create("test")
    try:
        named = {str(place): value for place, value in enumerate(values)}
        forms = SharedMemory(number).put_all(named)
        other = SharedMemory(number)
        assert list(forms) == list(named)
        for name, value in named.items():
            found = other.get(forms[name])
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)
    finally:
        os.close(number)


@pytest.mark.parametrize("process", [APART, OWN])
def test_several_tensors_come_back_as_the_caller_s_own(process: str) -> None:
    session = opened(process=process)
    try:
        batch = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
        found = session.tensors(batch)
        session.infer(np.zeros((64, 64), np.float32))
    finally:
        session.close()
    assert list(found) == ["twice", "", "none", "large"]
    np.testing.assert_array_equal(found["twice"], batch * 2)
    assert found[""].shape == ()
    assert int(found[""]) == 7
    assert found["none"].shape == (0, 5)
    np.testing.assert_array_equal(found["large"], np.repeat(batch, 100, axis=0))


@pytest.mark.parametrize("process", [APART, OWN])
def test_a_session_answers_the_same_in_both_processes(process: str) -> None:
    session = opened(process=process)
    try:
        for count in (1, 64, 3):
            batch = np.random.default_rng(0).normal(size=(count, 3, 32, 32)).astype(np.float32)
            found = session.infer(batch)
            np.testing.assert_array_equal(found, batch * 2)
            assert found.flags.writeable
        measured = session.measure({"seconds": 1})
        assert measured["plan"] == {"seconds": 1}
        assert (measured["process"] == os.getpid()) == (process == OWN)
    finally:
        session.close()


def test_an_output_is_the_caller_s_own() -> None:
    session = opened(larger=True)
    batch = np.arange(6, dtype=np.float32).reshape(2, 3)
    first = session.infer(batch)
    kept = first.copy()
    session.infer(batch + 1)
    session.close()
    assert first.shape == (200, 3)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("step", "doing"),
    [
        ("open", "opening the model"),
        ("infer", "running a batch of 2"),
        ("tensors", "running a batch of 2 for every tensor"),
        ("measure", "measuring"),
    ],
    ids=["open", "infer", "tensors", "measure"],
)
@pytest.mark.parametrize(
    ("action", "words", "said"),
    [
        ("raise", "The library's process exited with status 1 while {doing}", "ValueError: {step} is broken"),
        ("exit", "The library's process exited with status 5 while {doing}", ""),
        ("segfault", r"The library's process died of signal 11 \(SIGSEGV\) while {doing}", ""),
        (
            "hang",
            r"{doing} in The library did not end within [\d.]+ s and was killed: --option run_l",
            "about",
        ),
    ],
    ids=["raise", "exit", "segfault", "hang"],
)
def test_what_goes_wrong_is_an_error_in_time(
    step: str, doing: str, action: str, words: str, said: str, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    job = {step: action, "pids": str(pids)}
    if step == "open":
        with pytest.raises(RunError, match=words.format(doing=doing)) as caught:
            opened(ENOUGH if action == "hang" else LONG, **job)
    else:
        session = opened(**job)
        assert isinstance(session, ApartSession)
        if action == "hang":
            session._seconds = SHORT
        with pytest.raises(RunError, match=words.format(doing=doing)) as caught:
            call(session, step)
        with pytest.raises(RunError, match=f"has ended since {doing}: open the artifact again"):
            session.infer(BATCH)
        session.close()
    assert said.format(step=step) in caught.value.details
    assert gone(int(pids.read_text()))


@pytest.mark.parametrize("process", [APART, OWN])
def test_an_error_that_the_library_reports_leaves_the_session_open(process: str) -> None:
    for step in ("infer", "tensors", "measure"):
        session = opened(process=process, **{step: "fail"})
        for _ in range(2):
            with pytest.raises(RunError, match=f"{step} failed") as caught:
                call(session, step)
            assert caught.value.details == "status 7"
        call(session, "measure" if step == "infer" else "infer")
        session.close()


@pytest.mark.parametrize("process", [APART, OWN])
def test_a_session_that_does_not_open_says_why(process: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(RunError, match=r"open failed") as caught:
        opened(process=process, open="fail", pids=str(pids))
    assert caught.value.details == "status 7"
    assert gone(int(pids.read_text())) == (process == APART)


def test_the_time_of_a_measurement_is_added_to_its_limit() -> None:
    session = opened(measure="hang")
    assert isinstance(session, ApartSession)
    session._seconds = 0.5
    with pytest.raises(RunError, match=r"within 0\.75 s"):
        session.measure({"seconds": 0.25})


@pytest.mark.parametrize("action", ["hang", "raise", "exit", "fail", ""])
def test_closing_ends_the_process_whatever_it_does(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topfive.targets.apart.CLOSE_SECONDS", 1.0)
    pids = tmp_path / "pids"
    session = opened(close=action, pids=str(pids))
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    session.close()
    session.close()
    assert gone(int(pids.read_text()))
    # Not ==: what other tests left open may be collected meanwhile.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before - 4


def test_an_interrupted_call_ends_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer would be taken for that of the next call."""
    pids = tmp_path / "pids"
    session = opened(pids=str(pids))
    assert isinstance(session, ApartSession)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.infer(BATCH)
    assert gone(int(pids.read_text()))


@pytest.mark.parametrize("hanging", [True, False], ids=["in-a-call", "idle"])
def test_the_process_ends_with_its_parent(hanging: bool, tmp_path: Path) -> None:
    """Also when the parent is killed, and when the library never gives the interpreter back."""
    pids = tmp_path / "pids"
    code = (
        "import sys, time, numpy as np\n"
        "from test_apart import opened\n"
        f"session = opened(infer={'hang' if hanging else ''!r}, pids=sys.argv[1])\n"
        "session.infer(np.zeros((1, 1), np.float32))\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(pids)], env=environment)
    try:
        wait_until(Path(f"{pids}.infer").exists)
        child = int(pids.read_text())
        assert not gone(child)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: gone(child))
