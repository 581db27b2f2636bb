"""A server that was killed is, when it comes back, the server that its clients knew."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from wire_client import Process, Wire

from tinsmith import bootstrap
from tinsmith.domain.datums import Batch, Datum
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import AdamW, Lora, LossSpec
from tinsmith.wire import sampling, training

STEPS = 8
LOSS = LossSpec("cross_entropy")
PROMPT = [1, 20, 30]


def batches(step: int) -> list[Batch]:
    """Two batches a step, so that gradients wait on the server between requests."""
    rng = np.random.default_rng(step)

    def datum() -> Datum:
        tokens = rng.integers(7, 500, 12)
        return Datum(tokens=tokens[:-1], targets=tokens[1:], weights=np.ones(11))

    return [Batch.of([datum() for _ in range(3)]) for _ in range(2)]


@contextmanager
def calm_run() -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """The same work on the engine itself: logprobs of each batch, and greedy tokens at the end."""
    model = bootstrap.load_model("tiny")
    trainer = model.trainer(lora=Lora(rank=4, unembed=True), seed=0)
    seen = []
    for step in range(STEPS):
        for batch in batches(step):
            seen.append(trainer.forward_backward(batch, LOSS).result().logprobs)
        trainer.optim_step(AdamW(1e-2, eps=1e-8)).result()
    with trainer.sampler().result() as sampler:
        completion = sampler.sample(np.array(PROMPT), SamplingParams(max_tokens=6, temperature=0)).result()
    try:
        yield seen, completion.completions[0].tokens
    finally:
        trainer.close()


@pytest.mark.parametrize(
    ("killed_after", "snapshot_every_s"),
    [({1}, None), ({0, 5, 6, 10}, None), ({2, 3}, 0.0), ({7, 14, 20, 23}, 0.0)],
    ids=["gradient", "often", "between-snapshots", "late-snapshots"],
)
def test_kill_it_anywhere_and_training_goes_on_to_the_same_bits(tmp_path, killed_after, snapshot_every_s):
    """`killed_after`: numbers of requests after whose acknowledgement, before any result was had, it is killed. With
    snapshots after every step a restart begins at one, else it does all again."""
    with (
        calm_run() as (expected, tokens),
        Process(tmp_path / "state", snapshot_every_s=snapshot_every_s) as server,
        Wire(server.url) as wire,
    ):
        session = wire.session()
        model = wire.model(session)
        pending: list[str] = []
        seq = 0

        def submit(path: str, body: object) -> str:
            nonlocal seq
            request = wire.ok(path, body)["request_id"]
            if seq - 1 in killed_after:
                server.kill()
                server.start()
            return str(request)

        for step in range(STEPS):
            for batch in batches(step):
                seq += 1
                pending.append(submit("forward_backward", training.encode_request(model, seq, batch, LOSS)))
            seq += 1
            adam = {"learning_rate": 1e-2, "eps": 1e-8}
            submit("optim_step", {"model_id": model, "seq_id": seq, "adam_params": adam})
        got = [np.concatenate(wire.logprobs(request)[0]) for request in pending]
        assert [g.tobytes() for g in got] == [e.tobytes() for e in expected]

        seq += 1
        save = {"model_id": model, "seq_id": seq, "sampling_session_seq_id": 0}
        saved = wire.json(wire.ok("save_weights_for_sampler", save)["request_id"])
        server.kill()
        server.start()
        ask = {
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": PROMPT}]},
            "sampling_params": {"max_tokens": 6, "temperature": 0.0},
            "sampling_session_id": saved["sampling_session_id"],
            "seq_id": 0,
        }
        _, body = wire.result(wire.ok("asample", ask)["request_id"])
        sampled, _, _ = sampling.decode_result(body)
        assert sampled[0].tokens.tolist()[: len(tokens)] == tokens.tolist()[: len(sampled[0].tokens)]
        snapshots = list((tmp_path / "state" / "states").rglob("snapshot-*"))
        assert len(snapshots) == (0 if snapshot_every_s is None else 1)


def test_what_was_named_is_there_after_a_restart_and_a_result_can_be_had_twice(tmp_path):
    with Process(tmp_path / "state") as server, Wire(server.url) as wire:
        session = wire.session()
        model = wire.model(session)
        batch = batches(0)[0]
        request = wire.ok("forward_backward", training.encode_request(model, 1, batch, LOSS))["request_id"]
        first = wire.result(request)
        saved = wire.json(wire.ok("save_weights", {"model_id": model, "seq_id": 2, "path": "kept"})["request_id"])
        server.kill()
        server.start()
        assert wire.result(request) == first
        assert wire.ok("forward_backward", training.encode_request(model, 1, batch, LOSS))["request_id"] == request
        runs = wire.http.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
        assert [c["tinker_path"] for c in runs] == [saved["path"]]
        body = {"session_id": session, "model_seq_id": 1, "path": saved["path"], "optimizer": True}
        other = wire.json(wire.ok("load_weights", body)["request_id"])["model_id"]
        again = wire.ok("forward_backward", training.encode_request(other, 1, batch, LOSS))["request_id"]
        assert np.concatenate(wire.logprobs(again)[0]).tobytes() == np.concatenate(wire.logprobs(request)[0]).tobytes()


def test_a_sample_that_was_asked_of_a_killed_server_is_asked_again(tmp_path):
    """410 is what makes the client sample again; an answer to the same seed is the same."""
    with Process(tmp_path / "state") as server, Wire(server.url) as wire:
        session = wire.session()
        made = wire.ok(
            "create_sampling_session", {"session_id": session, "sampling_session_seq_id": 0, "base_model": "tiny"}
        )
        ask = {
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": PROMPT}]},
            "sampling_params": {"max_tokens": 20, "seed": 5},
            "sampling_session_id": made["sampling_session_id"],
            "seq_id": 0,
        }
        request = wire.ok("asample", ask)["request_id"]
        before = wire.result(request)
        server.kill()
        server.start()
        assert wire.post("retrieve_future", {"request_id": request})[0] == 410
        assert wire.result(wire.ok("asample", ask)["request_id"]) == before


def test_it_stops_at_once_while_a_client_waits(tmp_path):
    with Process(tmp_path / "state") as server, Wire(server.url) as wire:
        model = wire.model(wire.session())
        later = training.encode_request(model, 2, batches(0)[0], LOSS)  # number 1 never comes
        request = wire.ok("forward_backward", later)["request_id"]
        with httpx.Client(base_url=f"{server.url}/api/v1/", timeout=30.0) as other:
            answers: list[object] = []

            def ask() -> None:
                answers.append(other.post("retrieve_future", json={"request_id": request}).json())

            waiting = threading.Thread(target=ask)
            waiting.start()
            time.sleep(0.5)
            began = time.monotonic()
            assert server.stop(signal.SIGTERM) == 0
            assert time.monotonic() - began < 5.0
            waiting.join(5.0)
        assert answers == [{"type": "try_again", "request_id": request, "queue_state": "active"}]


def test_a_second_server_in_the_directory_is_refused(tmp_path):
    with Process(tmp_path / "state"):
        second = Process(tmp_path / "state")
        with pytest.raises(AssertionError, match="another server works here"):
            second.start()
