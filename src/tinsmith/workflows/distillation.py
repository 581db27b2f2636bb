"""Teachers: their opinion of a student's samples, each of those of its own sources, and their likeliest tokens as
targets."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from attrs import evolve, frozen

from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.distillation import ReverseKL, entropy, reverse_kl, soft_targets
from tinsmith.domain.errors import CapabilityError, TrainingError
from tinsmith.domain.tokens import Floats, Ints
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Sampler, SampleResult, SamplingParams
from tinsmith.ports.trainer import LossSpec, Trainer, TrainResult
from tinsmith.workflows.evaluation import Reduction, in_batches
from tinsmith.workflows.reference import Reference
from tinsmith.workflows.supervised_data import normalised
from tinsmith.workflows.waiting import wait


@frozen(eq=False, kw_only=True)
class Teachers:
    """One teacher for each source of problems, by the first tag of a group."""

    of: Mapping[str, Reference]
    coef: float
    discount: float = 0.0
    skip: int = 0
    """Tokens at the beginning of what was sampled that are not trained on."""

    def teach(
        self, batch: Batch, sources: Sequence[str], prompts: Sequence[Ints | None] = ()
    ) -> tuple[Batch, dict[str, float]]:
        """The batch with the teachers' advantages added to its own, and metrics: `teacher_kl`, the mean over trained
        tokens of log(student / teacher) in nats, and the same of each source, `teacher_kl/SOURCE`. sources: of each
        row. A source without a teacher is a TrainingError. A row that is longer than its teacher's context is not
        trained on: its weights become 0 (`teacher_left_out` counts such rows). prompts: of each row what the teacher
        reads in place of all that is before the first sampled token; None: the same."""
        own = batch.advantages
        assert own is not None
        scores = np.zeros(batch.num_tokens, np.float32)
        for source in dict.fromkeys(sources):
            if source not in self.of:
                raise TrainingError(f"no teacher of {source!r}: there are teachers of {', '.join(self.of)}")
        read = [_after(row, p) for row, p in zip(batch, prompts, strict=True)] if prompts else list(batch)
        # What is scored of a row is its tokens and its last target.
        left_out = np.array([r.num_tokens >= self.of[s].context for r, s in zip(read, sources, strict=True)], np.bool_)
        if left_out.any() or self.skip:
            begun = np.concatenate([row.sampled & (np.cumsum(row.sampled) <= self.skip) for row in batch])
            batch = evolve(batch, weights=np.where(np.repeat(left_out, batch.lengths) | begun, 0.0, batch.weights))
        # A teacher of several sources is asked once for all of its rows.
        for teacher in {id(t): t for t in self.of.values()}.values():
            rows = [i for i, source in enumerate(sources) if self.of[source] is teacher and not left_out[i]]
            said = teacher.score(read[i] for i in rows) if rows else np.zeros(0, np.float32)
            ends = np.cumsum([read[i].num_tokens for i in rows])
            for i, end in zip(rows, ends, strict=True):
                same = min(read[i].num_tokens, int(batch.lengths[i]))  # targets at the end that both read
                scores[batch.offsets[i + 1] - same : batch.offsets[i + 1]] = said[end - same : end]
        told = reverse_kl(batch, scores, coef=self.coef, discount=self.discount)
        taught = evolve(batch, advantages=own + told.advantages, reference_logprobs=scores)
        return taught, {**_means(told, sources), "teacher_left_out": float(left_out.sum())}


def _after(row: Datum, prompt: Ints | None) -> Datum:
    """The row as one reads it after another prompt."""
    if prompt is None:
        return row
    tokens = np.concatenate([prompt, row.tokens[int(np.argmax(row.sampled)) + 1 :]])
    return Datum(tokens=tokens, targets=np.append(tokens[1:], row.targets[-1]), weights=np.zeros(len(tokens)))


def _means(told: ReverseKL, sources: Sequence[str]) -> dict[str, float]:
    metrics = {"teacher_kl": float(told.sums.sum() / max(told.counts.sum(), 1))}
    for source in sorted(set(sources)):
        rows = np.array([s == source for s in sources])
        metrics[f"teacher_kl/{source}"] = float(told.sums[rows].sum() / max(told.counts[rows].sum(), 1))
    return metrics


TABLES_IN_FLIGHT = 64
"""Sequences that a teacher is asked the likeliest tokens of at once."""


class SoftTargets:
    """A teacher's K likeliest next tokens at each position of given sequences."""

    def __init__(self, sampler: Sampler, k: int, timeout_s: float) -> None:
        self._sampler = sampler
        self._k = k
        self._timeout_s = timeout_s

    def soften(self, batch: Batch) -> Batch:
        """The batch with targets [T, K + 1]: the teacher's K, whose weights are its shares times the position's own
        weight, and the target that was there, of weight 0, so that its likelihood is still seen."""
        waiting: deque[Pending[SampleResult]] = deque()
        ids: list[Ints] = []
        logprobs: list[Floats] = []

        def take() -> None:
            result = wait(waiting.popleft(), "the teacher's likeliest tokens", self._timeout_s)
            (last,) = result.completions
            assert last.top_ids is not None
            assert last.top_logprobs is not None
            before = result.prompt_top_ids is not None and result.prompt_top_logprobs is not None
            # Position t of a table is of token t, given those before it; what comes after the last is sampled.
            ids.extend([result.prompt_top_ids[1:]] if before else [])  # type: ignore[index]
            logprobs.extend([result.prompt_top_logprobs[1:]] if before else [])  # type: ignore[index]
            ids.append(last.top_ids[:1])
            logprobs.append(last.top_logprobs[:1])

        params = SamplingParams(max_tokens=1, prompt_logprobs=True, top_prompt_logprobs=self._k, top_logprobs=self._k)
        for datum in batch:
            if len(waiting) == TABLES_IN_FLIGHT:
                take()
            waiting.append(self._sampler.sample(datum.tokens, params))
        while waiting:
            take()
        targets, shares, _ = soft_targets(np.concatenate(ids), np.concatenate(logprobs))
        own = batch.weights[:, None]
        return evolve(
            batch,
            targets=np.hstack([targets, batch.targets[:, None]]),
            weights=np.hstack([shares * own, np.zeros_like(own)]).astype(np.float32),
        )


