"""What a server is sent that no client of good will sends: it says no, and nobody else notices."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import numpy as np
import pytest
from wire_client import Wire

from tinsmith import bootstrap
from tinsmith.adapters.serve import app, hub, training
from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import ConfigError
from tinsmith.ports.trainer import LossSpec
from tinsmith.wire import training as wire_training

PROMPT = {"chunks": [{"type": "encoded_text", "tokens": [1, 40, 60]}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(url, the server)."""
    where = tmp_path_factory.mktemp("serve")
    server = bootstrap.open_server({"tiny": "tiny"}, where, note=lambda _: None)
    with server.running() as url:
        yield url, server


@pytest.fixture
def wire(served):
    with Wire(served[0]) as client:
        yield client


def sampler_of(wire: Wire) -> str:
    body = {"session_id": wire.session(), "sampling_session_seq_id": 0, "base_model": "tiny"}
    return str(wire.ok("create_sampling_session", body)["sampling_session_id"])


def ask(sampler: str, seq: int, **change) -> dict:
    settings = {"max_tokens": 2, **change.pop("sampling_params", {})}
    body = {"prompt": PROMPT, "sampling_params": settings, "sampling_session_id": sampler, "seq_id": seq}
    return {**body, **change}


@pytest.mark.parametrize(
    "body",
    [
        b'{"user_metadata": {"x": NaN}}',
        b'{"user_metadata": {"x": [-Infinity]}}',
        b'{"user_metadata": {"x": 1e999}}',
        b'{"user_metadata": {"x": "\\ud800"}}',
        b'{"user_metadata": {"\\uDFFF": 1}}',
        b'{"user_metadata": {"x": "\xed\xa0\x80"}}',
        b'{"user_metadata": ' + b"[" * 100_000,
        b'{"user_metadata": {"x": ' + b"9" * 5000 + b"}}",
    ],
)
def test_what_is_no_json_is_refused_before_it_is_kept(wire, body):
    """Kept, each would make every later list of it a failure."""
    answer = wire.http.post("create_session", content=body)
    assert (answer.status_code, "the body is no JSON" in answer.json()["error"]) == (400, True), answer.text
    assert wire.http.get("sessions").status_code == 200


def test_letters_of_any_script_are_kept_as_they_are(wire):
    said = {"é": "雪 \U0001f600", "pair": "\U0001f600"}
    body = json.dumps({"user_metadata": said}).encode()  # written as pairs of surrogates
    session = wire.http.post("create_session", content=body).json()["session_id"]
    assert wire.http.get(f"sessions/{session}").json()["user_metadata"] == said


@pytest.mark.parametrize("name", ["\ud800", "\x00", "é" * 3000, "../../etc/passwd", "a:b:c", ":create", "x:1"])
def test_a_name_of_nothing_is_not_found(wire, name):
    quoted = json.dumps(name).encode()
    for route, field in (("get_info", "model_id"), ("retrieve_future", "request_id"), ("weights_info", "tinker_path")):
        answer = wire.http.post(route, content=b'{"%s": %s}' % (field.encode(), quoted))
        assert answer.status_code in (400, 404), answer.text


def test_numbers_without_end_in_an_address_are_refused(wire):
    digits = "9" * 5000
    assert wire.http.get(f"training_runs?limit={digits}").status_code == 400
    assert wire.http.get(f"sessions?offset={digits}").status_code == 400
    assert wire.http.get(f"files/run/name/{digits}/signature/file").status_code == 403


