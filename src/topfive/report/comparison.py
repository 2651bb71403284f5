"""A comparison of two records as a table, as Markdown and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from topfive.records.comparison import SIGNIFICANT, Change, RecordComparison
from topfive.records.gates import ACCURACIES, TIMES
from topfive.report.terminal import as_text

__all__ = ["comparison_json", "comparison_markdown", "comparison_table", "failure_text", "verdict_line"]

TITLES = ("test", "metric", "base", "new", "change", "limit", "p", "effect", "verdict")
QUIET = ("same", "changed", "noise", "new")
STYLES = {
    "worse": "bold red",
    "missing": "bold red",
    "broken": "bold red",
    "better": "green",
    "undecided": "yellow",
}
LONGEST_TABLE, LONGEST = 45_000, 55_000
"""Characters of Markdown: up to the end of the failures, and in all but the notes. GitHub takes 65,536."""
RULE = (
    f"a gate fails when a metric is worse by more than its limit and p < {SIGNIFICANT} "
    "(Mann-Whitney U for median, "
    "mean and throughput, a quantile test for percentiles, McNemar for accuracy); counts must be equal"
)


def verdict_line(found: RecordComparison) -> str:
    """The result in one line."""
    counts = Counter(change.verdict for change in found.changes)
    listed = ", ".join(f"{counts[name]} {name}" for name in sorted(counts)) or "no gated metric in common"
    failed = len(found.failures)
    return f"{'FAILED' if failed else 'passed'}: {found.new} against {found.base}: {listed}"


def shown_changes(found: RecordComparison, *, everything: bool) -> list[Change]:
    """The changes that a reader is shown: failures first, without what is quiet unless asked for."""
    failing = found.failures
    rest = [c for c in found.changes if c not in failing and (everything or c.verdict not in QUIET)]
    new = [c for c in found.changes if c.verdict == "new" and not everything]
    return [*failing, *rest, *new]


def comparison_table(found: RecordComparison, *, everything: bool = False, colour: bool = False) -> str:
    """The table for a terminal, the rule and the notes under it."""
    changes = shown_changes(found, everything=everything)
    lines = []
    if changes:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        for number, title in enumerate(TITLES):
            table.add_column(title, justify="right" if 2 <= number <= 7 else "left", no_wrap=True)
        for change in changes:
            cells = _cells(change)
            table.add_row(*(Text(cell, style=STYLES.get(cell.split(" ")[0], "")) for cell in cells))
        lines.append(as_text(table, colour=colour))
    hidden = len(found.changes) - len(changes)
    if hidden:
        lines.append(f"{hidden} not shown: the same, or within their limits")
    return "\n".join([*lines, *_notes(found), verdict_line(found)])


def comparison_markdown(found: RecordComparison) -> str:
    """A pull-request comment: the verdict, the rows that matter, the rest folded away."""
    failed = len(found.failures)
    head = (
        f"### topfive: {failed} regression{'s' * (failed != 1)}" if failed else "### topfive: no regression"
    )
    lines = [head, "", f"`{found.new}` against `{found.base}`", ""]
    shown = shown_changes(found, everything=False)
    rows = _markdown_table(shown) if shown else ["Nothing changed beyond its limit."]
    lines += _fitting(rows, LONGEST_TABLE)
    rest = [change for change in found.changes if change not in shown]
    if rest:
        lines += ["", f"<details><summary>{len(rest)} within their limits</summary>", ""]
        lines += [*_fitting(_markdown_table(rest), LONGEST - len("\n".join(lines))), "", "</details>"]
    lines += ["", *(f"- {note}" for note in _notes(found))]
    return "\n".join(lines).rstrip() + "\n"


def _fitting(rows: list[str], space: int) -> list[str]:
    """The rows that fit into so many characters, and how many do not."""
    kept: list[str] = []
    for number, row in enumerate(rows):
        space -= len(row) + 1
        if space < 0:
            return [*kept, "", f"... and {len(rows) - number} more"]
        kept.append(row)
    return kept


def _markdown_table(changes: Sequence[Change]) -> list[str]:
    rows = [TITLES, ["---"] * 2 + ["---:"] * 6 + ["---"]]
    for change in changes:
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in _cells(change)]
        verdict = f"**{cells[-1]}**" if change.failed else cells[-1]
        rows.append([f"`{cells[0]}`", *cells[1:-1], verdict])
    return ["| " + " | ".join(row) + " |" for row in rows]


def _notes(found: RecordComparison) -> list[str]:
    undecided = sum(change.verdict == "undecided" for change in found.changes)
    notes = list(found.notes)
    if undecided:
        notes.append(f"{undecided} undecided: too few rounds or pictures for any change to be significant")
    if found.idle:
        notes.append(f"judged nothing, because no test of both has it: {', '.join(found.idle)}")
    return [*notes, RULE]


def failure_text(found: RecordComparison) -> str:
    """What a failed test of this comparison says: one line a failure."""
    lines = [
        f"{c.test}: {c.metric} {c.verdict}: {_value(c, c.base)} -> {_value(c, c.new)} {_change(c)}".rstrip()
        for c in found.failures
    ]
    return "\n".join([verdict_line(found), *lines])


def comparison_json(found: RecordComparison) -> dict[str, Any]:
    """All of it as JSON values; times in seconds."""
    return {
        "base": found.base,
        "new": found.new,
        "failed": found.failed,
        "failures": len(found.failures),
        "gates": {gate.metric: gate.text for gate in found.gates},
        "changes": [{**asdict(change), "failed": change in found.failures} for change in found.changes],
        "notes": list(found.notes),
        "idle": list(found.idle),
    }


def _cells(change: Change) -> list[str]:
    return [
        change.test,
        change.metric,
        _value(change, change.base),
        _value(change, change.new),
        _change(change),
        change.limit,
        "" if change.p is None else f"{change.p:.2g}",
        "" if change.effect is None else f"{change.effect:+.2f}",
        change.verdict + (f" ({change.note})" if change.note else ""),
    ]


def _value(change: Change, value: Any) -> str:
    if value is None:
        return "-"
    metric = change.metric.split(" ")[-1]
    if metric in ACCURACIES:
        return f"{100 * value:.2f}%"
    if metric in TIMES:
        return f"{value:.1f}" if metric == "images_per_s" else f"{1e3 * value:.4g} ms"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)[:12] if change.metric == "bits" else str(value)


def _change(change: Change) -> str:
    if change.change is None:
        return ""
    if change.metric.split(" ")[-1] in ACCURACIES:
        return f"{change.change:+.2f} points"
    return f"{100 * change.change:+.1f}%"
