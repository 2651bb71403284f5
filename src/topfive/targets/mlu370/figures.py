"""What mm_run prints, read strictly: all its sections, checked against each other.

The form is that of the logs in Cambricon/magicmind_cloud, commit 3fac70f
(buildin/cv/classification/resnet50_onnx/data/output_ok): headings of equals signs, `name: value` lines,
statistics in one line each. Lines that begin with a bracket are messages of the libraries;
those of [MMINFO] are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from topfive.errors import RunError

__all__ = ["Buffer", "MmRunLog", "Spread", "check_log", "parse_log"]

HEADING = re.compile(r"={10,} (.+)")
MMINFO = re.compile(r"\[MMINFO\]\s+(.+?)(?: is|:) (\d+(?:\.\d+)?) (?:ms|\(MB\))")
PAIR = re.compile(r"([^:]+):\s*(.*)")
NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
SPREAD = re.compile(rf"min: {NUMBER}\s+max: {NUMBER}\s+mean: {NUMBER}\s+median: {NUMBER}")
LATENCY = re.compile(
    SPREAD.pattern + rf"\s+percentile: \(90%\) {NUMBER}\s+\(95%\) {NUMBER}\s+\(99%\) {NUMBER}"
)
TRACES = re.compile(r"Trace averages of (\d+) runs:")
TRACE = re.compile(rf"MLU Compute Latency \(ms\): {NUMBER}\s+Enqueue: {NUMBER}")
INDEX = re.compile(r"\[\d+\]:")
SECTIONS = (
    "Parameter Information",
    "Device Information",
    "Model Information",
    "Device Utilization Summary",
    "Performance Summary",
)
SINGLES = ("Iterations", "Host Wall Time (s)", "MLU Compute Time (s)", "Throughput (qps)")
LATENCIES = (
    "Enqueue Time (ms)",
    "H2D Latency (ms)",
    "MLU Compute Latency (ms)",
    "D2H Latency (ms)",
)
RATE_TOLERANCE = 1e-3
"""Part of the throughput by which it may differ from what iterations and wall time give: six digits each."""


@dataclass(frozen=True)
class Spread:
    """Statistics of one line, in its unit; percentiles only of latencies."""

    least: float
    most: float
    mean: float
    median: float
    percentiles: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Buffer:
    """An input or output of the model as the log describes it: name, type, layout, size of each axis."""

    name: str
    datatype: str
    layout: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class MmRunLog:
    """A whole log. parameters, device: `name: value` as text. messages: of [MMINFO], milliseconds or MB.

    utilisation: of the device. numbers: the single figures of the performance summary, latencies: its
    statistics in milliseconds. traces: (mean compute latency, mean enqueue time) in milliseconds of runs of
    `trace_runs` inferences.
    """

    parameters: Mapping[str, str]
    device: Mapping[str, str]
    messages: Mapping[str, float]
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    utilisation: Mapping[str, Spread]
    numbers: Mapping[str, float]
    latencies: Mapping[str, Spread]
    trace_runs: int
    traces: tuple[tuple[float, float], ...]

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.numbers["Throughput (qps)"]

    @property
    def iterations(self) -> int:
        """Inferences that were measured."""
        return int(self.numbers["Iterations"])


def parse_log(text: str) -> MmRunLog:
    """The log that mm_run printed. Raises RunError naming what is missing, twice, or not of its form."""
    sections: dict[str, list[str]] = {}
    messages: dict[str, float] = {}
    current: list[str] = []
    for raw in text.splitlines():
        line = raw.strip()
        if heading := HEADING.fullmatch(line):
            title = heading[1].strip()
            if title in sections:
                raise RunError(f"mm_run's log has the section {title!r} twice")
            current = sections[title] = []
        elif message := MMINFO.fullmatch(line):
            messages[message[1]] = float(message[2])
        elif line and (not line.startswith("[") or INDEX.match(line)):
            current.append(line)
    absent = [name for name in SECTIONS if not sections.get(name)]
    if absent:
        raise RunError(f"mm_run's log is cut short or of another form: it lacks {', '.join(absent)}")
    buffers = _buffers(sections["Model Information"])
    performance = sections["Performance Summary"]
    numbers, latencies, rest = _performance(performance)
    runs, traces = _traces(rest)
    return MmRunLog(
        parameters=_pairs(sections["Parameter Information"], "Parameter Information"),
        device=_pairs(sections["Device Information"], "Device Information"),
        messages=messages,
        inputs=buffers["Input"],
        outputs=buffers["Output"],
        utilisation=_utilisation(sections["Device Utilization Summary"]),
        numbers=numbers,
        latencies=latencies,
        trace_runs=runs,
        traces=traces,
    )


def _wrong(section: str, line: str) -> RunError:
    return RunError(f"mm_run's log, {section}: a line is not of the documented form", details=line)


def _pairs(lines: list[str], section: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        pair = PAIR.fullmatch(line)
        if pair is None or pair[1] in found:
            raise _wrong(section, line)
        found[pair[1]] = pair[2].strip()
    return found


def _spread(text: str, form: re.Pattern[str], section: str, line: str) -> Spread:
    match = form.fullmatch(text)
    if match is None:
        raise _wrong(section, line)
    values = [float(value) for value in match.groups()]
    percentiles = dict(zip((90, 95, 99), values[4:], strict=False))
    spread = Spread(values[0], values[1], values[2], values[3], percentiles)
    order = [spread.least, spread.median, *spread.percentiles.values(), spread.most]
    if order != sorted(order) or not spread.least <= spread.mean <= spread.most:
        raise RunError(f"mm_run's log, {section}: statistics that are not in order", details=line)
    return spread


def _utilisation(lines: list[str]) -> dict[str, Spread]:
    section = SECTIONS[3]
    pairs = _pairs(lines, section)
    return {name: _spread(text, SPREAD, section, f"{name}: {text}") for name, text in pairs.items()}


def _performance(lines: list[str]) -> tuple[dict[str, float], dict[str, Spread], list[str]]:
    """The single figures, the statistics, and the lines from the traces on."""
    section = SECTIONS[4]
    at = next((i for i, line in enumerate(lines) if line.startswith("Trace averages")), len(lines))
    pairs = _pairs(lines[:at], section)
    absent = [name for name in (*SINGLES, *LATENCIES) if name not in pairs]
    if absent or at == len(lines):
        raise RunError(f"mm_run's log, {section}: lacks {', '.join(absent or ['Trace averages'])}")
    unknown = set(pairs) - set(SINGLES) - set(LATENCIES)
    if unknown:
        raise RunError(f"mm_run's log, {section}: unknown figures {', '.join(sorted(unknown))}")
    numbers = {}
    for name in SINGLES:
        if not re.fullmatch(NUMBER, pairs[name]):
            raise _wrong(section, f"{name}: {pairs[name]}")
        numbers[name] = float(pairs[name])
    latencies = {name: _spread(pairs[name], LATENCY, section, f"{name}: {pairs[name]}") for name in LATENCIES}
    return numbers, latencies, lines[at:]


def _traces(lines: list[str]) -> tuple[int, tuple[tuple[float, float], ...]]:
    heading = TRACES.fullmatch(lines[0])
    found = [TRACE.fullmatch(line) for line in lines[1:]]
    if heading is None or not int(heading[1]) or None in found:
        raise _wrong(SECTIONS[4], "\n".join(lines))
    return int(heading[1]), tuple((float(match[1]), float(match[2])) for match in found if match)


def _buffers(lines: list[str]) -> dict[str, tuple[Buffer, ...]]:
    """The model's buffers: "Input" and "Output"."""
    section = SECTIONS[2]
    found: dict[str, tuple[Buffer, ...]] = {}
    rest = iter(lines)
    for line in rest:
        kind = line.removeprefix("Buffer Info: ")
        if line == kind or kind not in ("Input", "Output") or kind in found:
            raise _wrong(section, line)
        count = _after(next(rest, ""), "Num", str.isdecimal)
        found[kind] = tuple(_buffer(rest) for _ in range(int(count)))
    if set(found) != {"Input", "Output"}:
        raise RunError(f"mm_run's log, {section}: lacks the inputs or the outputs")
    return found


