"""What the client relies on beside the mathematics: order, retries, polls, sessions, forms."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from tinsmith.domain.errors import DeadlineError
from tinsmith.testing.conformance import rows as r
from tinsmith.testing.conformance.client import PROTOBUF, VERSION, Refused, Wire
from tinsmith.testing.conformance.handles import (
    Model,
    Train,
    Vector,
    decode_sampled,
    decode_trained,
    request_id,
    supported,
)
from tinsmith.testing.conformance.law import Broken, expect, law
from tinsmith.testing.conformance.rows import Row
from tinsmith.testing.conformance.world import PROBE, RANK, World

HELD_S = 0.5
"""A question for a result that is not there yet is held open at least so long."""
FLAGS = {
    "pjwt_auth_enabled": False,
    "custom_loss_server_side": False,
    "sample_use_retrieve_futures": False,
    "sample_join_sampling_session": False,
}
"""Flags that send the client to routes beyond those tested here."""


@law(rows=r.rows())
def retried_training(world: World, rows: list[Row]) -> None:
    """A request sent twice with one seq_id is carried out once, and both get its result."""
    once = world.play([Train(rows), world.descend()], rows)
    model = world.reset()
    looked = Train([*PROBE, *(row.ones() for row in rows)], forward=True)
    before = model.train(looked).flat
    body = model.encode(Train(rows), model.seq + 1)
    answers = [world.wire.call("forward_backward", body) for _ in range(2)]
    model.seq += 1
    step = {"model_id": model.id, "seq_id": model.seq + 1, "adam_params": world.descend().json(), "type": "optim_step"}
    steps = [world.wire.call("optim_step", step) for _ in range(2)]
    model.seq += 1
    results = [model.trained(request_id(answer)) for answer in answers]
    for answer in steps:
        model.stepped(request_id(answer))
    world.equal(results[0].flat, results[1].flat, "logprobs for the request, and for its retry")
    after = model.train(looked).flat
    world.same(once.moved, after - before, "moved by requests sent once, and by the same sent twice")


@law(rows=r.rows(min_size=2))
def order_of_arrival(world: World, rows: list[Row]) -> None:
    """Requests are carried out by seq_id, also when a later one comes first (the client sends its first chunk last)."""
    right = world.play([Train(rows[:1]), world.descend(), Train(rows[1:]), world.descend()], rows)
    model = world.reset()
    looked = Train([*PROBE, *(row.ones() for row in rows)], forward=True)
    before, first = model.train(looked).flat, model.seq + 1
    step = {"model_id": model.id, "adam_params": world.descend().json(), "type": "optim_step"}
    sends: list[Any] = [
        lambda: world.wire.call("forward_backward", model.encode(Train(rows[:1]), first)),
        lambda: world.wire.call("optim_step", {**step, "seq_id": first + 1}),
        lambda: world.wire.call("forward_backward", model.encode(Train(rows[1:]), first + 2)),
        lambda: world.wire.call("optim_step", {**step, "seq_id": first + 3}),
    ]
    requests = {i: request_id(sends[i]()) for i in (3, 1, 2, 0)}
    model.seq += 4
    for i, request in sorted(requests.items()):
        world.wire.result(request, "OptimStep" if i % 2 else "ForwardBackward")
    world.same(
        right.moved, model.train(looked).flat - before, "moved in order of arrival, and with the last sent first"
    )


@law(prompt=r.prompts)
def retried_sampling(world: World, prompt: tuple[int, ...]) -> None:
    """A sample request sent twice with one seq_id is one request: both get the same completions."""
    sampler = world.start_sampler
    first = sampler.submit(prompt, n=2, max_tokens=12, temperature=1.5)
    again = sampler.submit(prompt, n=2, max_tokens=12, temperature=1.5, seq=sampler.seq)
    sampler.seq -= 1
    a, b = sampler.result(request_id(first)).tokens, sampler.result(request_id(again)).tokens
    expect(a == b, f"the request gave {a}, its retry {b}")


@law()
def results_stay(world: World) -> None:
    """A result can be asked for again: a connection may break while it is read."""
    model = world.reset()
    request = model.submit_train(Train(PROBE, forward=True))
    first = model.trained(request, forward=True).flat
    world.equal(first, model.trained(request, forward=True).flat, "logprobs as first retrieved, and again")
    sampled = request_id(world.start_sampler.submit((17, 42), max_tokens=4))
    one, two = world.start_sampler.result(sampled).tokens, world.start_sampler.result(sampled).tokens
    expect(one == two, f"completions as first retrieved {one}, and again {two}")


@law()
def results_whole(world: World) -> None:
    """With allow_metadata_only=false the answer is the result itself; with true it may be its size, and no more."""
    model = world.reset()
    request = model.submit_train(Train(PROBE, forward=True))
    model.trained(request, forward=True)
    for allowed in (False, True):
        response = world.wire.raw("retrieve_future", {"request_id": request, "allow_metadata_only": allowed})
        kind = response.headers.get("content-type", "").partition(";")[0]
        metadata = kind != PROTOBUF and response.json().get("status") == "complete_metadata"
        expect(allowed or not metadata, "metadata came for allow_metadata_only=false")
        expect(metadata or kind == PROTOBUF, f"the result came as {kind}")


@law()
def polls_are_held(world: World) -> None:
    """A question for a result that is not there yet is held open (the client asks again at once), and answered when it
    is there."""
    model = world.reset()
    first = model.seq + 1
    late = request_id(world.wire.call("forward_backward", model.encode(Train(PROBE, forward=True), first + 1)))
    began = time.monotonic()
    try:
        response = world.wire.raw(
            "retrieve_future", {"request_id": late, "allow_metadata_only": True}, timeout=HELD_S + 0.1
        )
    except DeadlineError:
        pass
    else:
        again = response.status_code == 408 or b"try_again" in response.content
        held = time.monotonic() - began
        expect(again, f"a request that waits for an earlier one was answered with HTTP {response.status_code}")
        expect(held >= HELD_S, f"it was told to ask again after {held * 1000:.0f} ms")
    asked = threading.Timer(0.2, lambda: answers.append(_answered(world, model, first)))
    answers: list[object] = []
    asked.start()
    began = time.monotonic()
    world.wire.result(late, "Forward")
    asked.join()
    model.seq += 2
    expect(time.monotonic() - began < 5.0, "the answer came 5 s after there was a result")


def _answered(world: World, model: Model, seq: int) -> object:
    wire = world.connect()
    try:
        return wire.call("forward_backward", model.encode(Train(PROBE, forward=True), seq))
    finally:
        wire.close()


@law()
def content_types(world: World) -> None:
    """Results of training and sampling are application/x-protobuf, others JSON."""
    model = world.reset()
    for forward in (True, False):
        answer = world.wire.result(model.submit_train(Train(PROBE, forward=forward)), "ForwardBackward")
        decode_trained(answer.protobuf)
    step = world.wire.result(model.submit_step(world.descend()), "OptimStep")
    expect(step.content_type == "application/json", f"the result of optim_step came as {step.content_type}")
    sampled = world.wire.result(request_id(world.start_sampler.submit((17, 42))), "Sample")
    decode_sampled(sampled.protobuf)


@law()
def sample_sequence_ids(world: World) -> None:
    """The answer to asample names each of its completions."""
    answer = world.start_sampler.submit((17, 42), n=3, max_tokens=2)
    world.start_sampler.result(request_id(answer))
    names = answer.get("sample_sequence_ids")
    expect(isinstance(names, list), f"sample_sequence_ids is {names!r}; the client asserts that it is there")
    expect(len(set(names)) == 3 and all(isinstance(n, str) and n for n in names), f"for 3 completions: {names!r}")


NEW: dict[str, Any] = {"of_a_later_version": {"a": [1, None]}}


@law()
def unknown_json_fields(world: World) -> None:
    """A field that a later client sends is let be, or refused as the user's mistake."""
    model, sampler = world.reset(), world.start_sampler
    sessions = {"tags": [], "sdk_version": VERSION, "type": "create_session"}
    train = model.train
    train(Train(PROBE))
    works = {
        "create_session": lambda: world.wire.call("create_session", {**sessions, **NEW}),
        "session_heartbeat": lambda: world.wire.call("session_heartbeat", {"session_id": world.session, **NEW}),
        "client/config": lambda: world.wire.call("client/config", {"sdk_version": VERSION, **NEW}),
        "create_model": lambda: world.create_model(**NEW),
        "get_info": lambda: world.wire.call("get_info", {"model_id": model.id, "type": "get_info", **NEW}),
        "optim_step": lambda: model.stepped(
            model.submit("optim_step", {"adam_params": {**world.descend().json(), **NEW}, **NEW})
        ),
        "save_weights": lambda: model.save(world.name(), **NEW),
        "asample": lambda: sampler.sample((17, 42), extra=NEW, **NEW),
    }
    for route, work in works.items():
        _kept_or_refused(route, work)
    _works(world, model)


