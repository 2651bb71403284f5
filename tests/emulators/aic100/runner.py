"""Emulated qaic-runner: runs an emulated program on the CPU and says what the real one says.

Inferences are queued first in, first out: as many as instances x set size wait at once. What it calls
Inf/Sec and latency is real time on this CPU. An option that it does not know makes it print its usage and
exit with status 0, as the published QAicRunnerMain.cpp does.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import long_only
from common import MAGIC, PROGRAM, die, hang, introduction, state

SHORT = "d:t:i:n:a:S:T:p:vh"
LONG = {
    "aic-device-id": (True, "d"),
    "test-data": (True, "t"),
    "input-file": (True, "i"),
    "num-iter": (True, "n"),
    "time": (True, "time"),
    "aic-num-of-activations": (True, "a"),
    "set-size": (True, "S"),
    "aic-threads-per-queue": (True, "T"),
    "pre-post-processing": (True, "p"),
    "aic-profiling-start-iter": (True, "profile-start"),
    "aic-profiling-num-samples": (True, "profile-samples"),
    "aic-profiling-type": (True, "profile-type"),
    "aic-profiling-out-dir": (True, "profile-folder"),
    "write-output-start-iter": (True, "output-start"),
    "write-output-num-samples": (True, "output-samples"),
    "write-output-dir": (True, "output-folder"),
    "aic-batch-json-input": (True, "json"),
    "aic-batch-input-file-list": (True, "list"),
    "verbose": (False, "v"),
    "help": (False, "h"),
}
NUMBERS = (
    "d",
    "n",
    "time",
    "a",
    "S",
    "T",
    "profile-start",
    "profile-samples",
    "output-start",
    "output-samples",
)
COLUMNS = (
    "Sample",
    "hostRoundTripUs",
    "enqTimeUs",
    "preProcTimeUs",
    "submitTimeUs",
    "execTotalUs",
    "exectoVcUs",
    "execToCompleteUs",
    "postProcUs",
    "totalRoundtripTimeUs",
    "queueDepth",
    "numInfInQueue",
)


class RefusedError(Exception):
    """What the tool says on standard error before it exits with status 1."""


@dataclass
class Job:
    """What the command line asks for."""

    values: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)

    def number(self, name: str, default: int) -> int:
        return int(self.values.get(name, default))


def read_job(arguments: list[str]) -> Job:
    options, rest = long_only.parse(arguments, SHORT, LONG)
    if rest:
        raise RefusedError(f"Failed to validate arguments: {rest[0]}")
    job = Job()
    for name, value in options:
        if name in NUMBERS and not (value.isascii() and value.isdecimal()):
            raise RefusedError(f"Set a valid value for {name}: {value}")
        if name == "i":
            job.inputs.append(value)
        else:
            job.values[name] = value
    if "t" not in job.values:
        raise RefusedError("Failed to validate arguments: no -t")
    if "n" in job.values and "time" in job.values:
        raise RefusedError("Failed to validate arguments: -n and --time")
    for name in ("n", "time", "a", "S", "output-samples", "profile-samples"):
        if job.number(name, 1) < 1:
            raise RefusedError(f"Set a positive value for {name}")
    if job.values.get("profile-type", "latency") not in ("stats", "trace", "latency"):
        raise RefusedError(f"Invalid profiling type {job.values['profile-type']}")
    for name in ("profile-folder", "output-folder"):
        if not Path(job.values.get(name, ".")).is_dir():
            raise RefusedError(f"Invalid output dir: {job.values[name]}")
    return job


@dataclass
class Program:
    """A compiled program, open."""

    described: dict[str, Any]
    model: Any

    def run(self, buffer: Any) -> Any:
        return self.model.run(None, {self.described["input"]["name"]: buffer})[0]


def read_program(folder: Path) -> Program:
    import onnx

    from topfive.targets.cpu_sessions import open_float

    try:
        content = (folder / PROGRAM).read_bytes()
    except OSError as error:
        raise RefusedError(f"Failed to initialize QAIC runner: {error}") from None
    if not content.startswith(MAGIC):
        raise RefusedError(f"Failed to initialize QAIC runner: {folder / PROGRAM} is no QPC")
    text, _, model = content.removeprefix(MAGIC).partition(b"\n")
    return Program(json.loads(text), open_float(onnx.load_from_string(model), 1))


def read_input(job: Job, program: Program) -> Any:
    """The one input buffer of an inference."""
    import numpy as np

    wanted = program.described["input"]
    ways = [way for way in ("json", "list") if way in job.values] + ["i"] * bool(job.inputs)
    if len(ways) > 1:
        raise RefusedError("Failed to validate arguments: -i and --aic-batch-json-input are two inputs")
    if "json" in job.values:
        path = json_input(Path(job.values["json"]), wanted)
    elif "list" in job.values:
        path = listed_input(Path(job.values["list"]))
    elif job.inputs:
        if len(job.inputs) != 1:
            raise RefusedError(
                f"Failed to run QAIC runner: {len(job.inputs)} input files, the program has 1 input"
            )
        path = Path(job.inputs[0])
    else:
        return np.random.default_rng().standard_normal(wanted["dims"], np.float32)
    if not path.is_file():
        raise RefusedError(f"Failed to run QAIC runner: cannot open {path}")
    if path.stat().st_size != 4 * math.prod(wanted["dims"]):
        raise RefusedError(f"Failed to run QAIC runner: {path} has {path.stat().st_size} bytes")
    return np.fromfile(path, "<f4").reshape(wanted["dims"])


def listed_input(path: Path) -> Path:
    """The one file of the one line: an inference a line, its files separated by commas."""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise RefusedError(f"Failed to run QAIC runner: {path}: {error!r}") from None
    if len(lines) != 1 or "," in lines[0]:
        raise RefusedError(f"Failed to run QAIC runner: {path}: one line with one file is emulated")
    return Path(lines[0])


def json_input(path: Path, wanted: dict[str, Any]) -> Path:
    try:
        sets = json.loads(path.read_text(encoding="utf-8"))["IO-files"]
        ((given,),) = sets
        fits = (given["io-direction"], given["elem-size"], given["map-to"], given["dims"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefusedError(f"Failed to run QAIC runner: {path}: {error!r}") from None
    if fits != ("in", 4, wanted["name"], wanted["dims"]):
        raise RefusedError(f"Failed to run QAIC runner: {path}: {given} does not fit {wanted}")
    return path.parent / given["path"]


@dataclass
class Done:
    """Inferences: (instance, submitted, finished), in seconds; the whole time; the last output."""

    inferences: list[tuple[int, float, float]]
    seconds: float
    output: Any


def run_all(job: Job, program: Program, buffer: Any, *, early: bool) -> Done:
    """A queue of instances x set size inferences, filled up until the time or the number is reached."""
    instances, waiting = job.number("a", 1), job.number("S", 10)
    total = None if "time" in job.values else job.number("n", 40)
    limit = float(job.number("time", 0)) * (0.5 if early else 1)
    start = time.perf_counter()
    first = instances * waiting if total is None else min(total, instances * waiting)
    queue = deque((number % instances, start) for number in range(first))
    submitted, done, output = first, [], None
    while queue:
        instance, since = queue.popleft()
        output = program.run(buffer)
        now = time.perf_counter()
        done.append((instance, since, now))
        more = now - start < limit if total is None else submitted < total
        if more:
            queue.append((instance, now))
            submitted += 1
    return Done(done, time.perf_counter() - start, output)


def write_latencies(job: Job, done: Done, failure: str) -> None:
    folder = job.values.get("profile-folder", ".")
    names = [*COLUMNS]
    if failure == "unnamed_latency":
        names[-3] = "Execution Total Time in us"
    for instance in range(job.number("a", 1)):
        if failure == "missing_latency" and instance == 0:
            continue
        path = f"{folder}/aic-profiling-program-{instance}-latency.txt"
        print(f"Writing file:{path}")
        lines = ["Latency profiling", "emulated", f"program {instance}", "", ", ".join(names)]
        for number, (_, since, end) in enumerate(item for item in done.inferences if item[0] == instance):
            whole = 1e6 * (end - since) * (20 if failure == "slow_latency" else 1)
            text = "N/A" if failure == "garbled_latency" and number == 0 else f"{whole:.1f}"
            lines.append(f"{number}, {text}, 1, 0, 1, {text}, 1, 1, 0, {text}, 0, 1")
        kept = lines[: {"empty_latency": 5, "cut_latency": 6}.get(failure, len(lines))]
        Path(path).write_text("\n".join(kept) + "\n", encoding="utf-8")


def write_outputs(job: Job, program: Program, output: Any, failure: str) -> None:
    import numpy as np

    values = np.ascontiguousarray(output, "<f4")
    if failure == "nan_output":
        values = np.full_like(values, np.nan)
    if failure == "wrong_output":
        values = values[:, ::-1].copy()
    content = values.tobytes()[: -4 if failure == "truncated_output" else None]
    other = values[:, ::-1].tobytes() if failure == "wrong_instance" else content
    folder, name = job.values.get("output-folder", "."), program.described["output"]["name"]
    for instance in range(job.number("a", 1)):
        for number in range(job.number("output-samples", 1)):
            path = f"{folder}/{name}-activation-{instance}-inf-{number}.bin"
            print(f"Writing file:{path}")
            if failure != "missing_output":
                Path(path).write_bytes(other if instance else content)


def say_statistics(done: Done, batch: int, failure: str) -> None:
    count, microseconds = len(done.inferences), round(1e6 * done.seconds)
    rate = count * 1e6 / microseconds * batch * (1.5 if failure == "inconsistent_rate" else 1)
    batch += failure == "other_batch"
    if failure == "other_batch":
        rate *= batch / (batch - 1)
    line = f"InferenceCnt {count} TotalDuration {microseconds}us BatchSize {batch} Inf/Sec {rate:.3f}"
    if failure == "garbled_statistics":
        line = line.replace("us ", " us ")
    lines = {"no_statistics": [], "two_statistics": [line, line]}.get(failure, [line])
    print(" ---- Stats ----")
    for text in lines:
        print(text)


def run(arguments: list[str]) -> int:
    told = state()
    failure = told["failure"]
    if failure == "run_hang":
        hang(told)
    job = read_job(arguments)
    if failure == "busy_at_run" or job.number("d", 0) not in told["devices"]:
        raise RefusedError("Failed to initialize QAIC runner")
    program = read_program(Path(job.values["t"]))
    if program.described["cores"] * job.number("a", 1) > told["nsp_total"]:
        raise RefusedError("Failed to initialize QAIC runner")
    done = run_all(job, program, read_input(job, program), early=failure == "ends_early")
    if failure == "run_killed":
        die()
    if failure == "garbage":
        sys.stdout.buffer.write(bytes(range(256)) * 16)
        return 0
    say_statistics(done, program.described["batch"], failure)
    if job.values.get("profile-type") == "latency":
        write_latencies(job, done, failure)
    if "output-folder" in job.values:
        write_outputs(job, program, done.output, failure)
    return 3 if failure == "exit_code" else 0


def main(tool: str, arguments: list[str]) -> int:
    usage = f"{introduction(tool)}\nUsage: {tool} [options]\n" + "\n".join(f"  --{name}" for name in LONG)
    if {"-h", "-help", "--help"}.intersection(arguments):
        print(usage)
        return 0
    try:
        return run(arguments)
    except long_only.UnknownOptionError as error:
        print(f"{tool}: {error}", file=sys.stderr)
        print(usage)
        return 0
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
