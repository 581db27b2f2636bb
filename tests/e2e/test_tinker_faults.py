"""What a server can do to a client: each fault passes, or ends the run in one line, from which it goes on."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve
from sdk_sockets import LEFT_OPEN

import tinsmith as ts
from tinsmith import bootstrap
from tinsmith.cli import main
from tinsmith.domain.errors import (
    BudgetError,
    ConfigError,
    DeadlineError,
    NonFiniteError,
    TinsmithError,
    TrainingError,
    WorldError,
)
from tinsmith.testing.contracts._common import random_batch
from tinsmith.testing.faulty_server import (
    Drop,
    Failed,
    FaultyApp,
    Garbled,
    Lost,
    Schedule,
    Stall,
    Status,
    TryAgain,
    always,
)

pytest.importorskip("tinker", reason="needs the extra: tinker")
pytestmark = LEFT_OPEN

CROSS_ENTROPY = ts.LossSpec("cross_entropy")
OPTIM_RESULT = "retrieve_future/OptimStep"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TINKER_API_KEY", "TINKER_BASE_URL", "TINKER_CREDENTIAL_CMD"):
        monkeypatch.delenv(name, raising=False)
    yield
    gc.collect()


@contextlib.contextmanager
def serving(schedule: Schedule) -> Iterator[tuple[str, FaultyApp]]:
    """A server behind the schedule, which may be changed while it runs."""
    server = bootstrap.open_server({"tiny": "tiny"}, Path("server"), note=lambda _: None)
    apps: list[FaultyApp] = []

    def wrap(app):
        apps.append(FaultyApp(app, schedule))
        return apps[0]

    server.wrap(wrap)
    with server.running() as url:
        yield url, apps[0]


@contextlib.contextmanager
def training(schedule: Schedule) -> Iterator[tuple[ts.Trainer, ts.Batch]]:
    with serving(schedule) as (url, _):
        model = ts.open_model("tiny", backend="tinker", base_url=url, timeout_s=60)
        trainer = model.trainer(lora=ts.Lora(rank=2), seed=3)
        try:
            yield trainer, random_batch(evolve(trainer.info, vocab_size=500), [6, 9], 1)
        finally:
            began = time.monotonic()
            trainer.close()
            assert time.monotonic() - began < 15, "closing waits for nobody"


def chats() -> str:
    rows = [
        {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i} is {i % 7}"}]}
        for i in range(12)
    ]
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "data=chats.jsonl"


SL = ["sl-basic", "batch_size=3", "max_steps=4", "checkpoints.every=2", "lora.rank=2", "export=none"]


def lines(run: str) -> list[dict]:
    read = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [{n: v for n, v in line.items() if not n.startswith("time/")} for line in read]


# What passes


def test_what_passes_leaves_no_trace_in_a_run() -> None:
    """Refused and lost requests, lost answers, slow ones and questions in vain: the run is the same, bit for bit."""
    faults = {
        ("create_model", 1): Status(503),
        ("forward_backward", 1): Status(429),
        ("forward_backward", 3): Lost(),
        ("optim_step", 1): Drop(),
        ("optim_step", 2): Lost(),
        ("save_weights", 1): Lost(),
        ("save_weights", 3): Status(409),
        (OPTIM_RESULT, 1): Status(408),
        (OPTIM_RESULT, 2): Status(502),
        (OPTIM_RESULT, 3): TryAgain(),
        ("retrieve_future/ForwardBackward", 1): Drop(),
        ("retrieve_future/ForwardBackward", 2): Stall(0.3),
        ("retrieve_future/ForwardBackward", 3): Status(429),
    }
    words = [*SL, chats()]
    assert main([*words, "log_path=calm"]) == 0
    with serving(faults) as (url, app):
        assert main([*words, "log_path=run", "backend=tinker", f"base_url={url}"]) == 0
        missed = [key for key in faults if app.calls[key[0]] < key[1]]
    assert not missed
    assert lines("run") == lines("calm")


def test_a_sample_whose_result_is_gone_is_drawn_again() -> None:
    faults = {
        ("retrieve_future/Sample", 1): Status(410),
        ("asample", 1): Status(429),
        ("asample", 2): Lost(),
        ("retrieve_future/Sample", 2): Drop(),
    }
    with training(faults) as (trainer, batch):
        params = ts.SamplingParams(max_tokens=5, seed=4)
        with trainer.sampler().result(30) as sampler:
            got = sampler.sample(batch.tokens[:4], params, n=2).result(60)
        with bootstrap.load_model("tiny").sampler() as calm:
            expected = calm.sample(batch.tokens[:4], params, n=2).result(60)
    assert [c.tokens.tolist() for c in got.completions] == [c.tokens.tolist() for c in expected.completions]


# What does not


CASES = {
    "402 when a step is sent": (always("optim_step", Status(402, "no money")), BudgetError, "no money"),
    "402 when it is asked for": (always(OPTIM_RESULT, Status(402, "no money")), BudgetError, "no money"),
    "410": (always(OPTIM_RESULT, Status(410)), WorldError, "no longer has"),
    "401": (always("optim_step", Status(401)), ConfigError, "TINKER_API_KEY"),
    "400": (always("optim_step", Status(400, "beta1 is odd")), ConfigError, "beta1 is odd"),
    "the user's mistake": (always(OPTIM_RESULT, Failed("beta1 is odd", "user")), ConfigError, "beta1 is odd"),
    "the server's failure": (always(OPTIM_RESULT, Failed("out of memory")), WorldError, "out of memory"),
    "not finite": (always(OPTIM_RESULT, Failed("the gradient is not finite", "user")), NonFiniteError, "not finite"),
    "no answer": (always(OPTIM_RESULT, Garbled()), WorldError, "cannot be read"),
    "never there": (always(OPTIM_RESULT, TryAgain()), DeadlineError, "3.0 s"),
    "stalled": (always(OPTIM_RESULT, Stall()), DeadlineError, "3.0 s"),
    "503 for ever": (always("optim_step", Status(503)), DeadlineError, "3.0 s"),
    "429 for ever": (always("optim_step", Status(429)), DeadlineError, "3.0 s"),
    "lost for ever": (always("optim_step", Drop()), DeadlineError, "3.0 s"),
}


@pytest.mark.parametrize(("schedule", "error", "words"), CASES.values(), ids=CASES.keys())
def test_what_does_not_pass_is_raised_as_whose_it_is(schedule: Schedule, error: type, words: str) -> None:
    timeout = 3.0 if error is DeadlineError else 20.0
    with training(schedule) as (trainer, batch):
        trained = trainer.forward_backward(batch, CROSS_ENTROPY)
        stepped = trainer.optim_step(ts.AdamW(0.01))
        trained.result(30)
        with pytest.raises(error, match=words):
            stepped.result(timeout)
        if error is DeadlineError:
            return
        trainer.forward_backward(batch, CROSS_ENTROPY)
        with pytest.raises(TinsmithError):  # and no step is made behind it
            trainer.optim_step(ts.AdamW(0.01)).result(20)


def test_a_step_that_the_server_took_behind_a_failure_makes_the_weights_useless() -> None:
    """The server was asked for the step already; it is refused here, and so is saving what nobody asked for."""
    with training({("retrieve_future/ForwardBackward", 1): Failed("node lost")}) as (trainer, batch):
        sound = trainer.save_state("sound").result(30)
        failed = trainer.forward_backward(batch, CROSS_ENTROPY)
        behind = trainer.optim_step(ts.AdamW(0.01))
        with pytest.raises(WorldError, match="node lost"):
            failed.result(20)
        with pytest.raises(TrainingError, match="not carried out"):
            behind.result(20)
        with pytest.raises(TrainingError, match="although work before it failed"):
            trainer.save_state("unsound").result(20)
        trainer.load_state(sound).result(20)
        trainer.forward_backward(batch, CROSS_ENTROPY)
        assert trainer.optim_step(ts.AdamW(0.01)).result(20).step == 1


def test_a_lost_request_ends_what_is_queued_behind_it() -> None:
    """The server waits for its number, so nothing behind it would ever come."""
    with training({("optim_step", n): Status(400, "odd") for n in range(1, 9)}) as (trainer, batch):
        sound = trainer.save_state("sound").result(30)
        trainer.forward_backward(batch, CROSS_ENTROPY)
        first, *behind = (trainer.optim_step(ts.AdamW(0.01)), trainer.forward(batch), trainer.save_state("more"))
        with pytest.raises(ConfigError, match="odd"):
            first.result(20)
        for pending in behind:
            with pytest.raises(TrainingError):
                pending.result(5)
        trainer.load_state(sound).result(20)
        assert len(trainer.forward(batch).result(20).logprobs) == batch.num_tokens


@pytest.mark.parametrize("name", ["create_session", "create_model", "get_info", "client/dynamic_config"])
def test_a_server_that_stalls_at_the_start_is_not_waited_for(name: str) -> None:
    """Nor by closing (`training` sees to that)."""
    faults = always(name, Stall(), after=1 if name == "client/dynamic_config" else 0)
    with training(faults) as (trainer, batch), pytest.raises(DeadlineError):
        trainer.forward_backward(batch, CROSS_ENTROPY).result(2)


def test_a_state_that_is_not_listed_is_not_saved() -> None:
    def not_in_the_list(name: str, call: int) -> Garbled | None:
        return Garbled(b'{"checkpoints": []}') if name.endswith("/checkpoints") else None

    with training(not_in_the_list) as (trainer, _), pytest.raises(WorldError, match="does not list it"):
        trainer.save_state("a").result(20)


def test_work_before_a_lost_request_still_gives_its_result() -> None:
    """Though it comes after the news of the loss."""
    faults = {("retrieve_future/ForwardBackward", 1): Stall(2.0), ("optim_step", 1): Status(400, "odd")}
    with training(faults) as (trainer, batch):
        before, lost = trainer.forward_backward(batch, CROSS_ENTROPY), trainer.optim_step(ts.AdamW(0.01))
        with pytest.raises(ConfigError, match="odd"):
            lost.result(20)
        assert before.result(20).loss > 0


def test_an_adapter_is_had_by_either_way_that_servers_have() -> None:
    """The archive of a checkpoint, and where there is none, external weights."""

    def no_archives(name: str, call: int) -> Status | None:
        return Status(404) if name.endswith("/archive") else None

    files = []
    for schedule in ({}, no_archives):
        with training(schedule) as (trainer, batch):
            trainer.forward_backward(batch, CROSS_ENTROPY)
            trainer.optim_step(ts.AdamW(0.01))
            got = trainer.export("final", "adapter").result(60)
            files.append({path.name: path.read_bytes() for path in got})
    assert files[0] == files[1]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files[0].keys()


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (Status(402, "no money"), 3, "no money"),
        (Status(401), 2, "TINKER_API_KEY"),
        (Garbled(), 1, "cannot be read"),
    ],
)
def test_a_server_that_refuses_is_told_of_before_any_data_is_read(
    fault: Status | Garbled, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(always("get_server_capabilities", fault)) as (url, _):
        assert main(["sl-basic", "data=nowhere.jsonl", "backend=tinker", f"base_url={url}"]) == code
    said = capsys.readouterr().err.strip()
    assert words in said
    assert len(said.splitlines()) <= 2
    assert "nowhere" not in said


@pytest.mark.parametrize(
    ("schedule", "code", "words"),
    [
        (always(OPTIM_RESULT, TryAgain(), after=3), 1, "step"),
        (always("forward_backward", Status(503), after=3), 1, "step 3"),
        (always("forward_backward", Status(402, "no money"), after=3), 3, "no money"),
        (always(OPTIM_RESULT, Status(410), after=3), 1, "no longer has"),
    ],
    ids=["stalled", "503", "402", "410"],
)
def test_a_run_that_a_server_ended_goes_on_with_the_same_command(
    schedule: Schedule, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [*SL, chats()]
    assert main([*run, "log_path=calm"]) == 0
    with serving(schedule) as (url, app):
        there = [*run, "log_path=run", "backend=tinker", f"base_url={url}"]
        began = time.monotonic()
        assert main([*there, "timeout_s=15" if code == 3 else "timeout_s=8"]) == code
        assert time.monotonic() - began < 60
        assert words in capsys.readouterr().err
        app.schedule = {}
        assert main(there) == 0
    assert lines("run") == lines("calm")
