"""Running vendors' tools: time limits, process groups, exit statuses, and what is kept."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topfive.errors import CompileError, RunError
from topfive.targets import tools
from topfive.targets.tools import (
    EMULATED,
    ask_tool,
    check_compiled,
    find_tool,
    is_emulated,
    printed_by,
    run_tool,
    said_about_itself,
)

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
print("deaf", flush=True)
time.sleep(600)
"""
LEAVES_A_CHILD = """
import subprocess, sys
subprocess.Popen(["sleep", "3"])
print("done", flush=True)
"""


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "GRACE_SECONDS", 0.2)


def script(text: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", text, *arguments]


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead but not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    for _ in range(200):
        if not alive(pid):
            return True
        time.sleep(0.02)
    return False


def test_what_a_tool_prints_is_kept(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd()); print('bad', file=sys.stderr); print(os.environ['WORD'])"
    folder = tmp_path / "a folder"
    folder.mkdir()
    run = run_tool(
        script(code),
        folder=folder,
        logs=tmp_path / "logs",
        name="say",
        seconds=60,
        error=RunError,
        environment={"WORD": "hello"},
    )
    assert run.stdout.splitlines() == [str(folder), "hello"]
    assert (run.stderr, run.status) == ("bad\n", 0)
    assert run.output == tmp_path / "logs" / "say.stdout.txt"
    assert run.line.read_text(encoding="utf-8") == f"cd '{folder}'\n{shlex.join(script(code))}\n"
    assert all(text in run.shown() for text in ("bad", "hello", str(run.errors), shlex.join(script(code))))


def test_a_command_beside_its_files_is_repeated_from_anywhere(tmp_path: Path) -> None:
    run = run_tool(["true"], folder=tmp_path, logs=tmp_path, name="x", seconds=60, error=RunError)
    assert run.line.read_text(encoding="utf-8") == "true\n"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; print('why'); sys.exit(7)", ["exit status 7", "why"]),
        (
            "import os; print('last words', flush=True); os.kill(os.getpid(), 9)",
            ["signal 9 (SIGKILL)", "last"],
        ),
        ("import os; os.kill(os.getpid(), 40)", ["signal 40"]),
    ],
    ids=["status", "killed", "unnamed_signal"],
)
def test_a_tool_that_fails(tmp_path: Path, code: str, words: list[str]) -> None:
    with pytest.raises(CompileError) as caught:
        run_tool(script(code), folder=tmp_path, logs=tmp_path, name="x", seconds=60, error=CompileError)
    assert all(word in str(caught.value) for word in words)
    assert str(tmp_path / "x.stdout.txt") in caught.value.details


def test_a_failing_status_can_be_asked_for(tmp_path: Path) -> None:
    command = script("import sys; sys.exit(7)")
    run = run_tool(command, folder=tmp_path, logs=tmp_path, name="x", seconds=60, error=RunError, check=False)
    assert run.status == 7


def test_a_tool_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing-here cannot be started"):
        run_tool(["/nothing-here"], folder=tmp_path, logs=tmp_path, name="x", seconds=60, error=RunError)


def test_a_tool_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(RunError, match="did not end within 1 s and was killed\n") as caught:
        run_tool(
            script(STUBBORN, str(pids)), folder=tmp_path, logs=tmp_path, name="x", seconds=1, error=RunError
        )
    assert "deaf" in caught.value.details
    numbers = [int(pid) for pid in pids.read_text(encoding="utf-8").split()]
    assert len(numbers) == 2
    assert all(gone(pid) for pid in numbers)


def test_a_child_that_is_left_behind_keeps_nobody_waiting(tmp_path: Path) -> None:
    start = time.monotonic()
    run = run_tool(
        script(LEAVES_A_CHILD), folder=tmp_path, logs=tmp_path, name="x", seconds=60, error=RunError
    )
    assert run.stdout == "done\n"
    # The child of three seconds still has the output open; ten times the tool's own time is allowed.
    assert run.seconds <= time.monotonic() - start < 3 + 10 * run.seconds


def test_an_interrupted_wait_kills_the_tool(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    code = STUBBORN.replace("time.sleep(600)\n", "os.kill(os.getppid(), signal.SIGUSR1); time.sleep(600)\n")
    try:
        with pytest.raises(KeyboardInterrupt):
            run_tool(
                script(code, str(pids)), folder=tmp_path, logs=tmp_path, name="x", seconds=60, error=RunError
            )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert all(gone(int(pid)) for pid in pids.read_text(encoding="utf-8").split())


def test_tools_are_found_in_the_path_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a-tool").write_text("#!/bin/sh\n", encoding="utf-8")
    installed = (tmp_path / "second",)
    monkeypatch.setenv("PATH", str(tmp_path / "first"))
    assert find_tool("a-tool", installed) is None
    (tmp_path / "second" / "a-tool").chmod(0o755)
    assert find_tool("a-tool", installed) == str(tmp_path / "second" / "a-tool")
    assert find_tool("a-tool") is None
    (tmp_path / "first" / "a-tool").chmod(0o755)
    assert find_tool("a-tool", installed) == str(tmp_path / "first" / "a-tool")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "first")
    assert find_tool("a-tool") == str(tmp_path / "first" / "a-tool")


