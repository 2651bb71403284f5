"""The rows of the overview and of a model's page: plain values, raw, in the units of the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from topfive.golden import Golden
from topfive.report.site.content import Run
from topfive.report.site.names import page_name
from topfive.report.site.newest import CaseView
from topfive.suite.contention import DISTURBED
from topfive.suite.measuring import FEW_ROUNDS

__all__ = ["OverviewRow", "ShownPicture", "TopFive", "footnotes", "overview_row", "shown_pictures"]


@dataclass(frozen=True)
class OverviewRow:
    """One case. Times are seconds, accuracies fractions; None for what no run has.

    others: the most processors that other processes used during one of its measurements.
    """

    model: str
    page: str
    target: str
    quant: str
    simulated: str
    verdict: str
    top1: float | None
    top5: float | None
    pictures: int | None
    p50: float | None
    p99: float | None
    few: bool
    others: float
    rate: float | None
    rate_batch: int | None
    estimate: int | None
    bus: int | None
    run: Run | None


def overview_row(view: CaseView) -> OverviewRow:
    """The newest of everything about a case: latency at its smallest batch, the best throughput of all."""
    first = view.measured[0] if view.measured else None
    rated = [m for m in view.measured if m.number("images_per_s") is not None]
    best = max(rated, key=lambda m: m.number("images_per_s") or 0.0, default=None)
    accuracy = view.accuracy
    return OverviewRow(
        model=view.case[0],
        page=page_name(view.case[0]),
        target=view.case[1],
        quant=view.case[2],
        simulated=view.simulated,
        verdict=view.verdict,
        top1=accuracy.top1 if accuracy else None,
        top5=accuracy.top5 if accuracy else None,
        pictures=accuracy.pictures if accuracy else None,
        p50=first.number("p50") if first else None,
        p99=first.number("p99") if first else None,
        few=first is not None and (first.number("rounds") or 0) < FEW_ROUNDS,
        others=max((m.number("others") or 0.0 for m in view.measured), default=0.0),
        rate=best.number("images_per_s") if best else None,
        rate_batch=best.batch if best else None,
        estimate=view.cycles("estimate"),
        bus=view.cycles("bus"),
        run=view.last_run,
    )


def footnotes(rows: Sequence[OverviewRow], simulations: Mapping[str, str]) -> list[str]:
    """What a reader must know about these rows. simulations: what is simulated, by target."""
    there = {row.target for row in rows}
    notes = [
        f"~ {target} is simulated: {what}." for target, what in sorted(simulations.items()) if target in there
    ]
    if any(row.others >= DISTURBED for row in rows):
        busiest = max(row.others for row in rows)
        notes.append(f"! measured while other processes took up to {busiest:.1f} processors.")
    if any(row.few and row.p99 is not None for row in rows):
        notes.append(f"* p99 of fewer than {FEW_ROUNDS} rounds: hardly more than the maximum.")
    if any(row.estimate is not None for row in rows):
        notes.append(
            "^ Millions of modelled cycles of the default Gemmini for one picture, calibrated on one "
            "published point / with the bus at full speed: not measured, not cycle-accurate."
        )
    if any(row.verdict == "committed" for row in rows):
        notes.append("committed: there is a golden file, and no run of this report compared it.")
    return notes


@dataclass(frozen=True)
class TopFive:
    """The five best of some cases that agree: (label, score, length of the bar in per cent)."""

    cases: tuple[str, ...]
    entries: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class ShownPicture:
    """A golden picture and what the cases make of it."""

    file: str
    sha256: str
    agree: bool
    answers: tuple[TopFive, ...]


def shown_pictures(goldens: Mapping[str, Golden], most: int) -> list[ShownPicture]:
    """At most so many pictures, those first where the cases' best classes differ. goldens: by label."""
    files = list(dict.fromkeys(image.file for golden in goldens.values() for image in golden.images))
    shown = [_picture(file, goldens) for file in files]
    return sorted(shown, key=lambda picture: picture.agree)[:most]


def _picture(file: str, goldens: Mapping[str, Golden]) -> ShownPicture:
    groups: dict[tuple[tuple[int, str], ...], list[str]] = {}
    entries: dict[tuple[tuple[int, str], ...], tuple[tuple[str, float, float], ...]] = {}
    sha256 = ""
    for label, golden in goldens.items():
        image = next((image for image in golden.images if image.file == file), None)
        if image is None:
            continue
        sha256 = sha256 or image.sha256
        key = tuple((index, f"{score:.3g}") for index, _, score in image.top5)
        groups.setdefault(key, []).append(label)
        largest = 1.0 if golden.score == "probability" else max(image.top5[0][2], 1e-12)
        entries[key] = tuple(
            (name or f"class {index}", score, round(max(0.0, min(100 * score / largest, 100.0)), 1))
            for index, name, score in image.top5
        )
    answers = tuple(TopFive(tuple(labels), entries[key]) for key, labels in groups.items())
    return ShownPicture(file, sha256, len({key[0][0] for key in groups}) <= 1, answers)
