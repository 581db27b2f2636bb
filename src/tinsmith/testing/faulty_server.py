"""Faults on schedule at a server: put around an ASGI app, the n-th request of a kind fails the way that you say.

    server = open_server({"tiny": "tiny"}, directory)
    server.wrap(lambda app: FaultyApp(app, {("optim_step", 3): Status(503), ("retrieve_future/Sample", 1): Drop()}))
    with server.running() as url: ...

A request is named by the end of its path below `/api/v1/`; a question for a result also by what it is the result of
(`retrieve_future/OptimStep`), counted by itself. A schedule is a mapping from (name, call number from 1) to a fault, or
a function of the two; it is deterministic, so a failure comes again.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from attrs import frozen

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]


@frozen
class Status:
    """An HTTP error instead of an answer; nothing is done."""

    status: int
    message: str = "a fault on schedule"


@frozen
class Drop:
    """The connection breaks before the answer; nothing is done."""


@frozen
class Lost:
    """The request is carried out, and the connection breaks before its answer."""


@frozen
class Stall:
    """The answer takes this much longer; None: it never comes, and nothing is done."""

    seconds: float | None = None


@frozen
class Failed:
    """Of a question for a result: it failed, as the user's or the server's. The work itself was done."""

    message: str = "a fault on schedule"
    category: str = "server"


@frozen
class TryAgain:
    """Of a question for a result: it is not there yet, after this many seconds."""

    seconds: float = 0.05


@frozen
class Garbled:
    """An answer that is none."""

    body: bytes = b"<html>502 bad gateway</html>"


Fault: TypeAlias = Status | Drop | Lost | Stall | Failed | TryAgain | Garbled
Schedule: TypeAlias = Mapping[tuple[str, int], Fault] | Callable[[str, int], Fault | None]


def always(name: str, fault: Fault, *, after: int = 0) -> Schedule:
    """Every request of that name but the first `after`."""
    return lambda asked, call: fault if asked == name and call > after else None


class FaultyApp:
    """`app` behind the faults of a schedule. `calls` counts requests by name."""

    def __init__(self, app: App, schedule: Schedule) -> None:
        self._app = app
        self.schedule = schedule
        self.calls: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        fault = self._fault(scope) if scope["type"] == "http" else None
        match fault:
            case None:
                await self._app(scope, receive, send)
            case Status(status, message):
                await _answer(send, status, {"detail": message, "error": message})
            case Drop():
                await _drop(send)
            case Lost():
                await self._app(scope, receive, _nowhere)
                await _drop(send)
            case Stall(None):
                while (await receive())["type"] != "http.disconnect":
                    pass
            case Stall(float() | int() as seconds):
                await asyncio.sleep(seconds)
                await self._app(scope, receive, send)
            case Failed(message, category):
                await self._app(scope, receive, _nowhere)
                await _answer(send, 200, {"error": message, "category": category})
            case TryAgain(seconds):
                await asyncio.sleep(seconds)
                await _answer(send, 200, {"type": "try_again", "request_id": "?", "queue_state": "active"})
            case Garbled(body):
                await _reply(send, 200, body)

    def _fault(self, scope: Any) -> Fault | None:
        name = scope["path"].partition("/api/v1/")[2]
        kind = dict(scope["headers"]).get(b"x-tinker-request-type", b"").decode("latin-1")
        found = None
        for asked in (name, f"{name}/{kind}") if kind else (name,):
            self.calls[asked] += 1
            call = self.calls[asked]
            fault = (
                self.schedule.get((asked, call)) if isinstance(self.schedule, Mapping) else self.schedule(asked, call)
            )
            found = found or fault
        return found


async def _nowhere(message: Message) -> None:
    pass


async def _answer(send: Send, status: int, value: Mapping[str, Any]) -> None:
    await _reply(send, status, json.dumps(value).encode())


async def _reply(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _drop(send: Send) -> None:
    """Promise more than is sent: the server then closes the connection."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000000")]})
    await send({"type": "http.response.body", "body": b" ", "more_body": True})
