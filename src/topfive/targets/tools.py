"""Running a vendor's tools: found, given a time limit, killed whole, with everything they said kept in files.

A tool runs in a process group of its own with its standard output and error in files, so that what it says is
there afterwards, whatever happens, and a child that it leaves behind cannot keep the caller waiting.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from topfive.cache import file_sha256
from topfive.errors import RunError, StageError

__all__ = [
    "EMULATED",
    "ToolRun",
    "ask_tool",
    "check_compiled",
    "end_group",
    "ending",
    "find_tool",
    "is_emulated",
    "printed_by",
    "run_tool",
    "said_about_itself",
]

EMULATED = "topfive's emulated"
"""How an emulated tool begins the first line that it says about itself, as no vendor's does."""

GRACE_SECONDS = 5.0
"""From the signal that asks a tool to end to the one that it cannot refuse."""
QUICK_SECONDS = 60.0
POLL_SECONDS = 0.02
MOST_SHOWN = 4000
MOST_READ = 64 * 2**20


@dataclass(frozen=True)
class ToolRun:
    """One finished run of a tool.

    command: what was started; folder: where; status: its exit status; seconds: wall time. What it printed is
    in the files `output` and `errors`, the command line in the file `line`.
    """

    command: tuple[str, ...]
    folder: Path
    output: Path
    errors: Path
    line: Path
    status: int
    seconds: float

    @property
    def text(self) -> str:
        """The command line as a shell takes it."""
        return shlex.join(self.command)

    @property
    def stdout(self) -> str:
        """What was printed, as UTF-8 with replacements; at most the last 64 MiB."""
        return _tail(self.output, MOST_READ)

    @property
    def stderr(self) -> str:
        """What was printed to standard error, likewise."""
        return _tail(self.errors, MOST_READ)

    def shown(self) -> str:
        """For an error's details: the command, where it ran, the end of what it said, where all is kept."""
        parts = [f"$ cd {shlex.quote(str(self.folder))}", f"$ {self.text}"]
        for path in (self.errors, self.output):
            said = _tail(path, MOST_SHOWN).strip()
            if said:
                parts.append(said)
        parts.append(f"kept in {self.output} and {self.errors}")
        return "\n".join(parts)


def find_tool(name: str, folders: Sequence[str | Path] = ()) -> str | None:
    """The path of a tool: in PATH, else in the folders where its vendor installs it; None without it."""
    found = shutil.which(name)
    if found is None and folders:
        found = shutil.which(name, path=os.pathsep.join(str(folder) for folder in folders))
    # Tools run in folders of their own, where a relative PATH means something else.
    return str(Path(found).absolute()) if found else None


def ask_tool(command: Sequence[str], seconds: float = QUICK_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a command that answers at once; its exit status and what it printed.

    Raises OSError when it cannot be started, TimeoutError (which is one) when it did not end within so many
    seconds, and its process group was killed.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
        )
        if _wait(process, command, seconds) is not None:
            raise TimeoutError(f"{Path(command[0]).name} did not end within {seconds:g} s and was killed")
        printed = []
        for stream in (output, errors):
            stream.seek(0)
            printed.append(stream.read().decode("utf-8", errors="replace"))
    return subprocess.CompletedProcess(command, process.returncode, *printed)


@cache
def printed_by(command: tuple[str, ...], seconds: float = QUICK_SECONDS) -> str | None:
    """All that a command prints, errors last, whatever its exit status; None if it does not run.

    Asked once for each command.
    """
    try:
        done = ask_tool(command, seconds)
    except OSError:
        return None
    return f"{done.stdout}\n{done.stderr}"


def said_about_itself(command: tuple[str, ...], seconds: float = QUICK_SECONDS) -> str:
    """The first line that a command prints (see `printed_by`); in words why there is none."""
    printed = printed_by(command, seconds)
    if printed is None:
        return "does not run"
    return next((line.strip() for line in printed.splitlines() if line.strip()), "says nothing")


def is_emulated(said: str) -> bool:
    """Whether what a tool said about itself is an emulated tool's: its results are no device's."""
    return said.startswith(EMULATED)


