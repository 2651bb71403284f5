"""trtexec: the command lines it is given, and what it prints, read strictly.

The performance summary is that of samples/common/sampleReporting.cpp of NVIDIA/TensorRT (8.6 to 11): a line a
figure. Flags: samples/common/sampleOptions.cpp; those of precision are gone in 11.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topfive.errors import RunError
from topfive.targets.tensorrt.cuda import SAME_ORDER

__all__ = [
    "Spread",
    "Summary",
    "build_command",
    "check_device",
    "infer_command",
    "measure_command",
    "parse_output",
    "parse_summary",
    "shape_text",
]

NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
PREFIX = re.compile(r"^\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] ")
LEVEL = re.compile(r"^\[([IWEFV])\] ?")
HEADING = "=== Performance summary ==="
THROUGHPUT = re.compile(rf"Throughput: {NUMBER} qps")
SPREAD = re.compile(
    rf"min = {NUMBER} ms, max = {NUMBER} ms, mean = {NUMBER} ms, median = {NUMBER} ms, "
    rf"percentile\(90%\) = {NUMBER} ms, percentile\(95%\) = {NUMBER} ms, percentile\(99%\) = {NUMBER} ms"
)
TOTAL = re.compile(rf"{NUMBER} s")
SPREADS = ("Latency", "Enqueue Time", "H2D Latency", "GPU Compute Time", "D2H Latency")
TOTALS = ("Total Host Walltime", "Total GPU Compute Time")
SELECTED = re.compile(r"Selected Device: (.+)")
PASSED, FAILED = "&&&& PASSED TensorRT.trtexec", "&&&& FAILED TensorRT.trtexec"
TOLERANCE = 0.01
"""How far figures of one summary may be apart: they have six digits, and counts are rounded."""


@dataclass(frozen=True)
class Spread:
    """One line of statistics, in milliseconds."""

    least: float
    most: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Summary:
    """The performance summary. queries_per_s: batches a second. spreads: milliseconds. totals: seconds."""

    queries_per_s: float
    spreads: Mapping[str, Spread]
    totals: Mapping[str, float]
    warnings: tuple[str, ...]

    @property
    def queries(self) -> int:
        """Batches that were measured: throughput times wall time."""
        return round(self.queries_per_s * self.totals[TOTALS[0]])

    def as_json(self) -> dict[str, Any]:
        """Its figures."""
        return {
            "milliseconds": {name: vars(spread) for name, spread in self.spreads.items()},
            "seconds": dict(self.totals),
            "queries_per_s": self.queries_per_s,
        }


def shape_text(name: str, shape: Sequence[int]) -> str:
    """A shape as trtexec takes it: input:1x3x224x224."""
    return f"{name}:{'x'.join(map(str, shape))}"


def build_command(
    tool: str,
    *,
    name: str,
    profile: Sequence[Sequence[int]] | None,
    flags: Sequence[str],
    plugins: Sequence[str],
    device: int,
) -> list[str]:
    """The command that makes engine.plan. profile: min, opt, max shapes. flags: of precision."""
    shapes = (
        [
            f"--{end}Shapes={shape_text(name, s)}"
            for end, s in zip(("min", "opt", "max"), profile, strict=True)
        ]
        if profile is not None
        else []
    )
    return [
        tool,
        "--onnx=model.onnx",
        "--saveEngine=engine.plan",
        *shapes,
        "--noTF32",
        *flags,
        *(f"--dynamicPlugins={path}" for path in plugins),
        f"--device={device}",
        "--skipInference",
    ]


def _run(tool: str, engine: str, name: str, shape: Sequence[int], device: int) -> list[str]:
    return [tool, f"--loadEngine={engine}", f"--shapes={shape_text(name, shape)}", f"--device={device}"]


def measure_command(
    tool: str,
    engine: str,
    *,
    name: str,
    shape: Sequence[int],
    device: int,
    plugins: Sequence[str],
    iterations: int,
    seconds: int,
    warm_up: int,
) -> list[str]:
    """The command that measures one batch size. warm_up: milliseconds."""
    return [
        *_run(tool, engine, name, shape, device),
        *(f"--dynamicPlugins={path}" for path in plugins),
        f"--iterations={iterations}",
        f"--duration={seconds}",
        f"--warmUp={warm_up}",
        "--percentile=90,95,99",
    ]


def infer_command(
    tool: str, engine: str, *, name: str, shape: Sequence[int], device: int, plugins: Sequence[str]
) -> list[str]:
    """The command that runs input.bin once and writes output.json."""
    return [
        *_run(tool, engine, name, shape, device),
        *(f"--dynamicPlugins={path}" for path in plugins),
        f"--loadInputs={name}:input.bin",
        "--exportOutput=output.json",
        "--iterations=1",
        "--duration=0",
        "--warmUp=0",
    ]


def check_device(text: str, name: str) -> None:
    """Raise RunError when trtexec says that it used a GPU of another name: CUDA may count them otherwise."""
    lines = (LEVEL.sub("", PREFIX.sub("", line.rstrip())) for line in text.splitlines())
    other = [found[1] for line in lines if (found := SELECTED.fullmatch(line)) and found[1] != name]
    if other:
        raise RunError(f"trtexec used {other[0]}, not {name}: {SAME_ORDER}")


def parse_summary(text: str) -> Summary:
    """The performance summary of what trtexec printed.

    Raises RunError: trtexec did not say that it passed, the summary is missing, twice, cut short or of
    another form, or its figures contradict each other.
    """
    lines = [PREFIX.sub("", line.rstrip()) for line in text.splitlines()]
    if any(line.startswith(FAILED) for line in lines):
        raise RunError("trtexec says that it failed")
    if not any(line.startswith(PASSED) for line in lines):
        raise RunError("trtexec's output is cut short: it does not say that it passed")
    warnings = tuple(line[4:].strip() for line in lines if line.startswith("[W] "))
    plain = [LEVEL.sub("", line).strip() for line in lines]
    if plain.count(HEADING) != 1:
        raise RunError(f"trtexec printed {plain.count(HEADING)} performance summaries, not one")
    rest = plain[plain.index(HEADING) + 1 :]
    throughput = [match for line in rest if (match := THROUGHPUT.fullmatch(line))]
    if len(throughput) != 1:
        raise RunError(f"trtexec's performance summary has {len(throughput)} throughputs, not one")
    summary = Summary(
        float(throughput[0][1]),
        {name: _spread(_value(rest, name), name) for name in SPREADS},
        {name: _total(_value(rest, name), name) for name in TOTALS},
        warnings,
    )
    _check(summary)
    return summary


def _value(lines: Sequence[str], name: str) -> str:
    found = [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]
    if len(found) != 1:
        raise RunError(f"trtexec's performance summary has {len(found)} lines {name!r}, not one")
    return found[0]


def _spread(text: str, name: str) -> Spread:
    match = SPREAD.fullmatch(text)
    if match is None:
        raise RunError(f"trtexec's {name} is not of the documented form", details=text)
    found = Spread(*(float(value) for value in match.groups()))
    order = [found.least, found.median, found.p90, found.p95, found.p99, found.most]
    if order != sorted(order) or not found.least <= found.mean <= found.most:
        raise RunError(f"trtexec's {name} is not in order", details=text)
    return found


def _total(text: str, name: str) -> float:
    match = TOTAL.fullmatch(text)
    if match is None:
        raise RunError(f"trtexec's {name} is not of the documented form", details=text)
    return float(match[1])


def _check(summary: Summary) -> None:
    """Latency is the sum of its parts; throughput by wall time and compute time by its mean are queries."""
    means = {name: spread.mean for name, spread in summary.spreads.items()}
    parts = means["H2D Latency"] + means["GPU Compute Time"] + means["D2H Latency"]
    if not summary.queries or not means["GPU Compute Time"]:
        raise RunError("trtexec finished no inference", details=str(summary.as_json()))
    counted = 1e3 * summary.totals[TOTALS[1]] / means["GPU Compute Time"]
    # A count of a few is rounded to a whole one.
    if abs(counted - summary.queries) > max(TOLERANCE * counted, 1.0):
        raise RunError(
            f"trtexec contradicts itself: {summary.queries_per_s:g} qps are {summary.queries} queries, its "
            f"compute time is {counted:.1f}"
        )
    if not math.isclose(parts, means["Latency"], rel_tol=TOLERANCE, abs_tol=1e-3):
        raise RunError(
            f"trtexec contradicts itself: mean latency {means['Latency']:g} ms, its parts add up to {parts:g}"
        )


def parse_output(path: Path, batch: int, *, indices: bool = False) -> NDArray[Any]:
    """The one output tensor in a file of --exportOutput: float32 of about six digits.

    batch: what its first axis must be. indices: it holds indices of classes, int64. Raises RunError when it
    is missing, cut short, or of another form.
    """
    try:
        (tensor,) = json.loads(path.read_text(encoding="utf-8"))
        dims = [int(size) for size in tensor["dimensions"].split("x")]
        # Without a dtype first: numpy would cut a fraction off an index in silence.
        values = np.asarray(tensor["values"]).astype(np.int64 if indices else np.float32, casting="same_kind")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{path.name} is not what --exportOutput writes", details=str(error)) from None
    if dims[0] != batch or values.size != math.prod(dims):
        raise RunError(f"trtexec wrote {values.size} values of shape {dims} for a batch of {batch}")
    return values.reshape(dims)