@pytest.mark.parametrize("seconds", [0, -1, 10**12, 10**15])
def test_an_end_beyond_the_calendar_is_refused_and_lists_work_on(wire, seconds):
    model = wire.model(wire.session())
    wire.json(wire.ok("save_weights", {"model_id": model, "seq_id": 1, "path": "x"})["request_id"])
    answer = wire.http.put(f"training_runs/{model}/checkpoints/weights/x/ttl", json={"ttl_seconds": seconds})
    assert answer.status_code == 400, answer.text
    assert wire.http.get("checkpoints").status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"num_samples": 3_000_000_000},
        {"num_samples": 0},
        {"sampling_params": {"max_tokens": 10**30}},
        {"sampling_params": {"max_tokens": 0}},
        {"sampling_params": {"top_k": 10**30}},
        {"sampling_params": {"top_k": -2}},
        {"sampling_params": {"stop": [2**40]}},
        {"sampling_params": {"temperature": None}},
        {"topk_sample_logprobs": 10**6},
        {"topk_prompt_logprobs": 10**6},
        {"num_samples": 4096, "topk_sample_logprobs": 500, "sampling_params": {"max_tokens": 1000}},
        {"seq_id": 10**30},
    ],
    ids=str,
)
def test_more_than_can_be_sampled_is_the_clients_mistake(wire, change):
    """At once: 429 would be asked again for ever, and a list of three billion names ends the server."""
    began = time.monotonic()
    status, answer = wire.post("asample", ask(sampler_of(wire), 0, **change))
    assert status == 400, answer
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize(
    "settings", [{"max_tokens": 10**9, "stop": [0, 1, 2]}, {"top_k": 2**40}, {"seed": -3}, {"seed": 2**63 + 5}], ids=str
)
def test_a_number_that_is_only_large_is_taken(wire, settings):
    sampler = sampler_of(wire)
    kinds = [
        wire.result(wire.ok("asample", ask(sampler, seq, sampling_params=settings))["request_id"]) for seq in (0, 1)
    ]
    assert kinds[0][0] == "application/x-protobuf", kinds[0]
    assert "seed" not in settings or kinds[0] == kinds[1]


@pytest.mark.parametrize("change", [{"rank": 0}, {"rank": 10**9}, {"rank": 2**70}, {"seed": 2**80}])
def test_a_model_that_cannot_be_made_is_the_clients_mistake(wire, change):
    body = {"session_id": wire.session(), "model_seq_id": 0, "base_model": "tiny", "lora_config": {"rank": 4, **change}}
    status, answer = wire.post("create_model", body)
    if status == 200:
        answer = wire.json(answer["request_id"])
    assert answer["category"] == "user", answer


@pytest.mark.parametrize(
    ("route", "wrong"),
    [
        ("optim_step", {"adam_params": {"learning_rate": None}}),  # what the SDK makes of NaN
        ("optim_step", {"adam_params": {"learning_rate": "high"}}),
        ("optim_step", {"adam_params": None}),
        ("save_weights", {"path": 5}),
        ("save_weights", {"path": "x", "ttl_seconds": 2**70}),
        ("save_weights_for_sampler", {"sampling_session_seq_id": "0"}),
        ("save_weights_external", {}),
        ("load_weights", {}),
    ],
    ids=str,
)
def test_a_mistake_in_a_request_takes_its_number_and_no_default(wire, route, wrong):
    """Refused without taking it, it would leave a gap that all that comes after waits for."""
    model = wire.model(wire.session())
    answer = wire.json(wire.ok(route, {"model_id": model, "seq_id": 1, **wrong})["request_id"])
    assert answer["category"] == "user", answer
    assert wire.json(wire.ok("save_weights", {"model_id": model, "seq_id": 2, "path": "y"})["request_id"])["path"]


