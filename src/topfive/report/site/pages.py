"""From content to pages: every page as text, and every number through one of a few formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from topfive.records.published import PublishedRow, published_for
from topfive.report.site.charts.histogram import histogram_chart
from topfive.report.site.charts.lines import Runs, Series, history_chart, scaling_chart
from topfive.report.site.content import Content, Pair, Run
from topfive.report.site.fronts import fronts_of_all, fronts_of_model
from topfive.report.site.layers import LayerStudy, cycle_bars, flame, loss_chart, roofline
from topfive.report.site.names import page_name
from topfive.report.site.newest import CaseView, case_views, marked
from topfive.report.site.rows import footnotes, overview_row, shown_pictures
from topfive.report.site.steps import levels
from topfive.report.site.thumbnails import Thumbnails
from topfive.suite.contention import DISTURBED
from topfive.suite.measuring import FEW_ROUNDS

__all__ = ["Material", "site_files"]

PACKAGE = "topfive.report.site"
NO_STUDY = LayerStudy()
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {
    **dict.fromkeys(range(0x7F, 0xA0), 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}


@dataclass(frozen=True)
class Material:
    """What pages are made of besides the content.

    simulations: what is simulated or emulated, by target. studies: by model. pictures: how many a model
    shows.
    """

    title: str
    made: str
    simulations: Mapping[str, str] = field(default_factory=dict)
    published: Sequence[PublishedRow] = ()
    studies: Mapping[str, LayerStudy] = field(default_factory=dict)
    thumbnails: Thumbnails = field(default_factory=lambda: Thumbnails({}))
    pictures: int = 4


def site_files(content: Content, material: Material) -> dict[str, bytes]:
    """Every file of the site by its path in it: index.html, style.css, models/, runs/, pictures/."""
    views = case_views(content, material.simulations)
    stored = {view.case[1]: view.simulated for view in views if view.simulated}
    simulations = {**material.simulations, **stored}
    env = _environment(material, simulations)
    texts = {"index.html": _index(env, content, views, simulations)}
    by_model = {name: list(found) for name, found in groupby(views, key=lambda view: view.case[0])}
    for model, found in by_model.items():
        pairs = _pairs(content, model)
        texts[f"models/{page_name(model)}.html"] = _model(env, model, found, simulations, material, pairs)
    for run in content.runs:
        texts[f"runs/{page_name(run.id)}.html"] = _run(env, run, simulations)
    loader: Any = env.loader
    texts["style.css"] = loader.get_source(env, "style.css")[0]
    return {**{path: text.encode() for path, text in texts.items()}, **material.thumbnails.files}


def _environment(material: Material, simulations: Mapping[str, str]) -> Environment:
    env = Environment(
        loader=PackageLoader(PACKAGE, "templates"),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "ms": milliseconds,
        "percent": percent,
        "rate": rate,
        "page": page_name,
        "mega": megacycles,
        "short_commit": lambda commit: commit[:9],
        "day": _day,
    }
    env.globals |= {
        "site_title": material.title,
        "made": material.made,
        "few": FEW_ROUNDS,
        "disturbed": DISTURBED,
    }
    env.filters["cases_of"] = lambda run: _cases_of(run, simulations)
    env.globals["marked"] = lambda target: marked(target, simulations)
    return env


def _printable(value: Any) -> Any:
    """A text without the characters that HTML forbids: pictures of control characters in their place."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return value.translate(CONTROLS)


