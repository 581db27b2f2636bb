"""Whatever happens to the server or to its disk: what it said stays true, and nothing piles up."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time

import httpx
import numpy as np
import pytest
from wire_client import Process, Wire

from tinsmith import bootstrap
from tinsmith.adapters.serve import hub, operations, sampling, training
from tinsmith.adapters.serve.outcome import Outcome
from tinsmith.adapters.serve.store import Store
from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import JournalError
from tinsmith.ports.trainer import LossSpec
from tinsmith.wire import training as wire_training

PROMPT = {"chunks": [{"type": "encoded_text", "tokens": [1, 40, 60]}]}


def forward_backward(model: str, seq: int, *, forward_only: bool = False, tokens: int = 6, above: int = 0) -> bytes:
    ids = np.random.default_rng(seq).integers(7, 500, tokens) + above
    batch = Batch.of([Datum(tokens=ids[:-1], targets=ids[1:], weights=np.ones(tokens - 1))])
    return wire_training.encode_request(model, seq, batch, LossSpec("cross_entropy"), forward_only=forward_only)


def optim_step(model: str, seq: int) -> dict:
    return {"model_id": model, "seq_id": seq, "adam_params": {"learning_rate": 1e-2}}


def opened(directory):
    return bootstrap.open_server({"tiny": "tiny"}, directory, note=lambda _: None)


def states(directory) -> list[str]:
    return sorted(f.name for f in (directory / "states").glob("*/*"))


def sample(wire: Wire, sampler: str, seq: int) -> tuple[str, bytes]:
    settings = {"max_tokens": 3, "temperature": 0.0, "stop": []}
    body = {"prompt": PROMPT, "sampling_params": settings, "sampling_session_id": sampler, "seq_id": seq}
    return wire.result(wire.ok("asample", body)["request_id"])


def story(wire: Wire) -> list[object]:
    """What a client does in the life of a session, and all that it is told; its session is called S."""
    session = wire.session()
    model = wire.model(session)
    seen: list[object] = []

    def told(route: str, body: object) -> None:
        kind, text = wire.result(wire.ok(route, body)["request_id"])
        if kind == "application/x-protobuf":
            logprobs, _ = wire_training.decode_result(text)
            seen.append([row.tolist() for row in logprobs])
        else:
            seen.append(json.loads(text.decode().replace(session, "S")))

    told("forward_backward", forward_backward(model, 1))
    told("forward_backward", forward_backward(model, 2, forward_only=True))  # between a gradient and its step
    told("optim_step", optim_step(model, 3))
    told("save_weights", {"model_id": model, "seq_id": 4, "path": "a"})
    told("save_weights_for_sampler", {"model_id": model, "seq_id": 5, "sampling_session_seq_id": 0})
    told("save_weights_external", {"model_id": model, "seq_id": 6, "path": "e"})
    told("forward_backward", forward_backward(model, 7))
    told("optim_step", optim_step(model, 8))
    told("forward_backward", forward_backward(model, 9, forward_only=True))
    told("load_weights", {"model_id": model, "seq_id": 10, "path": f"tinker://{model}/weights/a", "optimizer": True})
    told("forward_backward", forward_backward(model, 11, forward_only=True))
    begun = {"session_id": session, "model_seq_id": 1, "path": f"tinker://{model}/weights/a", "optimizer": True}
    told("load_weights", begun)
    other = f"{session}:train:1"
    told("forward_backward", forward_backward(other, 1))
    told("optim_step", optim_step(other, 2))
    told("forward_backward", forward_backward(other, 3, forward_only=True))
    _, body = sample(wire, f"{session}:sample:0", 0)
    seen.append(body)
    seen.append(wire.http.get(f"training_runs/{model}/checkpoints").json()["checkpoints"][0]["size_bytes"])
    wire.ok(f"sessions/{session}/finish", {"reason": {"type": "success"}})
    return seen


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("calm")).running() as url, Wire(url) as wire:
        return story(wire)


KILLER = """
import os, sys
from tinsmith.adapters.serve import training
from tinsmith.adapters.serve.store import Store
from tinsmith.cli import main
training.SNAPSHOT_EVERY_S = 0.0
real, left = Store.{method}, [{nth}]
def work(self, *values, **named):
    left[0] -= 1
    if left[0] == 0 and {before}:
        os.kill(os.getpid(), 9)
    value = real(self, *values, **named)
    if left[0] == 0:
        os.kill(os.getpid(), 9)
    return value
