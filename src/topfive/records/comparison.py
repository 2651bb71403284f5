"""Comparing two records, test by test.

A gate fails when a metric became worse by more than its limit and the change is significant: two-sided p
below SIGNIFICANT of Mann-Whitney U on the raw rounds (median, mean, throughput), of the quantile test
(percentiles), of McNemar's test on the same pictures (accuracy). Counts without noise (cycles, instructions,
bits) need no test. Where too few rounds or pictures were measured to call a change significant, that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from topfive.errors import RecordError
from topfive.records.entries import Entry, entries_of
from topfive.records.gates import COUNTS, FIGURES, MAGICMIND, MISSING, TIMES, Gate
from topfive.records.magicmind_gate import Verdict, accuracy_verdict, throughput_verdict
from topfive.records.metrics import (
    Pictures,
    count_of,
    device_time_of,
    figures_of,
    pictures_of,
    throughput_of,
    time_of,
)
from topfive.records.significance import Difference, hodges_lehmann, mann_whitney, quantile_test
from topfive.sweep.statistics import mcnemar

__all__ = ["SIGNIFICANT", "Change", "RecordComparison", "compare_records"]

SIGNIFICANT = 0.01
FAILING = ("worse", "missing", "broken")


@dataclass(frozen=True)
class Change:
    """One metric of one test.

    verdict: same, better, worse (the gate fails), changed (significant, within the limit), noise (beyond the
    limit, not significant), undecided (beyond the limit, too little measured to tell), new, missing, broken
    (passed before, fails now). change: a fraction of the base, points for accuracies, None for no number.
    shift: Hodges-Lehmann, a fraction of the base's median.
    """

    test: str
    metric: str
    verdict: str
    base: Any = None
    new: Any = None
    change: float | None = None
    p: float | None = None
    effect: float | None = None
    shift: float | None = None
    limit: str = ""
    note: str = ""

    @property
    def failed(self) -> bool:
        """Whether it makes the comparison fail."""
        return self.verdict in FAILING


@dataclass(frozen=True)
class RecordComparison:
    """All changes between two records, and what a reader must know of both.

    idle: metrics of gates that judged nothing, because no test of both records has them.
    """

    base: str
    new: str
    gates: tuple[Gate, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()

    @property
    def failures(self) -> list[Change]:
        """What makes it fail; missing tests only if there are more than the gate allows."""
        allowed = next((gate.limit for gate in self.gates if gate.metric == MISSING), 0.0)
        missing = [change for change in self.changes if change.verdict == "missing"]
        kept = len(missing) > allowed
        return [c for c in self.changes if c.failed and (c.verdict != "missing" or kept)]

    @property
    def failed(self) -> bool:
        """Whether any gate fails."""
        return bool(self.failures)


def compare_records(
    base: Mapping[str, Any],
    new: Mapping[str, Any],
    gates: Sequence[Gate],
    *,
    other_machine: bool = False,
    other_model: bool = False,
) -> RecordComparison:
    """Compare two records that `read_record` gave.

    Raises RecordError when they have no test in common, when a model of the same name is another file (unless
    `other_model`), or when times would be compared that two different machines measured (unless
    `other_machine`).
    """
    before, after = entries_of(base), entries_of(new)
    common = [name for name, entry in before.items() if entry.ran and name in after]
    if not common and before:
        raise RecordError(
            f"record {new['id']} has none of the tests of {base['id']}: there is nothing to compare",
            details=f"base: {_examples(before)}\nnew: {_examples(after)}",
        )
    notes = _check_models(before, after, common, allowed=other_model)
    timed = any(g.metric in TIMES for g in gates) and any(
        len(before[name].rounds) and len(after[name].rounds) for name in common
    )
    notes += _check_machines(base, new, allowed=other_machine or not timed)
    judged = {
        gate.metric: [change for name in common for change in _changes(before[name], after[name], gate)]
        for gate in gates
    }
    order = {name: place for place, name in enumerate(common)}
    changes = sorted((c for found in judged.values() for c in found), key=lambda change: order[change.test])
    idle = tuple(name for name, found in judged.items() if not found and name != MISSING)
    return RecordComparison(
        str(base["id"]),
        str(new["id"]),
        tuple(gates),
        (*_presence(before, after), *changes),
        tuple(notes),
        idle,
    )


def _examples(entries: Mapping[str, Entry]) -> str:
    names = list(entries)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "no test"


def _check_models(
    before: Mapping[str, Entry], after: Mapping[str, Entry], common: Sequence[str], *, allowed: bool
) -> list[str]:
    differ: dict[str, str] = {}
    for name in common:
        then, now = before[name].source, after[name].source
        if then and now and then != now:
            model = str(before[name].case.get("model"))
            differ.setdefault(model, f"{model}: sha256 {then[:12]} in the base, {now[:12]} in the new record")
    if differ and not allowed:
        raise RecordError(
            f"the records are of different models of the same name ({', '.join(differ)}): compare records of "
            "one model file, or allow it with --other-model",
            details="\n".join(differ.values()),
        )
    return list(differ.values())


def _check_machines(base: Mapping[str, Any], new: Mapping[str, Any], *, allowed: bool) -> list[str]:
    then, now = base["machine"], new["machine"]
    notes = []
    if then.get("fingerprint") != now.get("fingerprint"):
        text = f"{_described(then)} (base), {_described(now)} (new)"
        if not allowed:
            raise RecordError(
                f"the records were measured on different machines: {text}; times cannot be compared: "
                "measure the base here, or allow it with --other-machine"
            )
        notes.append(f"different machines: {text}")
    versions = {**then.get("versions", {}), **now.get("versions", {})}
    for library in versions:
        first, second = (m.get("versions", {}).get(library) for m in (then, now))
        if first and second and first != second:
            notes.append(f"{library} is {second}, in the base {first}")
    return notes


def _described(machine: Mapping[str, Any]) -> str:
    features = [name for name in machine.get("cpu_features", []) if "avx" in name or "amx" in name]
    shown = f"{machine.get('cpu') or 'an unknown processor'}, {machine.get('processors', '?')} processors"
    return shown + (f", {features[-1]}" if features else "")


def _presence(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> Iterator[Change]:
    """Tests that only one record has, and those that passed and now do not."""
    for name, entry in before.items():
        now = after.get(name)
        if entry.ran and (now is None or not now.ran):
            note = "" if now is None else str(now.stored.get("reason") or now.outcome)
            yield Change(
                name, "test", "missing", entry.outcome, None if now is None else now.outcome, note=note
            )
        elif entry.outcome == "passed" and now is not None and now.outcome == "failed":
            yield Change(name, "test", "broken", "passed", "failed")
    for name, entry in after.items():
        then = before.get(name)
        if entry.ran and (then is None or not then.ran):
            yield Change(name, "test", "new", None if then is None else then.outcome, entry.outcome)


def _changes(base: Entry, new: Entry, gate: Gate) -> Iterator[Change]:
    if gate.metric in TIMES:
        if base.values.get("device_figures") or new.values.get("device_figures"):
            yield from _device_time(base, new, gate)
        elif len(base.rounds) and len(new.rounds):
            yield _time(base, new, gate)
        elif len(base.rounds) and new.outcome == "passed":
            # Run with --benchmark-disable, for instance: a gate that has nothing to judge must not pass.
            then = time_of(base, gate.metric)
            yield Change(base.test, gate.metric, "worse", then, limit=gate.text, note="not measured now")
    elif gate.metric in COUNTS:
        yield from _counts(base, new, gate)
    elif gate.metric in FIGURES:
        yield from _figures(base, new, gate)
    elif gate.metric == MAGICMIND:
        yield from _magicmind(base, new, gate)
    elif gate.metric != MISSING:
        before, now = pictures_of(base, gate.metric), pictures_of(new, gate.metric)
        if before is not None and now is not None:
            yield _accuracy(base.test, before, now, gate)


def _time(base: Entry, new: Entry, gate: Gate) -> Change:
    quantile = TIMES[gate.metric]
    first, second = base.rounds, new.rounds
    then, now = time_of(base, gate.metric), time_of(new, gate.metric)
    tail = quantile is not None and quantile > 0.5
    found = quantile_test(first, second, float(quantile or 0)) if tail else mann_whitney(first, second)
    worse_by = (then - now) if gate.metric == "images_per_s" else (now - then)
    beyond = worse_by > (gate.limit * then if gate.relative else gate.limit)
    median = float(np.median(first))
    return Change(
        test=base.test,
        metric=gate.metric,
        # Slower calls rank higher: a significance of the other direction says nothing of this change.
        verdict=_verdict(worse_by, found, beyond=beyond, agrees=worse_by * found.effect >= 0),
        base=then,
        new=now,
        change=(now - then) / then if then else None,
        p=found.p,
        effect=found.effect,
        shift=hodges_lehmann(first, second) / median if median else None,
        limit=gate.text,
        note=f"{len(first)} and {len(second)} rounds",
    )


def _verdict(worse_by: float, found: Difference, *, beyond: bool, agrees: bool = True) -> str:
    significant = found.p < SIGNIFICANT and agrees
    if beyond:
        if significant:
            return "worse"
        return "undecided" if found.least >= SIGNIFICANT else "noise"
    if not significant:
        return "same"
    return "better" if worse_by < 0 else "changed"


def _counts(base: Entry, new: Entry, gate: Gate) -> Iterator[Change]:
    then, now = count_of(base, gate.metric), count_of(new, gate.metric)
    for name in sorted(then.keys() | now.keys()):
        first, second = then.get(name), now.get(name)
        if first is None and second is not None:
            continue
        change = None
        equal = first == second
        if isinstance(first, int | float) and isinstance(second, int | float):
            change = (second - first) / first if first else None
            allowed = gate.limit * abs(first) if gate.relative else gate.limit
            equal = equal or (gate.limit > 0 and abs(second - first) <= allowed)
        verdict = ("same" if first == second else "changed") if equal else "worse"
        note = "gone" if second is None else ""
        yield Change(base.test, name, verdict, first, second, change, limit=gate.text, note=note)


def _figures(base: Entry, new: Entry, gate: Gate) -> Iterator[Change]:
    then, now = figures_of(base), figures_of(new)
    for name in sorted(then.keys() & now.keys()):
        (first, more_is_better), (second, _) = then[name], now[name]
        note = "no raw rounds: judged by its size alone"
        yield _by_size(Change(base.test, name, "", first, second, note=note), gate, more_is_better)


def _device_time(base: Entry, new: Entry, gate: Gate) -> Iterator[Change]:
    then, now = device_time_of(base, gate.metric), device_time_of(new, gate.metric)
    if then is not None and now is not None:
        note = "by the device's own tool, which gives no raw rounds: judged by its size alone"
        change = Change(base.test, gate.metric, "", then, now, note=note)
        yield _by_size(change, gate, gate.metric == "images_per_s")


def _by_size(found: Change, gate: Gate, more_is_better: bool) -> Change:
    """`found` with its verdict: a figure without raw rounds has no significance."""
    first, second = found.base, found.new
    worse_by = (first - second) if more_is_better else (second - first)
    beyond = worse_by > (gate.limit * abs(first) if gate.relative else gate.limit)
    verdict = "worse" if beyond else ("same" if first == second else "changed")
    return replace(
        found, verdict=verdict, change=(second - first) / first if first else None, limit=gate.text
    )


def _magicmind(base: Entry, new: Entry, gate: Gate) -> Iterator[Change]:
    """Cambricon's rules, which know no noise: see `magicmind_gate`."""
    then, now = throughput_of(base), throughput_of(new)
    if then and now:
        yield _by_rule(base.test, "magicmind images_per_s", throughput_verdict(now, then), then, now, gate)
    if base.sweep is not None and new.sweep is not None:
        was, are = (
            (float(sweep.right1.mean()), float(sweep.right5.mean())) for sweep in (base.sweep, new.sweep)
        )
        yield _by_rule(base.test, "magicmind top1", accuracy_verdict(are, was), was[0], are[0], gate)


