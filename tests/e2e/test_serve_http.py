"""The server at its socket: who may ask, in which order, how much, and what is left when a client is gone."""

from __future__ import annotations

import json
import random
import socket
import threading
import time

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_client import Wire

from tinsmith import bootstrap
from tinsmith.adapters.serve import futures, hub, sampling, training
from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import ConfigError
from tinsmith.ports.trainer import LossSpec
from tinsmith.wire import training as wire_training

PROMPT = {"chunks": [{"type": "encoded_text", "tokens": [1, 40, 60]}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(url, lines of the log)."""
    lines: list[str] = []
    where = tmp_path_factory.mktemp("serve")
    server = bootstrap.open_server({"tiny": "tiny"}, where, log=lines.append, note=lines.append)
    with server.running() as url:
        yield url, lines


@pytest.fixture
def wire(served):
    with Wire(served[0]) as client:
        yield client


def batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(7, 500, 6)
    return Batch.of([Datum(tokens=tokens[:-1], targets=tokens[1:], weights=np.ones(5))])


def forward_backward(model: str, seq: int) -> bytes:
    return wire_training.encode_request(model, seq, batch(seq), LossSpec("cross_entropy"))


def optim_step(model: str, seq: int) -> dict:
    return {"model_id": model, "seq_id": seq, "adam_params": {"learning_rate": 1e-2}}


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(1, 8)), st.lists(st.integers(1, 7), max_size=4))
def test_requests_are_carried_out_by_number_each_once_however_they_arrive(served, order, again):
    """Three of every seven requests are steps: applied twice or out of order, they would show in the logprobs."""
    with Wire(served[0]) as wire:
        models = [wire.model(wire.session(), seed=3) for _ in range(2)]
        results = []
        for model, numbers in zip(models, (list(range(1, 8)), [*order, *again]), strict=True):
            ids = {}
            for seq in numbers:
                if seq % 2:
                    ids[seq] = wire.ok("forward_backward", forward_backward(model, seq))["request_id"]
                else:
                    ids[seq] = wire.ok("optim_step", optim_step(model, seq))["request_id"]
            results.append([wire.result(ids[seq]) for seq in (1, 3, 5, 7)])
        assert results[0] == results[1]


def test_clients_do_not_disturb_each_other(served):
    """Four at once, each with a model and samples of its own, see what one alone sees."""

    def work(seen: list) -> None:
        with Wire(served[0]) as wire:
            session = wire.session()
            model = wire.model(session, seed=5)
            for seq in (1, 3, 5):
                seen.append(wire.result(wire.ok("forward_backward", forward_backward(model, seq))["request_id"]))
                wire.ok("optim_step", optim_step(model, seq + 1))
            save = {"model_id": model, "seq_id": 7, "sampling_session_seq_id": 0}
            sampler = wire.json(wire.ok("save_weights_for_sampler", save)["request_id"])["sampling_session_id"]
            for seq in range(5):
                ask = {"prompt": PROMPT, "sampling_params": {"max_tokens": 9, "seed": seq}, "num_samples": 2}
                answer = wire.ok("asample", {**ask, "sampling_session_id": sampler, "seq_id": seq})
                seen.append(wire.result(answer["request_id"]))

    alone: list = []
    work(alone)
    together: list[list] = [[] for _ in range(4)]
    threads = [threading.Thread(target=work, args=(seen,)) for seen in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(seen == alone for seen in together)


GARBAGE = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b'"x"',
    b"{",
    b"\x00\xff\xfe",
    b'{"model_id": {}}',
    b'{"session_id": 1}',
    b"1e999",
]


def test_no_body_makes_it_fail(served, wire):
    """Every route under bodies that are wrong in every way: refused as the client's mistake, never as the server's."""
    routes = [
        *("client/config", "client/dynamic_config", "telemetry", "create_session", "session_heartbeat", "create_model"),
        *("unload_model", "get_info", "forward_backward", "optim_step", "save_weights", "save_weights_for_sampler"),
        *("save_weights_external", "load_weights", "create_sampling_session", "asample", "retrieve_future"),
        *("cancel_future", "weights_info", "sessions/x/finish"),
    ]
    model = wire.model(wire.session())
    good = [forward_backward(model, 1), json.dumps(optim_step(model, 1)).encode()]
    rng = random.Random(0)
    for route in routes:
        bodies = [*GARBAGE]
        for body in good:
            for _ in range(10):
                changed = bytearray(body)
                for _ in range(rng.randint(1, 5)):
                    changed[rng.randrange(len(changed))] = rng.randrange(256)
                bodies.append(bytes(changed))
        for body in bodies:
            answer = wire.http.post(route, content=body)
            assert answer.status_code < 500, (route, body, answer.text)
            if answer.status_code >= 400:
                assert answer.json()["error"], route
    assert wire.http.get("nothing").json()["error"] == "this server has no GET /api/v1/nothing"
    for route in ("training_runs/x", "training_runs/x/checkpoints", "samplers/x", "sessions/x", "nothing", "../x"):
        assert wire.http.get(route).status_code == 404
    assert wire.http.get("training_runs?limit=x").status_code == 400
    again = wire.model(wire.session())
    wire.logprobs(wire.ok("forward_backward", forward_backward(again, 1))["request_id"])


def test_a_body_without_end_is_cut_off(served, monkeypatch):
    from tinsmith.adapters.serve import app

    monkeypatch.setattr(app, "MAX_BODY", 10_000)

    def stream():
        for _ in range(100):
            yield b"x" * 1000

    with Wire(served[0]) as wire:
        assert wire.http.post("create_session", content=stream()).status_code == 413
        assert wire.http.post("create_session", content=b"x" * 20_000).status_code == 413
        assert wire.http.post("create_session", content=b"{}").status_code == 200


def test_a_page_bound_to_another_name_is_not_answered(served):
    """A site whose name points at this machine reaches the port, but asks for its own name."""
    answer = httpx.get(f"{served[0]}/api/v1/healthz", headers={"Host": "evil.example"})
    assert answer.status_code == 403
    assert httpx.get(f"{served[0]}/api/v1/healthz").status_code == 200


def test_another_address_needs_a_key(tmp_path):
    with pytest.raises(ConfigError, match="needs key="):
        bootstrap.open_server({"tiny": "tiny"}, tmp_path, host="0.0.0.0")
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path / "s", key="tml-secret", note=lambda _: None)
    with server.running() as url:
        with Wire(url, key="tml-wrong") as wire:
            assert wire.post("create_session", {})[0] == 401
        with Wire(url, key="tml-secret") as wire:
            assert wire.session()


def test_a_port_in_use_is_said(served, tmp_path):
    port = int(served[0].rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match="try another port"):
        bootstrap.open_server({"tiny": "tiny"}, tmp_path, port=port)


def test_too_much_is_told_to_come_again_and_then_taken(served, wire, monkeypatch):
    monkeypatch.setattr(training, "MAX_WAITING", 4)
    model = wire.model(wire.session())
    for seq in range(2, 6):  # the first is missing, so all of these wait
        wire.ok("forward_backward", forward_backward(model, seq))
    status, answer = wire.post("forward_backward", forward_backward(model, 6))
    assert status == 429
    assert "wait already" in answer["error"]
    wire.ok("forward_backward", forward_backward(model, 1))
    wire.result(f"{model}:5")
    wire.result(wire.ok("forward_backward", forward_backward(model, 6))["request_id"])


def sampler_of(wire: Wire) -> str:
    body = {"session_id": wire.session(), "sampling_session_seq_id": 0, "base_model": "tiny"}
    return str(wire.ok("create_sampling_session", body)["sampling_session_id"])


def test_samples_beyond_the_bound_are_told_to_come_again(served, wire, monkeypatch):
    monkeypatch.setattr(sampling, "MAX_SEQUENCES", 8)
    sampler = sampler_of(wire)
    ask = {"prompt": PROMPT, "sampling_params": {"max_tokens": 900, "stop": []}, "sampling_session_id": sampler}
    first = wire.ok("asample", {**ask, "num_samples": 8, "seq_id": 0})["request_id"]
    assert wire.post("asample", {**ask, "num_samples": 1, "seq_id": 1})[0] == 429
    wire.ok("cancel_future", {"request_id": first})
    assert wire.json(first) == {"error": "the request was cancelled", "category": "user"}
    small = {**ask, "sampling_params": {"max_tokens": 2}, "seq_id": 1}
    wire.result(wire.ok("asample", small)["request_id"])


def test_what_a_vanished_client_held_is_let_go_and_comes_back_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "GONE_AFTER_S", 0.6)
    monkeypatch.setattr(hub, "SWEEP_S", 0.1)
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path, note=lambda _: None)
    with server.running() as url, Wire(url) as wire:
        session = wire.session()
        model = wire.model(session, seed=2)
        first = wire.result(wire.ok("forward_backward", forward_backward(model, 1))["request_id"])
        wire.ok("optim_step", optim_step(model, 2))
        sampler = wire.ok(
            "create_sampling_session", {"session_id": session, "sampling_session_seq_id": 0, "base_model": "tiny"}
        )["sampling_session_id"]
        endless = {"max_tokens": 1000, "stop": []}
        wire.ok("asample", {"prompt": PROMPT, "sampling_params": endless, "num_samples": 64, **_at(sampler, 0)})
        deadline = time.monotonic() + 20
        while (server._hub.runs or server._hub.sampling.sequences) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not server._hub.runs, "its model is still in memory"
        assert server._hub.sampling.sequences == 0, "its samples still run"
        assert wire.result(f"{model}:1") == first
        wire.logprobs(wire.ok("forward_backward", forward_backward(model, 3))["request_id"])


def _at(sampler: str, seq: int) -> dict:
    return {"sampling_session_id": sampler, "seq_id": seq}


def test_what_a_snapshot_holds_is_not_kept_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SNAPSHOT_EVERY_S", 0.0)
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path, note=lambda _: None)
    with server.running() as url, Wire(url) as wire:
        model = wire.model(wire.session())
        for seq in (1, 3, 5):
            wire.ok("forward_backward", forward_backward(model, seq))
            wire.json(wire.ok("optim_step", optim_step(model, seq + 1))["request_id"])
        wire.result(wire.ok("forward_backward", forward_backward(model, 7))["request_id"])
        kept = list(server._hub.store.requests_after(model, 0))
        assert [bool(body) for _, _, body, _ in kept] == [False] * 6 + [True]
        assert len(list((tmp_path / "states").rglob("snapshot-*"))) == 1


def test_a_finished_session_leaves_nothing_in_memory_and_no_unnamed_state_on_disk(tmp_path, monkeypatch):
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path, note=lambda _: None)
    with server.running() as url, Wire(url) as wire:
        session = wire.session()
        model = wire.model(session)
        wire.json(wire.ok("save_weights", {"model_id": model, "seq_id": 1, "path": "kept"})["request_id"])
        save = {"model_id": model, "seq_id": 2, "sampling_session_seq_id": 0}
        wire.json(wire.ok("save_weights_for_sampler", save)["request_id"])
        assert {f.name.split("-")[0] for f in (tmp_path / "states").rglob("*.safetensors")} == {"weights", "sampler"}
        wire.ok(f"sessions/{session}/finish", {"reason": {"type": "success"}})
        wire.ok(f"sessions/{session}/finish", {"reason": {"type": "errored"}})  # the first one stands
        assert not server._hub.runs
        assert server._hub.open_samplers == 0
        assert {f.name.split("-")[0] for f in (tmp_path / "states").rglob("*.safetensors")} == {"weights"}
        assert not list(server._hub.store.requests_after(model, 0))
        status, answer = wire.post("forward_backward", forward_backward(model, 3))
        assert (status, "finished (success)" in answer["error"]) == (410, True)
        assert wire.post("session_heartbeat", {"session_id": session})[0] == 410


def test_a_session_that_nobody_came_back_to_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "ABANDONED_AFTER_S", 0.5)
    monkeypatch.setattr(hub, "GONE_AFTER_S", 0.3)
    monkeypatch.setattr(hub, "SWEEP_S", 0.1)
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path, note=lambda _: None)
    with server.running() as url, Wire(url) as wire:
        session = wire.session()
        model = wire.model(session)
        wire.json(wire.ok("save_weights", {"model_id": model, "seq_id": 1, "path": "kept"})["request_id"])
        deadline = time.monotonic() + 20
        while wire.http.get(f"sessions/{session}").status_code == 200 and time.monotonic() < deadline:
            if server._hub.store.session(session)[1] is not None:
                break
            time.sleep(0.05)
        assert server._hub.store.session(session)[1] == "abandoned"
        assert [f.name for f in (tmp_path / "states").rglob("*.safetensors")] == ["weights-1-kept.safetensors"]


def test_a_checkpoint_ends_when_its_time_is_up(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "SWEEP_S", 0.1)
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path, note=lambda _: None)
    with server.running() as url, Wire(url) as wire:
        model = wire.model(wire.session())
        save = {"model_id": model, "seq_id": 1, "path": "short", "ttl_seconds": 1}
        path = wire.json(wire.ok("save_weights", save)["request_id"])["path"]
        assert wire.http.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
        deadline = time.monotonic() + 10
        while list((tmp_path / "states").rglob("weights-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not list((tmp_path / "states").rglob("weights-*"))
        assert not wire.http.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
        body = {"session_id": wire.session(), "model_seq_id": 0, "path": path, "optimizer": True}
        assert wire.post("load_weights", body)[0] == 404


def test_the_page_shows_models_and_takes_no_markup_from_clients(tmp_path):
    server = bootstrap.open_server({"<script>alert(1)</script>": "tiny"}, tmp_path, note=lambda _: None)
    with server.running() as url, Wire(url) as wire:
        model = wire.model(wire.session(), base="<script>alert(1)</script>")
        page = httpx.get(url)
        assert page.status_code == 200
        assert model in page.text
        assert "<script>" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_line_for_each_request(served, wire):
    wire.session()
    wire.http.get("nothing%0APOST%20/forged%1b[2J")
    deadline = time.monotonic() + 10
    while not any("forged" in line for line in served[1]) and time.monotonic() < deadline:
        time.sleep(0.02)  # the line comes after the answer
    assert any(line.startswith("POST /api/v1/create_session 200 ") for line in served[1])
    assert all(line.isprintable() for line in served[1])


def test_results_are_kept_within_bounds():
    now = [0.0]
    kept = futures.Futures(clock=lambda: now[0])
    outcome = training.failure(ConfigError("x"))
    for i in range(10):
        kept.open(str(i))
    for i in range(5):
        kept.set(str(i), outcome)
    now[0] = futures.KEPT_UNRETRIEVED_S + 1
    kept.sweep()
    assert len(kept) == 5, "what is done and was never asked for goes; what is not done stays"
    kept.set("7", outcome)
    kept.sweep()
    assert "7" not in kept
    assert kept.waiting == 4


def test_the_rate_is_of_the_last_minute():
    now = [0.0]
    rate = futures.Rate(clock=lambda: now[0])
    rate.add(60)
    assert rate.rate() == 1.0
    now[0] = 61.0
    assert rate.rate() == 0.0


def test_a_fault_of_the_server_is_said_to_the_client_it_met_and_nobody_else(served, wire, monkeypatch):
    """Of a call of the wire, and of one that goes by the router."""
    session = wire.session()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(hub.Hub, "create_session", broken)
    monkeypatch.setattr(hub.Hub, "finish_session", broken)
    for route in ("create_session", f"sessions/{session}/finish"):
        answer = wire.http.post(route, json={"tags": [], "sdk_version": "0.38.0"})
        assert (answer.status_code, answer.json()["error"]) == (500, "ZeroDivisionError: boom")
        assert answer.json()["category"] == "server"
        assert [line for line in served[1] if f"{route} 500" in line], "a request that failed has its line too"
    monkeypatch.undo()
    assert wire.session()
    assert wire.http.get("create_session").status_code == 404
    assert wire.http.post("create_session/", json={}).status_code == 404


def test_a_request_that_is_cut_off_is_none(served, wire):
    """Nor is it one of what had come: an empty body asks for a session."""
    url, lines = served
    before, seen = wire.http.get("sessions", params={"limit": 1000}).json()["sessions"], len(lines)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        head = (
            f"POST /api/v1/create_session HTTP/1.1\r\nHost: {host}\r\nX-API-Key: tml-x\r\nContent-Length: 100\r\n\r\n"
        )
        client.sendall(head.encode() + b"{")
    deadline = time.monotonic() + 5
    while not (told := [line for line in lines[seen:] if "create_session" in line]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "create_session 400 1 bytes" in told[0]
    assert wire.http.get("sessions", params={"limit": 1000}).json()["sessions"] == before
