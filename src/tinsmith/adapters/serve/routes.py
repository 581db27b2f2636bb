"""The calls that train and sample."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import JSONResponse, Response

from tinsmith.adapters.serve.handlers import Work, taking
from tinsmith.adapters.serve.hub import Hub
from tinsmith.adapters.serve.outcome import HttpError
from tinsmith.wire import requests


def calls(hub: Hub) -> dict[str, Work]:
    """By path."""

    def move(name: str, body: bytes) -> Any:
        """What else is wrong with a body is what the request comes to: were it refused here, its number would be
        missing, and all that its client sends after it would wait for it."""
        request = requests.parse(requests.Numbered, body)
        return {
            "request_id": hub.submit(request.model_id, request.seq_id, name, body),
            "model_id": request.model_id,
        }

    def moving(name: str) -> Work:
        return lambda body: move(name, body)

    def load(body: bytes) -> Any:
        if requests.parse(requests.LoadWhere, body).model_id is not None:
            return move("load_weights", body)
        request = requests.parse(requests.LoadWeights, body)
        if request.session_id is None:
            raise HttpError(400, "session_id and model_seq_id, or model_id and seq_id, are needed")
        return {"request_id": hub.create_from_state(request)}

    async def sample(request: requests.Sample) -> Any:
        request_id, sequences = hub.sample(request)
        await asyncio.sleep(0)  # the sampler has it before its client hears of it
        return {"request_id": request_id, "sample_sequence_ids": sequences}

    async def retrieve(request: requests.RetrieveFuture) -> Response:
        outcome = await hub.retrieve(request.request_id)
        if outcome is None:
            return JSONResponse({"type": "try_again", "request_id": request.request_id, "queue_state": "active"})
        return Response(outcome.body, media_type=outcome.content_type)

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

    def heartbeat(request: requests.SessionOnly) -> Any:
        hub.check_session(request.session_id)
        return {"type": "session_heartbeat"}

    def cancel(request: requests.RetrieveFuture) -> Any:
        hub.futures.cancel(request.request_id)
        return {}

    return {
        "client/config": lambda _: {},
        "client/dynamic_config": lambda _: {},
        "telemetry": lambda _: {"status": "accepted"},
        "create_session": taking(requests.CreateSession, lambda r: {"session_id": hub.create_session(r)}),
        "session_heartbeat": taking(requests.SessionOnly, heartbeat),
        "create_model": taking(requests.CreateModel, lambda r: {"request_id": hub.create_model(r)}),
        "unload_model": taking(requests.ModelOnly, unload),
        "get_info": taking(requests.ModelOnly, info),
        "forward_backward": lambda body: {"request_id": hub.forward_backward(body)},
        "optim_step": moving("optim_step"),
        "save_weights": moving("save_weights"),
        "save_weights_for_sampler": moving("save_weights_for_sampler"),
        "save_weights_external": moving("save_weights_external"),
        "load_weights": load,
        "create_sampling_session": taking(
            requests.CreateSamplingSession, lambda r: {"sampling_session_id": hub.create_sampling_session(r)}
        ),
        "asample": taking(requests.Sample, sample),
        "retrieve_future": taking(requests.RetrieveFuture, retrieve),
        "cancel_future": taking(requests.RetrieveFuture, cancel),
    }
