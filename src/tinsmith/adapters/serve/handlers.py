"""What the routes share: a body in, a JSON value or a response out, errors by their status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tinsmith.adapters.serve.outcome import HttpError
from tinsmith.domain.errors import TinsmithError
from tinsmith.wire import requests

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
Routes = list[tuple[str, str, Handler]]
"""(method, path below /api/v1, handler)."""


def answer(work: Callable[[Request, bytes], Any]) -> Handler:
    async def handle(request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            raise HttpError(400, "the client went away before its request was whole") from None
        try:
            value = work(request, body)
            if isinstance(value, Awaitable):
                value = await value
        except HttpError:
            raise
        except TinsmithError as error:
            users = isinstance(error, ValueError | NotImplementedError)
            raise HttpError(400 if users else 500, str(error)) from error
        return value if isinstance(value, Response) else JSONResponse(value)

    return handle


def taking(kind: type[T], work: Callable[[T], Any]) -> Handler:
    """The body as a value of `kind`."""
    return answer(lambda _, body: work(requests.parse(kind, body)))