def test_a_body_that_does_not_come_is_not_waited_for(served, wire, monkeypatch):
    monkeypatch.setattr(app, "BODY_S", 0.3)
    port = int(served[0].rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(b"POST /api/v1/create_session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        assert slow.recv(4096).split(b"\r\n")[0].split()[1] == b"408"
    assert wire.session()


def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_failure(served, wire, capfd):
    port = int(served[0].rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as gone:
        gone.sendall(b"POST /api/v1/create_session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        time.sleep(0.3)
    time.sleep(0.3)
    assert wire.session()
    assert "Traceback" not in capfd.readouterr().err


def test_a_page_of_another_site_reaches_nothing(served):
    """A page may send a plain POST to any address; only its origin tells."""
    url = f"{served[0]}/api/v1/create_session"
    for origin, status in (("http://evil.example", 403), ("null", 403), (served[0], 200)):
        answer = httpx.post(url, content=b"{}", headers={"Origin": origin, "Content-Type": "text/plain"})
        assert answer.status_code == status, origin


@pytest.mark.parametrize(
    ("host", "status"),
    [("LOCALHOST:1", 200), ("[::1]:80", 200), ("[::1]", 200), ("", 403), ("localhost.evil", 403), ("127.0.0.1.x", 403)],
)
def test_only_this_machine_is_a_name_for_it(served, host, status):
    answer = httpx.get(f"{served[0]}/api/v1/healthz", headers={"Host": host})
    assert answer.status_code in ((status,) if host else (400, 403)), answer.text


def test_samples_cancelled_in_a_storm_leave_no_room_taken(served, wire):
    """Also those that are cancelled before they began."""
    sampler = sampler_of(wire)
    endless = {"max_tokens": 2000, "stop": []}

    def storm(first: int) -> None:
        with Wire(served[0]) as own:
            for seq in range(first, first + 10):
                request = own.ok("asample", ask(sampler, seq, num_samples=3, sampling_params=endless))["request_id"]
                own.ok("cancel_future", {"request_id": request})
                assert b"cancelled" in own.result(request)[1]

    threads = [threading.Thread(target=storm, args=(100 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    deadline = time.monotonic() + 20
    while served[1]._hub.sampling.sequences and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served[1]._hub.sampling.sequences == 0


def test_a_sample_cancelled_before_it_began_is_counted_out_and_answered(tmp_path):
    """Nothing of a task that is cancelled at once ever runs, not even its `finally`."""
    import asyncio

    from tinsmith.adapters.serve.hub import Hub
    from tinsmith.wire import requests

    async def work():
        hub = Hub({"tiny": bootstrap.load_model("tiny")}, tmp_path, lambda _: None)
        session = hub.create_session(requests.CreateSession())
        name = hub.create_sampling_session(requests.CreateSamplingSession(session, 0, base_model="tiny"))
        request = requests.parse(requests.Sample, json.dumps(ask(name, 0)).encode())
        request_id, _ = hub.sample(request)
        hub.futures.cancel(request_id)
        outcome = await hub.futures.wait(request_id, 5.0)
        left = hub.sampling.sequences
        await hub.stop()
        return outcome, left

    outcome, left = asyncio.run(work())
    assert outcome is not None
    assert b"cancelled" in outcome.body
    assert left == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "secret"}, "begins with tml-"),
        ({"key": ""}, "begins with tml-"),
        ({"host": "::"}, "needs key="),
        ({"directory": "taken"}, "no directory can be made there"),
        ({"directory": "taken/below"}, "no directory can be made there"),
    ],
    ids=str,
)
def test_what_it_cannot_start_with_is_said_in_a_line(tmp_path, change, message):
    (tmp_path / "taken").write_text("a file")
    directory = tmp_path / change.pop("directory", "served")
    with pytest.raises(ConfigError, match=message):
        bootstrap.open_server({"tiny": "tiny"}, directory, **change)


def test_an_address_of_six_is_named_so_that_it_can_be_asked(tmp_path):
    try:
        server = bootstrap.open_server({"tiny": "tiny"}, tmp_path, host="::1", note=lambda _: None)
    except ConfigError:
        pytest.skip("this machine has no IPv6")
    with server.running() as url:
        assert url.startswith("http://[::1]:")
        assert httpx.get(f"{url}/api/v1/healthz").status_code == 200


def test_a_hundred_models_are_not_in_memory_at_once(tmp_path, monkeypatch):
    """Nor between two rounds of housekeeping; each is there when it is asked for."""
    monkeypatch.setattr(hub, "SWEEP_S", 3600.0)
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path, note=lambda _: None)
    most = 0
    with server.running() as url, Wire(url) as wire:
        session = wire.session()
        models = []
        for number in range(30):
            models.append(wire.model(session, number, seed=number % 2))
            most = max(most, len(server._hub.runs))
        assert most <= hub.MAX_OPEN + 2
        rows = [wire.logprobs(wire.ok("forward_backward", scoring(model))["request_id"])[0][0] for model in models]
        assert all(np.array_equal(row, rows[i % 2]) for i, row in enumerate(rows))


def test_others_are_heard_between_large_requests_that_begin_at_once(tmp_path, monkeypatch):
    """Eight may go to the trainer in one go, each read for milliseconds."""
    monkeypatch.setattr(training, "LARGE", 10)
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path, note=lambda _: None)
    turns: list[int] = []
    with server.running() as url, Wire(url) as wire:
        model = wire.model(wire.session())
        run = server._hub.runs[model]
        drain = run._drain

        def counted() -> None:
            before = len(run._running)
            drain()
            turns.append(len(run._running) - before)

        monkeypatch.setattr(run, "_drain", counted)
        for seq in range(8, 0, -1):
            last = wire.ok("forward_backward", scoring(model, seq))["request_id"]
        for seq in range(1, 9):
            wire.logprobs(f"{last.rsplit(':', 1)[0]}:{seq}")
    assert max(turns) == 1


def scoring(model: str, seq: int = 1) -> bytes:
    batch = Batch.of([Datum(tokens=np.array([8, 9, 10]), targets=np.array([9, 10, 11]), weights=np.ones(3))])
    return wire_training.encode_request(model, seq, batch, LossSpec("cross_entropy"), forward_only=True)
