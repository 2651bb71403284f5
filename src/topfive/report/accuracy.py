"""The table of accuracy sweeps, and what is said below it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from topfive.report.terminal import as_text
from topfive.sweep.compare import Change, Summary
from topfive.sweep.plan import counted
from topfive.sweep.statistics import Proportion

__all__ = ["accuracy_csv", "accuracy_json", "accuracy_notes", "accuracy_table"]

SIMULATED_MARK = "~"
OUTSIDE_MARK = "!"
SHOWN = 5
HEADINGS = (
    ("model", False),
    ("target", False),
    ("quant mode", False),
    ("images", True),
    ("top-1", True),
    ("95 %", False),
    ("top-5", True),
    ("95 %", False),
    ("=fp32", True),
    ("published", True),
    ("before", True),
    ("lost/gained", True),
    ("p", True),
    ("img/s", True),
    ("CPU ms/img", True),
    ("peak MB", True),
)


def accuracy_table(summaries: Sequence[Summary], *, colour: bool = False) -> str:
    """A line a sweep, ASCII only; accuracies in per cent with Wilson's 95 % interval."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading, right in HEADINGS:
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for summary in summaries:
        style = "bold red" if summary.failed else ""
        table.add_row(*(Text(cell, style=style) for cell in _cells(summary)))
    return as_text(table, colour=colour)


def _cells(summary: Summary) -> list[str]:
    record, change = summary.record, summary.change
    timing = record.timing
    return [
        str(record.plan["model"]),
        str(record.plan["target"]) + (SIMULATED_MARK if record.plan.get("simulated") else ""),
        str(record.plan["quant"]),
        f"{record.pictures:,}",
        _percent(summary.top1.fraction),
        _interval(summary.top1),
        _percent(summary.top5.fraction),
        _interval(summary.top5),
        _percent(summary.float32),
        _published(summary),
        _percent(_before(change)),
        f"{change.lost}/{change.gained}" if change else "-",
        f"{change.probability:.2g}" if change else "-",
        f"{record.images_per_s:.0f}" if record.images_per_s >= 100 else f"{record.images_per_s:.1f}",
        f"{1e3 * timing.get('cpu', 0.0) / record.pictures:.2f}",
        f"{timing.get('peak_bytes', 0) / 1e6:.0f}",
    ]


def _before(change: Change | None) -> float | None:
    return float(change.before.right1.mean()) if change else None


def _published(summary: Summary) -> str:
    low, high = summary.top1.interval()
    figure = summary.published.top1
    outside = figure is not None and not low <= figure <= high
    return _percent(figure) + (OUTSIDE_MARK if outside else "")


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _interval(proportion: Proportion) -> str:
    low, high = proportion.interval()
    return f"{100 * low:.2f}-{100 * high:.2f}"


def accuracy_notes(summaries: Sequence[Summary], names: Mapping[int, str] | None = None) -> list[str]:
    """What a reader must know, a line each. names: file names by their place in the list."""
    notes = []
    simulated = {
        str(s.record.plan["target"]): str(s.record.plan["simulated"])
        for s in summaries
        if s.record.plan.get("simulated")
    }
    notes += [f"{SIMULATED_MARK} {target} is simulated: {what}" for target, what in sorted(simulated.items())]
    measured = {str(s.record.plan["model"]): s.published.images for s in summaries if s.published.images}
    notes += [f"published: {model} on {images}" for model, images in measured.items()]
    if any(_published(summary).endswith(OUTSIDE_MARK) for summary in summaries):
        notes.append(f"{OUTSIDE_MARK} the published figure is outside the 95 % interval")
    for summary in summaries:
        notes += _notes(summary, names or {})
    return notes


def _notes(summary: Summary, names: Mapping[int, str]) -> list[str]:
    record = summary.record
    place = " ".join(record.case)
    notes = []
    if summary.shift:
        notes.append(
            f"{place}: top-1 is {_percent(summary.top1.fraction)} %, but {_percent(summary.shifted_top1)} % "
            f"with labels {summary.shift:+d}: {_offset(summary)}"
        )
    if missing := record.plan.get("missing"):
        shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        are = "is" if len(missing) == 1 else "are"
        notes.append(
            f"{place}: {counted(len(missing), 'picture')} of the list {are} missing and left out: {shown}"
        )
    change = summary.change
    if change and change.moved:
        shown = ", ".join(names.get(index, f"#{index}") for index in change.moved[:SHOWN])
        more = ", ..." if len(change.moved) > SHOWN else ""
        notes.append(
            f"{place}: {change.verdict} since {change.before.created}: the best class moved for "
            f"{len(change.moved)} of {change.paired} pictures: {shown}{more}"
        )
    return notes


def _offset(summary: Summary) -> str:
    """What may be wrong when labels fit only after a shift by one."""
    stated = int(summary.record.plan["first_label"])
    if summary.shift < 0:
        model = "the model has no background class, though its card says so"
        return model if stated else f"the list counts from 1 (--first-label 1), or {model}"
    model = "the model has a background class that its card does not state"
    return f"the list counts from 0 (--first-label 0), or {model}" if stated else model


def accuracy_json(summary: Summary) -> dict[str, Any]:
    """A sweep as JSON values, without its predictions; accuracies are fractions, times seconds."""
    record, change = summary.record, summary.change
    model, target, quant = record.case
    return {
        "model": model,
        "target": target,
        "quant": quant,
        "simulated": record.plan.get("simulated", ""),
        "dataset": record.plan["dataset"],
        "images": record.pictures,
        "missing": list(record.plan.get("missing", ())),
        "top1": _proportion(summary.top1),
        "top5": _proportion(summary.top5),
        "agreement_with_float32": summary.float32,
        "published": {"top1": summary.published.top1, "top5": summary.published.top5},
        "label_shift_that_fits": summary.shift,
        "before": None
        if change is None
        else {
            "record": change.before.id,
            "created": change.before.created,
            "paired": change.paired,
            "lost": change.lost,
            "gained": change.gained,
            "p": change.probability,
            "verdict": change.verdict,
            "moved": list(change.moved),
        },
        "images_per_s": record.images_per_s,
        "timing": dict(record.timing),
        "record": record.id,
        "created": record.created,
        "artifact": record.plan["artifact"],
        "notes": _notes(summary, {}),
    }


CSV_COLUMNS = ("model", "target", "quant", "simulated", "dataset", "images")


def accuracy_csv(summaries: Sequence[Summary]) -> str:
    """A header and a line a sweep; accuracies are fractions, times seconds."""
    rows = []
    for summary in summaries:
        row = accuracy_json(summary)
        flat = {name: row[name] for name in CSV_COLUMNS}
        for name in ("top1", "top5"):
            flat |= {f"{name}_{key}": value for key, value in row[name].items()}
        flat |= {"agreement_with_float32": row["agreement_with_float32"]}
        flat |= {f"published_{name}": value for name, value in row["published"].items()}
        before = row["before"] or {}
        flat |= {
            f"before_{name}": before.get(name)
            for name in ("record", "paired", "lost", "gained", "p", "verdict")
        }
        flat |= {"images_per_s": row["images_per_s"], "cpu_s": row["timing"]["cpu"], "record": row["record"]}
        rows.append({name: "" if value is None else value for name, value in flat.items()})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0] if rows else (), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _proportion(proportion: Proportion) -> dict[str, Any]:
    low, high = proportion.interval()
    return {"right": proportion.right, "fraction": proportion.fraction, "low": low, "high": high}
