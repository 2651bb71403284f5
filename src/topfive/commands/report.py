"""`topfive report`: the static site."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import topfive
from topfive import targets
from topfive.cards import Card, load_cards
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.errors import RecordError, TopfiveError
from topfive.images import list_images, load_profile, preprocess_batch
from topfive.layer_diff import compare_layers
from topfive.records import records_folder
from topfive.records.published import published_rows
from topfive.report.site import Content, Material, read_content, site_files, write_site
from topfive.report.site.layers import LayerLoss, LayerStudy
from topfive.report.site.newest import marked
from topfive.report.site.thumbnails import Thumbnails
from topfive.targets.base import Array
from topfive.trace.recording import recorded
from topfive.trace.validation import Trace, read_trace

__all__ = ["build_report"]

BENCHMARKS = Path(".benchmarks")
GOLDENS = Path("golden")
INTEGER = ("int8", "int8_dw", "qint8_mixed_float16")
REFERENCE = ("cpu", "force_float32")
GEMMINI = ("gemmini_sim", "int8")


def build_report(
    output: Path,
    *,
    records: Sequence[Path],
    benchmarks: Path | None,
    goldens: Path | None,
    models: Sequence[str],
    traces: Path | None,
    layers: Sequence[str],
    pictures: int,
    title: str,
    cards: Sequence[Path],
    cache: Path | None,
    as_json: bool,
) -> None:
    """Write the site and say what is in it.

    layers: models (names or globs) to build and run once. Raises RecordError for a folder that was named and
    is not there, or cannot be written to.
    """
    for folder in (*records, *(f for f in (benchmarks, goldens, traces) if f is not None)):
        if not folder.exists():
            raise RecordError(f"{folder}: no such folder")
    known = load_cards(cards)
    content = read_content(
        list(records) or [records_folder()], [benchmarks or BENCHMARKS], goldens or GOLDENS, models
    )
    studies = _traced(traces) if traces is not None else {}
    if layers:
        studies |= _studied(content, known, cache, studies, layers)
    thumbnails = Thumbnails(known)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    material = Material(title, made, _simulations(content), published_rows(), studies, thumbnails, pictures)
    files = site_files(content, material)
    size = write_site(files, output)
    _say(output, content, len(files), size, as_json=as_json)


def _simulations(content: Content) -> dict[str, str]:
    """What is simulated or emulated about each target that is, and each of its variants."""
    known = {*targets.names(), *(target for _, target, _ in content.cases())}
    found = {name: _simulation(name) for name in sorted(known)}
    return {name: what for name, what in found.items() if what}


def _simulation(name: str) -> str:
    """What is simulated about a target or a variant; "" for a device, and where it is not installed."""
    target = targets.plain_name(name)
    return targets.get(target).simulation() if target in targets.names() else ""


def _say(output: Path, content: Content, files: int, size: int, *, as_json: bool) -> None:
    for one in content.broken:
        sys.stderr.write(f"left out: {one.source}: {one.reason}\n")
    if as_json:
        broken = [vars(one) for one in content.broken]
        counts = {"files": files, "bytes": size, "cases": len(content.cases()), "runs": len(content.runs)}
        print_json({"site": str(output / "index.html"), **counts, "broken": broken})
    else:
        sys.stdout.write(
            f"{output / 'index.html'}: {len(content.cases())} cases from {len(content.runs)} runs, "
            f"{files} files, {size / 1e6:.2f} MB\n"
        )


def _traced(folder: Path) -> dict[str, LayerStudy]:
    """The traces of a folder by model; one that cannot be read is left out, and said on stderr."""
    found: dict[str, list[Trace]] = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            trace = read_trace(path)
            found.setdefault(str(trace.about["model"]), []).append(trace)
        except (TopfiveError, KeyError) as error:
            sys.stderr.write(f"left out: {path.name}: {error}\n")
    return {model: LayerStudy(traces=tuple(some)) for model, some in found.items()}


def _runs(name: str) -> bool:
    """Whether a target is installed, and fast enough to be studied."""
    target = targets.plain_name(name)
    return target in targets.names() and not targets.get(target).emulated


def _studied(
    content: Content,
    cards: dict[str, Card],
    cache: Path | None,
    traced: dict[str, LayerStudy],
    wanted: Sequence[str],
) -> dict[str, LayerStudy]:
    """A study of each wanted model that has a card: built from the cache, run on its first picture."""
    quants: dict[str, list[tuple[str, str]]] = {}
    for model, target, quant in content.cases():
        chosen = any(fnmatchcase(model, pattern) for pattern in wanted)
        if chosen and model in cards and _runs(target):
            quants.setdefault(model, []).append((target, quant))
    found = {}
    for model, cases in quants.items():
        progress(f"layers of {model}")
        found[model] = _study(cards[model], cases, cache, traced.get(model, LayerStudy()))
    return found


def _study(
    card: Card, cases: Sequence[tuple[str, str]], cache: Path | None, traced: LayerStudy
) -> LayerStudy:
    losses, traces, problems = list[LayerLoss](), list(traced.traces), list[str]()
    try:
        batch = _first_picture(card)
        for target, quant in cases if REFERENCE in cases else ():
            if quant in INTEGER and not targets.get(target).probe():
                losses.append(_loss(card, target, quant, batch, cache))
        if GEMMINI in cases and not traces:
            traces.append(_trace(card, batch, cache))
    except TopfiveError as error:
        problems.append(error.message)
    return LayerStudy(tuple(losses), tuple(traces), tuple(problems))


def _first_picture(card: Card) -> Array:
    paths = [list_images(card.pictures_folder(), map_file=card.pictures_map())[0].path]
    return preprocess_batch(paths, load_profile(card.input.profile), card.input.size)


def _loss(card: Card, target: str, quant: str, batch: Array, cache: Path | None) -> LayerLoss:
    reference = topfive.build(card, target=REFERENCE[0], quant=REFERENCE[1], cache=cache, progress=progress)
    other = topfive.build(card, target=target, quant=quant, cache=cache, progress=progress)
    found = compare_layers(reference, other, batch)
    name = marked(target, {target: _simulation(target)})
    return LayerLoss(f"{name} {quant}", " ".join(REFERENCE), found.layers)


def _trace(card: Card, batch: Array, cache: Path | None) -> Trace:
    artifact = topfive.build(card, target=GEMMINI[0], quant=GEMMINI[1], cache=cache, progress=progress)
    with tempfile.TemporaryDirectory(prefix="topfive-report-") as folder:
        path = Path(folder) / f"{card.name}.json"
        with topfive.open(artifact) as runner, recorded(runner, path, {}) as runs:
            runs.run(batch)
        return read_trace(path)
