"""Declarations of `topfive api` and `topfive serve`."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["api", "serve"]

TimeLimit = Annotated[float | None, typer.Option("--time-limit", help="Seconds a request may take.")]


def api(
    request: Annotated[
        str, typer.Argument(metavar="[JSON]", help='{"action": "records list", ...}; "-": standard input.')
    ] = "-",
    *,
    time_limit: TimeLimit = None,
) -> None:
    """Carry out one request of JSON and print the answer as JSON."""
    from topfive.commands.service import answer_one

    if code := answer_one(request, time_limit):
        raise typer.Exit(code)


def serve(
    *,
    host: Annotated[str, typer.Option("--host", help="Beyond this machine a token is needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 8765,
    time_limit: TimeLimit = None,
) -> None:
    """Serve every command as JSON over HTTP, with an OpenAPI page at /docs; TOPFIVE_TOKEN is the token."""
    from topfive.commands.service import serve_all

    serve_all(host, port, time_limit)
