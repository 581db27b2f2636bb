"""The faulty wrapper fails as it is told, and only then."""

import numpy as np
import pytest

from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import CancelledWorkError, DeadlineError, WorldError
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import AdamW
from tinsmith.testing import FakeTrainer, MemoryBlobStore, MemorySource
from tinsmith.testing.faulty import Cancelled, Fail, Hang, Late, Raise, Torn, at_random, faulty

BATCH = Batch.of([Datum(tokens=[1, 2], targets=[2, 3], weights=[1.0, 1.0])])


def test_the_nth_call_fails_as_scheduled_and_the_others_do_not():
    trainer = faulty(
        FakeTrainer(),
        {
            ("forward", 1): Raise(WorldError("refused")),
            ("forward", 2): Fail(WorldError("reset")),
            ("forward", 3): Hang(),
            ("forward", 4): Cancelled(),
            ("optim_step", 1): Fail(WorldError("lost")),
        },
    )
    with pytest.raises(WorldError, match="refused"):
        trainer.forward(BATCH)
    with pytest.raises(WorldError, match="reset"):
        trainer.forward(BATCH).result()
    hung = trainer.forward(BATCH)
    with pytest.raises(DeadlineError):
        hung.result(0.01)
    assert hung.cancel()
    with pytest.raises(CancelledWorkError):
        trainer.forward(BATCH).result()
    assert trainer.forward(BATCH).result().logprobs.shape == (2,)
    trainer.backward(BATCH, np.ones(2, np.float32))
    with pytest.raises(WorldError, match="lost"):
        trainer.optim_step(AdamW(learning_rate=0.1)).result()
    trainer.backward(BATCH, np.ones(2, np.float32))
    assert trainer.optim_step(AdamW(learning_rate=0.1)).result().step == 2, "the lost step was carried out"
    assert trainer.info.name == "fake"


def test_a_faulty_trainers_sampler_is_faulty_too():
    trainer = faulty(FakeTrainer(), {("sample", 2): Fail(WorldError("gone"))})
    params, prompt = SamplingParams(max_tokens=1), np.array([1], np.int32)
    trainer.sampler().result().sample(prompt, params).result()
    with pytest.raises(WorldError, match="gone"):
        trainer.sampler().result().sample(prompt, params).result()


def test_a_torn_write_leaves_part_of_the_bytes():
    store = MemoryBlobStore()
    with pytest.raises(WorldError):
        faulty(store, {("put", 1): Torn(0.5)}).put("a", b"12345678")
    assert store.get("a") == b"1234"


def test_late_waits_and_rows_can_fail():
    slept = []
    store = faulty(MemoryBlobStore({"a": b""}), {("get", 1): Late(3.0)}, sleep=slept.append)
    assert store.get("a") == b""
    assert slept == [3.0]
    rows = iter(faulty(MemorySource([{"n": 1}, {"n": 2}]), {("__iter__", 2): Raise(WorldError("cut"))}))
    assert next(rows) == {"n": 1}
    with pytest.raises(WorldError):
        next(rows)


def test_a_random_schedule_comes_again_and_keeps_its_rate():
    fault = Late(0.0)
    drawn = [at_random(3, 0.2, [fault], ["put"])("put", call) for call in range(2000)]
    assert drawn == [at_random(3, 0.2, [fault], ["put"])("put", call) for call in range(2000)]
    assert 300 < sum(f is fault for f in drawn) < 500
    assert at_random(3, 1.0, [fault], ["put"])("get", 1) is None
