"""A loss in a server's form (sums, weights in cross-entropy alone) is the loss that was asked for, or is refused."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.adapters.tinker.data import LOSSES, named
from tinsmith.domain import losses
from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import CapabilityError, ConfigError, ShapeError
from tinsmith.ports.trainer import LossSpec
from tinsmith.testing.backend import FakeTrainer
from tinsmith.testing.faulty import faulty
from tinsmith.workflows.loss_step import forward_backward

OPTIONS = {
    "cross_entropy": [{}, {"reduction": "token_sum"}, {"reduction": "token_mean"}, {"reduction": "sequence_mean"}],
    "importance_sampling": [{}, {"reduction": "token_sum"}],
    "ppo": [{}, {"clip_high_threshold": 1.28}, {"clip_low_threshold": 0.5, "reduction": "token_sum"}],
    "cispo": [{}, {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}],
    "dro": [{}, {"beta": 0.3}],
}


def batch_of(seed: int, *, low: float = 0.0, ones: bool = False) -> Batch:
    rng = np.random.default_rng(seed)
    rows = []
    for length in rng.integers(1, 7, rng.integers(1, 4)):
        weights = np.ones(length) if ones else np.round(rng.uniform(low, 2, length) * (rng.random(length) < 0.7), 2)
        rows.append(
            Datum(
                tokens=rng.integers(0, 9, length),
                targets=rng.integers(0, 9, length),
                weights=weights,
                logprobs=-rng.uniform(0, 3, length),
                advantages=rng.normal(size=length),
            )
        )
    return Batch.of(rows)


@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(LOSSES)), data=st.data())
def test_what_the_server_does_with_the_named_form_has_the_gradient_that_was_asked_for(seed, name, data):
    options = data.draw(st.sampled_from(OPTIONS[name]))
    batch = batch_of(seed, low=-2.0 if name == "cross_entropy" else 0.0, ones=name == "dro")
    if name == "cross_entropy" and options.get("reduction", "token_sum") != "token_sum":
        batch = batch_of(seed, low=0.1)
        if not batch.weights.any():
            return
    learner = -np.random.default_rng(seed + 1).uniform(0, 3, batch.num_tokens).astype(np.float32)
    sent = named(batch, LossSpec(name, options))
    there = sent.batch if name == "cross_entropy" else evolve(sent.batch, weights=np.ones(batch.num_tokens, np.float32))
    asked = losses.evaluate(batch, learner, name, options)
    got = losses.evaluate(there, learner, sent.name, sent.config)
    np.testing.assert_allclose(got.gradient, asked.gradient, rtol=1e-5, atol=1e-7)
    assert got.value == pytest.approx(asked.value, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "batch"),
    [
        (LossSpec("gspo"), batch_of(1)),
        (LossSpec("ppo", {"reduction": "token_mean"}), batch_of(1)),
        (LossSpec("ppo", {"kl_coef": 0.1}), batch_of(1)),
        (LossSpec("cross_entropy", {"entropy_coef": 0.1}), batch_of(1)),
        (LossSpec("importance_sampling", {"zero_advantage_rows": "drop"}), batch_of(1)),
        (LossSpec("dro"), evolve(batch_of(1), weights=np.full(batch_of(1).num_tokens, 0.5, np.float32))),
    ],
)
def test_what_has_no_such_form_is_refused_with_the_way_out(loss, batch):
    with pytest.raises(CapabilityError, match="loss_step"):
        named(batch, loss)


def test_mistakes_are_said_here():
    with pytest.raises(ConfigError):
        named(batch_of(1), LossSpec("ppo", {"clip_hi": 1.0}))
    with pytest.raises(ShapeError, match="below 0"):
        named(evolve(batch_of(1), weights=-np.ones(batch_of(1).num_tokens, np.float32)), LossSpec("ppo"))
    with pytest.raises(ShapeError, match="advantages"):
        named(evolve(batch_of(1), advantages=None), LossSpec("cispo"))


class NarrowTrainer(FakeTrainer):
    """Knows ppo by name, and not with means."""

    capabilities = evolve(FakeTrainer.capabilities, losses=frozenset({"cross_entropy", "ppo"}))

    def forward_backward(self, batch, loss):
        named(batch, loss)
        raise AssertionError("it was asked for by name")


def test_a_loss_whose_options_a_server_does_not_know_goes_the_other_way():
    narrow, plain = NarrowTrainer(), FakeTrainer()
    batch, loss = batch_of(3, low=0.5), LossSpec("ppo", {"reduction": "token_mean"})
    got = forward_backward(faulty(narrow, {}), batch, loss).result(5)
    expected = forward_backward(plain, batch, loss).result(5)
    assert got.loss == expected.loss
    assert got.metrics == expected.metrics
