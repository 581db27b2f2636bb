"""Each law of the trainer contract goes red for a trainer with the fault that it is about.

A mutant is the fake trainer with one fault planted; `CAUGHT_BY` says which laws see it, and every law must be in it.
"""

from typing import ClassVar

import attrs
import numpy as np
import pytest
from faults import SmallTokenizer, laws_of, run_law

from tinsmith.domain.errors import TinsmithError
from tinsmith.ports.pending import Pending
from tinsmith.ports.trainer import OptimResult, TrainResult
from tinsmith.testing import FakeSampler, FakeTrainer, MemoryBlobStore, backend
from tinsmith.testing.contracts import TrainerContract

TOKENIZER = SmallTokenizer()


class Mean(FakeTrainer):
    def _run(self, batch, by_logprob):
        return super()._run(batch, None if by_logprob is None else by_logprob / batch.num_tokens)


class KeepsOnlyTheLastGradient(FakeTrainer):
    def _run(self, batch, by_logprob):
        if by_logprob is not None:
            self._gradient[:] = 0
        return super()._run(batch, by_logprob)


class ForwardTrains(FakeTrainer):
    def _run(self, batch, by_logprob):
        return super()._run(batch, -batch.weights.astype(float) if by_logprob is None else by_logprob)


class ZeroWeightLeaks(FakeTrainer):
    def _run(self, batch, by_logprob):
        return super()._run(batch, None if by_logprob is None else by_logprob - 0.01 * (by_logprob == 0))


class SquaresTheWeights(FakeTrainer):
    def _run(self, batch, by_logprob):
        return super()._run(batch, None if by_logprob is None else by_logprob * np.abs(by_logprob))


class _Model(backend._Model):
    """Faults of the forward pass, by name."""

    fault = ""

    def rows(self, tokens, starts):
        if self.fault == "rows leak into each other":
            starts = np.zeros_like(starts)
        rows = super().rows(tokens, starts)
        if self.fault == "sees the future":
            rows[:-1, -1] = tokens[1:]
        return rows

    def logprobs(self, rows):
        return super().logprobs(rows) - (0.01 if self.fault == "not normalised" else 0)


class BadModel(FakeTrainer):
    fault = ""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._model = _Model(self._model.weights, self._model.order)
        self._model.fault = self.fault

    def _optimize(self, settings):
        result = super()._optimize(settings)
        self._model = _Model(self._model.weights, self._model.order)
        self._model.fault = self.fault
        return result


class RowsLeak(BadModel):
    fault = "rows leak into each other"


class SeesTheFuture(BadModel):
    fault = "sees the future"


class NotNormalised(BadModel):
    fault = "not normalised"


class LossIsAMean(FakeTrainer):
    def _run(self, batch, by_logprob):
        result = super()._run(batch, by_logprob)
        return TrainResult(result.logprobs, result.loss / batch.num_tokens)


class BackwardHasTheOtherSign(FakeTrainer):
    def backward(self, batch, gradients):
        return super().backward(batch, -gradients)


class OnlyTheFirstOfKTargets(FakeTrainer):
    def _run(self, batch, by_logprob):
        if by_logprob is not None and by_logprob.ndim == 2:
            by_logprob = by_logprob * np.eye(by_logprob.shape[1])[0]
        return super()._run(batch, by_logprob)


class CoupledDecay(FakeTrainer):
    def _optimize(self, settings):
        self._gradient += settings.weight_decay * self._model.weights
        return super()._optimize(attrs.evolve(settings, weight_decay=0.0))


class DecaysAtAnyRate(FakeTrainer):
    def _optimize(self, settings):
        self._model = backend._Model(self._model.weights * (1 - 0.01 * settings.weight_decay), self._model.order)
        return super()._optimize(settings)


class NoBiasCorrection(FakeTrainer):
    def _optimize(self, settings):
        self._step += 1000
        result = super()._optimize(settings)
        self._step -= 1000
        return OptimResult(self._step, result.metrics)


class ClipsEachEntry(FakeTrainer):
    def _optimize(self, settings):
        if settings.grad_clip_norm:
            np.clip(self._gradient, -settings.grad_clip_norm, settings.grad_clip_norm, out=self._gradient)
        return super()._optimize(attrs.evolve(settings, grad_clip_norm=0.0))


class KeepsGradients(FakeTrainer):
    def _optimize(self, settings):
        kept = self._gradient.copy()
        result = super()._optimize(settings)
        self._gradient[:] = kept
        return result


class StepsOnNothing(FakeTrainer):
    def _step_if_any(self, settings):
        return self._guarded(self._optimize, settings)


class GivesUpAfterAStepOnNothing(FakeTrainer):
    def _step_if_any(self, settings):
        return self._guarded(super()._step_if_any, settings)


class ForwardJumpsTheQueue(FakeTrainer):
    def forward(self, batch):
        return Pending.of(self._run(batch, None))


class SavesNoMoments(FakeTrainer):
    def _save(self, name):
        moments, self._moments = self._moments, np.zeros_like(self._moments)
        handle = super()._save(name)
        self._moments = moments
        return handle


class SavesHalfPrecision(FakeTrainer):
    def _save(self, name):
        model = self._model
        self._model = backend._Model(model.weights.astype(np.float16).astype(float), model.order)
        handle = super()._save(name)
        self._model = model
        return handle


class SavesInMemoryOnly(FakeTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "states": None})


