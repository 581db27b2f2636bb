"""A server of the protocol whose faults are switched on one at a time: between the socket and the app, and inside the
engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from attrs import define, field

from tinsmith import bootstrap
from tinsmith.adapters.serve import listen
from tinsmith.domain.errors import TinsmithError
from tinsmith.wire.messages import types

PROTOBUF = b"application/x-protobuf"


@define
class Call:
    """A request on its way in."""

    method: str
    path: str
    """Below /api/v1/."""
    body: bytes
    kind: str
    """What a question for a result says that it asks for."""

    @property
    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.body or b"{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@define
class Reply:
    """An answer on its way out."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def content_type(self) -> bytes:
        return next((v for k, v in self.headers if k.lower() == b"content-type"), b"").partition(b";")[0]

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    def put(self, value: Mapping[str, Any], status: int | None = None) -> None:
        self.body, self.status = json.dumps(value).encode(), status or self.status
        self.headers = [(b"content-type", b"application/json")]


class Fault:
    """Nothing is wrong; faults override. One object for one test, so it may remember."""

    engine = ""
    """What is wrong inside the engine."""

    def before(self, call: Call) -> Reply | None:
        """Change the request, or answer in the app's place."""
        return None

    def after(self, call: Call, reply: Reply) -> None: ...


@define
class Switch:
    """The fault that is on, and what is remembered of calls whatever is on."""

    fault: Fault = field(factory=Fault)
    last_sampler: str = ""

    @contextmanager
    def on(self, fault: Fault) -> Iterator[None]:
        self.fault = fault
        try:
            yield
        finally:
            self.fault = Fault()


class _Wrapped:
    """The app behind the fault."""

    def __init__(self, app: Any, switch: Switch) -> None:
        self._app, self._switch = app, switch

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = dict(scope["headers"])
        path = scope["path"].removeprefix("/api/v1/")
        call = Call(scope["method"], path, body, headers.get(b"x-tinker-request-type", b"").decode())
        fault = self._switch.fault
        reply = fault.before(call)
        if reply is None:
            reply = await self._answer(scope, call, receive)
            if call.kind == "SaveWeightsForSampler" and b"sampling_session_id" in reply.body:
                self._switch.last_sampler = reply.json["sampling_session_id"]
            fault.after(call, reply)
        kept = [(k, v) for k, v in reply.headers if k.lower() != b"content-length"]
        length = [] if reply.status == 204 else [(b"content-length", str(len(reply.body)).encode())]
        await send({"type": "http.response.start", "status": reply.status, "headers": kept + length})
        await send({"type": "http.response.body", "body": reply.body})

    async def _answer(self, scope: Any, call: Call, receive: Any) -> Reply:
        reply, given = Reply(500, [], b""), False

        async def body() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": call.body, "more_body": False}

        async def take(message: Any) -> None:
            if message["type"] == "http.response.start":
                reply.status, reply.headers = message["status"], list(message["headers"])
            else:
                reply.body += message.get("body", b"")

        headers = [(k, v) for k, v in scope["headers"] if k != b"content-length"]
        headers.append((b"content-length", str(len(call.body)).encode()))
        target = {**scope, "path": f"/api/v1/{call.path}", "raw_path": b"", "headers": headers, "method": call.method}
        await self._app(target, body, take)
        return reply


class _Trainer:
    def __init__(self, inner: Any, switch: Switch) -> None:
        self._inner, self._switch, self._last = inner, switch, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def forward_backward(self, batch: Any, loss: Any) -> Any:
        self._last = (batch, loss)
        try:
            return self._inner.forward_backward(batch, loss)
        except TinsmithError:
            if self._switch.fault.engine == "part of a refused batch":
                self._inner.forward_backward(batch.rows(0, 1), loss)
            raise

    def optim_step(self, settings: Any) -> Any:
        pending = self._inner.optim_step(settings)
        if self._switch.fault.engine == "gradient stays" and self._last is not None:
            self._inner.forward_backward(*self._last)
        return pending

    def sampler(self) -> Any:
        made = self._inner.sampler()
        if self._switch.fault.engine == "live sampler":
            return made.then(lambda sampler: _LiveSampler(sampler, self._inner))
        return made


class _LiveSampler:
    """Samples from the weights as they are when it is asked."""

    def __init__(self, inner: Any, trainer: Any) -> None:
        self._inner, self._trainer = inner, trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def sample(self, *args: Any) -> Any:
        return self._trainer.sampler().result(20.0).sample(*args)


class _Engine:
    def __init__(self, inner: Any, switch: Switch) -> None:
        self._inner, self._switch = inner, switch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def trainer(self, **settings: Any) -> Any:
        return _Trainer(self._inner.trainer(**settings), self._switch)


