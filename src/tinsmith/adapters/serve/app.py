"""The routes of the wire: HTTP in, calls of the hub, HTTP out."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinsmith.adapters.serve.handlers import PREFIX, Calls, Handler, crashed, refusal
from tinsmith.adapters.serve.hub import Hub
from tinsmith.adapters.serve.outcome import HttpError
from tinsmith.adapters.serve.page import page
from tinsmith.adapters.serve.rest import FILES, rest_routes
from tinsmith.adapters.serve.routes import calls

MAX_BODY = 64 * 2**20
"""Bytes of a request; the client cuts its batches into parts of 5 MB."""
BODY_S = 120.0
"""Seconds in which the body of a request must be here: whoever sends a byte now and then does not hold memory."""
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


def make_app(hub: Hub, *, key: str | None, loopback: bool, log: Callable[[str], object] | None) -> ASGIApp:
    """`key`: what X-API-Key must be; None takes any. `log`: a line for each request."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        await hub.start()
        try:
            yield
        finally:
            await hub.stop()

    routes = [
        Route("/", _page(hub)),
        *(Route(PREFIX + path, handler, methods=[method]) for method, path, handler in rest_routes(hub)),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HttpError: _http_error, 404: _no_route, 405: _no_route, Exception: _crashed},
    )
    return _Guard(Calls(calls(hub), app), key=key, loopback=loopback, log=log)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return refusal(error.status, str(error))


async def _no_route(request: Request, _: Exception) -> Response:
    return refusal(404, f"this server has no {request.method} {request.url.path}")


async def _crashed(_: Request, error: Exception) -> Response:
    return crashed(error)


class _Guard:
    """Before any route: who asks, and how much. A page of another site that a browser shows is kept out by its origin,
    and one whose name was bound to this machine by the name it asks for."""

    def __init__(self, app: ASGIApp, *, key: str | None, loopback: bool, log: Callable[[str], object] | None) -> None:
        self._app = app
        self._key = key
        self._loopback = loopback
        self._log = log

    def _allowed(self, path: str, key: bytes) -> bool:
        return self._key is None or path.startswith(FILES) or hmac.compare_digest(key, self._key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        name = (host.rsplit(":", 1)[0] if not host.endswith("]") else host).lower()
        began, status, size, whole = time.perf_counter(), 0, 0, False

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def received() -> Message:
            nonlocal size, whole
            if whole:  # what comes now is the end of the connection, whenever that is
                return await receive()
            try:
                async with asyncio.timeout(BODY_S - (time.perf_counter() - began)):
                    message = await receive()
            except TimeoutError:
                raise HttpError(408, f"a body that was not here in {BODY_S:.0f} s") from None
            whole = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise HttpError(413, f"a body of more than {MAX_BODY} bytes")
            return message

        try:
            await self._answer(scope, received, sent, headers, name)
        finally:
            if self._log is not None:
                milliseconds = (time.perf_counter() - began) * 1000
                path = scope["path"].encode("unicode_escape").decode()  # no line of a client's making
                self._log(f"{scope['method']} {path} {status} {size:,} bytes {milliseconds:.1f} ms")

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[bytes, bytes], name: str
    ) -> None:
        length = headers.get(b"content-length", b"0")
        if self._loopback and name not in LOOPBACK_NAMES:
            await refusal(403, f"this server answers to {', '.join(LOOPBACK_NAMES)} alone")(scope, receive, send)
        elif (origin := headers.get(b"origin")) is not None and origin.partition(b"//")[2] != headers.get(b"host"):
            await refusal(403, "this server answers no page of another site")(scope, receive, send)
        elif not self._allowed(scope["path"], headers.get(b"x-api-key", b"")):
            await refusal(401, "X-API-Key is missing or wrong")(scope, receive, send)
        elif not length.isdigit() or int(length) > MAX_BODY:
            await refusal(413, f"a body of more than {MAX_BODY} bytes")(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _page(hub: Hub) -> Handler:
    async def show(_: Request) -> Response:
        return HTMLResponse(
            page(hub), headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )

    return show
