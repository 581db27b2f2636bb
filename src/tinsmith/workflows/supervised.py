"""Supervised fine-tuning: examples -> batch -> forward and backward -> optimizer step, the next batch always queued."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attrs import evolve, field, frozen

from tinsmith.domain.cost import Spending
from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import DataError, NonFiniteError
from tinsmith.ports.pending import DEADLINE_S, Pending
from tinsmith.ports.progress import Progress
from tinsmith.ports.trainer import LossSpec, OptimResult, Trainer, TrainResult
from tinsmith.workflows.evaluation import NllEvaluator
from tinsmith.workflows.interrupt import graceful_interrupt
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.metering import Meter
from tinsmith.workflows.saving import (
    Keep,
    batch_digest,
    leave,
    named,
    record_save,
    restore,
    same_data,
    save_now,
    stop_for_budget,
    submit_save,
)
from tinsmith.workflows.settings import CheckpointSettings, OptimizerSettings
from tinsmith.workflows.supervised_data import SupervisedData, normalised
from tinsmith.workflows.waiting import naming_step, wait

Reduction = Literal["token_sum", "token_mean", "sequence_mean"]


@frozen(kw_only=True)
class SupervisedSettings:
    batch_size: int
    num_epochs: int
    max_steps: int | None = None
    reduction: Reduction = "token_mean"
    optimizer: OptimizerSettings
    checkpoints: CheckpointSettings
    eval_every: int = 0
    """Steps between evaluations on the test datums; 0 evaluates at the end alone."""
    submit_ahead: int = 1
    """Batches queued behind the one that is awaited."""
    timeout_s: float = DEADLINE_S
    """Seconds that one piece of submitted work may take; beyond it the world failed: DeadlineError."""
    spending: Spending = field(factory=Spending)


@frozen(kw_only=True)
class _Submitted:
    step: int
    batch: Batch
    start: int
    """Examples seen before this batch."""
    end: int
    learning_rate: float
    evaluated: Sequence[Pending[TrainResult]]
    trained: Pending[TrainResult]
    stepped: Pending[OptimResult]
    final: Sequence[Pending[TrainResult]]
    keep: Keep | None
    saved: Pending[str] | None
    used: Mapping[str, float]
    """Tokens of the step, and their cost."""


class SupervisedLoop:
    """One supervised run. `run()` trains from where the run directory stands to the end of the data or `max_steps`.

    A line of metrics a step: `train_mean_nll`, `train_mean_bpb`, `num_sequences`, `num_tokens`, `num_loss_tokens`,
    `learning_rate`, `epoch`, `progress`, `optim/grad_norm`, `tokens/...`, `cost/...`, `time/step`;
    `test/nll` and `test/bpb` are of the weights before that step; the last line also has those of the final weights,
    `final/test/nll` and `final/test/bpb`.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: SupervisedData,
        settings: SupervisedSettings,
        directory: RunDirectory,
        progress: Progress,
        *,
        test: Sequence[Datum] = (),
        token_bytes: Sequence[int] | None = None,
    ) -> None:
        """token_bytes: [V], UTF-8 bytes that each token id stands for, 0 for control tokens; for bits per byte."""
        self._meter = Meter(settings.spending, directory.spent)
        self._trainer = trainer = self._meter.trainer(trainer)
        self._data = data
        self._settings = settings
        self._directory = directory
        self._progress = progress
        self._nll = NllEvaluator(trainer, test, token_bytes)
        self._total = 0
        self._clock = 0.0

    def run(self) -> Mapping[str, float]:
        """The metrics of the last step and of the final evaluation.

        Raises KeyboardInterrupt, with a checkpoint written, after Ctrl-C; NonFiniteError, with a checkpoint of the
        weights before it, when a step gives no finite number; DeadlineError, which names the step, when the backend
        owes a result for longer than `timeout_s`.
        """
        step, cursor = restore(self._directory, self._trainer, self._settings.timeout_s, self._progress.note)
        same_data(cursor, self._data.fingerprint, str(self._directory.path))
        position = int(cursor.get("examples", 0))
        left = self._data.steps_between(
            position, self._settings.num_epochs * len(self._data), self._settings.batch_size
        )
        self._total = step + left if self._settings.max_steps is None else min(step + left, self._settings.max_steps)
        if step >= self._total:
            self._progress.note(self._directory.nothing_left(step))
        queue: deque[_Submitted] = deque()
        metrics: Mapping[str, float] = {}
        self._clock = time.monotonic()
        with graceful_interrupt(self._progress.note) as interrupt:
            stopped = None
            while step < self._total and not interrupt.requested and (stopped := self._meter.exceeded()) is None:
                queue.append(self._submit(step, position))
                step, position = step + 1, queue[-1].end
                if len(queue) > self._settings.submit_ahead:
                    metrics = self._finish(queue.popleft())
            while queue:
                metrics = self._finish(queue.popleft())
            done = step >= self._total
            self._save("final" if done else "rolling", step, position)
            if stopped is not None:
                raise stop_for_budget(self._directory, stopped)
            if not done:
                raise KeyboardInterrupt
            exhausted = position >= self._settings.num_epochs * len(self._data)
            self._directory.finish("end of data" if exhausted else "max_steps")
        return metrics

    def _save(self, keep: Keep, step: int, position: int) -> None:
        timeout = self._settings.timeout_s
        ttl_s = self._settings.checkpoints.ttl_s(keep)
        save_now(self._directory, self._trainer, keep, step, self._cursor(position), timeout, ttl_s)

    def _cursor(self, examples: int) -> Mapping[str, Any]:
        return {"examples": examples, "data": self._data.fingerprint}

    def _submit(self, step: int, position: int) -> _Submitted:
        settings = self._settings
        batch, end = self._data.batch(position, settings.batch_size)
        if batch.num_loss_tokens == 0:
            raise DataError(f"step {step}: no token of the batch has a weight, there is nothing to train on")
        adam = settings.optimizer.at(step, self._total)
        last = step + 1 == self._total
        keep = None if last else settings.checkpoints.kind_after(step + 1)
        item = _Submitted(
            step=step,
            batch=batch,
            start=position,
            end=end,
            learning_rate=adam.learning_rate,
            evaluated=self._nll.submit() if settings.eval_every and step % settings.eval_every == 0 else (),
            trained=self._trainer.forward_backward(normalised(batch, settings.reduction), LossSpec("cross_entropy")),
            stepped=self._trainer.optim_step(adam),
            final=self._nll.submit() if last else (),
            keep=keep,
            saved=submit_save(self._directory, self._trainer, keep, step + 1, settings.checkpoints.ttl_s(keep))
            if keep
            else None,
            used={},
        )
        return evolve(item, used=self._meter.take())

    def _finish(self, item: _Submitted) -> Mapping[str, float]:
        with naming_step(item.step):
            return self._awaited(item)

    def _awaited(self, item: _Submitted) -> Mapping[str, float]:
        timeout = self._settings.timeout_s
        evaluated = self._evaluation(item.step, item.evaluated)
        if evaluated:
            self._directory.record_evaluation(item.step, evaluated)
        try:
            trained = wait(item.trained, "the forward and backward pass", timeout)
            stepped = wait(item.stepped, "the optimizer step", timeout)
        except NonFiniteError as error:
            cursor = self._cursor(item.start)
            ttl_s = self._settings.checkpoints.ttl_s("rolling")
            raise leave(self._directory, self._trainer, item.step, cursor, error, timeout, ttl_s) from error
        now = time.monotonic()
        metrics: dict[str, Any] = {
            "epoch": item.start // len(self._data),
            "progress": (item.step + 1) / self._total,
            "learning_rate": item.learning_rate,
            "num_sequences": len(item.batch),
            "num_tokens": item.batch.num_tokens,
            "num_loss_tokens": item.batch.num_loss_tokens,
            **self._nll.measure([item.batch], [trained], "train_mean_nll", "train_mean_bpb"),
            **stepped.metrics,
            **item.used,
            "time/step": now - self._clock,
        }
        metrics.update({f"final/{name}": value for name, value in self._evaluation(item.step, item.final).items()})
        self._clock = now
        self._directory.record_step(item.step, metrics, datums=batch_digest(item.batch))
        if item.saved is not None and item.keep is not None:
            record_save(self._directory, item.keep, item.step + 1, item.saved, self._cursor(item.end), timeout)
        self._progress.update(item.step + 1, self._total, metrics)
        return metrics

    def _evaluation(self, step: int, submitted: Sequence[Pending[TrainResult]]) -> Mapping[str, float]:
        try:
            return self._nll.result(submitted, self._settings.timeout_s)
        except NonFiniteError as error:  # no checkpoint: the weights went on meanwhile, and are not to be gone back to
            raise named(self._directory, step, error) from error
