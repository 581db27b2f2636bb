"""The calls that train and sample."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.adapters.serve.handlers import Handler, Routes, answer, taking
from tinsmith.adapters.serve.hub import Hub
from tinsmith.adapters.serve.outcome import HttpError
from tinsmith.wire import requests


def wire_routes(hub: Hub) -> Routes:
    def move(name: str, body: bytes) -> Any:
        """What else is wrong with a body is what the request comes to: were it refused here, its number would be
        missing, and all that its client sends after it would wait for it."""
        request = requests.parse(requests.Numbered, body)
        return {
            "request_id": hub.submit(request.model_id, request.seq_id, name, body),
            "model_id": request.model_id,
        }

    def moving(name: str) -> Handler:
        return answer(lambda _, body: move(name, body))

    def load(_: Request, body: bytes) -> Any:
        if requests.parse(requests.LoadWhere, body).model_id is not None:
            return move("load_weights", body)
        request = requests.parse(requests.LoadWeights, body)
        if request.session_id is None:
            raise HttpError(400, "session_id and model_seq_id, or model_id and seq_id, are needed")
        return {"request_id": hub.create_from_state(request)}

    def sample(request: requests.Sample) -> Any:
        request_id, sequences = hub.sample(request)
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

    async def finish(request: Request, body: bytes) -> Any:
        await hub.finish_session(request.path_params["session"], requests.parse(requests.Finish, body))
        return {}

    def cancel(request: requests.RetrieveFuture) -> Any:
        hub.futures.cancel(request.request_id)
        return {}

    return [
        ("POST", "client/config", answer(lambda *_: {})),
        ("POST", "client/dynamic_config", answer(lambda *_: {})),
        ("POST", "telemetry", answer(lambda *_: {"status": "accepted"})),
        ("POST", "create_session", taking(requests.CreateSession, lambda r: {"session_id": hub.create_session(r)})),
        ("POST", "session_heartbeat", taking(requests.SessionOnly, heartbeat)),
        ("POST", "sessions/{session}/finish", answer(finish)),
        ("POST", "create_model", taking(requests.CreateModel, lambda r: {"request_id": hub.create_model(r)})),
        ("POST", "unload_model", taking(requests.ModelOnly, unload)),
        ("POST", "get_info", taking(requests.ModelOnly, info)),
        ("POST", "forward_backward", answer(lambda _, body: {"request_id": hub.forward_backward(body)})),
        ("POST", "optim_step", moving("optim_step")),
        ("POST", "save_weights", moving("save_weights")),
        ("POST", "save_weights_for_sampler", moving("save_weights_for_sampler")),
        ("POST", "save_weights_external", moving("save_weights_external")),
        ("POST", "load_weights", answer(load)),
        (
            "POST",
            "create_sampling_session",
            taking(requests.CreateSamplingSession, lambda r: {"sampling_session_id": hub.create_sampling_session(r)}),
        ),
        ("POST", "asample", taking(requests.Sample, sample)),
        ("POST", "retrieve_future", taking(requests.RetrieveFuture, retrieve)),
        ("POST", "cancel_future", taking(requests.RetrieveFuture, cancel)),
    ]
