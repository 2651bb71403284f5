"""Where a report's content comes from. Nothing else of the report knows the formats of files.

Three sources, any of which may be missing: records of topfive, files that pytest-benchmark saved, and the
committed goldens. A file that cannot be read is named, and the others are shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topfive.errors import GoldenError, RecordError
from topfive.golden import Golden, read_golden
from topfive.records.entries import Entry, entries_of
from topfive.records.library import Found, list_records
from topfive.report.site.content import (
    Broken,
    Case,
    Content,
    Figures,
    LoadGenRun,
    Pair,
    Run,
    Side,
    golden_basis,
)

__all__ = ["read_content"]

TEXTS = ("golden", "simulated", "artifact", "kernels")
SECONDS = (1e-12, 1e9)
"""What a time may be, or 0 of a coarse clock."""
POSSIBLE = {
    **dict.fromkeys(("p50", "p90", "p99"), SECONDS),
    **dict.fromkeys(("top1", "top5"), (0.0, 1.0)),
    **dict.fromkeys(("rounds", "pictures", "modelled_estimate", "modelled_bus"), (1.0, 1e18)),
    "images_per_s": (1e-9, 1e15),
}


def read_content(
    records: Sequence[Path] = (),
    benchmarks: Sequence[Path] = (),
    goldens: Path | None = None,
    models: Sequence[str] = (),
) -> Content:
    """Read everything; what is broken is listed in the content and left out.

    records, benchmarks: folders, searched with their subfolders; those that do not exist count as empty.
    goldens: the folder of committed goldens. models: names or globs; none for all models.
    """
    broken: list[Broken] = []
    runs = [run for root in records for run in _records(root, broken)]
    known = {figures.seconds.tobytes() for run in runs for figures in run.figures}
    runs += [run for root in benchmarks for run in _benchmarks(root, broken) if not _is_known(run, known)]
    kept = [run for run in (_of_models(run, models) for run in _each_once(runs)) if run is not None]
    found = dict(_goldens(goldens, broken)) if goldens is not None else {}
    chosen = {case: golden for case, golden in found.items() if _wanted(case[0], models)}
    return Content(sorted(kept, key=lambda run: (run.created, run.id)), chosen, tuple(broken))


def _wanted(model: str, models: Sequence[str]) -> bool:
    return not models or any(fnmatchcase(model, pattern) for pattern in models)


def _of_models(run: Run, models: Sequence[str]) -> Run | None:
    """The run with only these models' figures; None for a run that was of others."""
    figures = tuple(figure for figure in run.figures if _wanted(figure.case[0], models))
    if run.figures and not figures:
        return None
    return Run(**{**vars(run), "figures": figures})


def _is_known(run: Run, known: set[bytes]) -> bool:
    """Whether a file of pytest-benchmark was saved by a session that a record is of: the rounds are equal."""
    measured = [figures.seconds.tobytes() for figures in run.figures if figures.seconds.size]
    return bool(measured) and known.issuperset(measured)


def _each_once(runs: Sequence[Run]) -> list[Run]:
    """One run of each id: the same record may lie in two folders."""
    return list({run.id: run for run in runs}.values())


def _records(root: Path, broken: list[Broken]) -> Iterator[Run]:
    damaged: list[str] = []
    for found in list_records(root, damaged=damaged) if root.is_dir() else []:
        try:
            yield _record_run(found, root)
        except (RecordError, ValueError, KeyError, TypeError, AttributeError) as error:
            broken.append(Broken(_name(found.path, root), _reason(error)))
    for message in damaged:
        broken.append(Broken(*_split(message, root)))


def _split(message: str, root: Path) -> tuple[str, str]:
    """A message "PATH what is wrong" without the folders above the root."""
    shown = message.replace(f"{root}/", "")
    name, _, reason = shown.partition(".json ")
    return (f"{name}.json", reason) if reason else (shown, "")


