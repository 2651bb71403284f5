"""The `topfive` command. Exit codes: 0 good, 1 a comparison failed, 2 bad usage or bad input."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from topfive.command_line import (
    cache,
    checking,
    comparing,
    dataset,
    fetching,
    gemmini,
    listing,
    records,
    report,
    running,
    scales,
    scenario,
    service,
    sweep,
    tools,
    trace,
)
from topfive.errors import TopfiveError

__all__ = ["app", "main"]

BAD_INPUT = 2
app = typer.Typer(
    name="topfive",
    help="Benchmark and regression tests of image classifiers on accelerators.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(running.run)
app.command()(running.build)
app.command()(running.measure)
app.command(name="preprocess")(tools.preprocess_pictures)
app.command()(tools.postprocess)
app.command()(tools.optimize)
app.command(cls=tools.Calibrate)(tools.calibrate)
app.command()(tools.diff)
app.command()(scenario.scenario)
app.command()(scenario.harness)
app.command()(fetching.fetch)
app.command()(sweep.sweep)
app.command()(report.report)
app.command()(comparing.compare)
app.command()(comparing.repeat)
app.command()(comparing.pair)
app.command(name="export")(records.export_records)
app.command(name="import")(records.import_records)
app.command()(service.api)
app.command()(service.serve)
app.command()(checking.doctor)
app.command()(listing.targets)
app.command()(listing.models)

gemmini_app = typer.Typer(help="Modelled cycles and execution modes of Gemmini.", no_args_is_help=True)
app.add_typer(gemmini_app, name="gemmini")
gemmini_app.command()(gemmini.cycles)
gemmini_app.command()(gemmini.explore)
gemmini_app.command(name="diff")(gemmini.diff_modes)

scales_app = typer.Typer(help="Activation ranges and int8 scales, in any form.", no_args_is_help=True)
app.add_typer(scales_app, name="scales")
scales_app.command()(scales.show)
scales_app.command()(scales.diff)
scales_app.command()(scales.convert)

trace_app = typer.Typer(help="Traces: where the time goes.", no_args_is_help=True)
app.add_typer(trace_app, name="trace")
trace_app.command()(trace.summary)
trace_app.command()(trace.flamegraph)

records_app = typer.Typer(help="Stored results: every run leaves one.", no_args_is_help=True)
app.add_typer(records_app, name="records")
records_app.command(name="list")(records.list_records)
records_app.command()(records.show)
records_app.command(name="rm")(records.remove)

cache_app = typer.Typer(help="Artifacts, packed pictures and downloads here.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
cache_app.command(name="list")(cache.list_cache)
cache_app.command()(cache.prune)

dataset_app = typer.Typer(help="Labelled picture sets for accuracy sweeps.", no_args_is_help=True)
app.add_typer(dataset_app, name="dataset")
dataset_app.command()(dataset.detect)
dataset_app.command()(dataset.register)
dataset_app.command(name="list")(dataset.list_registered)
dataset_app.command()(dataset.check)
dataset_app.command()(dataset.make)


def main() -> NoReturn:
    """Run the command line; what is the input's fault is one message on stderr and exit code 2."""
    try:
        app()
    except TopfiveError as error:
        sys.stderr.write(f"topfive: {error}\n")
        sys.exit(BAD_INPUT)
    sys.exit(0)
