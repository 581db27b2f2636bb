"""Supervised fine-tuning: examples -> batch -> forward and backward -> optimizer step, the next batch always queued."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from attrs import evolve, field, frozen

from tinsmith.domain.cost import Spending, Tokens
from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import DataError, NonFiniteError
from tinsmith.ports.pending import DEADLINE_S, Pending
from tinsmith.ports.progress import Progress
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.trainer import OptimResult, Trainer, TrainResult
from tinsmith.workflows.evals import Evaluator, measured
from tinsmith.workflows.evaluation import Objective
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
from tinsmith.workflows.supervised_data import DrawnBatch, TrainingData, steps_between
from tinsmith.workflows.waiting import naming_step, wait


@frozen(kw_only=True)
class SupervisedSettings:
    batch_size: int
    num_epochs: int
    max_steps: int | None = None
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
    drawn: Mapping[str, float]
    """What the data say of the batch."""
    start: int
    """Examples seen before this batch."""
    end: int
    learning_rate: float
    evaluated: Sequence[Pending[TrainResult]]
    trained: Pending[TrainResult]
    stepped: Pending[OptimResult]
    final: Sequence[Pending[TrainResult]]
    policies: dict[bool, Pending[Sampler]]
    """Weights to sample evaluations from: of before the step, and (True) the final ones."""
    keep: Keep | None
    saved: Pending[str] | None
    used: Mapping[str, float]
    """Tokens of the step, and their cost."""


class SupervisedLoop:
    """One supervised run. `run()` trains from where the run directory stands to the end of the data or `max_steps`.

    A line of metrics a step: those of the objective (`train_mean_nll`, `train_mean_bpb`), `num_sequences`,
    `num_tokens`, `num_loss_tokens`, `learning_rate`, `epoch`, `progress`, `optim/grad_norm`, `tokens/...`, `cost/...`,
    `time/step`; `test/...` (`test/nll`, `test/bpb`) are of the weights before that step; the last line also has those
    of the final weights, `final/test/...`. Those of evaluators are `test/<benchmark>/...`; their time is
    `time/evaluation` and not in `time/step`.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: TrainingData,
        objective: Objective,
        settings: SupervisedSettings,
        directory: RunDirectory,
        progress: Progress,
        *,
        meter: Meter | None = None,
        evaluators: Sequence[Evaluator] = (),
    ) -> None:
        """meter: counts what the run uses; given where the objective uses something beside the trainer."""
        self._meter = meter or Meter(settings.spending, directory.spent)
        self._trainer = trainer = self._meter.trainer(trainer)
        self._data = data
        self._objective = objective
        self._settings = settings
        self._directory = directory
        self._progress = progress
        self._evaluators = evaluators
        self._total = 0
        self._clock = 0.0
        self._evaluating = 0.0
        """Seconds that evaluators took for the step that is finished next."""

    def run(self) -> Mapping[str, float]:
        """The metrics of the last step and of the final evaluation.

        Raises KeyboardInterrupt, with a checkpoint written, after Ctrl-C; NonFiniteError, with a checkpoint of the
        weights before it, when a step gives no finite number; DeadlineError, which names the step, when the backend
        owes a result for longer than `timeout_s`.
        """
        step, cursor = restore(self._directory, self._trainer, self._settings.timeout_s, self._progress.note)
        same_data(cursor, self._data.fingerprint, str(self._directory.path))
        position = int(cursor.get("examples", 0))
        end = self._settings.num_epochs * len(self._data)
        left = steps_between(self._data, position, end, self._settings.batch_size)
        self._total = step + left if self._settings.max_steps is None else min(step + left, self._settings.max_steps)
        if step >= self._total:
            self._progress.note(self._directory.nothing_left(step))
        self._progress.doing("the first step")
        queue: deque[_Submitted] = deque()
        metrics: Mapping[str, float] = {}
        self._clock = time.monotonic()
        with ExitStack() as open_, graceful_interrupt(self._progress.note) as interrupt:
            stopped = None
            open_.callback(_close, queue)
            while step < self._total and not interrupt.requested:
                try:
                    with naming_step(step):
                        drawn = self._data.batch(position, self._settings.batch_size)
                        stopped = self._meter.exceeded(Tokens(train=drawn.batch.num_tokens))
                        if stopped is not None:
                            break
                        queue.append(self._submit(step, position, drawn))
                except NonFiniteError as error:
                    while queue:
                        self._finish(queue.popleft())
                    raise self._left(step, position, error) from error
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

    def _left(self, step: int, position: int, error: NonFiniteError) -> NonFiniteError:
        ttl_s = self._settings.checkpoints.ttl_s("rolling")
        timeout = self._settings.timeout_s
        return leave(self._directory, self._trainer, step, self._cursor(position), error, timeout, ttl_s)

    def _cursor(self, examples: int) -> Mapping[str, Any]:
        return {"examples": examples, "data": self._data.fingerprint}

    def _submit(self, step: int, position: int, drawn: DrawnBatch) -> _Submitted:
        settings, objective, batch = self._settings, self._objective, drawn.batch
        if batch.num_loss_tokens == 0:
            raise DataError(f"step {step}: no token of the batch has a weight, there is nothing to train on")
        adam = settings.optimizer.at(step, self._total)
        last = step + 1 == self._total
        due = bool(settings.eval_every) and step % settings.eval_every == 0
        policies: dict[bool, Pending[Sampler]] = {}
        if due and self._evaluators:
            policies[False] = self._trainer.sampler()
        keep = None if last else settings.checkpoints.kind_after(step + 1)
        item = _Submitted(
            step=step,
            batch=batch,
            drawn=drawn.metrics,
            start=position,
            end=drawn.end,
            learning_rate=adam.learning_rate,
            evaluated=objective.submit_evaluation(self._trainer) if due else (),
            trained=objective.submit(self._trainer, batch, drawn.sources),
            stepped=self._trainer.optim_step(adam),
            final=objective.submit_evaluation(self._trainer) if last else (),
            policies=policies,
            keep=keep,
            saved=submit_save(self._directory, self._trainer, keep, step + 1, settings.checkpoints.ttl_s(keep))
            if keep
            else None,
            used={},
        )
        if last and self._evaluators:
            policies[True] = self._trainer.sampler()
        return evolve(item, used=self._meter.take())

    def _finish(self, item: _Submitted) -> Mapping[str, float]:
        try:
            with naming_step(item.step):
                return self._awaited(item)
        finally:
            _close([item])

    def _awaited(self, item: _Submitted) -> Mapping[str, float]:
        timeout = self._settings.timeout_s
        evaluated = {**self._evaluation(item.step, item.evaluated), **self._measured(item, self._directory.made_by())}
        if evaluated:
            self._directory.record_evaluation(item.step, evaluated)
        try:
            trained = wait(item.trained, "the forward and backward pass", timeout)
            stepped = wait(item.stepped, "the optimizer step", timeout)
        except NonFiniteError as error:
            raise self._left(item.step, item.start, error) from error
        now = time.monotonic()
        metrics: dict[str, Any] = {
            "epoch": item.start // len(self._data),
            "progress": (item.step + 1) / self._total,
            "learning_rate": item.learning_rate,
            "num_sequences": len(item.batch),
            "num_tokens": item.batch.num_tokens,
            "num_loss_tokens": item.batch.num_loss_tokens,
            **item.drawn,
            **self._objective.metrics(item.batch, trained),
            **stepped.metrics,
            **item.used,
            "time/step": now - self._clock,
        }
        self._clock = now
        datums = batch_digest(item.batch)
        made_by = self._directory.made_by(metrics, datums=datums)
        found = {**self._evaluation(item.step, item.final), **self._measured(item, made_by, final=True)}
        metrics.update({f"final/{name}": value for name, value in found.items()})
        metrics.update(self._meter.late(item.used))
        if self._evaluating:
            metrics["time/evaluation"], self._evaluating = self._evaluating, 0.0
        self._directory.record_step(item.step, metrics, datums=datums)
        if item.saved is not None and item.keep is not None:
            record_save(self._directory, item.keep, item.step + 1, item.saved, self._cursor(item.end), timeout)
        self._progress.update(item.step + 1, self._total, metrics)
        return metrics

    def _measured(self, item: _Submitted, made_by: str, *, final: bool = False) -> Mapping[str, float]:
        """What evaluators say of the weights before the step, or of the final ones, which these steps made."""
        policy = item.policies.pop(final, None)
        if policy is None:
            return {}
        began = time.monotonic()
        try:
            sampler = wait(policy, "the sampler", self._settings.timeout_s)
            found = measured(
                self._evaluators, sampler, item.step + final, self._directory.path, self._progress, made_by
            )
        finally:
            _close_when_made(policy)
        took = time.monotonic() - began
        self._clock += took
        self._evaluating += took
        return found

    def _evaluation(self, step: int, submitted: Sequence[Pending[TrainResult]]) -> Mapping[str, float]:
        try:
            return self._objective.evaluation(submitted, self._settings.timeout_s)
        except NonFiniteError as error:  # no checkpoint: the weights went on meanwhile, and are not to be gone back to
            raise named(self._directory, step, error) from error


def _close(items: Iterable[_Submitted]) -> None:
    for item in items:
        for policy in item.policies.values():
            _close_when_made(policy)


def _close_when_made(policy: Pending[Sampler]) -> None:
    policy.then(lambda sampler: sampler.close())