def _kept_or_refused(what: str, work: Any) -> None:
    try:
        work()
    except Refused as refused:
        expect(refused.category == "user", f"{what}: an unknown field is a {refused}")
    except Broken as broken:
        raise Broken(f"{what} with an unknown field: {broken}") from broken


def _works(world: World, model: Model) -> None:
    here = model.logprobs(PROBE)
    expect(bool(np.isfinite(here).all()), "the model does not answer afterwards")


@law()
def unknown_protobuf_fields(world: World) -> None:
    """A protobuf field that a later client sends is let be, or refused as the user's mistake."""
    model = world.reset()
    right = model.logprobs(PROBE)
    later = bytes([0xA2, 0x1F, 3]) + b"new"  # field 500, three bytes
    body = model.encode(Train(PROBE, forward=True), model.seq + 1) + later

    def send() -> None:
        request = request_id(world.wire.call("forward_backward", body))
        model.seq += 1
        world.equal(right, model.trained(request).flat, "logprobs without, and with a field 500 in the request")

    _kept_or_refused("forward_backward", send)
    _works(world, model)


def _learned(world: World, wire: Wire, rows: list[Row], out: list[Any], models: list[Model], i: int) -> None:
    """One client of several: its own connection, its own model."""
    try:
        model = models[i]
        for row in rows:
            for body in (model.encode(Train([row]), model.seq + 1), None):
                if body is not None:
                    answer, kind = wire.call("forward_backward", body), "ForwardBackward"
                else:
                    step = {"model_id": model.id, "seq_id": model.seq + 1, "adam_params": world.descend().json()}
                    answer, kind = wire.call("optim_step", {**step, "type": "optim_step"}), "OptimStep"
                model.seq += 1
                wire.result(request_id(answer), kind)
        answer = wire.call("forward_backward", model.encode(Train(PROBE, forward=True), model.seq + 1))
        model.seq += 1
        out[i] = decode_trained(wire.result(request_id(answer), "Forward").protobuf).flat
    except Exception as error:  # noqa: BLE001 - it is said by the law
        out[i] = error
    finally:
        wire.close()


