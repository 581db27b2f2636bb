"""What the routes share: a body in, a JSON value or a response out, errors by their status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tinsmith.adapters.serve.outcome import HttpError
from tinsmith.domain.errors import TinsmithError
from tinsmith.wire import requests

PREFIX = "/api/v1/"
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
Routes = list[tuple[str, str, Handler]]
"""(method, path below PREFIX, handler)."""
Work = Callable[[bytes], Any]
"""A body in; a JSON value, a response, or what is to be awaited for one of them, out."""


def answer(work: Callable[[Request, bytes], Any]) -> Handler:
    async def handle(request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            raise _gone() from None
        return await _respond(lambda body: work(request, body), body)

    return handle


def taking(kind: type[T], work: Callable[[T], Any]) -> Work:
    """The body as a value of `kind`."""
    return lambda body: work(requests.parse(kind, body))


class Calls:
    """What clients post, by path alone; all else goes on to `others`. For an engine call of some milliseconds a router
    with its middleware is a large part of the time that its client waits."""

    def __init__(self, works: Mapping[str, Work], others: ASGIApp) -> None:
        self._works = {PREFIX + path: work for path, work in works.items()}
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = self._works.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if work is None:
            await self._others(scope, receive, send)
            return
        error: Exception | None = None
        try:
            response = await _respond(work, await _body(receive))
        except HttpError as refused:
            response = refusal(refused.status, str(refused))
        except Exception as crash:  # noqa: BLE001 - told to the client, then to whoever runs the server
            error, response = crash, crashed(crash)
        await response(scope, receive, send)
        if error is not None:
            raise error


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _gone()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _gone() -> HttpError:
    return HttpError(400, "the client went away before its request was whole")


async def _respond(work: Work, body: bytes) -> Response:
    try:
        value = work(body)
        if isinstance(value, Awaitable):
            value = await value
    except HttpError:
        raise
    except TinsmithError as error:
        users = isinstance(error, ValueError | NotImplementedError)
        raise HttpError(400 if users else 500, str(error)) from error
    return value if isinstance(value, Response) else JSONResponse(value)


def refusal(status: int, message: str) -> Response:
    category = "user" if status < 500 else "server"
    return JSONResponse({"error": message, "detail": message, "category": category}, status)


def crashed(error: Exception) -> Response:
    return refusal(500, f"{type(error).__name__}: {error}")
