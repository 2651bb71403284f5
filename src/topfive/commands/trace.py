"""`topfive trace`: where the time goes, as a table or a flame graph."""

from __future__ import annotations

import sys
from pathlib import Path

from topfive.commands import print_json
from topfive.errors import TraceError
from topfive.trace.flamegraph import flame_svg
from topfive.trace.summary import Summary, summarise
from topfive.trace.validation import Trace, read_trace

__all__ = ["draw_flamegraph", "print_summary"]

WIDEST_NAME = 44


def print_summary(file: Path, *, by: str, lane: str, as_json: bool) -> None:
    """Print time by operator, provider or layer. Raises TraceError, UnknownNameError."""
    trace = read_trace(file)
    found = summarise(trace, by, lane)
    if as_json:
        print_json({"file": str(file), **found.as_json(), "trace": trace.about})
    else:
        sys.stdout.write(summary_text(trace, found))


def summary_text(trace: Trace, found: Summary) -> str:
    """A line on what it is, a table, and the sums; of several runs the mean and the median of each row."""
    about, modelled, runs = trace.about, found.lane == "modelled", found.runs
    name = f"{about['model']} on {about['target']}, {about['quant']}" if "model" in about else trace.path.name
    kind = "Gemmini, modelled (calibrated estimate, not measured)" if modelled else "host time, measured"
    several = not modelled and runs > 1
    lines = [f"{name}: {kind}{f', {runs} runs' if runs > 1 else ''}"]
    more = {f"{'median':>10}": several, f"{'cycles':>12}": modelled}
    titles = [f"{found.by:<{WIDEST_NAME}}", f"{'mean ms' if several else 'ms':>10}", f"{'%':>6}"]
    lines.append(" ".join([*titles, *(text for text, wanted in more.items() if wanted), f"{'nodes':>6}"]))
    total = found.microseconds or 1.0
    for row in found.rows:
        label = row.name if len(row.name) <= WIDEST_NAME else f"...{row.name[3 - WIDEST_NAME :]}"
        cells = [f"{label:<{WIDEST_NAME}}", f"{row.microseconds / runs / 1000:>10.3f}"]
        cells.append(f"{100 * row.microseconds / total:>6.1f}")
        cells += [f"{row.median(runs) / 1000:>10.3f}"] if several else []
        cells += [f"{row.cycles // runs:>12,}"] if modelled else []
        lines.append(" ".join([*cells, f"{len(row.layers):>6}"]))
    whole = [f"{'all':<{WIDEST_NAME}}", f"{found.microseconds / runs / 1000:>10.3f}", f"{100.0:>6.1f}"]
    return "\n".join(
        [*lines, " ".join([*whole, *([f"{found.cycles // runs:>12,}"] if modelled else [])]), ""]
    )


def draw_flamegraph(file: Path, output: Path, *, lane: str, title: str, as_json: bool) -> None:
    """Write the SVG file. Raises TraceError, also when it cannot be written; UnknownNameError."""
    svg = flame_svg(read_trace(file), lane, title)
    try:
        output.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise TraceError(f"{output}: cannot be written: {error.strerror or error}") from error
    if as_json:
        print_json({"file": str(file), "svg": str(output)})
    else:
        sys.stdout.write(f"{output}\n")