@contextmanager
def faulty_server(directory: Path) -> Iterator[tuple[str, Switch]]:
    switch = Switch()
    make = listen.make_app
    with mock.patch.object(listen, "make_app", lambda hub, **how: _Wrapped(make(hub, **how), switch)):
        engine = _Engine(bootstrap.load_model("tiny"), switch)
        server = listen.Server(
            {"tiny": engine}, directory, host="127.0.0.1", port=0, key=None, log=None, note=lambda text: None
        )
    with server.running() as url:
        yield url, switch


# Kinds of faults


class Training(Fault):
    """The request of a forward_backward is changed."""

    def __init__(self, edit: Callable[[Any], Any]) -> None:
        self._edit = edit

    def before(self, call: Call) -> None:
        if call.path == "forward_backward":
            message = types().ForwardBackwardRequest.FromString(call.body)
            self._edit(message)
            call.body = message.SerializeToString()


def column(name: str, edit: Callable[[np.ndarray[Any, Any]], Any]) -> Training:
    """An input of every datum is changed; of a forward too."""

    def change(message: Any) -> None:
        for datum in message.data:
            if name in datum.loss_fn_inputs:
                put(datum.loss_fn_inputs[name], edit(values(datum.loss_fn_inputs[name])))

    return Training(change)


def values(tensor: Any) -> np.ndarray[Any, Any]:
    array = np.frombuffer(tensor.dense, {1: "<f4", 2: "<i8", 3: "<i4"}[tensor.dtype])
    return array.reshape(tuple(tensor.shape)) if tensor.shape else array


def put(tensor: Any, array: Any) -> None:
    tensor.dense = np.ascontiguousarray(array, {1: "<f4", 2: "<i8", 3: "<i4"}[tensor.dtype]).tobytes()


class Json(Fault):
    """The JSON body of a request is changed."""

    def __init__(self, path: str, edit: Callable[[dict[str, Any]], Any]) -> None:
        self._path, self._edit = path, edit

    def before(self, call: Call) -> None:
        if call.path == self._path and call.json:
            body = call.json
            self._edit(body)
            call.body = json.dumps(body).encode()


def within(path: str, key: str, **changes: Any) -> Json:
    """Settings below `key`; None takes them out, a function is given what they were."""

    def change(body: dict[str, Any]) -> None:
        settings = body.get(key)
        if not isinstance(settings, dict):
            return
        for name, value in changes.items():
            settings[name] = value(settings.get(name)) if callable(value) else value
            if settings[name] is None:
                del settings[name]

    return Json(path, change)


class Result(Fault):
    """A result is changed: a message of protobuf, or a JSON object."""

    def __init__(self, kinds: str, edit: Callable[[Any], Any]) -> None:
        self._kinds, self._edit = kinds.split(), edit

    def after(self, call: Call, reply: Reply) -> None:
        if call.path != "retrieve_future" or call.kind not in self._kinds or reply.status != 200:
            return
        if reply.content_type == PROTOBUF:
            kind = types().SampleResponse if call.kind == "Sample" else types().ForwardBackwardOutput
            message = kind.FromString(reply.body)
            self._edit(message)
            reply.body = message.SerializeToString()
        elif "try_again" not in reply.json.values():
            value = reply.json
            self._edit(value)
            reply.put(value)


class Answered(Fault):
    """The answer of a route is changed. `when` says of which ones."""

    def __init__(
        self, path: str, edit: Callable[[Reply], Any], when: Callable[[Call, Reply], bool] = lambda c, r: True
    ) -> None:
        self._path, self._edit, self._when = path, edit, when

    def after(self, call: Call, reply: Reply) -> None:
        if self._path in call.path and self._when(call, reply):
            self._edit(reply)


def status(code: int) -> Callable[[Reply], None]:
    return lambda reply: reply.put({"error": "planted", "category": "user"}, code)


def replaced(**fields: Any) -> Callable[[Reply], None]:
    """Fields of a JSON answer; None takes them out."""

    def edit(reply: Reply) -> None:
        value = {**reply.json, **fields}
        reply.put({k: v for k, v in value.items() if v is not None})

    return edit


def failing(path: str) -> Answered:
    """What is refused as the user's mistake is a failure of the server."""

    def blame(reply: Reply) -> None:
        reply.put({"error": "planted", "category": "server"}, 500)

    return Answered(path, blame, lambda call, reply: 400 <= reply.status < 500)


def blamed(kinds: str) -> Result:
    """What a result says to be the user's mistake is the server's."""

    def blame(value: Any) -> None:
        if isinstance(value, dict) and "error" in value:
            value["category"] = "server"

    return Result(kinds, blame)
