"""`topfive api` and `topfive serve`."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from topfive.commands import print_json
from topfive.service.http import serve
from topfive.service.operations import answer

__all__ = ["answer_one", "serve_all"]

BAD_INPUT = 2


def answer_one(text: str, time_limit: float | None) -> int:
    """Carry out the request in `text`, or on standard input for "-"; the exit code is its `return`."""
    try:
        request: Any = json.loads(sys.stdin.read() if text == "-" else text)
    except (ValueError, RecursionError) as error:
        found: dict[str, Any] = {"return": BAD_INPUT, "error": f"the request is not JSON: {error}"}
    else:
        found = answer(request, time_limit=time_limit)
    print_json(found)
    return int(found["return"])


def serve_all(host: str, port: int, time_limit: float | None) -> None:
    """Serve; the address is the first line on standard output."""

    def told(address: str) -> None:
        sys.stdout.write(f"{address}  (operations: {address}/docs)\n")
        sys.stdout.flush()

    serve(host, port, token=os.environ.get("TOPFIVE_TOKEN", ""), time_limit=time_limit, told=told)
