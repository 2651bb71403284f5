"""The operations over HTTP, with an OpenAPI page at /docs. Needs the extra `topfive[serve]`."""

from __future__ import annotations

import errno
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

from topfive.errors import TopfiveError
from topfive.service.operations import Operation, answer, operations
from topfive.service.page import docs_page

__all__ = ["ServeError", "is_loopback", "make_app", "open_socket", "serve"]

LEAST_TOKEN = 16
STATUS = {0: 200, 1: 200, 2: 400}


class ServeError(TopfiveError):
    """The service cannot start: no extra, a port in use, an address that needs a token."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_app(*, token: str = "", time_limit: float | None = None) -> Any:
    """The FastAPI application: POST /api with an `action`, and POST /api/ACTION for each of them.

    token: what `Authorization: Bearer` must carry. Without one only requests to a loopback name are
    answered, and only JSON ones, so that no page in a browser can send any.
    """
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import HTMLResponse, JSONResponse, Response

    import topfive

    app = FastAPI(
        title="topfive",
        # FastAPI's own pages load scripts from the network.
        docs_url=None,
        redoc_url=None,
        version=topfive.__version__,
        description="Every command takes and gives JSON. return: 0 good, 1 a comparison failed, 2 bad input.",
    )

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if problem := _refusal(request, token):
            return JSONResponse({"return": 2, "error": problem[1]}, status_code=problem[0])
        return await call_next(request)

    async def carried_out(body: Any) -> JSONResponse:
        found = await run_in_threadpool(answer, body, time_limit=time_limit)
        return JSONResponse(found, status_code=STATUS.get(found["return"], 500))

    async def any_action(request: Request) -> JSONResponse:
        try:
            return await carried_out(await request.json())
        except ValueError:
            return JSONResponse({"return": 2, "error": "the body is not JSON"}, status_code=400)

    app.post("/api", summary="Any action", openapi_extra=_body({"type": "object", "required": ["action"]}))(
        _annotated(any_action, Request)
    )
    for operation in operations().values():
        _add(app, operation, carried_out, Request, JSONResponse)
    app.get("/docs", include_in_schema=False, response_class=HTMLResponse)(docs_page)
    return app


def _annotated(function: Any, request: type) -> Any:
    """FastAPI resolves annotations in the module, where the request's class is not imported."""
    function.__annotations__ = {"request": request}
    return function


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _add(app: Any, operation: Operation, carried_out: Any, request_type: type, response: Any) -> None:
    async def one_action(request: Any) -> Any:
        try:
            body = await request.json() if await request.body() else {}
        except ValueError:
            return response({"return": 2, "error": "the body is not JSON"}, status_code=400)
        if not isinstance(body, dict):
            return response({"return": 2, "error": "the body is not a JSON object"}, status_code=400)
        return await carried_out({**body, "action": operation.action})

    summary = operation.help.partition("\n")[0]
    app.post(
        f"/api/{operation.action.replace(' ', '/')}",
        summary=operation.action,
        description=summary,
        operation_id=operation.action.replace(" ", "_"),
        openapi_extra=_body(operation.schema()),
    )(_annotated(one_action, request_type))


def _refusal(request: Any, token: str) -> tuple[int, str] | None:
    """The status and the reason for which a request is not answered, or None."""
    if token:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return 401, "a token is needed: Authorization: Bearer TOKEN"
    elif not is_loopback(request.url.hostname or ""):
        return 403, "without a token only requests to a loopback address are answered"
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if request.method == "POST" and kind != "application/json":
        return 415, "the body must be application/json"
    return None


def open_socket(host: str, port: int) -> socket.socket:
    """A bound socket. Raises ServeError for a port in use or an address that is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(address)
            made.listen()
        except BaseException:
            made.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "another program uses this port: choose another with --port, or 0 for a free one"
        raise ServeError(f"cannot serve at {host}:{port}: {reason}") from error
    return made


def serve(host: str, port: int, *, token: str, time_limit: float | None, told: Callable[[str], None]) -> None:
    """Serve until interrupted. told: gets the address. Raises ServeError."""
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise ServeError("the service is not installed: pip install 'topfive[serve]'")
    if not is_loopback(host) and len(token) < LEAST_TOKEN:
        raise ServeError(
            f"{host} can be reached from other machines: set TOPFIVE_TOKEN to a token of {LEAST_TOKEN} "
            "or more characters, or serve on 127.0.0.1"
        )
    import uvicorn

    bound = open_socket(host, port)
    with bound:
        shown = f"[{host}]" if ":" in host else host
        told(f"http://{shown}:{bound.getsockname()[1]}")
        config = uvicorn.Config(make_app(token=token, time_limit=time_limit), log_level="warning")
        uvicorn.Server(config).run(sockets=[bound])
