"""Counting what a run uses, on any backend, and stopping before its budget is exceeded."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tinsmith.domain.cost import Spending, Spent, Tokens
from tinsmith.domain.datums import Batch
from tinsmith.domain.tokens import Floats, Ints
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Sampler, SampleResult, SamplingParams
from tinsmith.ports.trainer import AdamW, LossSpec, ModelInfo, OptimResult, Trainer, TrainerCapabilities, TrainResult


class Meter:
    """Tokens of the step that is being made, and of all before."""

    def __init__(self, spending: Spending, before: Spent = Spent()) -> None:  # noqa: B008 - frozen
        self._spending = spending
        self.began(before)
        self._lock = threading.Lock()
        self._now = Tokens()
        self._late = Tokens()

    def began(self, before: Spent) -> None:
        """What the run had used when this process began."""
        prices = self._spending.prices
        self._spent = before
        self._last = None if not before.steps or prices is None else prices.cost(before.tokens) / before.steps

    def add(self, tokens: Tokens) -> None:
        with self._lock:
            self._now = self._now + tokens

    def take(self) -> dict[str, float]:
        """The step ends here: its metrics. `tokens/...`, and with prices `cost/step` and `cost/total`."""
        with self._lock:
            now, self._now = self._now, Tokens()
        self._spent = self._spent.plus(now)
        metrics = now.metrics()
        if self._spending.prices is not None:
            self._last = metrics["cost/step"] = self._spending.prices.cost(now)
            metrics["cost/total"] = self._spending.prices.cost(self._spent.tokens)
        return metrics

    def late(self, used: Mapping[str, float]) -> dict[str, float]:
        """What `take` gave for a step, with what was used for it since, by when others may have been submitted."""
        with self._lock:
            now, self._now = self._now, Tokens()
        self._late = self._late + now
        tokens = Tokens.of_metrics(used) + now
        metrics = tokens.metrics()
        if self._spending.prices is not None:
            metrics["cost/step"] = self._spending.prices.cost(tokens)
            metrics["cost/total"] = used["cost/total"] + self._spending.prices.cost(self._late)
        return metrics

    @property
    def total(self) -> float:
        """Money, 0 without prices."""
        prices = self._spending.prices
        return 0.0 if prices is None else prices.cost(self._spent.tokens + self._late)

    def exceeded(self, at_least: Tokens = Tokens()) -> str | None:  # noqa: B008 - frozen
        """Why the next step is not to be made: one like the last, or what it is known to use, would go beyond the
        budget."""
        budget, prices = self._spending.budget, self._spending.prices
        step = max(self._last or 0.0, 0.0 if prices is None else prices.cost(at_least))
        if budget is None or self.total + step <= budget:
            return None
        return f"{self.total:.6g} of a budget of {budget:g} are spent, and a step costs about {step:.4g}"

    def trainer(self, trainer: Trainer) -> Trainer:
        """The trainer, counted; its samplers too."""
        return _MeteredTrainer(trainer, self)

    def sampler(self, sampler: Sampler) -> Sampler:
        return _MeteredSampler(sampler, self)


class _MeteredTrainer:
    def __init__(self, trainer: Trainer, meter: Meter) -> None:
        self._trainer = trainer
        self._meter = meter
        self.save_state = trainer.save_state
        self.load_state = trainer.load_state
        self.delete_state = trainer.delete_state
        self.close = trainer.close

    @property
    def info(self) -> ModelInfo:
        return self._trainer.info

    @property
    def capabilities(self) -> TrainerCapabilities:
        return self._trainer.capabilities

    def forward(self, batch: Batch) -> Pending[TrainResult]:
        pending = self._trainer.forward(batch)
        self._meter.add(Tokens(prefill=batch.num_tokens))
        return pending

    def forward_backward(self, batch: Batch, loss: LossSpec) -> Pending[TrainResult]:
        pending = self._trainer.forward_backward(batch, loss)
        self._meter.add(Tokens(train=batch.num_tokens))
        return pending

    def backward(self, batch: Batch, gradients: Floats) -> Pending[TrainResult]:
        pending = self._trainer.backward(batch, gradients)
        self._meter.add(Tokens(train=batch.num_tokens))
        return pending

    def optim_step(self, settings: AdamW) -> Pending[OptimResult]:
        return self._trainer.optim_step(settings)

    def sampler(self) -> Pending[Sampler]:
        return self._trainer.sampler().then(self._meter.sampler)

    def export(self, directory: str | os.PathLike[str], kind: str = "merged") -> Pending[Sequence[Path]]:
        return self._trainer.export(directory, kind)


class _MeteredSampler:
    def __init__(self, sampler: Sampler, meter: Meter) -> None:
        self._sampler = sampler
        self._meter = meter

    @property
    def policy_version(self) -> int:
        return self._sampler.policy_version

    @property
    def context(self) -> int:
        return self._sampler.context

    def sample(self, prompt: Ints, params: SamplingParams, n: int = 1) -> Pending[SampleResult]:
        pending = self._sampler.sample(prompt, params, n)
        self._meter.add(Tokens(prefill=len(prompt)))

        def count(result: SampleResult) -> SampleResult:
            self._meter.add(Tokens(sample=sum(len(c.tokens) for c in result.completions)))
            return result

        return pending.then(count)

    def score(self, tokens: Ints) -> Pending[Floats]:
        pending = self._sampler.score(tokens)
        self._meter.add(Tokens(prefill=len(tokens)))
        return pending

    def close(self) -> None:
        self._sampler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
