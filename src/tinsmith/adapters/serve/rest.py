"""Lists and properties of sessions, models and checkpoints, and the download of weights."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
import secrets
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from tinsmith.adapters.serve import names
from tinsmith.adapters.serve.handlers import Routes, answer
from tinsmith.adapters.serve.hub import Hub
from tinsmith.adapters.serve.outcome import HttpError
from tinsmith.adapters.serve.records import KINDS, Checkpoint, Model
from tinsmith.wire import requests

LINK_S = 3600
"""How long a link to a file of weights may be followed; it needs no key."""
FILES = "/api/v1/files/"
_NUMBER = re.compile(r"[0-9]{1,12}")


def rest_routes(hub: Hub) -> Routes:
    secret = secrets.token_bytes(32)

    def signature(run: str, name: str, expires: int) -> str:
        return hmac.new(secret, f"{run}/{name}/{expires}".encode(), hashlib.sha256).hexdigest()

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

    async def finish(request: Request, body: bytes) -> Any:
        await hub.finish_session(request.path_params["session"], requests.parse(requests.Finish, body))
        return {}

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
        hub.store.set_expiry(_path(request), names.expiry(seconds))
        return {}

    def links(request: Request, _: bytes) -> Any:
        p = request.path_params
        checkpoint = hub.store.checkpoint(f"tinker://{p['run']}/external_weights/{p['name']}")
        expires = int(time.time()) + LINK_S
        base = f"{request.url.scheme}://{request.url.netloc}{FILES}{p['run']}/{p['name']}/{expires}"
        signed = f"{base}/{signature(p['run'], p['name'], expires)}"
        files = _files(checkpoint)
        return {"urls": {name: f"{signed}/{name}" for name in files}, "expires": _when(expires)}

    def file(request: Request, _: bytes) -> Any:
        p = request.path_params
        if not _NUMBER.fullmatch(p["expires"]) or int(p["expires"]) < time.time():
            raise HttpError(403, "this link is no longer good; ask for another")
        good = signature(p["run"], p["name"], int(p["expires"]))
        if not hmac.compare_digest(good.encode(), p["signature"].encode()):
            raise HttpError(403, "this link is not of this server")
        checkpoint = hub.store.checkpoint(f"tinker://{p['run']}/external_weights/{p['name']}")
        if p["file"] not in _files(checkpoint):
            raise HttpError(404, f"there is no file {p['file']}")
        return FileResponse(Path(checkpoint.handle) / p["file"])

    def weights_info(_: Request, body: bytes) -> Any:
        _found, model = hub.info(requests.parse(requests.PathOnly, body).tinker_path)
        return {
            "base_model": model.base_model,
            "is_lora": True,
            "lora_rank": model.lora.rank,
            "train_unembed": model.lora.unembed,
            "train_mlp": model.lora.mlp,
            "train_attn": model.lora.attention,
        }

    checkpoint = "training_runs/{run}/checkpoints/{kind}/{name}"
    return [
        ("GET", "healthz", answer(lambda *_: {"status": "ok"})),
        ("GET", "get_server_capabilities", answer(lambda *_: _capabilities(hub))),
        ("GET", "sessions", answer(lambda r, _: {"sessions": hub.store.sessions(*_paging(r, 20))})),
        ("GET", "sessions/{session}", answer(session)),
        ("POST", "sessions/{session}/finish", answer(finish)),
        ("GET", "samplers/{sampler}", answer(sampler)),
        ("GET", "training_runs", answer(training_runs)),
        ("GET", "training_runs/{run}", answer(training_run)),
        ("GET", "training_runs/{run}/checkpoints", answer(run_checkpoints)),
        ("GET", "checkpoints", answer(all_checkpoints)),
        ("POST", "weights_info", answer(weights_info)),
        ("DELETE", checkpoint, answer(delete)),
        ("PUT", f"{checkpoint}/ttl", answer(ttl)),
        ("GET", "training_runs/{run}/checkpoints/external_weights/{name}/external_weights_urls", answer(links)),
        ("GET", "files/{run}/{name}/{expires}/{signature}/{file}", answer(file)),
    ]


def _files(checkpoint: Checkpoint) -> list[str]:
    try:
        return sorted(file.name for file in Path(checkpoint.handle).iterdir())
    except FileNotFoundError:
        raise HttpError(404, f"the files of {checkpoint.path} are gone from the server's disk") from None


def _paging(request: Request, limit: int) -> tuple[int, int]:
    """(limit, offset) of a list."""
    values = []
    for name, default, most in (("limit", limit, 1000), ("offset", 0, 2**31)):
        text = request.query_params.get(name, str(default))
        if not _NUMBER.fullmatch(text) or not int(text) <= most:
            raise HttpError(400, f"{name}={text[:40]}: a whole number, at most {most}")
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
