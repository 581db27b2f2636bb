"""The laws of forward passes and gradients: the first half of `TrainerContract`.

Gradients are seen through the optimizer: with eps far above every entry of the gradient g, a step of AdamW is
w - lr * g / eps, so one probing step (then `load_state`) reads g off the weights. `weights` is the side door that makes
this possible: it reads the trained weights by another way than the methods under test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import CapabilityError
from tinsmith.domain.tokens import floats
from tinsmith.ports.trainer import AdamW, LossSpec, Trainer
from tinsmith.testing.contracts._common import (
    LAW,
    Vector,
    assert_close,
    random_batch,
    replaced,
    row_lengths,
    seeds,
    wait,
)

CROSS_ENTROPY = LossSpec("cross_entropy")
PROBE = AdamW(learning_rate=1e8, beta1=0.0, beta2=0.0, eps=1e6)
"""Moves each weight by 100 times its gradient. Betas of 0 forget older moments, and make the bias correction 1."""


class GradientLaws:
    """Laws of what a Trainer computes, and how they look at one."""

    def make(self) -> Trainer:
        """A new trainer, always with the same weights; trainers made by one class share where states are saved."""
        raise NotImplementedError

    def weights(self, trainer: Trainer) -> Vector:
        """All trained weights as one vector, read by a side door, after all submitted work is done."""
        raise NotImplementedError

    tolerance = 1e-3
    """Relative error allowed of a gradient (single precision and a change of summation order)."""

    # How the laws look at a trainer

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Trainer]:
        trainer = self.make()
        try:
            yield trainer
        finally:
            trainer.close()

    @contextlib.contextmanager
    def warm(self) -> Iterator[Trainer]:
        """A trainer whose weights are all in general position (adapters often start at exactly zero)."""
        with self.fresh() as trainer:
            wait(trainer.forward_backward(random_batch(trainer.info, [6, 6], 12345), CROSS_ENTROPY))
            wait(trainer.optim_step(AdamW(learning_rate=0.02)))
            yield trainer

    def probe(self, trainer: Trainer, submit: Callable[[], Any]) -> Vector:
        """The gradient that `submit` adds; the trainer is as before afterwards."""
        handle = wait(trainer.save_state("contract-probe"))
        try:
            submit()
            before = self.weights(trainer)
            wait(trainer.optim_step(PROBE))
            moved = before - self.weights(trainer)
            return moved * PROBE.eps / (PROBE.learning_rate - np.abs(moved))
        finally:
            wait(trainer.load_state(handle))

    def loss(self, trainer: Trainer, batch: Batch) -> float:
        logprobs = wait(trainer.forward(batch)).logprobs.astype(np.float64)
        return -float(np.sum(batch.weights * logprobs))

    # Forward

    @LAW
    @given(lengths=row_lengths, seed=seeds)
    def test_forward_gives_the_logprob_of_each_target_whatever_else_is_in_the_batch(
        self, lengths: list[int], seed: int
    ) -> None:
        with self.warm() as trainer:
            batch = random_batch(trainer.info, lengths, seed)
            together = wait(trainer.forward(batch)).logprobs
            assert together.shape == batch.targets.shape
            assert together.dtype == np.float32
            assert np.all(together <= 1e-6)
            alone = [wait(trainer.forward(batch.take([i]))).logprobs for i in range(len(batch))]
            np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-4)

    def test_probabilities_of_all_targets_sum_to_one(self) -> None:
        with self.warm() as trainer:
            vocab = trainer.info.vocab_size
            rows = random_batch(trainer.info, [1] * vocab, 0)
            batch = replaced(rows, tokens=np.full(vocab, 1), targets=np.arange(vocab))
            total = np.exp(wait(trainer.forward(batch)).logprobs.astype(np.float64)).sum()
            assert total == pytest.approx(1.0, abs=1e-4)

    @LAW
    @given(seed=seeds, cut=st.integers(1, 5))
    def test_a_logprob_depends_on_no_later_token(self, seed: int, cut: int) -> None:
        with self.warm() as trainer:
            batch, other = (random_batch(trainer.info, [6], seed + i) for i in range(2))
            tokens = np.concatenate([batch.tokens[:cut], other.tokens[cut:]])
            changed = wait(trainer.forward(replaced(batch, tokens=tokens))).logprobs
            np.testing.assert_allclose(changed[:cut], wait(trainer.forward(batch)).logprobs[:cut], atol=1e-5)

    def test_forward_adds_no_gradient(self) -> None:
        with self.warm() as trainer:
            batch = random_batch(trainer.info, [5], 1)

            def with_forward() -> None:
                wait(trainer.forward_backward(batch, CROSS_ENTROPY))
                wait(trainer.forward(batch))

            alone = self.probe(trainer, lambda: wait(trainer.forward_backward(batch, CROSS_ENTROPY)))
            assert_close(self.probe(trainer, with_forward), alone, self.tolerance, "with a forward")

    # Gradients

    @LAW
    @given(lengths=row_lengths, seed=seeds)
    def test_forward_backward_reports_what_forward_does_and_the_weighted_sum_as_loss(
        self, lengths: list[int], seed: int
    ) -> None:
        with self.warm() as trainer:
            batch = random_batch(trainer.info, lengths, seed)
            result = wait(trainer.forward_backward(batch, CROSS_ENTROPY))
            np.testing.assert_allclose(result.logprobs, wait(trainer.forward(batch)).logprobs, atol=1e-4)
            assert result.loss == pytest.approx(self.loss(trainer, batch), rel=1e-4, abs=1e-4)

    @LAW
    @given(seed=seeds)
    def test_the_gradient_is_the_slope_of_the_loss(self, seed: int) -> None:
        """Central difference along the gradient: (L(w - s g) - L(w + s g)) / 2 = -s |g|^2, up to s^3."""
        with self.warm() as trainer:
            batch = random_batch(trainer.info, [6, 4], seed)
            found = self.probe(trainer, lambda: wait(trainer.forward_backward(batch, CROSS_ENTROPY)))
            square = float(found @ found)
            step = AdamW(learning_rate=0.02 / square * 1e6, beta1=0.0, beta2=0.0, eps=1e6)
            handle = wait(trainer.save_state("contract-slope"))
            losses = []
            for sign in (1, -1):
                wait(trainer.backward(batch, floats(-sign * batch.weights)))
                wait(trainer.optim_step(step))
                losses.append(self.loss(trainer, batch))
                wait(trainer.load_state(handle))
            assert (losses[1] - losses[0]) / 2 == pytest.approx(0.02, rel=0.05)

    @LAW
    @given(first=row_lengths, second=row_lengths, seed=seeds)
    def test_gradients_accumulate_to_that_of_one_big_batch(
        self, first: list[int], second: list[int], seed: int
    ) -> None:
        """And so they are sums over tokens and datums, not means."""
        with self.warm() as trainer:
            whole = random_batch(trainer.info, first + second, seed)
            a, b = whole.take(range(len(first))), whole.take(range(len(first), len(whole)))

            def parts() -> None:
                trainer.forward_backward(a, CROSS_ENTROPY)
                wait(trainer.forward_backward(b, CROSS_ENTROPY))

            one = self.probe(trainer, lambda: wait(trainer.forward_backward(whole, CROSS_ENTROPY)))
            assert_close(self.probe(trainer, parts), one, self.tolerance, "accumulated and whole")

    @LAW
    @given(lengths=row_lengths, seed=seeds, factor=st.sampled_from([-2.0, 0.25, 3.0]))
    def test_the_gradient_is_linear_in_the_weights(self, lengths: list[int], seed: int, factor: float) -> None:
        with self.warm() as trainer:
            batch = random_batch(trainer.info, lengths, seed)
            scaled = replaced(batch, weights=batch.weights * factor)
            one = self.probe(trainer, lambda: wait(trainer.forward_backward(batch, CROSS_ENTROPY)))
            many = self.probe(trainer, lambda: wait(trainer.forward_backward(scaled, CROSS_ENTROPY)))
            assert_close(many, factor * one, self.tolerance, f"{factor} times the weights")

    @LAW
    @given(lengths=st.lists(st.integers(2, 6), min_size=1, max_size=3), seed=seeds)
    def test_a_target_of_weight_zero_takes_no_part(self, lengths: list[int], seed: int) -> None:
        with self.warm() as trainer:
            batch = random_batch(trainer.info, lengths, seed)
            rng = np.random.default_rng(seed)
            mask = rng.random(batch.num_tokens) < 0.5
            weights = np.where(mask, batch.weights, 0)
            plain = replaced(batch, weights=weights)
            targets = np.where(mask, batch.targets, rng.integers(0, trainer.info.vocab_size, batch.num_tokens))
            other = replaced(batch, weights=weights, targets=targets)
            results = []

            def submit(which: Batch) -> Callable[[], None]:
                return lambda: results.append(wait(trainer.forward_backward(which, CROSS_ENTROPY)).loss)

            assert_close(
                self.probe(trainer, submit(plain)), self.probe(trainer, submit(other)), 1e-5, "other unused targets"
            )
            assert results[0] == pytest.approx(results[1], rel=1e-5, abs=1e-5)

    @LAW
    @given(lengths=row_lengths, seed=seeds)
    def test_backward_is_cross_entropy_weighted_by_minus_the_gradient(self, lengths: list[int], seed: int) -> None:
        with self.warm() as trainer:
            batch = random_batch(trainer.info, lengths, seed)
            gradients = floats(np.random.default_rng(seed).normal(size=batch.targets.shape))
            weighted = replaced(batch, weights=-gradients)
            by_gradient = self.probe(trainer, lambda: wait(trainer.backward(batch, gradients)))
            by_weight = self.probe(trainer, lambda: wait(trainer.forward_backward(weighted, CROSS_ENTROPY)))
            assert_close(by_gradient, by_weight, self.tolerance, "backward and weighted cross-entropy")

    @LAW
    @given(length=st.integers(1, 5), seed=seeds)
    def test_k_targets_add_up_like_k_rows_of_one(self, length: int, seed: int) -> None:
        with self.warm() as trainer:
            soft = random_batch(trainer.info, [length], seed, targets_per_token=3)
            if not trainer.capabilities.soft_targets:
                with pytest.raises(CapabilityError):
                    trainer.forward_backward(soft, CROSS_ENTROPY)
                return
            hard = [
                Batch(offsets=soft.offsets, tokens=soft.tokens, targets=soft.targets[:, k], weights=soft.weights[:, k])
                for k in range(3)
            ]

            def each() -> None:
                for batch in hard:
                    wait(trainer.forward_backward(batch, CROSS_ENTROPY))

            together = self.probe(trainer, lambda: wait(trainer.forward_backward(soft, CROSS_ENTROPY)))
            assert_close(together, self.probe(trainer, each), self.tolerance, "K targets and K batches")
            columns = [wait(trainer.forward(batch)).logprobs for batch in hard]
            np.testing.assert_allclose(wait(trainer.forward(soft)).logprobs, np.stack(columns, axis=1), atol=1e-4)
