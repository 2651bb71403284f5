"""The artifact cache under faults: kills, races, damage, a full disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.cache import Cache, cache_root, content_key
from topfive.errors import CacheError, QuantizeError

FIELDS = {"a": 1}


def write(text: str):
    return lambda out: (out / "data.txt").write_text(text)


def refuse(_: Path) -> None:
    raise AssertionError("built again")


def test_an_entry_is_made_once_and_found_by_its_fields(tmp_path: Path) -> None:
    made = Cache(tmp_path).entry("stage", {"a": 1, "b": [2]}, write("one"))
    found = Cache(tmp_path).entry("stage", {"b": [2], "a": 1}, refuse)
    assert found.path == made.path
    assert found.file("data.txt").read_text() == "one"
    other = Cache(tmp_path).entry("stage", {"a": 2, "b": [2]}, write("two"))
    assert other.path != made.path


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.lists(st.integers()))))
def test_keys_do_not_depend_on_order(fields: dict[str, object]) -> None:
    assert content_key(fields) == content_key(dict(reversed(fields.items())))


@pytest.mark.parametrize(
    "damage", ["changed", "truncated", "missing", "manifest_garbled", "manifest_missing"]
)
def test_damage_is_found_rebuilt_and_said(tmp_path: Path, damage: str) -> None:
    entry = Cache(tmp_path).entry("stage", FIELDS, write("good data"))
    data, manifest = entry.file("data.txt"), entry.file("manifest.json")
    if damage == "changed":
        data.write_text("evil data")
    elif damage == "truncated":
        data.write_text("good")
    elif damage == "missing":
        data.unlink()
    elif damage == "manifest_garbled":
        manifest.write_text("{")
    else:
        manifest.unlink()
    with pytest.warns(UserWarning, match="damaged cache entry"):
        again = Cache(tmp_path).entry("stage", FIELDS, write("good data"))
    assert again.file("data.txt").read_text() == "good data"
    Cache(tmp_path).entry("stage", FIELDS, refuse)


def test_a_failing_stage_leaves_nothing(tmp_path: Path) -> None:
    def half(out: Path) -> None:
        (out / "data.txt").write_text("half")
        raise QuantizeError("no")

    with pytest.raises(QuantizeError):
        Cache(tmp_path).entry("stage", FIELDS, half)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert Cache(tmp_path).entry("stage", FIELDS, write("whole")).file("data.txt").read_text() == "whole"


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "Permission denied")],
    ids=["full", "forbidden"],
)
def test_the_disk_errors_are_told_and_leave_nothing(tmp_path: Path, number: int, reason: str) -> None:
    def fail(out: Path) -> None:
        (out / "data.txt").write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(CacheError, match=reason):
        Cache(tmp_path).entry("stage", FIELDS, fail)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_write_that_the_kernel_refuses(tmp_path: Path) -> None:
    """A stage that writes more than the process may: a real error in the middle of a write."""
    code = """
import resource, signal, sys
from pathlib import Path
from topfive.cache import Cache
from topfive.errors import CacheError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Cache(Path(sys.argv[1])).entry("stage", {}, lambda out: (out / "data").write_bytes(bytes(100_000)))
except CacheError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "the file size limit is reached" in done.stdout, done.stderr
    assert not list(tmp_path.rglob("data"))


BUILDER = """
import sys, time
from pathlib import Path
from topfive.cache import Cache
root, log = Path(sys.argv[1]), Path(sys.argv[2])
def make(out):
    with log.open("a") as f: f.write("building\\n")
    for i in range(40):
        (out / f"part{i}").write_text("x" * 1000)
        time.sleep(0.01)
entry = Cache(root).entry("stage", {"a": 1}, make)
print(entry.path)
"""


def test_processes_that_ask_at_once_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "cache"), str(log)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {p.communicate(timeout=60)[0] for p in running}
    assert len(paths) == 1
    assert log.read_text() == "building\n"


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.35])
def test_kill_9_leaves_no_half_entry_and_no_stuck_lock(tmp_path: Path, delay: float) -> None:
    root, log = tmp_path / "cache", tmp_path / "log"
    command = [sys.executable, "-c", BUILDER, str(root), str(log)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    waited = time.monotonic()
    while not log.exists() and time.monotonic() - waited < 30:
        time.sleep(0.01)
    time.sleep(delay)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    entry = Path(done.stdout.strip())
    assert len(list(entry.glob("part*"))) == 40
    # Nothing of the killed run is left beside it.
    assert [p.name for p in entry.parent.iterdir() if p.is_dir()] == [entry.name]


def test_the_root_is_chosen_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOPFIVE_CACHE", str(tmp_path / "variable"))
    assert cache_root(tmp_path / "argument") == tmp_path / "argument"
    assert cache_root() == tmp_path / "variable"
    monkeypatch.delenv("TOPFIVE_CACHE")
    assert cache_root().name == "topfive"