def _by_rule(test: str, metric: str, found: Verdict, then: float, now: float, gate: Gate) -> Change:
    verdict = {"fail": "worse", "option": "better"}.get(found.status, "same" if then == now else "changed")
    change = (now - then) / then if found.ratio is not None else 100 * (now - then)
    return Change(test, metric, verdict, then, now, change, limit=gate.text, note=found.text)


def _accuracy(test: str, then: Pictures, now: Pictures, gate: Gate) -> Change:
    common = sorted(then.keys() & now.keys())
    was = np.array([then[key] for key in common], bool)
    are = np.array([now[key] for key in common], bool)
    if not common:
        return Change(test, gate.metric, "worse", note="no picture is the same in both", limit=gate.text)
    lost, gained = int((was & ~are).sum()), int((~was & are).sum())
    first, second = float(was.mean()), float(are.mean())
    points = 100 * (second - first)
    p = mcnemar(lost, gained)
    beyond = -points > gate.limit + 1e-9
    found = Difference(p, (gained - lost) / max(1, gained + lost), mcnemar(len(common), 0))
    left = len(then.keys() ^ now.keys())
    note = f"{len(common)} pictures, {lost} lost, {gained} gained" + (f", {left} in one only" if left else "")
    return Change(
        test=test,
        metric=gate.metric,
        verdict=_verdict(-points, found, beyond=beyond),
        base=first,
        new=second,
        change=points,
        p=p,
        effect=found.effect,
        limit=gate.text,
        note=note,
    )