def _day(created: str) -> str:
    """A time of a record, to the minute."""
    return created[:16].replace("T", " ")


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds with three digits behind the point, one from 100 ms on; a dash for None."""
    if seconds is None:
        return "-"
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def percent(fraction: float | None) -> str:
    """A fraction as per cent with two digits; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def rate(value: float | None) -> str:
    """Images a second; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def megacycles(cycles: int | None) -> str:
    """Cycles as millions with three digits; a dash for None."""
    return "-" if cycles is None else f"{cycles / 1e6:.3f}"


def _index(
    env: Environment, content: Content, views: Sequence[CaseView], simulations: Mapping[str, str]
) -> str:
    rows = [overview_row(view) for view in views]
    columns = sorted({(row.target, row.quant) for row in rows})
    loader: Any = env.loader
    return env.get_template("index.html.j2").render(
        rows=rows,
        models=_unique(row.model for row in rows),
        targets=sorted({row.target for row in rows}),
        quants=sorted({row.quant for row in rows}),
        verdicts=sorted({row.verdict for row in rows if row.verdict}),
        columns=[(*one, place == 0 or one[0] != columns[place - 1][0]) for place, one in enumerate(columns)],
        columns_by_target=[(name, len(list(found))) for name, found in groupby(columns, lambda one: one[0])],
        matrix={(row.model, row.target, row.quant): row for row in rows},
        notes=footnotes(rows, simulations),
        runs=content.runs[::-1],
        broken=content.broken,
        fronts=[(basis, Markup(chart)) for basis, chart in fronts_of_all(views)],
        script=Markup(loader.get_source(env, "page.js")[0]),
        root="",
    )


def _cases_of(run: Run, simulations: Mapping[str, str]) -> str:
    """What a run is about: its case if there is one, else how many."""
    cases = {figures.case for figures in run.figures}
    if len(cases) != 1:
        models = {case[0] for case in cases}
        return f"{next(iter(models))}, {len(cases)} cases" if len(models) == 1 else f"{len(cases)} cases"
    model, target, quant = cases.pop()
    return f"{model} {marked(target, simulations)} {quant}"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _model(
    env: Environment,
    model: str,
    views: Sequence[CaseView],
    simulations: Mapping[str, str],
    material: Material,
    pairs: Sequence[tuple[Pair, Run]],
) -> str:
    rows = [overview_row(view) for view in views]
    study = material.studies.get(model, NO_STUDY)
    published = published_for(model, material.published)
    goldens = {view.label: view.golden for view in views if view.golden is not None}
    pictures = [
        (picture, material.thumbnails.of(model, picture.file, picture.sha256))
        for picture in shown_pictures(goldens, material.pictures)
    ]
    return env.get_template("model.html.j2").render(
        model=model,
        views=list(zip(rows, views, strict=True)),
        notes=footnotes(rows, simulations),
        scores={golden.score for golden in goldens.values()},
        fronts=[(basis, Markup(chart)) for basis, chart in fronts_of_model(model, views)],
        histograms=[(label, Markup(text)) for label, text in _histograms(views)],
        scaling=Markup(_scaling(model, views, published)),
        histories=[(label, Markup(text)) for label, text in _histories(views)],
        pictures=pictures,
        published=published,
        sources=_unique(f"{row.source}; {row.tool}" for row in published),
        losses=[(loss, Markup(loss_chart(loss))) for loss in study.losses],
        traces=[
            (trace.about, Markup(cycle_bars(trace)), Markup(roofline(trace)), Markup(flame(trace)))
            for trace in study.traces
        ],
        problems=study.problems,
        pairs=pairs,
        root="../",
    )


def _pairs(content: Content, model: str) -> list[tuple[Pair, Run]]:
    """The newest measurement of each two artifacts of which one is of the model."""
    newest = {r.pair.artifacts: (r.pair, r) for r in content.runs if r.pair}
    return [(pair, run) for pair, run in newest.values() if model in (pair.a.case[0], pair.b.case[0])]


def _histograms(views: Sequence[CaseView]) -> Iterable[tuple[str, str]]:
    for view in views:
        first = view.measured[0] if view.measured else None
        if first is not None and len(first.seconds):
            label = f"{view.label}, batch {first.batch}"
            yield label, histogram_chart(first.seconds, label)


def _scaling(model: str, views: Sequence[CaseView], published: Sequence[PublishedRow]) -> str:
    series = []
    for view in views:
        points = [(m.batch, m.number("images_per_s") or 0.0) for m in view.measured]
        if len(found := tuple(point for point in points if point[1] > 0)) > 1:
            series.append(Series(view.label, found, hollow=bool(view.simulated)))
    by_device: dict[str, list[tuple[int, float]]] = {}
    for row in published if series else ():
        if row.images_per_s:
            label = " ".join(filter(None, (row.device, row.quant, row.objective)))
            by_device.setdefault(label, []).append((row.batch, row.images_per_s))
    for label, points in by_device.items():
        series.append(Series(f"{label} (published)", tuple(sorted(points)), dashed=True))
    return scaling_chart(series, f"{model}: images a second against batch")


def _histories(views: Sequence[CaseView]) -> Iterable[tuple[str, str]]:
    for view in views:
        if not view.measured:
            continue
        batch = view.measured[0].batch
        moments = view.history(batch)
        values = [moment.p50 for moment in moments]
        label = f"{view.label}, batch {batch}"
        title = f"p50 of {label} over {len(values)} runs"
        names = [(m.run.commit[:7] or m.run.created[:10]) + ("+" if m.run.dirty else "") for m in moments]
        details = [
            f"{m.run.created[:16].replace('T', ' ')}, {n}" for m, n in zip(moments, names, strict=True)
        ]
        runs = Runs(values, names, details, hollow=bool(view.simulated))
        if chart := history_chart(runs, levels(values), title):
            yield label, chart


def _run(env: Environment, run: Run, simulations: Mapping[str, str]) -> str:
    views = case_views(Content([run]), simulations)
    shown = [view for view in views if view.verdict or view.accuracy or view.measured]
    rows = [overview_row(view) for view in shown]
    return env.get_template("run.html.j2").render(
        run=run,
        views=list(zip(rows, shown, strict=True)),
        notes=footnotes(rows, simulations),
        loadgen=[(figures.case, figures.loadgen) for figures in run.figures if figures.loadgen is not None],
        faults=[f for f in run.figures if f.outcome == "failed"],
        root="../",
    )