class LoadKeepsGradients(FakeTrainer):
    def _load(self, handle, optimizer):
        kept = self._gradient
        super()._load(handle, optimizer)
        self._gradient = kept


class KeepsMomentsWithoutTheOptimizer(FakeTrainer):
    def _load(self, handle, optimizer):
        super()._load(handle, True)


class SavingClearsGradients(FakeTrainer):
    def _save(self, name):
        self._gradient[:] = 0
        return super()._save(name)


class SamplesFromLiveWeights(FakeTrainer):
    def _optimize(self, settings):
        model = self._model
        result = super()._optimize(settings)
        model.weights[:] = self._model.weights
        self._model = model
        return result


class SamplerForgetsItsVersion(FakeTrainer):
    def _snapshot(self):
        return FakeSampler(self._model, self.tokenizer, self.info.context, -1)


class RefusesLate(FakeTrainer):
    def forward(self, batch):
        return self._worker.submit(lambda: super(RefusesLate, self).forward(batch))


class WrapsIds(FakeTrainer):
    def _check(self, batch):
        pass


class StepsOnWhatIsNotFinite(FakeTrainer):
    def _optimize(self, settings):
        np.nan_to_num(self._gradient, copy=False, posinf=1.0)
        return super()._optimize(settings)


class StepsBehindAFailure(FakeTrainer):
    def _guarded(self, work, *args):
        return work(*args)


class StaysRefusing(FakeTrainer):
    def _load(self, handle, optimizer):
        failure = self._failure
        super()._load(handle, optimizer)
        self._failure = failure


class ChangesWeightsBeforeItRefuses(FakeTrainer):
    def _optimize(self, settings):
        self._model = backend._Model(self._model.weights + 0.01, self._model.order)
        return super()._optimize(settings)


class NeverCancels(FakeTrainer):
    def close(self):
        self._worker.closed = True
        self._worker._pool.shutdown(wait=True)


class ClosesItsSamplers(FakeTrainer):
    def _snapshot(self):
        self.made = super()._snapshot()
        return self.made

    def close(self):
        super().close()
        if hasattr(self, "made"):
            self.made.close()


CAUGHT_BY = {
    Mean: ["gradients_accumulate", "slope_of_the_loss"],
    KeepsOnlyTheLastGradient: ["gradients_accumulate"],
    ForwardTrains: ["forward_adds_no_gradient"],
    ZeroWeightLeaks: ["weight_zero"],
    SquaresTheWeights: ["linear_in_the_weights"],
    RowsLeak: ["whatever_else_is_in_the_batch", "gradients_accumulate"],
    SeesTheFuture: ["no_later_token"],
    NotNormalised: ["sum_to_one"],
    LossIsAMean: ["weighted_sum_as_loss"],
    BackwardHasTheOtherSign: ["minus_the_gradient"],
    OnlyTheFirstOfKTargets: ["k_targets"],
    CoupledDecay: ["those_of_adamw"],
    DecaysAtAnyRate: ["rate_of_zero"],
    NoBiasCorrection: ["those_of_adamw"],
    ClipsEachEntry: ["those_of_adamw"],
    KeepsGradients: ["uses_the_gradients_up"],
    StepsOnNothing: ["without_a_gradient"],
    GivesUpAfterAStepOnNothing: ["without_a_gradient"],
    ForwardJumpsTheQueue: ["order_of_submission"],
    SavesNoMoments: ["gone_back_to_exactly"],
    SavesHalfPrecision: ["gone_back_to_exactly"],
    SavesInMemoryOnly: ["gone_back_to_exactly"],
    KeepsMomentsWithoutTheOptimizer: ["without_its_optimizer"],
    LoadKeepsGradients: ["gone_back_to_exactly"],
    SavingClearsGradients: ["leaves_waiting_gradients"],
    SamplesFromLiveWeights: ["keeps_the_weights"],
    SamplerForgetsItsVersion: ["keeps_the_weights"],
    RefusesLate: ["bad_input"],
    WrapsIds: ["bad_input"],
    StepsOnWhatIsNotFinite: ["not_finite"],
    StepsBehindAFailure: ["not_finite"],
    StaysRefusing: ["not_finite"],
    ChangesWeightsBeforeItRefuses: ["not_finite"],
    NeverCancels: ["closing_cancels"],
    ClosesItsSamplers: ["outlives"],
}


def suite_of(mutant):
    class Suite(TrainerContract):
        states: ClassVar = MemoryBlobStore()

        def make(self):
            return mutant(TOKENIZER, context=64, states=self.states)

        def weights(self, trainer):
            return trainer.weights.ravel()

        def overflow(self, trainer):
            super().overflow(trainer)
            trainer._worker.submit(lambda: trainer._gradient.fill(np.inf))

    return Suite()


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda mutant: mutant.__name__)
def test_a_planted_fault_is_caught(mutant):
    for part in CAUGHT_BY[mutant]:
        (law,) = [law for law in laws_of(TrainerContract) if part in law]
        with pytest.raises((AssertionError, pytest.fail.Exception, TinsmithError)):
            run_law(suite_of(mutant), law)


def test_every_law_catches_a_fault():
    parts = [part for parts in CAUGHT_BY.values() for part in parts]
    assert [law for law in laws_of(TrainerContract) if not any(part in law for part in parts)] == []


def test_the_laws_pass_without_a_fault():
    """So that none is red for another reason than the fault, with the examples used here."""
    for law in laws_of(TrainerContract):
        run_law(suite_of(FakeTrainer), law)
