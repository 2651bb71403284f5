"""What other processes took while something was measured: the kernel's accounts, the table's mark."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topfive.report.terminal import footnotes, render
from topfive.suite import contention
from topfive.suite.contention import DISTURBED, Watch, processor_seconds
from topfive.suite.results import Row

TICK = os.sysconf("SC_CLK_TCK")
BURNER = "import time\nend = time.process_time() + 60\nwhile time.process_time() < end: pass"


def write_proc(root: Path, total: list[int], processes: dict[int, tuple[str, int, tuple[int, ...]]]) -> Path:
    """A /proc: the first line's counters; of each process its name, parent and four times in ticks."""
    root.mkdir(exist_ok=True)
    (root / "stat").write_text(f"cpu  {' '.join(map(str, total))}\ncpu0 1 2 3\n")
    for pid, (name, parent, times) in processes.items():
        (root / str(pid)).mkdir(exist_ok=True)
        between = "0 0 0 0 0 0 0 0 0"
        (root / str(pid) / "stat").write_text(
            f"{pid} ({name}) S {parent} {between} {' '.join(map(str, times))} 20 0"
        )
    (root / "meminfo").write_text("")
    return root


def test_accounts_of_a_family(tmp_path: Path) -> None:
    """Idle, waiting for disks and guests do not count; steal does; a stranger is not of the family."""
    me = os.getpid()
    proc = write_proc(
        tmp_path / "proc",
        [100, 10, 40, 9000, 700, 3, 2, 5, 60, 1],
        {
            me: ("odd) name (S 1", 1, (20, 5, 7, 1)),
            me + 1: ("child", me, (10, 0, 0, 0)),
            me + 2: ("grandchild", me + 1, (0, 4, 0, 0)),
            me + 3: ("stranger", 1, (90, 9, 0, 0)),
        },
    )
    assert processor_seconds(proc) == pytest.approx((160 / TICK, 47 / TICK))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=7), st.integers(0, 6))
def test_a_family_has_each_descendant_once(parents: list[int], start: int) -> None:
    tree = {pid: parent for pid, parent in enumerate(parents) if parent != pid}
    family = contention._family(start, tree)

    def descends(pid: int) -> bool:
        seen: set[int] = set()
        while pid in tree and pid not in seen:
            if pid == start:
                return True
            seen.add(pid)
            pid = tree[pid]
        return False

    assert family == {pid for pid in tree if descends(pid)}


@pytest.mark.parametrize("text", ["", "cpu  1 2", "cpu  a b c d e f g h"], ids=["empty", "short", "words"])
def test_a_system_that_does_not_tell(tmp_path: Path, text: str) -> None:
    (tmp_path / "stat").write_text(text)
    assert processor_seconds(tmp_path) is None
    assert processor_seconds(tmp_path / "absent") is None
    assert Watch(0.0, None).others() is None


@pytest.mark.skipif(processor_seconds() is None, reason="the system keeps no accounts in /proc")
def test_a_process_beside_is_seen_and_children_are_not() -> None:
    """The same busy loop: as a child it is ours, as a process whose parent has ended it is another's."""
    child = subprocess.Popen([sys.executable, "-c", BURNER])
    try:
        before = processor_seconds()
        spin(0.5)
        after = processor_seconds()
        assert before is not None
        assert after is not None
        ours = after[1] - before[1]
        assert ours > 0.55
    finally:
        child.kill()
        child.wait()
    # With an output of its own: run() below waits for everybody who holds the pipe.
    started = f"subprocess.Popen([sys.executable, '-c', {BURNER!r}], stdout=subprocess.DEVNULL)"
    script = f"import subprocess, sys; print({started}.pid)"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, text=True)
    orphan = int(done.stdout)
    try:
        watch = Watch.start()
        time.sleep(1)
        assert (watch.others() or 0) > DISTURBED
    finally:
        os.kill(orphan, 9)


def spin(seconds: float) -> None:
    """Work for so much processor time of this process."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_mark_in_the_table() -> None:
    values = {"p50": 1e-3, "p90": 2e-3, "p99": 3e-3, "rounds": 500, "images_per_s": 900.0}
    quiet = Row("a", "cpu", "int8", 1, {**values, "others": DISTURBED - 0.01})
    busy = Row("b", "cpu", "int8", 1, {**values, "others": 1.94})
    lines = render([quiet, busy]).splitlines()
    assert "1.000 " in lines[1]
    assert "1.000!" not in lines[1]
    assert "1.000!" in lines[2]
    assert footnotes([quiet]) == []
    (note,) = footnotes([quiet, busy])
    assert note.startswith("! measured while other processes took up to 1.9 processors")
