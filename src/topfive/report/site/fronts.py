"""Figures of accuracy against latency: only cases whose top-1 is of the same pictures stand in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from topfive.report.site.charts.pareto import Point, pareto_chart
from topfive.report.site.newest import Accuracy, CaseView

__all__ = ["comparable", "fronts_of_all", "fronts_of_model"]

UNNAMED = "pictures that the records do not name"
MOST = 3
"""Figures on the overview."""
Group = tuple[str, list[tuple[CaseView, Accuracy]]]


def comparable(views: Sequence[CaseView]) -> list[Group]:
    """Cases that have a latency and a top-1, by the pictures, each case once, the largest group first.

    Of equally large groups a sweep's comes before that of golden pictures.
    """
    left = [view for view in views if view.accuracies and view.measured and view.measured[0].number("p50")]
    groups: list[Group] = []
    while left:
        found = Counter(accuracy.basis for view in left for accuracy in view.accuracies)
        basis = max(found, key=lambda name: found[name])
        by_basis = [(view, {a.basis: a for a in view.accuracies}.get(basis)) for view in left]
        groups.append((basis or UNNAMED, [(view, a) for view, a in by_basis if a is not None]))
        left = [view for view, accuracy in by_basis if accuracy is None]
    return groups


def fronts_of_model(model: str, views: Sequence[CaseView]) -> list[tuple[str, str]]:
    """For each group of one model's cases the words about its pictures, and the figure."""
    return [
        (basis, pareto_chart(_points(chosen, named=False), f"{model}: top-1 against p50 latency, {basis}"))
        for basis, chosen in comparable(views)
    ]


def fronts_of_all(views: Sequence[CaseView]) -> list[tuple[str, str]]:
    """The same over every model, of what is not simulated: the MOST largest groups of several cases."""
    groups = comparable([view for view in views if not view.simulated])
    return [
        (basis, pareto_chart(_points(chosen, named=True), f"Every model: top-1 against p50 latency, {basis}"))
        for basis, chosen in groups[:MOST]
        if len(chosen) > 1
    ]


def _points(chosen: Sequence[tuple[CaseView, Accuracy]], *, named: bool) -> list[Point]:
    """What differs between the measurements, the batch or the machine, is said at each."""
    batches = {view.measured[0].batch for view, _ in chosen}
    hosts = {view.measured[0].run.host for view, _ in chosen}
    points = []
    for view, accuracy in chosen:
        first = view.measured[0]
        words = [view.case[0]] if named else []
        words.append(view.label)
        words += [f"batch {first.batch}"] if len(batches) > 1 else []
        words += [f"on {first.run.host or 'an unnamed machine'}"] if len(hosts) > 1 else []
        seconds = first.number("p50") or 0.0
        points.append(Point(", ".join(words), seconds, accuracy.top1, bool(view.simulated)))
    return points
