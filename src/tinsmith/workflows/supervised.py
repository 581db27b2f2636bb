"""Supervised fine-tuning: examples -> batch -> forward and backward -> optimizer step, one batch always queued ahead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np
from attrs import define, frozen

from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import DataError, NonFiniteError
from tinsmith.ports.pending import Pending
from tinsmith.ports.progress import Progress
from tinsmith.ports.trainer import LossSpec, OptimResult, Trainer, TrainResult
from tinsmith.workflows.interrupt import graceful_interrupt
from tinsmith.workflows.run import Run
from tinsmith.workflows.settings import CheckpointSettings, OptimizerSettings
from tinsmith.workflows.supervised_data import SupervisedData, normalised

Reduction = Literal["token_sum", "token_mean", "sequence_mean"]


@frozen(kw_only=True)
class SupervisedSettings:
    batch_size: int
    num_epochs: int
    max_steps: int | None
    reduction: Reduction
    optimizer: OptimizerSettings
    checkpoints: CheckpointSettings
    eval_every: int
    """Steps between evaluations; 0 evaluates at the end alone."""
    ahead: int = 1
    """Batches queued behind the one that is awaited."""


@define
class _Step:
    index: int
    batch: Batch
    position: int
    total: int
    train: Pending[TrainResult]
    optim: Pending[OptimResult]
    saved: Pending[str] | None
    kind: str | None
    learning_rate: float
    evaluation: Pending[dict[str, float]] | None


def train_supervised(
    trainer: Trainer,
    data: SupervisedData,
    settings: SupervisedSettings,
    run: Run,
    progress: Progress,
    *,
    test: Sequence[Datum] = (),
    token_bytes: Sequence[int] = (),
) -> dict[str, float]:
    """Train until the epochs or `max_steps` are done; gives the last metrics.

    Metrics a step: `train_mean_nll`, `train_mean_bpb` (with `token_bytes`: the bytes that each token id stands for),
    `num_sequences`, `num_tokens`, `num_loss_tokens`, `learning_rate`, `progress`, `epoch`, `optim/grad_norm`,
    `test/nll`, `test/bpb`, `time/step`.
    """
    end = settings.num_epochs * len(data)
    step, position = run.restore(trainer)
    total = step + data.steps_between(position, end, settings.batch_size)
    if settings.max_steps is not None:
        total = min(total, settings.max_steps)
    if run.is_complete(step, total):
        return run.last_metrics
    evaluator = _Evaluator(trainer, test, np.asarray(token_bytes, np.int64))
    queue: deque[_Step] = deque()
    last: dict[str, float] = run.last_metrics
    clock = time.monotonic()

    def submit(step: int, position: int) -> _Step:
        evaluation = evaluator.submit() if settings.eval_every and step % settings.eval_every == 0 else None
        batch, after = data.batch(position, settings.batch_size)
        if batch.num_loss_tokens == 0:
            raise DataError(f"step {step}: no token of the batch has a weight; there is nothing to train on")
        adam = settings.optimizer.at(step, total)
        kind = settings.checkpoints.kind_after(step + 1)
        return _Step(
            index=step,
            batch=batch,
            position=after,
            total=total,
            train=trainer.forward_backward(normalised(batch, settings.reduction), LossSpec("cross_entropy")),
            optim=trainer.optim_step(adam),
            saved=trainer.save_state(run.state_name(step + 1, kind)) if kind and step + 1 < total else None,
            kind=kind,
            learning_rate=adam.learning_rate,
            evaluation=evaluation,
        )

    def finish(item: _Step) -> dict[str, float]:
        nonlocal clock
        if item.evaluation is not None:
            run.record_eval(item.index, item.evaluation.result())
        trained, stepped = item.train.result(), item.optim.result()
        now = time.monotonic()
        metrics = {
            "epoch": (item.position - 1) // len(data),
            "progress": (item.index + 1) / item.total,
            "learning_rate": item.learning_rate,
            "num_sequences": len(item.batch),
            "num_tokens": item.batch.num_tokens,
            "num_loss_tokens": item.batch.num_loss_tokens,
            **evaluator.measure(item.batch, trained, "train_mean_nll", "train_mean_bpb"),
            **stepped.metrics,
            "time/step": now - clock,
        }
        clock = now
        run.record_step(item.index, metrics, item.batch)
        if item.saved is not None and item.kind is not None:
            run.record_checkpoint(item.index + 1, item.kind, item.saved.result(), item.position)
        progress.update(item.index + 1, item.total, metrics)
        return metrics

    with graceful_interrupt() as interrupt:
        try:
            while step < total and not interrupt.requested:
                item = submit(step, position)
                step, position = step + 1, item.position
                queue.append(item)
                if len(queue) > settings.ahead:
                    last = finish(queue.popleft())
            done = position
            while queue:
                last = finish(queue.popleft())
        except NonFiniteError as error:
            failed = queue[0] if queue else item
            run.save(trainer, failed.index, "final" if False else "periodic", failed.position - len(failed.batch))
            raise NonFiniteError(f"step {failed.index}: {error}") from error
        if interrupt.requested and step < total:
            run.save(trainer, step, "rolling", done)
            raise KeyboardInterrupt
        final = evaluator.submit()
        if final is not None:
            run.record_eval(step, final.result())
            last = {**last, **run.last_eval}
        run.save(trainer, step, "final", done)
        run.finish(step)
    return last
