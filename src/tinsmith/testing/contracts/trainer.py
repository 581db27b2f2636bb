"""The contract of a Trainer. Subclass it, supply `make` and `weights`, and pytest collects the laws.

Those of forward passes and gradients are in `gradients`; here is what the optimizer, the queue of work and saved states
do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import CancelledWorkError, NonFiniteError, TinsmithError, TrainingError
from tinsmith.domain.tokens import Floats
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Sampler, SamplingParams
from tinsmith.ports.trainer import AdamW, LossSpec, Trainer, TrainResult
from tinsmith.testing.contracts._common import (
    LAW,
    assert_close,
    assert_refused,
    random_batch,
    replaced,
    seeds,
    wait,
)
from tinsmith.testing.contracts.gradients import CROSS_ENTROPY, GradientLaws


class TrainerContract(GradientLaws):
    """Laws of every Trainer."""

    # The optimizer

    @LAW
    @given(
        seed=seeds,
        beta1=st.sampled_from([0.0, 0.5, 0.9]),
        beta2=st.sampled_from([0.0, 0.9, 0.99]),
        decay=st.sampled_from([0.0, 0.1, 5.0]),
        clip=st.sampled_from([0.0, 0.3, 3.0]),
    )
    def test_steps_are_those_of_adamw(self, seed: int, beta1: float, beta2: float, decay: float, clip: float) -> None:
        """Three steps against the textbook in double precision (Loshchilov and Hutter, arXiv:1711.05101, alg. 2)."""
        with self.warm() as trainer:
            # A new trainer has no moments; the warm one has those of one step. Both must be carried on: a step with
            # beta1 = beta2 = 0 and learning rate 0 leaves moments that are the gradient itself, which is known.
            batch = random_batch(trainer.info, [5, 3], seed)

            def submit() -> None:
                wait(trainer.forward_backward(batch, CROSS_ENTROPY))

            gradient = self.probe(trainer, submit)
            submit()
            start = wait(trainer.optim_step(AdamW(learning_rate=0.0, beta1=0.0, beta2=0.0))).step
            first, second = gradient, gradient**2
            eps = float(np.sqrt(np.mean(gradient**2)))
            for step in range(start + 1, start + 4):
                before = self.weights(trainer)
                gradient = self.probe(trainer, submit)
                norm = float(np.linalg.norm(gradient))
                limit = clip * norm
                if 0 < limit < norm:
                    gradient = gradient * limit / norm
                first = beta1 * first + (1 - beta1) * gradient
                second = beta2 * second + (1 - beta2) * gradient**2
                unbiased = first / (1 - beta1**step)
                expected = before * (1 - 0.01 * decay) - 0.01 * unbiased / (np.sqrt(second / (1 - beta2**step)) + eps)
                submit()
                result = wait(
                    trainer.optim_step(
                        AdamW(
                            learning_rate=0.01,
                            beta1=beta1,
                            beta2=beta2,
                            eps=eps,
                            weight_decay=decay,
                            grad_clip_norm=limit,
                        )
                    )
                )
                assert result.step == step
                assert result.metrics.get("optim/grad_norm", norm) == pytest.approx(norm, rel=1e-2)
                assert_close(self.weights(trainer) - before, expected - before, 1e-2, f"step {step}")

    def test_a_step_uses_the_gradients_up(self) -> None:
        with self.warm() as trainer:
            used, batch = random_batch(trainer.info, [5], 3), random_batch(trainer.info, [4], 4)

            def after_a_step() -> None:
                wait(trainer.forward_backward(used, CROSS_ENTROPY))
                wait(trainer.optim_step(AdamW(learning_rate=0.0)))
                wait(trainer.forward_backward(batch, CROSS_ENTROPY))

            alone = self.probe(trainer, lambda: wait(trainer.forward_backward(batch, CROSS_ENTROPY)))
            assert_close(self.probe(trainer, after_a_step), alone, self.tolerance, "after a step")

    def test_a_step_without_a_gradient_is_refused_and_changes_nothing(self) -> None:
        """Not of a new trainer, not twice in a row, not after a loaded state; training then goes on undisturbed."""
        settings = AdamW(learning_rate=0.05, weight_decay=1.0)

        def refused(trainer: Trainer) -> None:
            before = self.weights(trainer)
            with pytest.raises(TrainingError, match="forward_backward"):
                wait(trainer.optim_step(settings))
            assert self.weights(trainer).tobytes() == before.tobytes()

        with self.fresh() as disturbed, self.fresh() as whole:
            refused(disturbed)
            for trainer in (disturbed, whole):
                self.training(trainer, 3, awaiting=True)
            refused(disturbed)
            handle = wait(disturbed.save_state("contract-no-gradient"))
            wait(disturbed.forward_backward(random_batch(disturbed.info, [4], 5), CROSS_ENTROPY))
            wait(disturbed.load_state(handle))
            refused(disturbed)
            for trainer in (disturbed, whole):
                self.training(trainer, 7, awaiting=True)
            assert_close(self.weights(disturbed), self.weights(whole), 1e-6, "trained on as if it had not been asked")

    def test_a_learning_rate_of_zero_moves_nothing(self) -> None:
        with self.warm() as trainer:
            before = self.weights(trainer)
            wait(trainer.forward_backward(random_batch(trainer.info, [5], 3), CROSS_ENTROPY))
            wait(trainer.optim_step(AdamW(learning_rate=0.0, weight_decay=1.0)))
            assert self.weights(trainer).tobytes() == before.tobytes()

    # Order, state, isolation

    def training(self, trainer: Trainer, seed: int, *, awaiting: bool) -> list[Floats]:
        """Two steps with a forward after each, awaited one by one or all at the end."""
        pendings: list[Pending[TrainResult]] = []
        for step in range(2):
            batch = random_batch(trainer.info, [4, 2], seed + step)
            pendings.append(trainer.forward_backward(batch, CROSS_ENTROPY))
            if awaiting:
                wait(pendings[-1])
            stepped = trainer.optim_step(AdamW(learning_rate=0.05))
            if awaiting:
                wait(stepped)
            pendings.append(trainer.forward(batch))
            if awaiting:
                wait(pendings[-1])
        return [wait(pending).logprobs for pending in pendings]

    @LAW
    @given(seed=seeds)
    def test_work_is_done_in_the_order_of_submission(self, seed: int) -> None:
        with self.fresh() as one, self.fresh() as two:
            for a, b in zip(
                self.training(one, seed, awaiting=True), self.training(two, seed, awaiting=False), strict=True
            ):
                if one.capabilities.deterministic:
                    assert a.tobytes() == b.tobytes(), "a deterministic trainer gives the same bits"
                np.testing.assert_allclose(a, b, atol=1e-4)
            assert_close(self.weights(one), self.weights(two), 1e-4, "weights")

    @LAW
    @given(seed=seeds)
    def test_a_saved_state_is_gone_back_to_exactly(self, seed: int) -> None:
        """Weights, moments, step count: training goes on from it as it did the first time, in another trainer too."""
        with self.warm() as trainer:
            handle = wait(trainer.save_state(f"contract-exact-{seed}"))
            saved = self.weights(trainer)
            logprobs = self.training(trainer, seed, awaiting=False)
            trained = self.weights(trainer)
            assert not np.array_equal(saved, trained)
            wait(trainer.forward_backward(random_batch(trainer.info, [3], seed), CROSS_ENTROPY))  # is to be forgotten
            wait(trainer.load_state(handle))
            assert self.weights(trainer).tobytes() == saved.tobytes()
            with self.fresh() as another:
                wait(another.load_state(handle))
                for who in (trainer, another):
                    again = self.training(who, seed, awaiting=False)
                    if who.capabilities.deterministic:
                        assert [a.tobytes() for a in again] == [b.tobytes() for b in logprobs]
                        assert self.weights(who).tobytes() == trained.tobytes()
                    assert_close(self.weights(who), trained, 1e-5, "trained again")
            wait(trainer.delete_state(handle))
            with pytest.raises(TinsmithError):
                wait(trainer.load_state(handle))

    def test_a_state_without_its_optimizer_is_its_weights_in_a_new_trainer(self) -> None:
        with self.warm() as trainer:
            handle = wait(trainer.save_state("contract-weights-alone"))
            saved = self.weights(trainer)
            wait(trainer.load_state(handle, optimizer=False))
            assert self.weights(trainer).tobytes() == saved.tobytes()
            wait(trainer.forward_backward(random_batch(trainer.info, [3], 1), CROSS_ENTROPY))
            assert wait(trainer.optim_step(AdamW(1e-3))).step == 1
            moved = self.weights(trainer)
            wait(trainer.load_state(handle))
            wait(trainer.forward_backward(random_batch(trainer.info, [3], 1), CROSS_ENTROPY))
            wait(trainer.optim_step(AdamW(1e-3)))
            assert moved.tobytes() != self.weights(trainer).tobytes(), "its moments were not taken back"

    def test_saving_leaves_waiting_gradients_alone(self) -> None:
        with self.warm() as trainer:
            batch = random_batch(trainer.info, [4], 5)

            def saved_between() -> None:
                wait(trainer.forward_backward(batch, CROSS_ENTROPY))
                wait(trainer.save_state("contract-between"))

            plain = self.probe(trainer, lambda: wait(trainer.forward_backward(batch, CROSS_ENTROPY)))
            assert_close(self.probe(trainer, saved_between), plain, 1e-5, "saved between")

    @LAW
    @given(seed=seeds)
    def test_a_sampler_keeps_the_weights_it_was_made_of(self, seed: int) -> None:
        with self.warm() as trainer:
            batch = random_batch(trainer.info, [6], seed)
            full = np.append(batch.tokens, batch.targets[-1])
            scored_as = replaced(batch, targets=full[1:])
            before = wait(trainer.forward(scored_as)).logprobs
            pending = trainer.sampler()  # not awaited: what is submitted next must not reach it
            trainer.forward_backward(scored_as, CROSS_ENTROPY)
            step = wait(trainer.optim_step(AdamW(learning_rate=0.05))).step
            old, new = wait(pending), wait(trainer.sampler())
            after = wait(trainer.forward(scored_as)).logprobs
            assert np.abs(after - before).max() > 1e-3
            np.testing.assert_allclose(wait(old.score(full))[1:], before, atol=1e-4)
            np.testing.assert_allclose(wait(new.score(full))[1:], after, atol=1e-4)
            assert (old.policy_version, new.policy_version) == (step - 1, step)
            old.close()
            new.close()

    # What is refused

    def refusals(self, trainer: Trainer) -> dict[str, Callable[[], Any]]:
        info = trainer.info
        batch = random_batch(info, [3, 4], 0)

        def with_id(column: str, value: int) -> Batch:
            ids = getattr(batch, column).copy()
            ids[5] = value
            return replaced(batch, **{column: ids})

        def with_weight(value: float) -> Batch:
            weights = batch.weights.copy()
            weights[2] = value
            return replaced(batch, weights=weights)

        long = random_batch(info, [info.context + 1], 0)
        empty = Batch(offsets=np.zeros(2, np.int64), tokens=[], targets=[], weights=[])
        return {
            "token past the vocabulary": lambda: trainer.forward(with_id("tokens", info.vocab_size)),
            "negative token": lambda: trainer.forward_backward(with_id("tokens", -1), CROSS_ENTROPY),
            "target past the vocabulary": lambda: trainer.forward_backward(
                with_id("targets", info.vocab_size), CROSS_ENTROPY
            ),
            "negative target": lambda: trainer.backward(with_id("targets", -1), batch.weights),
            "row past the context": lambda: trainer.forward(long),
            "no token": lambda: trainer.forward_backward(empty, CROSS_ENTROPY),
            "gradients of another shape": lambda: trainer.backward(batch, batch.weights[:-1]),
            "unknown loss": lambda: trainer.forward_backward(batch, LossSpec("crossentropy")),
            "weight that is no number": lambda: trainer.forward_backward(with_weight(np.nan), CROSS_ENTROPY),
            "infinite gradient": lambda: trainer.backward(batch, with_weight(np.inf).weights),
        }

    def test_bad_input_is_refused_when_submitted_and_changes_nothing(self) -> None:
        with self.warm() as trainer:
            before, batch = self.weights(trainer), random_batch(trainer.info, [5], 1)

            def after_refusals() -> None:
                assert_refused(self.refusals(trainer))
                wait(trainer.forward_backward(batch, CROSS_ENTROPY))

            alone = self.probe(trainer, lambda: wait(trainer.forward_backward(batch, CROSS_ENTROPY)))
            assert_close(self.probe(trainer, after_refusals), alone, self.tolerance, "a refused call left a gradient")
            assert self.weights(trainer).tobytes() == before.tobytes()

    def overflow(self, trainer: Trainer) -> None:
        """Submit finite input whose gradient is not finite. Default: the largest float32 on many targets at once."""
        batch = random_batch(trainer.info, [6] * 4, 1)
        trainer.backward(batch, np.full(batch.targets.shape, np.finfo(np.float32).max, np.float32))

    def test_a_gradient_that_is_not_finite_is_refused_and_so_is_every_step_queued_behind_it(self) -> None:
        with self.warm() as hurt, self.warm() as whole:
            before = self.weights(hurt)
            handle = wait(hurt.save_state("contract-sound"))
            settings = AdamW(learning_rate=0.1)

            def overflow() -> None:
                self.overflow(hurt)
                wait(hurt.optim_step(settings))

            def queued_behind() -> None:
                hurt.forward_backward(random_batch(hurt.info, [4], 2), CROSS_ENTROPY)
                wait(hurt.optim_step(settings))

            with pytest.raises(NonFiniteError):
                overflow()
            with pytest.raises(TrainingError):
                queued_behind()
            assert self.weights(hurt).tobytes() == before.tobytes()
            wait(hurt.load_state(handle))
            for trainer in (hurt, whole):
                self.training(trainer, 7, awaiting=True)
            assert_close(self.weights(hurt), self.weights(whole), 1e-6, "trained on as if nothing had happened")

    def test_closing_cancels_what_waits_and_refuses_what_comes(self) -> None:
        with self.fresh() as trainer:
            batch = random_batch(trainer.info, [min(64, trainer.info.context)] * 8, 0)
            waiting = [trainer.forward_backward(batch, CROSS_ENTROPY) for _ in range(16)]
            trainer.close()
            cancelled = 0
            for pending in waiting:
                try:
                    wait(pending)
                except CancelledWorkError:
                    cancelled += 1
            assert cancelled, "nothing was cancelled"
            with pytest.raises(TinsmithError):
                wait(trainer.forward(batch))
            trainer.close()

    def test_a_sampler_outlives_its_trainer(self) -> None:
        with self.fresh() as trainer:
            sampler: Sampler = wait(trainer.sampler())
        result = wait(sampler.sample(np.array([1], np.int32), SamplingParams(max_tokens=2)))
        assert 1 <= len(result.completions[0].tokens) <= 2
        sampler.close()