def _record_run(found: Found, root: Path) -> Run:
    record = found.record
    machine, commit = record["machine"], record["commit"]
    return Run(
        id=found.id,
        kind=found.kind,
        created=_instant(found.created),
        source=_name(found.path, root),
        command=str(record["command"]),
        commit=str(commit.get("id") or commit.get("commit") or commit.get("sha") or ""),
        dirty=bool(commit.get("dirty")),
        host=str(machine.get("host") or ""),
        environment=dict(_flat({**machine, **{f"commit {key}": value for key, value in commit.items()}})),
        figures=tuple(_entry_figures(entry) for entry in entries_of(record).values() if entry.case),
        pair=_pair(record) if "pair" in record else None,
    )


def _pair(record: Mapping[str, Any]) -> Pair:
    stored, entries = record["pair"], entries_of(record)
    cpu = stored.get("cpu")
    return Pair(
        a=_side(entries["pair a"], stored["median_a"]),
        b=_side(entries["pair b"], stored["median_b"]),
        ratio=_ratio(stored),
        cpu=None if cpu is None else _ratio(cpu),
        rounds=int(stored["rounds"]),
        verdict=str(stored["verdict"]),
        passed=bool(stored["passed"]),
    )


def _side(entry: Entry, median: Any) -> Side:
    return Side(_case(entry), str(entry.built.get("key") or "")[:8], _finite(median))


def _ratio(stored: Mapping[str, Any]) -> tuple[float, float, float]:
    return _finite(stored["ratio"]), _finite(stored["low"]), _finite(stored["high"])


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _case(entry: Entry) -> Case:
    return str(entry.case["model"]), str(entry.case["target"]), str(entry.case["quant"])


def _loadgen(stored: Mapping[str, Any]) -> LoadGenRun:
    """A run as `topfive scenario --json` describes it."""
    accuracy = stored.get("accuracy")
    return LoadGenRun(
        key=str(stored["key"]),
        valid=bool(stored["valid"]),
        metric=_finite(stored["metric"]) if accuracy is None else None,
        queries=int(stored["queries"]) if accuracy is None else None,
        accuracy=None if accuracy is None else _finite(accuracy),
        samples=None if accuracy is None else int(stored["total"]),
        name=str(stored.get("metric_name") or ""),
    )