def test_what_tools_say_about_themselves(tmp_path: Path) -> None:
    assert said_about_itself(tuple(script("print(); print(' v1 '); print('more')"))) == "v1"
    assert said_about_itself(tuple(script("import sys; sys.exit('on stderr')"))) == "on stderr"
    assert said_about_itself(("true",)) == "says nothing"
    assert said_about_itself((str(tmp_path / "none"),)) == "does not run"
    both = tuple(script("import sys; print('a'); print('b', file=sys.stderr)"))
    assert printed_by(both) == "a\n\nb\n"
    assert printed_by((str(tmp_path / "none"),)) is None
    assert is_emulated(f"{EMULATED} tool: not a device")
    assert not is_emulated(f"version 1, not {EMULATED} tool")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 255))
def test_any_output_and_any_status(tmp_path: Path, output: bytes, status: int) -> None:
    command = ["sh", "-c", f"printf '%s' '{output.hex()}' | tr a-f A-F; exit {status}"]
    run = run_tool(command, folder=tmp_path, logs=tmp_path, name="x", seconds=60, error=RunError, check=False)
    assert (run.stdout, run.status) == (output.hex().upper(), status)


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)))"
    run = run_tool(script(code), folder=tmp_path, logs=tmp_path, name="x", seconds=60, error=RunError)
    assert run.output.read_bytes() == bytes(range(256))
    assert run.stdout.count("\N{REPLACEMENT CHARACTER}") >= 1


def test_a_long_output_is_shown_from_its_end(tmp_path: Path) -> None:
    code = "print('x' * 100_000); print('the end')"
    run = run_tool(script(code), folder=tmp_path, logs=tmp_path, name="x", seconds=60, error=RunError)
    assert "the end" in run.shown()
    assert len(run.shown()) < 3 * tools.MOST_SHOWN
    assert len(run.stdout) > 100_000


def test_a_process_of_root_is_killed_as_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As sudo, of whose processes another user may signal none.
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1" = -n ] && shift && echo "$@" >>"$LOG"\nexec "$@"\n', encoding="utf-8")
    sudo.chmod(0o755)
    monkeypatch.setenv("LOG", str(tmp_path / "log"))

    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    pids = tmp_path / "pids"
    command = [str(sudo), *script(STUBBORN, str(pids))]
    with pytest.raises(RunError, match="was killed\n"):
        run_tool(command, folder=tmp_path, logs=tmp_path, name="x", seconds=1, error=RunError)
    leader, child = (int(pid) for pid in pids.read_text(encoding="utf-8").split())
    assert gone(leader)
    assert gone(child)
    log = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert log == [f"kill -TERM -- -{leader}", f"kill -KILL -- -{leader}"]


def test_a_process_that_nobody_can_kill_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.killpg

    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    pids = tmp_path / "pids"
    with pytest.raises(RunError, match=r"process \d+ is still there: it may belong to another user"):
        run_tool(
            script(STUBBORN, str(pids)), folder=tmp_path, logs=tmp_path, name="x", seconds=1, error=RunError
        )
    real(int(pids.read_text(encoding="utf-8").split()[0]), signal.SIGKILL)


def test_a_quick_question_gets_status_and_both_streams() -> None:
    done = ask_tool(script("import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"))
    assert (done.returncode, done.stdout, done.stderr) == (3, "one\n", "two\n")
    assert ask_tool(script(LEAVES_A_CHILD), 60).stdout == "done\n"
    with pytest.raises(FileNotFoundError):
        ask_tool(["/none/such"])


def test_a_quick_question_that_hangs_ends_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(TimeoutError, match=r"did not end within 4 s and was killed"):
        ask_tool(script(STUBBORN, str(pids)), 4)
    assert all(gone(int(pid)) for pid in pids.read_text().split())
    assert said_about_itself(tuple(script("import time; time.sleep(60)")), 0.5) == "does not run"


def test_only_the_compiled_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "program"
    digest = hashlib.sha256(b"program").hexdigest()
    with pytest.raises(RunError, match="program is missing: build the model again"):
        check_compiled(path, digest)
    path.write_bytes(b"program")
    check_compiled(path, digest)
    path.write_bytes(b"another")
    with pytest.raises(RunError, match="program is not what was compiled: build the model again"):
        check_compiled(path, digest)