def check_compiled(path: Path, sha256: str) -> None:
    """Raise RunError unless this is the file that was compiled: not gone, not one made over it later."""
    if not path.is_file():
        raise RunError(f"{path} is missing: build the model again")
    if file_sha256(path) != sha256:
        raise RunError(f"{path} is not what was compiled: build the model again")


def run_tool(
    command: Sequence[str],
    *,
    folder: Path,
    logs: Path,
    name: str,
    seconds: float,
    error: type[StageError],
    environment: Mapping[str, str] | None = None,
    check: bool = True,
    tool: str = "",
) -> ToolRun:
    """Run a tool to its end.

    command: the program and its arguments. folder: its working directory. logs: where its output is kept, as
    `name`.stdout.txt, `name`.stderr.txt and, before it starts, `name`.command.txt; made when missing.
    seconds: its time limit; then its whole process group is killed. environment: added to this process's own.
    tool: what messages call it, if not by the first word of the command.
    Raises `error` with the command and what was printed when it cannot be started, does not end in time, dies
    of a signal or (unless `check` is False) exits with another status than 0.
    """
    logs.mkdir(parents=True, exist_ok=True)
    output, errors, line = (logs / f"{name}.{kind}.txt" for kind in ("stdout", "stderr", "command"))
    # Beside what it made: the line is repeated from there, wherever that is moved.
    place = "" if folder == logs else f"cd {shlex.quote(str(folder))}\n"
    line.write_text(f"{place}{shlex.join(command)}\n", encoding="utf-8")
    tool = tool or Path(command[0]).name
    start = time.monotonic()
    with output.open("wb") as to_output, errors.open("wb") as to_errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=to_output,
                stderr=to_errors,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as cause:
            raise error(f"{tool} cannot be started: {cause}", details=f"$ {shlex.join(command)}") from None
        left = _wait(process, command, seconds)
    run = ToolRun(tuple(command), folder, output, errors, line, process.returncode, time.monotonic() - start)
    if left is not None:
        raise error(f"{tool} did not end within {seconds:g} s and was killed{left}", details=run.shown())
    if run.status < 0:
        raise error(f"{tool} {ending(run.status)}", details=run.shown())
    if check and run.status:
        raise error(f"{tool} failed with exit status {run.status}", details=run.shown())
    return run


def _wait(process: subprocess.Popen[bytes], command: Sequence[str], seconds: float) -> str | None:
    """None when the process ended by itself; else it was killed: what is left of it, in words, or ""."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return end_group(process, command)
    except BaseException:
        end_group(process, command)
        raise
    return None


def end_group(process: subprocess.Popen[bytes], command: Sequence[str]) -> str:
    """End a whole process group, and reap its leader; what could not be ended, in words, or ""."""
    # Until the leader is reaped nobody else can have its number.
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal_group(process.pid, number, command)
        _wait_for_end(process.pid, GRACE_SECONDS)
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        # The exit status is not known; a later reap is the system's.
        process.returncode = -signal.SIGKILL
        return f", but process {process.pid} is still there: it may belong to another user"
    return ""


def _signal_group(group: int, number: signal.Signals, command: Sequence[str]) -> None:
    """Signal a process group; one that belongs to root through `sudo`, as it was started."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
    except PermissionError:
        if Path(command[0]).name != "sudo":
            return
        kill = [command[0], "-n", "kill", f"-{number.name[3:]}", "--", f"-{group}"]
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                kill, stdin=subprocess.DEVNULL, capture_output=True, timeout=QUICK_SECONDS, check=False
            )


def _wait_for_end(leader: int, seconds: float) -> None:
    """Wait until a child ends, at most so many seconds; it is left to be reaped."""
    end = time.monotonic() + seconds
    while os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > end:
            return
        time.sleep(POLL_SECONDS)


def ending(status: int) -> str:
    """How a process ended, in words; status: as subprocess gives it, negative for a signal."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"died of signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"died of signal {-status}"


def _tail(path: Path, most: int) -> str:
    """The end of a text file; "" when it cannot be read."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - most, 0))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