def _entry_figures(entry: Entry) -> Figures:
    values, batch, basis = dict(entry.values), entry.case.get("batch"), ""
    if entry.sweep is not None and entry.sweep.pictures:
        right1, right5 = float(entry.sweep.right1.mean()), float(entry.sweep.right5.mean())
        values |= {"top1": right1, "top5": right5, "pictures": entry.sweep.pictures}
        values["simulated"] = str(entry.sweep.plan.get("simulated") or "")
        name, contents = entry.sweep.plan["dataset"], entry.sweep.contents_sha256
        basis = f"{entry.sweep.pictures} pictures of {name} ({contents[:8]})"
    elif isinstance(values.get("right1"), Mapping):
        values["pictures"] = len(values["right1"])
        basis = golden_basis(values["right1"])
    elif entry.stored.get("loadgen"):
        basis = f"LoadGen's {values.get('pictures')} pictures of {entry.case['model']}"
    return Figures(
        entry.test,
        _case(entry),
        _batch(batch),
        entry.outcome,
        _checked(values),
        _rounds(entry.rounds, entry.test),
        str(entry.stored.get("reason") or ""),
        _loadgen(entry.stored["loadgen"]) if entry.stored.get("loadgen") else None,
        str(entry.stored.get("kind") or ""),
        basis,
    )


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a table or a figure depends on are of their kind and possible, or ValueError."""
    found = {name: value for name, value in values.items() if value is not None}
    for name, value in found.items():
        if name in TEXTS:
            found[name] = str(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
        elif name in POSSIBLE:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{name} is {value!r}, not a number")
            least, most = POSSIBLE[name]
            if value != 0 and not least <= value <= most:
                raise ValueError(f"{name} is {value!r}, which cannot be")
    return found


def _rounds(seconds: Any, test: str) -> npt.NDArray[np.float64]:
    """Raw rounds in seconds, float64 [rounds]; ValueError if one is no time."""
    found = np.asarray(seconds, np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{test}: a round is not a number")
    least, most = SECONDS
    if ((found != 0) & ((found < least) | (found > most))).any():
        raise ValueError(f"{test}: a round of {found.min()!r} to {found.max()!r} s cannot be")
    return found


def _batch(stored: Any) -> int | None:
    """A batch of a record, None without; ValueError for what is none."""
    if stored is None:
        return None
    if isinstance(stored, bool) or not isinstance(stored, int) or stored < 1:
        raise ValueError(f"batch {stored!r} is not a number from 1 on")
    return stored


def _benchmarks(root: Path, broken: list[Broken]) -> Iterator[Run]:
    files = [root] if root.is_file() else sorted(root.rglob("*.json")) if root.is_dir() else []
    for path in files:
        name = _name(path, root)
        try:
            yield _benchmark_run(json.loads(path.read_text(encoding="utf-8")), name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            broken.append(Broken(name, _reason(error)))


def _benchmark_run(stored: Mapping[str, Any], name: str) -> Run:
    machine, commit = dict(stored["machine_info"]), dict(stored["commit_info"])
    cpu = machine.pop("cpu", {})
    rows = [row for row in stored["benchmarks"] if {"model", "target", "quant"} <= set(row["params"] or ())]
    libraries = rows[0]["extra_info"].get("versions", {}) if rows else {}
    words = {**machine, "cpu": cpu.get("brand_raw", ""), "versions": libraries, **_prefixed(commit)}
    return Run(
        id=f"benchmark-{Path(name).with_suffix('').as_posix()}",
        kind="pytest-benchmark",
        created=_instant(str(stored["datetime"])),
        source=name,
        command="pytest bench --benchmark-autosave",
        commit=str(commit.get("id") or ""),
        dirty=bool(commit.get("dirty")),
        host=str(machine.get("node") or ""),
        environment=dict(_flat(words)),
        figures=tuple(_benchmark_figures(row) for row in rows),
    )


def _prefixed(commit: Mapping[str, Any]) -> dict[str, Any]:
    return {f"commit {key}": value for key, value in commit.items()}


def _benchmark_figures(row: Mapping[str, Any]) -> Figures:
    params, extra = row["params"], row["extra_info"]
    case = (str(params["model"]), str(params["target"]), str(params["quant"]))
    names = ("p50", "p90", "p99", "images_per_s", "simulated", "artifact")
    values = {name: extra[name] for name in names if name in extra}
    test = str(row["fullname"])
    seconds = _rounds(row["stats"].get("data") or (), test)
    # A device's own tool counts inferences itself; else a round is a call.
    own = extra.get("device_figures") or {}
    values["rounds"] = own.get("inferences") or row["stats"]["rounds"]
    kind = "latency" if "::test_latency[" in test else "throughput"
    return Figures(test, case, _batch(params.get("batch")), "passed", _checked(values), seconds, kind=kind)


def _goldens(root: Path, broken: list[Broken]) -> Iterator[tuple[Case, Golden]]:
    for path in sorted(root.glob("*/*.json")):
        try:
            golden = read_golden(path)
        except GoldenError as error:
            broken.append(Broken(_name(path, root), error.message))
            continue
        yield (golden.model, golden.target, golden.quant), golden


def _name(path: Path, root: Path) -> str:
    """A file as seen from the folder that was given: a site may be published, folders of a machine not."""
    return path.name if path == root else path.relative_to(root).as_posix()


def _instant(text: str) -> str:
    """A time as ISO 8601 in UTC, to the second; without an offset it is UTC already. ValueError if none."""
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC).isoformat(timespec="seconds")


def _flat(words: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Nested values as pairs of words, lists joined."""
    for name, value in words.items():
        if isinstance(value, Mapping):
            yield from ((f"{name} {inner}", text) for inner, text in _flat(value))
        elif isinstance(value, list | tuple):
            yield str(name), ", ".join(str(item) for item in value)
        elif value not in (None, ""):
            yield str(name), str(value)


def _reason(error: Exception) -> str:
    if isinstance(error, RecordError):
        return error.message
    return f"{'lacks ' if isinstance(error, KeyError) else ''}{error}" or type(error).__name__