def _after(line: str, name: str, allowed: Callable[[str], object] = bool) -> str:
    """The value of a `name: value` line."""
    pair = PAIR.fullmatch(line)
    if pair is None or pair[1] != name or not allowed(pair[2].strip()):
        raise _wrong(SECTIONS[2], line)
    return pair[2].strip()


def _buffer(lines: Iterator[str]) -> Buffer:
    index = next(lines, "")
    if not INDEX.fullmatch(index):
        raise _wrong(SECTIONS[2], index)
    name, datatype, layout = (_after(next(lines, ""), key) for key in ("Name", "Datatype", "Layout"))
    dims = _after(next(lines, ""), "Dim", lambda text: re.fullmatch(r"\[\d+(, \d+)*\]", text))
    for key in ("Size", "Ptr Addr", "TensorLoc"):
        _after(next(lines, ""), key)
    return Buffer(name, datatype, layout, tuple(int(size) for size in dims[1:-1].split(", ")))


def check_log(log: MmRunLog, *, batch: int, shape: tuple[int, ...], clusters: tuple[int, ...]) -> None:
    """Raise RunError when a log contradicts itself or is of something else than was asked for.

    batch: pictures an inference. shape: channels, height and width of the input. clusters: of the cards that
    the model was built for. Throughput is Iterations * batch / Host Wall Time: images a second.
    """
    wanted = (batch, *shape[1:], shape[0])
    dims = [buffer.dims for buffer in log.inputs]
    if dims != [wanted]:
        raise RunError(f"mm_run measured inputs {dims}, not {list(wanted)} (NHWC)")
    said = log.device.get("Cluster Number", "")
    if said not in {str(count) for count in clusters}:
        raise RunError(
            f"mm_run says the device has {said or 'no'} clusters, but the model was built for "
            f"{' or '.join(map(str, clusters))}: build for it with --option archs=..."
        )
    wall, iterations = log.numbers["Host Wall Time (s)"], log.numbers["Iterations"]
    if wall <= 0 or iterations < 1 or iterations != int(iterations):
        raise RunError("mm_run finished no inference", details=str(dict(log.numbers)))
    rate = iterations * batch / wall
    if abs(rate - log.throughput) > RATE_TOLERANCE * rate:
        raise RunError(f"mm_run contradicts itself: it says {log.throughput:g} qps, its counts {rate:g}")
    if len(log.traces) != int(iterations) // log.trace_runs:
        raise RunError(
            f"mm_run's log is cut short: {len(log.traces)} averages of {log.trace_runs} runs "
            f"for {int(iterations)} iterations"
        )


def as_details(log: MmRunLog) -> dict[str, Any]:
    """A log as JSON-able values, for a stored row."""
    return {
        "parameters": dict(log.parameters),
        "device": dict(log.device),
        "messages": dict(log.messages),
        "utilisation": {name: vars(spread) for name, spread in log.utilisation.items()},
        "figures": dict(log.numbers),
        "milliseconds": {name: vars(spread) for name, spread in log.latencies.items()},
    }
