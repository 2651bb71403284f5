"""The command line, called in this process, as `main` runs it."""

from __future__ import annotations

from typer.testing import CliRunner

from topfive.cli import app
from topfive.errors import TopfiveError


def run_topfive(*arguments: object, text: str | None = None) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)
    if isinstance(found.exception, TopfiveError):
        return 2, found.stdout, f"{found.stderr}topfive: {found.exception}\n"
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.stdout, found.stderr