def soften(teachers: Sequence[SoftTargets], batch: Batch, sources: Sequence[int]) -> Batch:
    """The batch with soft targets of each row by the teacher of its source, or all by the only one there is."""
    if len(teachers) == 1:
        return teachers[0].soften(batch)
    softened: dict[int, Datum] = {}
    for teacher in {id(t): t for t in teachers}.values():
        rows = [i for i in range(len(batch)) if teachers[sources[i]] is teacher]
        if rows:
            softened.update(zip(rows, teacher.soften(batch.take(rows)), strict=True))
    return Batch.of([softened[i] for i in range(len(batch))])


class SoftObjective:
    """The cross-entropy of the K likeliest tokens of a teacher, or of one for each source: `train_kl`, the mean over
    trained positions of the KL divergence from the teacher's shares of them, in nats, and `train_mean_nll`, of the
    targets that the data give; `test/kl` and `test/nll` of test data."""

    def __init__(
        self,
        teachers: Sequence[SoftTargets],
        reduction: Reduction = "token_mean",
        *,
        test: Sequence[Datum] = (),
        test_sources: Sequence[int] = (),
    ) -> None:
        """test_sources: of each test datum the number of its source, where there are several teachers."""
        self._teachers = teachers
        self._reduction = reduction
        self._test = in_batches(test)
        self._test_sources = test_sources
        self._soft_test: list[Batch] = []

    def submit(self, trainer: Trainer, batch: Batch, sources: Sequence[int] = ()) -> Pending[TrainResult]:
        if not trainer.capabilities.soft_targets:
            raise CapabilityError("this backend takes one target a position: train on the samples alone, top_k=0")
        soft = soften(self._teachers, batch, sources)
        trained = trainer.forward_backward(normalised(soft, self._reduction), LossSpec("cross_entropy"))
        return trained.then(lambda done: evolve(done, metrics={**done.metrics, **_soft_metrics([soft], [done])}))

    def metrics(self, batch: Batch, result: TrainResult) -> Mapping[str, float]:
        return {"train_kl": result.metrics["kl"], "train_mean_nll": result.metrics["nll"]}

    def submit_evaluation(self, trainer: Trainer) -> Sequence[Pending[TrainResult]]:
        if not self._soft_test:
            left = iter(self._test_sources)
            self._soft_test = [soften(self._teachers, b, list(islice(left, len(b)))) for b in self._test]
        return [trainer.forward(batch) for batch in self._soft_test]

    def evaluation(self, submitted: Sequence[Pending[TrainResult]], timeout_s: float) -> Mapping[str, float]:
        if not submitted:
            return {}
        results = [wait(pending, "the evaluation", timeout_s) for pending in submitted]
        return {f"test/{name}": value for name, value in _soft_metrics(self._soft_test, results).items()}


def _soft_metrics(batches: Sequence[Batch], results: Sequence[TrainResult]) -> dict[str, float]:
    weights = np.concatenate([b.weights for b in batches]).astype(np.float64)
    logprobs = np.concatenate([r.logprobs.reshape(b.targets.shape) for b, r in zip(batches, results, strict=True)])
    own = weights.sum(axis=1)
    kept = own > 0
    weights, logprobs, own = weights[kept], logprobs[kept].astype(np.float64), own[kept]
    shares = weights[:, :-1] / own[:, None]
    divergence = -(shares * logprobs[:, :-1]).sum(axis=1) - entropy(shares)
    return {
        "kl": float(own @ divergence / own.sum()),
        "nll": float(-(own @ logprobs[:, -1]) / own.sum()),
    }