Store.{method} = work
sys.exit(main())
"""


class Patient(Wire):
    """Starts a server that died, without what killed it, and asks again."""

    def __init__(self, server: Process) -> None:
        super().__init__(server.url)
        self.server, self.deaths = server, 0

    def again(self, work):
        try:
            return work()
        except httpx.TransportError:
            self.server.process.wait(30)
            self.server.program, self.deaths = ["-m", "tinsmith"], self.deaths + 1
            self.server.start()
            return work()

    def post(self, path, body):
        return self.again(lambda: super(Patient, self).post(path, body))

    def result(self, request):
        return self.again(lambda: super(Patient, self).result(request))


@pytest.mark.parametrize(
    ("method", "nth", "before"),
    [
        ("add_model", 1, False),
        ("add_model", 2, False),  # of a model that begins with a state
        ("accept", 3, False),  # taken, and its client never told
        ("record", 4, True),  # saved and listed, its client not told
        ("record", 10, True),  # loaded, not said
        ("set_snapshot", 1, True),  # the file is there, its record is not
        ("set_snapshot", 2, False),  # and the older one still is
        ("add_checkpoint", 1, True),
        ("add_checkpoint", 2, True),  # of a download
        ("add_sampler", 1, True),
        ("finish_session", 1, False),  # finished, nothing cleared away
        ("forget_work", 2, True),
    ],
)
def test_killed_between_any_two_writes_it_tells_its_client_the_same(tmp_path, calm, method, nth, before):
    server = Process(tmp_path / "state")
    server.program = ["-c", KILLER.format(method=method, nth=nth, before=before)]
    with server, Patient(server) as wire:
        assert story(wire) == calm
        assert wire.deaths == 1
        server.kill()
        server.start()  # what was left between two writes is cleared away at a start
        assert states(tmp_path / "state") == ["external_weights-6", "weights-4-a.safetensors"]


def test_a_full_disk_is_said_and_nothing_is_lost_when_there_is_room_again(tmp_path):
    server = opened(tmp_path)
    with server.running() as url, Wire(url) as wire:
        model = wire.model(wire.session())
        database = server._hub.store._db
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        body = forward_backward(model, 1, tokens=900)
        for _ in range(3):
            database.execute(f"PRAGMA max_page_count = {pages}")
            status, answer = wire.post("forward_backward", forward_backward(model, 1, tokens=900))
            assert (status, "full" in answer["error"]) == (500, True), answer
            database.execute("PRAGMA max_page_count = 1000000")
            assert wire.session(), "the next request finds the records in order"
        assert wire.logprobs(wire.ok("forward_backward", body)["request_id"])
        assert wire.json(wire.ok("optim_step", optim_step(model, 2))["request_id"])["metrics"]["optim/step"] == 1


@pytest.mark.parametrize("refused", [1, 2, 3])
@pytest.mark.parametrize("wrong", [False, True])
def test_what_could_not_be_written_down_was_not_done(tmp_path, monkeypatch, refused, wrong):
    """Work begins before its request is on disk. Where that fails it leaves no gradient, no result and no gap."""

    def told(directory, full: bool):
        server = opened(directory)
        with server.running() as url, Wire(url) as wire:
            model = wire.model(wire.session())
            sent = [("forward_backward", forward_backward(model, seq)) for seq in (1, 2)]
            sent += [("optim_step", optim_step(model, 3)), ("forward_backward", forward_backward(model, 4))]
            results = []
            for seq, (path, body) in enumerate(sent, 1):
                if full and seq == refused:
                    bad = forward_backward(model, seq, above=10**6) if path == "forward_backward" and wrong else body
                    monkeypatch.setattr(server._hub.store, "accept", disk_full)
                    status, answer = wire.post(path, bad)
                    assert (status, "full" in answer["error"]) == (500, True)
                    monkeypatch.undo()
                kind, result = wire.result(wire.ok(path, body)["request_id"])
                results.append(wire_training.decode_result(result)[0][0].tolist() if "proto" in kind else result)
            return results

    def disk_full(*_):
        raise JournalError("database or disk is full")

    assert told(tmp_path / "full", True) == told(tmp_path / "calm", False)


def test_a_result_that_cannot_be_written_down_reaches_its_client(tmp_path, monkeypatch):
    server = opened(tmp_path)
    with server.running() as url, Wire(url) as wire:
        model = wire.model(wire.session())

        def full(*_):
            raise JournalError("database or disk is full")

        monkeypatch.setattr(server._hub.store, "record", full)
        ids = [wire.ok("forward_backward", forward_backward(model, seq))["request_id"] for seq in range(1, 12)]
        first = [wire.result(request) for request in ids]
        monkeypatch.undo()
    with opened(tmp_path).running() as url, Wire(url) as wire:
        assert [wire.result(request) for request in ids] == first


def test_a_result_that_was_lost_behind_a_snapshot_is_said_to_be(tmp_path, monkeypatch):
    """There is nothing to do it again from; a client must not ask for ever."""
    monkeypatch.setattr(training, "SNAPSHOT_EVERY_S", -1.0)
    server = opened(tmp_path)
    with server.running() as url, Wire(url) as wire:
        model = wire.model(wire.session())
        record = server._hub.store.record
        monkeypatch.setattr(server._hub.store, "record", lambda m, seq, o: None if seq == 1 else record(m, seq, o))
        wire.result(wire.ok("forward_backward", forward_backward(model, 1))["request_id"])
        wire.json(wire.ok("optim_step", optim_step(model, 2))["request_id"])
        wire.result(wire.ok("forward_backward", forward_backward(model, 3))["request_id"])
    with opened(tmp_path).running() as url, Wire(url) as wire:
        assert "could not be written down" in wire.json(f"{model}:1")["error"]
        assert wire.json(f"{model}:2")["metrics"]["optim/step"] == 1


def test_a_directory_that_was_moved_is_the_same_server(tmp_path):
    with opened(tmp_path / "here").running() as url, Wire(url) as wire:
        session = wire.session()
        model = wire.model(session)
        path = wire.json(wire.ok("save_weights", {"model_id": model, "seq_id": 1, "path": "a"})["request_id"])["path"]
        before = states(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    with opened(tmp_path / "there").running() as url, Wire(url) as wire:
        assert states(tmp_path / "there") == before
        body = {"session_id": session, "model_seq_id": 1, "path": path, "optimizer": True}
        asked = wire.ok("load_weights", body)["request_id"]
        assert wire.json(asked)["model_id"] == f"{session}:train:1"
    with opened(tmp_path / "there").running() as url, Wire(url) as wire:
        assert wire.json(asked) == {"model_id": f"{session}:train:1", "type": "load_weights"}


@pytest.mark.parametrize("damage", [b"not a database at all", b""])
def test_a_damaged_record_is_said_or_begun_anew(tmp_path, damage):
    (tmp_path / "server.sqlite").write_bytes(damage)
    if damage:
        with pytest.raises(JournalError, match=r"server\.sqlite"):
            opened(tmp_path)
    else:
        opened(tmp_path)._socket.close()


def test_a_damaged_page_is_the_servers_failure_and_it_lives_on(tmp_path):
    with opened(tmp_path).running() as url, Wire(url) as wire:
        for _ in range(50):
            wire.session()
    file = tmp_path / "server.sqlite"
    sqlite3.connect(file).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    try:
        server = opened(tmp_path)
    except JournalError as error:
        assert "server.sqlite" in str(error)  # noqa: PT017 - said before it serves is as good
        return
    with server.running() as url, Wire(url) as wire:
        status, answer = wire.post("create_session", {})
        assert (status, answer["category"]) == (500, "server")
        assert wire.http.get("healthz").status_code == 200


def test_unnamed_samplers_do_not_pile_up_and_the_one_in_use_stays(tmp_path, monkeypatch):
    """A run makes one a step, and may keep asking the first one, its reference."""
    monkeypatch.setattr(sampling, "KEPT_UNNAMED", 4)
    monkeypatch.setattr(sampling, "TOUCH_EVERY_S", 0.0)
    server = opened(tmp_path)
    with server.running() as url, Wire(url) as wire:
        session = wire.session()
        model = wire.model(session)
        names = []
        for number in range(20):
            body = {"model_id": model, "seq_id": number + 1, "sampling_session_seq_id": number}
            answer = wire.json(wire.ok("save_weights_for_sampler", body)["request_id"])
            names.append(answer["sampling_session_id"])
            assert sample(wire, names[0], number)[0] == "application/x-protobuf"
        deadline = time.monotonic() + 10
        while len(states(tmp_path)) > 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert states(tmp_path) == sorted(f"sampler-{n}.safetensors" for n in (0, 17, 18, 19))
        assert server._hub.open_samplers <= sampling.KEPT_IDLE
        assert len(server._hub.sampling._sessions) <= 4
        assert sample(wire, names[19], 100)[0] == "application/x-protobuf"
        status, answer = wire.post(
            "asample",
            {"prompt": PROMPT, "sampling_params": {"max_tokens": 1}, "sampling_session_id": names[5], "seq_id": 0},
        )
        assert (status, "with a name" in answer["error"]) == (404, True)


def test_a_sampler_reads_on_when_its_name_is_saved_over(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "KEPT_IDLE", 0)
    with opened(tmp_path).running() as url, Wire(url) as wire:
        session = wire.session()
        model = wire.model(session)

        def save(seq: int) -> str:
            body = {"model_id": model, "seq_id": seq, "path": "latest"}
            return str(wire.json(wire.ok("save_weights_for_sampler", body)["request_id"])["path"])

        path = save(1)
        body = {"session_id": session, "sampling_session_seq_id": 7, "model_path": path}
        sampler = wire.ok("create_sampling_session", body)["sampling_session_id"]
        first = sample(wire, sampler, 0)
        wire.ok("forward_backward", forward_backward(model, 2))
        wire.ok("optim_step", {**optim_step(model, 3), "adam_params": {"learning_rate": 0.1}})
        save(4)
        assert sample(wire, sampler, 1) == first
        wire.ok(f"sessions/{session}/finish", {"reason": {"type": "success"}})
        assert states(tmp_path) == ["sampler_weights-4-latest.safetensors"]


def test_weights_deleted_under_a_sampler_or_a_model_are_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "KEPT_IDLE", 0)
    with opened(tmp_path).running() as url, Wire(url) as wire:
        session = wire.session()
        model = wire.model(session)
        path = wire.json(wire.ok("save_weights", {"model_id": model, "seq_id": 1, "path": "a"})["request_id"])["path"]
        body = {"session_id": session, "sampling_session_seq_id": 7, "model_path": path}
        sampler = wire.ok("create_sampling_session", body)["sampling_session_id"]
        assert wire.http.delete(f"training_runs/{model}/checkpoints/weights/a").status_code == 204
        answer = json.loads(sample(wire, sampler, 0)[1])
        assert (answer["category"], "were deleted" in answer["error"]) == ("user", True)
        answer = wire.json(
            wire.ok("load_weights", {"model_id": model, "seq_id": 2, "path": path, "optimizer": True})["request_id"]
        )
        assert (answer["category"], "no checkpoint" in answer["error"]) == ("user", True)


def test_a_download_and_weights_of_another_shape_cannot_be_loaded(tmp_path):
    with opened(tmp_path).running() as url, Wire(url) as wire:
        session = wire.session()
        model = wire.model(session)
        body = {"model_id": model, "seq_id": 1, "path": "e"}
        download = wire.json(wire.ok("save_weights_external", body)["request_id"])["path"]
        path = wire.json(wire.ok("save_weights", {"model_id": model, "seq_id": 2, "path": "a"})["request_id"])["path"]
        load = {"session_id": session, "model_seq_id": 1, "path": download, "optimizer": True}
        assert wire.post("load_weights", load)[0] == 400
        sampler = {"session_id": session, "sampling_session_seq_id": 1, "model_path": download}
        assert wire.post("create_sampling_session", sampler)[0] == 400
        other = wire.model(session, 2, rank=8)
        for seq, wrong in ((1, path), (2, download)):
            answer = wire.json(
                wire.ok("load_weights", {"model_id": other, "seq_id": seq, "path": wrong, "optimizer": True})[
                    "request_id"
                ]
            )
            assert answer["category"] == "user", answer
        shutil.rmtree(tmp_path / "states")
        assert (
            wire.http.get(f"training_runs/{model}/checkpoints/external_weights/e/external_weights_urls").status_code
            == 404
        )


def test_of_two_queued_saves_of_one_name_the_second_is_refused(tmp_path):
    """Also when the first was not done when the second came."""
    with opened(tmp_path).running() as url, Wire(url) as wire:
        model = wire.model(wire.session())
        for route in ("save_weights", "save_weights_external"):
            first = {"save_weights": 2, "save_weights_external": 5}[route]
            ids = [
                wire.ok(route, {"model_id": model, "seq_id": seq, "path": "same"})["request_id"]
                for seq in (first, first + 1)
            ]
            wire.ok("forward_backward", forward_backward(model, first - 1))  # until now both waited
            one, two = (wire.json(request) for request in ids)
            assert one["path"].endswith("/same")
            assert (two["category"], "save under another name" in two["error"]) == ("user", True)
        assert states(tmp_path) == ["external_weights-5", "weights-2-same.safetensors"]


def test_requests_behind_one_that_never_comes_end_and_the_model_works_on(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "MAX_GAP_S", 0.5)
    monkeypatch.setattr(hub, "SWEEP_S", 0.1)
    with opened(tmp_path).running() as url, Wire(url) as wire:
        model = wire.model(wire.session())
        first = wire.logprobs(wire.ok("forward_backward", forward_backward(model, 1, forward_only=True))["request_id"])
        behind = [wire.ok("forward_backward", forward_backward(model, seq))["request_id"] for seq in (3, 5)]
        for request in behind:
            answer = wire.json(request)
            assert (answer["category"], "request 2 of" in answer["error"]) == ("user", True)
        late = wire.json(wire.ok("forward_backward", forward_backward(model, 2))["request_id"])
        assert "not carried out" in late["error"]
        body = forward_backward(model, 1, forward_only=True)
        again = wire_training.decode_request(body)
        body = wire_training.encode_request(model, 6, again.batch, again.loss, forward_only=True)
        after = wire.ok("forward_backward", body)["request_id"]
        assert wire.logprobs(after)[0][0].tolist() == first[0][0].tolist()
    with opened(tmp_path).running() as url, Wire(url) as wire:
        assert "not carried out" in wire.json(behind[0])["error"]
        assert wire.logprobs(after)[0][0].tolist() == first[0][0].tolist()


def test_a_number_far_ahead_is_told_to_come_again(tmp_path, monkeypatch):
    """Else one request could make a gap of two billion."""
    monkeypatch.setattr(training, "MAX_AHEAD", 4)
    with opened(tmp_path).running() as url, Wire(url) as wire:
        model = wire.model(wire.session())
        assert wire.post("forward_backward", forward_backward(model, 2**31 - 1))[0] == 429
        for seq in range(1, 12):
            last = wire.ok("forward_backward", forward_backward(model, seq, forward_only=True))["request_id"]
        wire.logprobs(last)
    with opened(tmp_path).running() as url, Wire(url) as wire:
        wire.logprobs(wire.ok("forward_backward", forward_backward(model, 12))["request_id"])


def test_scoring_alone_is_not_done_again_after_a_restart(tmp_path, monkeypatch):
    """A model that is only asked for logprobs must not keep every request that it ever had."""
    monkeypatch.setattr(training, "SNAPSHOT_EVERY_S", -1.0)
    server = opened(tmp_path)
    with server.running() as url, Wire(url) as wire:
        model = wire.model(wire.session())
        for seq in range(1, 6):
            wire.logprobs(wire.ok("forward_backward", forward_backward(model, seq, forward_only=True))["request_id"])
        deadline = time.monotonic() + 10
        while server._hub.store.model(model).snapshot_seq < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(body for _, _, body, _ in server._hub.store.requests_after(model, 0))


def test_a_model_put_on_disk_in_the_middle_of_its_work_loses_none_of_it(tmp_path, monkeypatch):
    """Again and again, while requests and snapshots are on their way."""
    monkeypatch.setattr(training, "SNAPSHOT_EVERY_S", -1.0)
    results = []
    for disturbed in (False, True):
        with opened(tmp_path / str(disturbed)).running() as url, Wire(url) as wire:
            model = wire.model(wire.session())
            stop = threading.Event()

            def unload(url=url, model=model, stop=stop) -> None:
                with Wire(url) as other:
                    while not stop.wait(0.03):
                        other.post("unload_model", {"model_id": model})

            thread = threading.Thread(target=unload)
            if disturbed:
                thread.start()
            ids = []
            for seq in range(1, 25):
                if seq % 2:
                    ids.append(wire.ok("forward_backward", forward_backward(model, seq))["request_id"])
                else:
                    ids.append(wire.ok("optim_step", optim_step(model, seq))["request_id"])
                time.sleep(0.01)
            stop.set()
            if disturbed:
                thread.join(60)
            results.append([body for _, body in map(wire.result, ids)])
    assert results[0] == results[1]


def test_one_directory_is_one_servers_also_through_another_path(tmp_path):
    first = opened(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    try:
        with pytest.raises(JournalError, match="another server"):
            Store(tmp_path / "link")
    finally:
        first._socket.close()
        first._hub.store.close()


def test_hundreds_of_requests_that_failed_are_done_again_in_turn(tmp_path, monkeypatch):
    """They leave no snapshot behind them, so that a model that is opened again does all of them in one go: one inside
    the other, they reached the depth at which Python stops, and what it stopped was a request that had come off."""
    monkeypatch.setattr(training, "SNAPSHOT_EVERY_S", 1e9)
    failing = 700
    with opened(tmp_path).running() as url, Wire(url) as wire:
        model = wire.model(wire.session(), seed=3)
        ids = np.arange(7, 13)
        batch = Batch.of([Datum(tokens=ids[:-1], targets=ids[1:], weights=np.ones(5))])
        for seq in range(1, failing + 1):
            wire.ok("forward_backward", wire_training.encode_request(model, seq, batch, LossSpec("ppo")))
        wire.ok("forward_backward", forward_backward(model, failing + 1))
        wire.ok("optim_step", optim_step(model, failing + 2))
        wire.ok("forward_backward", forward_backward(model, failing + 3, forward_only=True))
        before = wire.result(f"{model}:{failing + 3}")
        assert "needs the column" in wire.json(f"{model}:{failing}")["error"]
        wire.ok("unload_model", {"model_id": model})
        again = forward_backward(model, failing + 3)
        body = wire_training.decode_request(again)
        again = wire_training.encode_request(model, failing + 4, body.batch, body.loss, forward_only=True)
        assert wire.result(wire.ok("forward_backward", again)["request_id"]) == before


def test_a_result_that_a_client_had_is_not_replaced_by_a_failure_to_do_it_again(tmp_path, monkeypatch):
    """The engine gives the same bits for the same calls; where something else keeps it from that, it is said."""
    monkeypatch.setattr(training, "SNAPSHOT_EVERY_S", 1e9)
    notes: list[str] = []
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path, note=notes.append)
    with server.running() as url, Wire(url) as wire:
        model = wire.model(wire.session(), seed=3)
        first = wire.result(wire.ok("forward_backward", forward_backward(model, 1))["request_id"])
        wire.ok("unload_model", {"model_id": model})

        def broken(*_: object) -> None:
            raise JournalError("memory is full")

        monkeypatch.setattr(operations.Operations, "_forward_backward", broken)
        failed = wire.json(wire.ok("forward_backward", forward_backward(model, 2))["request_id"])
        assert (failed["error"], failed["category"]) == ("memory is full", "server")
        assert wire.result(f"{model}:1") == first
    assert [note for note in notes if "request 1 came off and fails now" in note and "memory is full" in note]
    assert Store(tmp_path).outcome(model, 1) == (True, Outcome(first[1], first[0]))