@law(rows=r.rows(min_size=3, max_size=3))
def models_at_once(world: World, rows: list[Row]) -> None:
    """Models that are trained at once by clients of their own become what they become alone."""
    _ = world.rate
    alone: list[Vector] = []
    for row in rows:
        out: list[Any] = [None]
        _learned(world, world.connect(), [row, row], out, [world.create_model()], 0)
        alone.append(_vector(out[0]))
    models, together = [world.create_model() for _ in rows], [None] * len(rows)
    clients = [
        threading.Thread(target=_learned, args=(world, world.connect(), [row, row], together, models, i), daemon=True)
        for i, row in enumerate(rows)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(world.wire.deadline * 5)
    for i, right in enumerate(alone):
        world.equal(
            right, _vector(together[i]), f"logprobs of model {i} trained alone, and beside {len(rows) - 1} others"
        )


def _vector(found: Any) -> Vector:
    if isinstance(found, Exception):
        raise found
    expect(found is not None, "a client had no answer in time")
    return np.asarray(found)


@law()
def retried_create_model(world: World) -> None:
    """create_model sent twice with one model_seq_id makes one model."""
    seq = world.next_model()
    one, two = world.create_model(seq=seq), world.create_model(seq=seq)
    expect(one.id == two.id, f"model_seq_id {seq} made {one.id} and {two.id}")


@law()
def model_info(world: World) -> None:
    """get_info tells the name of the base model and the rank of the adapters."""
    model = world.reset()
    told = world.wire.call("get_info", {"model_id": model.id, "type": "get_info"})
    data = told.get("model_data")
    expect(isinstance(data, dict), f"model_data is {data!r}")
    expect(
        bool(data.get("model_name")), f"model_data.model_name is {data.get('model_name')!r}; the tokenizer hangs on it"
    )
    expect(told.get("model_id") == model.id, f"model_id is {told.get('model_id')!r}")
    expect(told.get("lora_rank") in (None, RANK), f"lora_rank is {told.get('lora_rank')!r}, created with {RANK}")


@law()
def client_config(world: World) -> None:
    """client/config answers with a JSON object, whose flags do not send the client to routes that are not there;
    client/dynamic_config may be unknown."""
    flags = world.wire.call("client/config", {"sdk_version": VERSION})
    for name, usual in FLAGS.items():
        expect(
            flags.get(name, usual) == usual, f"{name} is {flags.get(name)!r}: the client goes another way than this kit"
        )
    response = world.wire.raw("client/dynamic_config", {"sdk_version": VERSION})
    expect(response.status_code in (200, 404), f"client/dynamic_config: HTTP {response.status_code}")


@law()
def capabilities(world: World) -> None:
    """get_server_capabilities names the models that can be asked for."""
    models = world.wire.call("get_server_capabilities").get("supported_models")
    expect(isinstance(models, list) and bool(models), f"supported_models is {models!r}")
    assert isinstance(models, list)
    for model in models:
        expect(isinstance(model, dict) and bool(model.get("model_name")), f"a model without model_name: {model!r}")
        length = model.get("max_context_length")
        expect(length is None or (isinstance(length, int) and length > 0), f"max_context_length is {length!r}")


@law()
def heartbeat(world: World) -> None:
    """A session that is open takes heartbeats; one that never was is refused as the user's mistake."""
    world.wire.call("session_heartbeat", {"session_id": world.session, "type": "session_heartbeat"})
    body = {"session_id": "00000000-0000-4000-8000-000000000000", "type": "session_heartbeat"}
    refused = world.wire.refusal(lambda: world.wire.call("session_heartbeat", body))
    expect(refused is not None, "a heartbeat of a session that never was is taken")


@law()
def finish(world: World) -> None:
    """A session can be finished, also twice; the work of others goes on."""
    other = World.open_session(world.wire)
    for _ in range(2):
        world.wire.call(f"sessions/{other}/finish", {"reason": {"type": "success"}, "detail": None})
    world.wire.call("session_heartbeat", {"session_id": world.session, "type": "session_heartbeat"})
    _works(world, world.reset())


@law()
def telemetry(world: World) -> None:
    """Telemetry is accepted."""
    body = {"events": [], "platform": "linux", "sdk_version": VERSION, "session_id": world.session, "process_uuid": "0"}
    supported(lambda: world.wire.call("telemetry", body))
