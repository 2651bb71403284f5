"""`topfive pair`: two artifacts, turn by turn."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from topfive.cache import cache_root
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.commands.keeping import keep_record
from topfive.errors import OptionError
from topfive.pairing import (
    FEWEST_EPOCHS,
    CpuRatio,
    Ratio,
    Side,
    Slots,
    cpu_ratio_of,
    helper_of,
    interleave,
    open_side,
    ratio_of,
)
from topfive.records.arrays import pack_array
from topfive.suite.provenance import built_from
from topfive.targets.base import Artifact

__all__ = ["PairRequest", "measure_pair", "run_pair"]

LEAST_EPOCHS = 2 * FEWEST_EPOCHS


@dataclass(frozen=True)
class PairRequest:
    """What `topfive pair` is told. precision, gate: fractions; seconds: the longest that it measures."""

    first: str
    second: str
    batch: int
    threads: int | None
    precision: float
    seconds: float
    gate: float | None
    cards: tuple[Path, ...]
    cache: Path | None
    keep: bool
    records: Path | None
    tags: tuple[str, ...]
    as_json: bool


def run_pair(request: PairRequest) -> bool:
    """Measure, print and record; False if B is slower than A by more than the gate, beyond its interval."""
    if request.batch < 1 or request.precision <= 0 or request.seconds <= 0:
        raise OptionError("--batch, --precision and --seconds must be more than nothing")
    sides: list[Side] = []
    artifacts: list[Artifact] = []
    helper = any(helper_of(text)[0] for text in (request.first, request.second))
    try:
        for text in (request.first, request.second):
            side, artifact = open_side(
                text,
                batch=request.batch,
                threads=request.threads,
                cards=request.cards,
                cache=request.cache,
                progress=progress,
                helper=helper,
            )
            sides.append(side)
            artifacts.append(artifact)
        with _alone(request.cache):
            slots = measure_pair(sides[0], sides[1], precision=request.precision, seconds=request.seconds)
        ratio, cpu = ratio_of(slots), cpu_ratio_of(slots)
        about = [side.about() for side in sides]
    finally:
        for side in sides:
            side.close()
    good = request.gate is None or ratio.low <= 1 + request.gate
    result = {
        "a": about[0],
        "b": about[1],
        **asdict(ratio),
        "cpu": asdict(cpu) if cpu else None,
        "verdict": ratio.verdict,
        "passed": good,
    }
    if request.as_json:
        print_json(result)
    else:
        sys.stdout.write(pair_text(request, ratio, cpu, good=good))
    if request.keep:
        tests = [_test(f"pair {n}", artifact, slots, n) for n, artifact in zip("ab", artifacts, strict=True)]
        keep_record("pair", tests, request.records, request.tags, pair=result)
    return good


def _alone(cache: Path | None) -> Any:
    """The lock that tests of targets on the processor hold while they measure."""
    from topfive import targets
    from topfive.suite.measuring import device_lock

    return device_lock(cache_root(cache), targets.get("cpu"))


def measure_pair(first: Side, second: Side, *, precision: float, seconds: float) -> Slots:
    """Take turns until the interval is narrow enough, or `seconds` are over."""
    start = time.perf_counter()

    def enough(slots: Slots) -> bool:
        if time.perf_counter() - start > seconds:
            return True
        return len(slots.a) >= LEAST_EPOCHS and ratio_of(slots).precision <= precision

    return interleave(first, second, enough=enough)


def _test(name: str, artifact: Artifact, slots: Slots, side: str) -> dict[str, Any]:
    """A side's seconds a call, turn by turn."""
    seconds, processor = (slots.a, slots.cpu_a) if side == "a" else (slots.b, slots.cpu_b)
    return {
        "test": name,
        "kind": "pair",
        "outcome": "passed",
        "case": artifact.case,
        "built": built_from(artifact),
        "values": {"simulated": str(artifact.meta.get("simulated", ""))},
        "rounds": pack_array(seconds.reshape(-1)),
        "cpu_rounds": pack_array(processor.reshape(-1)),
        "iterations": slots.calls,
    }


def pair_text(request: PairRequest, ratio: Ratio, cpu: CpuRatio | None, *, good: bool) -> str:
    """The result in a few lines."""
    percent = 100 * (ratio.ratio - 1)
    lines = [
        f"A  {request.first}: median {1e3 * ratio.median_a:.4g} ms",
        f"B  {request.second}: median {1e3 * ratio.median_b:.4g} ms",
        f"B/A {ratio.ratio:.4f} ({percent:+.1f}%), 99% interval {ratio.low:.4f} to {ratio.high:.4f}: "
        f"{ratio.verdict}; {ratio.rounds} rounds of A B B A in {ratio.epochs} epochs",
        f"ratio of medians {ratio.of_medians:.4f} ({ratio.medians_low:.4f} to {ratio.medians_high:.4f})",
    ]
    if cpu is not None:
        lines.append(
            f"processor time B/A {cpu.ratio:.4f}, 99% interval {cpu.low:.4f} to {cpu.high:.4f}: "
            f"{1e3 * cpu.median_a:.4g} and {1e3 * cpu.median_b:.4g} ms a call"
        )
    if ratio.precision > request.precision:
        lines.append(
            f"the interval is wider than --precision asks for (+-{100 * ratio.precision:.1f}%): "
            "raise --seconds, or quieten the machine"
        )
    if ratio.epochs < FEWEST_EPOCHS:
        lines.append(f"fewer than {FEWEST_EPOCHS} epochs: the interval may be too narrow; raise --seconds")
    if request.gate is not None:
        lines.append(f"{'passed' if good else 'FAILED'}: gate {100 * request.gate:g}%")
    return "\n".join(lines) + "\n"


def percentage(text: str | None, name: str) -> float | None:
    """`5%` or `5` as a fraction; None for None. Raises OptionError."""
    if text is None:
        return None
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        raise OptionError(f"{name} {text!r} is not a percentage, as 5%") from None
    if not 0 <= value < 1e6:
        raise OptionError(f"{name} {text!r} is not a percentage, as 5%")
    return value


def split_tags(text: str | None) -> Sequence[str]:
    """Tags of a comma-separated list."""
    return tuple((text or "").split(","))
