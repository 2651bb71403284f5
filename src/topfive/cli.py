"""The `topfive` command. Exit codes: 0 good, 1 a comparison failed, 2 bad usage or bad input."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from topfive.command_line import gemmini, listing, running, tools
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
app.command(name="preprocess")(tools.preprocess_pictures)
app.command()(tools.postprocess)
app.command()(tools.optimize)
app.command()(tools.calibrate)
app.command()(tools.diff)
app.command()(listing.targets)
app.command()(listing.models)

gemmini_app = typer.Typer(help="Modelled cycles of Gemmini.", no_args_is_help=True)
app.add_typer(gemmini_app, name="gemmini")
gemmini_app.command()(gemmini.cycles)
gemmini_app.command()(gemmini.explore)


def main() -> NoReturn:
    """Run the command line; what is the input's fault is one message on stderr and exit code 2."""
    try:
        app()
    except TopfiveError as error:
        sys.stderr.write(f"topfive: {error}\n")
        sys.exit(BAD_INPUT)
    sys.exit(0)
