"""The routes of the wire: HTTP in, calls of the hub, HTTP out."""

from __future__ import annotations

import datetime
import hmac
import io
import tarfile
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinsmith.adapters.serve.hub import Hub
from tinsmith.adapters.serve.outcome import HttpError, Outcome
from tinsmith.adapters.serve.page import page
from tinsmith.adapters.serve.store import KINDS, Checkpoint, Model
from tinsmith.domain.errors import TinsmithError
from tinsmith.wire import requests

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

MAX_BODY = 64 * 2**20
"""Bytes of a request; the client cuts its batches into parts of 5 MB."""
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]", "testserver")


def make_app(hub: Hub, *, key: str | None, loopback: bool, log: Callable[[str], object] | None) -> ASGIApp:
    """`key`: what X-API-Key must be; None takes any. `log`: a line for each request."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        await hub.start()
        try:
            yield
        finally:
            await hub.stop()

    routes = [Route("/", _page(hub)), *(Route(f"/api/v1/{path}", f, methods=[m]) for m, path, f in _routes(hub))]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HttpError: _http_error, Exception: _crashed})
    return _Guard(app, key=key, loopback=loopback, log=log)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return _refusal(error.status, str(error))


async def _crashed(_: Request, error: Exception) -> Response:
    return _refusal(500, f"{type(error).__name__}: {error}")


def _refusal(status: int, message: str) -> Response:
    category = "user" if status < 500 else "server"
    return JSONResponse({"error": message, "detail": message, "category": category}, status)


class _Guard:
    """Before any route: who asks, and how much. A page of another site that a browser shows, whose name was bound to
    this machine, is kept out by the name it asks for."""

    def __init__(self, app: ASGIApp, *, key: str | None, loopback: bool, log: Callable[[str], object] | None) -> None:
        self._app = app
        self._key = key
        self._loopback = loopback
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        began, status, size = time.perf_counter(), 0, 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def received() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise HttpError(413, f"a body of more than {MAX_BODY} bytes")
            return message

        length = headers.get(b"content-length", b"0")
        if self._loopback and name not in LOOPBACK_NAMES:
            await _refusal(403, f"this server answers to {', '.join(LOOPBACK_NAMES[:3])} alone")(scope, receive, sent)
        elif self._key is not None and not hmac.compare_digest(headers.get(b"x-api-key", b""), self._key.encode()):
            await _refusal(401, "X-API-Key is missing or wrong")(scope, receive, sent)
        elif not length.isdigit() or int(length) > MAX_BODY:
            await _refusal(413, f"a body of more than {MAX_BODY} bytes")(scope, receive, sent)
        else:
            await self._app(scope, received, sent)
        if self._log is not None:
            milliseconds = (time.perf_counter() - began) * 1000
            self._log(f"{scope['method']} {scope['path']} {status} {size:,} bytes {milliseconds:.1f} ms")


def _page(hub: Hub) -> Handler:
    async def show(_: Request) -> Response:
        return HTMLResponse(
            page(hub), headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )

    return show


def _routes(hub: Hub) -> list[tuple[str, str, Handler]]:
    """(method, path below /api/v1, handler)."""

    def answer(work: Callable[[Request, bytes], Any]) -> Handler:
        async def handle(request: Request) -> Response:
            body = await request.body()
            try:
                value = work(request, body)
                if isinstance(value, Awaitable):
                    value = await value
            except HttpError:
                raise
            except TinsmithError as error:
                raise HttpError(
                    400 if isinstance(error, ValueError | NotImplementedError) else 500, str(error)
                ) from error
            return value if isinstance(value, Response) else JSONResponse(value)

        return handle

    def taking(kind: type[T], work: Callable[[T], Any]) -> Handler:
        return answer(lambda _, body: work(requests.parse(kind, body)))

    def moving(name: str, kind: type[Any]) -> Handler:
        def work(_: Request, body: bytes) -> Any:
            request = requests.parse(kind, body)
            return {
                "request_id": hub.submit(request.model_id, request.seq_id, name, body),
                "model_id": request.model_id,
            }

        return answer(work)

    def load(_: Request, body: bytes) -> Any:
        request = requests.parse(requests.LoadWeights, body)
        if request.model_id is None:
            if request.session_id is None:
                raise HttpError(400, "session_id and model_seq_id, or model_id and seq_id, are needed")
            return {"request_id": hub.create_from_state(request)}
        if request.seq_id is None:
            raise HttpError(400, "seq_id is missing")
        return {"request_id": hub.submit(request.model_id, request.seq_id, "load_weights", body)}

    def sample(request: requests.Sample) -> Any:
        request_id, sequences = hub.sample(request)
        return {"request_id": request_id, "sample_sequence_ids": sequences}

    async def retrieve(request: requests.RetrieveFuture) -> Response:
        outcome = await hub.retrieve(request.request_id)
        if outcome is None:
            return JSONResponse({"type": "try_again", "request_id": request.request_id, "queue_state": "active"})
        return _response(outcome)

    def unload(request: requests.ModelOnly) -> Any:
        request_id = f"{hub.known_model(request.model_id).id}:create"

        async def work() -> Any:
            await hub.unload(request.model_id)
            return {"request_id": request_id, "model_id": request.model_id}

        return work()

    def info(request: requests.ModelOnly) -> Any:
        model = hub.known_model(request.model_id)
        engine = hub.engine(model.base_model)
        return {
            "type": "get_info",
            "model_id": model.id,
            "model_name": model.base_model,
            "model_data": {"model_name": model.base_model, "tokenizer_id": engine.tokenizer_path},
            "is_lora": True,
            "lora_rank": model.lora.rank,
        }

    def weights_info(request: requests.PathOnly) -> Any:
        _, model = hub.info(request.tinker_path)
        return {
            "base_model": model.base_model,
            "is_lora": True,
            "lora_rank": model.lora.rank,
            "train_unembed": model.lora.unembed,
            "train_mlp": model.lora.mlp,
            "train_attn": model.lora.attention,
        }

    def heartbeat(request: requests.SessionOnly) -> Any:
        hub.check_session(request.session_id)
        return {"type": "session_heartbeat"}

    async def finish(request: Request, body: bytes) -> Any:
        await hub.finish_session(request.path_params["session"], requests.parse(requests.Finish, body))
        return {}

    def cancel(request: requests.RetrieveFuture) -> Any:
        hub.futures.cancel(request.request_id)
        return {}

    def session(request: Request, _: bytes) -> Any:
        name = request.path_params["session"]
        known, _finished, metadata = hub.store.session(name)
        if not known:
            raise HttpError(404, f"there is no session {name}")
        models, _total = hub.store.models(session=name)
        return {
            "training_run_ids": [m.id for m in models],
            "sampler_ids": hub.store.samplers(name),
            "user_metadata": metadata,
        }

    def sampler(request: Request, _: bytes) -> Any:
        found, _lora = hub.sampling.session(request.path_params["sampler"])
        return {"sampler_id": found.id, "base_model": found.base_model, "model_path": found.path}

    def training_runs(request: Request, _: bytes) -> Any:
        limit, offset = _paging(request, 20)
        models, total = hub.store.models(limit, offset)
        cursor = {"offset": offset, "limit": limit, "total_count": total}
        return {"training_runs": [_training_run(hub, m) for m in models], "cursor": cursor}

    def training_run(request: Request, _: bytes) -> Any:
        return _training_run(hub, hub.known_model(request.path_params["run"]))

    def run_checkpoints(request: Request, _: bytes) -> Any:
        model = hub.known_model(request.path_params["run"])
        return {"checkpoints": [_checkpoint(c) for c in hub.store.checkpoints(model.id)]}

    def all_checkpoints(request: Request, _: bytes) -> Any:
        limit, offset = _paging(request, 100)
        found = hub.store.checkpoints()
        found.reverse()
        cursor = {"offset": offset, "limit": limit, "total_count": len(found)}
        return {"checkpoints": [_checkpoint(c) for c in found[offset : offset + limit]], "cursor": cursor}

    def delete(request: Request, _: bytes) -> Any:
        hub.delete_checkpoint(_path(request))
        return Response(status_code=204)

    def ttl(request: Request, body: bytes) -> Any:
        seconds = requests.parse(requests.Ttl, body).ttl_seconds
        if seconds is not None and seconds < 1:
            raise HttpError(400, f"ttl_seconds={seconds}: at least 1, or null for none")
        hub.store.set_expiry(_path(request), None if seconds is None else time.time() + seconds)
        return {}

    async def archive(request: Request, _: bytes) -> Any:
        return await _archive(hub, _path(request))

    checkpoint = "training_runs/{run}/checkpoints/{kind}/{name}"
    return [
        ("GET", "healthz", answer(lambda *_: {"status": "ok"})),
        ("POST", "client/config", answer(lambda *_: {})),
        ("POST", "client/dynamic_config", answer(lambda *_: {})),
        ("POST", "telemetry", answer(lambda *_: {"status": "accepted"})),
        ("GET", "get_server_capabilities", answer(lambda *_: _capabilities(hub))),
        ("POST", "create_session", taking(requests.CreateSession, lambda r: {"session_id": hub.create_session(r)})),
        ("POST", "session_heartbeat", taking(requests.SessionOnly, heartbeat)),
        ("POST", "sessions/{session}/finish", answer(finish)),
        ("GET", "sessions/{session}", answer(session)),
        ("GET", "sessions", answer(lambda r, _: {"sessions": hub.store.sessions(*_paging(r, 20))})),
        ("POST", "create_model", taking(requests.CreateModel, lambda r: {"request_id": hub.create_model(r)})),
        ("POST", "unload_model", taking(requests.ModelOnly, unload)),
        ("POST", "get_info", taking(requests.ModelOnly, info)),
        ("POST", "forward_backward", answer(lambda _, body: {"request_id": hub.forward_backward(body)})),
        ("POST", "optim_step", moving("optim_step", requests.OptimStep)),
        ("POST", "save_weights", moving("save_weights", requests.SaveWeights)),
        ("POST", "save_weights_for_sampler", moving("save_weights_for_sampler", requests.SaveWeightsForSampler)),
        ("POST", "load_weights", answer(load)),
        (
            "POST",
            "create_sampling_session",
            taking(requests.CreateSamplingSession, lambda r: {"sampling_session_id": hub.create_sampling_session(r)}),
        ),
        ("GET", "samplers/{sampler}", answer(sampler)),
        ("POST", "asample", taking(requests.Sample, sample)),
        ("POST", "retrieve_future", taking(requests.RetrieveFuture, retrieve)),
        ("POST", "cancel_future", taking(requests.RetrieveFuture, cancel)),
        ("POST", "weights_info", taking(requests.PathOnly, weights_info)),
        ("GET", "training_runs", answer(training_runs)),
        ("GET", "training_runs/{run}", answer(training_run)),
        ("GET", "training_runs/{run}/checkpoints", answer(run_checkpoints)),
        ("GET", "checkpoints", answer(all_checkpoints)),
        ("DELETE", checkpoint, answer(delete)),
        ("PUT", f"{checkpoint}/ttl", answer(ttl)),
        ("GET", f"{checkpoint}/archive", answer(archive)),
    ]


def _response(outcome: Outcome) -> Response:
    return Response(outcome.body, media_type=outcome.content_type)


def _paging(request: Request, limit: int) -> tuple[int, int]:
    """(limit, offset) of a list."""
    values = []
    for name, default, most in (("limit", limit, 1000), ("offset", 0, 2**31)):
        text = request.query_params.get(name, str(default))
        if not text.isdecimal() or not int(text) <= most:
            raise HttpError(400, f"{name}={text}: a whole number, at most {most}")
        values.append(int(text))
    return values[0], values[1]


def _path(request: Request) -> str:
    p = request.path_params
    return f"tinker://{p['run']}/{p['kind']}/{p['name']}"


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def _checkpoint(c: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint_id": f"{c.kind}/{c.name}",
        "checkpoint_type": KINDS[c.kind],
        "time": _when(c.created),
        "tinker_path": c.path,
        "size_bytes": c.size,
        "public": False,
        "user_metadata": c.metadata,
        "expires_at": None if c.expires is None else _when(c.expires),
    }


def _training_run(hub: Hub, model: Model) -> dict[str, Any]:
    checkpoints = hub.store.checkpoints(model.id)
    last = {kind: next((c for c in reversed(checkpoints) if c.kind == kind), None) for kind in KINDS}
    return {
        "training_run_id": model.id,
        "base_model": model.base_model,
        "model_owner": "local",
        "is_lora": True,
        "lora_rank": model.lora.rank,
        "last_request_time": _when(model.last_request),
        "last_checkpoint": None if last["weights"] is None else _checkpoint(last["weights"]),
        "last_sampler_checkpoint": None if last["sampler_weights"] is None else _checkpoint(last["sampler_weights"]),
        "user_metadata": model.metadata,
    }


def _capabilities(hub: Hub) -> dict[str, Any]:
    models = [
        {"model_name": name, "max_context_length": engine.context, "trainable": True, "sampleable": True}
        for name, engine in hub.engines.items()
    ]
    return {"supported_models": models}


async def _archive(hub: Hub, path: str) -> Response:
    """The checkpoint as an adapter in PEFT layout, in a tar file."""
    import asyncio

    checkpoint, model = hub.info(path)
    engine = hub.engine(model.base_model)

    def pack() -> bytes:
        trainer = engine.trainer(lora=model.lora, seed=0, state_dir=None)
        try:
            trainer.load_state(checkpoint.handle).result()
            with tempfile.TemporaryDirectory() as directory:
                trainer.export(directory, "adapter").result()
                buffer = io.BytesIO()
                with tarfile.open(fileobj=buffer, mode="w") as tar:
                    for file in sorted(Path(directory).iterdir()):
                        tar.add(file, file.name)
                return buffer.getvalue()
        finally:
            trainer.close()

    return Response(await asyncio.to_thread(pack), media_type="application/x-tar")
