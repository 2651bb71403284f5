"""`topfive sweep`: accuracy of many cases in one pass over the pictures."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import topfive
from topfive.cache import cache_root
from topfive.cards import Card, load_cards
from topfive.commands import print_json
from topfive.commands.build import progress
from topfive.datasets import Listing
from topfive.errors import SweepError, TopfiveError, UnknownNameError
from topfive.files import write_whole
from topfive.pipeline import resolve_card
from topfive.records import records_folder
from topfive.report.accuracy import accuracy_csv, accuracy_json, accuracy_notes, accuracy_table
from topfive.suite.environment import library_versions, machine
from topfive.suite.selection import Choice, Selection
from topfive.sweep.compare import Summary
from topfive.sweep.control import Case, Choices, Engine, Pass, begin, run_passes
from topfive.sweep.data import default_listing, given_listing
from topfive.sweep.engine import Failure
from topfive.sweep.exports import FORMATS, export_sweep
from topfive.sweep.finish import finish_sweeps
from topfive.sweep.local import prepare_workers, run_local
from topfive.sweep.plan import counted
from topfive.sweep.state import forget_sweeps, held

__all__ = ["Request", "run_sweep"]

ENGINES = ("dask", "local")
INTERRUPTED = 130


@dataclass(frozen=True)
class Request:
    """What `topfive sweep` is told; None for the defaults."""

    models: tuple[str, ...]
    targets: tuple[str, ...]
    quants: tuple[str, ...] | None
    imagenet: str | None
    map_file: Path | None
    count: int | None
    allow_missing: bool
    shards: int | None
    batch: int
    workers: int | None
    threads: int | None
    engine: str
    scheduler: str | None
    packed: bool
    restart: bool
    formats: tuple[str, ...]
    out: Path
    records: Path | None
    keep: bool
    cards: tuple[Path, ...]
    cache: Path | None
    as_json: bool


def run_sweep(request: Request) -> bool:
    """Run, print and keep the sweeps; whether every comparison passed.

    Raises TopfiveError when a case cannot be run, after what can be has been printed and kept.
    """
    _check(request)
    cache = cache_root(request.cache)
    engine, workers, threads = _engine(request)
    if workers > 1:
        prepare_workers()
    cases, refused = _cases(request, cache)
    choices = Choices(
        cache=cache,
        shards=request.shards,
        batch=request.batch,
        threads=threads,
        packed=request.packed,
        remote=request.engine == "dask",
        versions=tuple(sorted(library_versions().items())),
    )
    names = [case.names for case in cases]
    try:
        with held(cache, names, request.imagenet or ""):
            if request.restart:
                for case, name in zip(cases, names, strict=True):
                    forget_sweeps(cache, [name], case.listing.root)
            passes = begin(cases, choices)
            run_passes(passes, engine, _say)
            finished = [pair for one in passes for pair in one.finished()]
            summaries = finish_sweeps(
                finished,
                records_folder(request.records) if request.keep else None,
                machine=machine(workers=workers, threads=threads),
                command=shlex.join(["topfive", *sys.argv[1:]]),
            )
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped: the same command goes on where this one was\n")
        sys.exit(INTERRUPTED)
    files = _exported(request, summaries, passes)
    _print(request, summaries, passes, files)
    failures = [failure for one in passes for failure in one.failures]
    if failures or refused:
        raise _unfinished(failures, refused)
    return not any(summary.failed for summary in summaries)


def _check(request: Request) -> None:
    for name in request.formats:
        if name not in FORMATS:
            raise UnknownNameError("format", name, FORMATS)
    if request.engine not in ENGINES:
        raise UnknownNameError("engine", request.engine, ENGINES)
    if (request.engine == "dask") != (request.scheduler is not None):
        raise SweepError("--engine dask and --scheduler ADDRESS go together: give both or none")
    if request.map_file is not None and request.imagenet is None:
        raise SweepError("--map labels the pictures of --imagenet: give both")


def _cases(request: Request, cache: Path) -> tuple[list[Case], list[str]]:
    """The compiled cases, and why others could not be compiled. Raises what stops all of them."""
    cards = dict(load_cards(request.cards))
    bare = {model: resolve_card(model) for model in request.models if model.endswith(".onnx")}
    cards |= {card.name: card for card in bare.values()}
    names = tuple(bare[model].name if model in bare else model for model in request.models)
    choice = Choice(names, request.targets, request.quants)
    selection = Selection(cards, choice, Path("bench"))
    selection.validate()
    chosen = selection.cases("accuracy", batched=False)
    listings = _listings(request, [cards[name] for name in dict.fromkeys(c.model for c in chosen)], cache)
    cases, refused = [], []
    for one in chosen:
        try:
            artifact = topfive.build(
                cards[one.model], target=one.target, quant=one.quant, cache=request.cache, progress=progress
            )
        except TopfiveError as error:
            refused.append(str(error))
        else:
            cases.append(Case(cards[one.model], artifact, listings[one.model], one.target))
    if not cases:
        raise SweepError(f"none of {len(chosen)} cases can be built: {refused[0]}")
    return cases, refused


def _listings(request: Request, cards: Sequence[Card], cache: Path) -> Mapping[str, Listing]:
    if request.imagenet is None:
        return {card.name: default_listing(card, cache, count=request.count) for card in cards}
    listing = given_listing(
        request.imagenet,
        map_file=request.map_file,
        count=request.count,
        allow_missing=request.allow_missing,
    )
    return {card.name: listing for card in cards}


def _engine(request: Request) -> tuple[Engine, int, int]:
    """The engine, its workers, and the threads of each."""
    from topfive.sessions import default_threads

    processors = default_threads()
    if request.engine == "dask":
        from topfive.sweep.dask_engine import DaskEngine

        return DaskEngine(str(request.scheduler)).run, 0, request.threads or 1
    workers = request.workers or processors
    threads = request.threads or max(1, processors // workers)
    return (
        lambda job, states, tasks, finished: run_local(
            job, states, tasks, workers=workers, finished=finished
        ),
        workers,
        threads,
    )


def _say(line: str) -> None:
    """Progress: over the line before on a terminal, line by line elsewhere."""
    terminal = sys.stderr.isatty()
    sys.stderr.write(f"\r\x1b[K{line}" if terminal else f"{line}\n")
    sys.stderr.flush()


def _exported(request: Request, summaries: Sequence[Summary], passes: Sequence[Pass]) -> list[Path]:
    cases = {case.artifact.key: case for one in passes for case in one.cases}
    pairs = [(summary.record, cases[str(summary.record.plan["artifact"])]) for summary in summaries]
    written = [
        path
        for name in request.formats
        for record, case in pairs
        for path in export_sweep(name, request.out, record, case.listing, case.card.labels())
    ]
    if "csv" in request.formats and summaries:
        table = request.out / "sweeps.csv"
        write_whole(table, accuracy_csv(summaries).encode(), SweepError, "choose another folder with --out")
        written.append(table)
    return written


def _print(
    request: Request, summaries: Sequence[Summary], passes: Sequence[Pass], files: Sequence[Path]
) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    if request.as_json:
        print_json([accuracy_json(summary) for summary in summaries])
        return
    if summaries:
        names = {p.index: p.name for one in passes[:1] for p in one.cases[0].listing.pictures}
        sys.stdout.write(accuracy_table(summaries) + "\n")
        for note in accuracy_notes(summaries, names if len(passes) == 1 else {}):
            sys.stdout.write(f"{note}\n")
    for path in files:
        sys.stdout.write(f"{path}\n")


def _unfinished(failures: Sequence[Failure], refused: Sequence[str]) -> SweepError:
    lines = [f"shard {failure.number}: {failure.error}" for failure in failures]
    first = (lines or list(refused))[0]
    what = counted(len(failures), "shard") if failures else counted(len(refused), "case")
    return SweepError(
        f"{what} could not be run, the rest is kept: {first}",
        details="\n".join([*lines[1:], *refused]),
    )
