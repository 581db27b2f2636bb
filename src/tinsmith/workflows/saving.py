"""Checkpoints of a loop: weights and cursor together, labelled only with awaited results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from tinsmith.domain.datums import COLUMNS, Batch
from tinsmith.domain.errors import BudgetError, ConfigError, NonFiniteError, TinsmithError
from tinsmith.ports.pending import Pending
from tinsmith.ports.trainer import Trainer
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.waiting import wait

Keep = Literal["periodic", "rolling", "final"]


def restore(
    run: RunDirectory, trainer: Trainer, timeout_s: float, note: Callable[[str], object]
) -> tuple[int, Mapping[str, Any]]:
    """Load the newest usable checkpoint; gives the step to go on with and its cursor (0 and {} for a new run). Says
    which checkpoint that is, and which it passed over."""
    told = len(run.notes)
    point = run.resume(
        load=lambda handle: wait(trainer.load_state(handle), f"loading {handle}", timeout_s),
        delete=lambda handle: wait(trainer.delete_state(handle), f"deleting {handle}", timeout_s),
    )
    for line in run.notes[told:]:
        note(line)
    if point is not None:
        note(f"going on after step {point.step}, from checkpoint {point.name}")
    elif run.reopened:
        note("starting again at step 1: the run left no checkpoint to go on from")
    return (0, {}) if point is None else (point.step, point.cursor)


def same_data(cursor: Mapping[str, Any], fingerprint: str, where: str) -> None:
    """Refuse to go on with other data than a run began with: its place in them would mean something else."""
    if cursor.get("data", fingerprint) != fingerprint:
        raise ConfigError(
            f"{where}: the data changed since this run began, so it cannot go on; restore the data, use another "
            "log_path, or start again with if_exists=delete"
        )


def submit_save(run: RunDirectory, trainer: Trainer, keep: Keep, step: int, ttl_s: int | None = None) -> Pending[str]:
    """Queue the saving of the state after `step` steps; a server keeps it for `ttl_s` seconds."""
    return trainer.save_state(run.checkpoint_name(keep, step), ttl_s=ttl_s)


def record_save(
    run: RunDirectory, keep: Keep, step: int, saved: Pending[str], cursor: Mapping[str, Any], timeout_s: float
) -> None:
    """Record a state once it is written."""
    handle = wait(saved, f"saving the {keep} checkpoint after {step} steps", timeout_s)
    run.record_checkpoint(keep, step, handle, cursor)


def save_now(
    run: RunDirectory,
    trainer: Trainer,
    keep: Keep,
    step: int,
    cursor: Mapping[str, Any],
    timeout_s: float,
    ttl_s: int | None = None,
) -> None:
    """Save and record, unless that was done before the process was killed."""
    if not run.has_checkpoint(keep, step):
        record_save(run, keep, step, submit_save(run, trainer, keep, step, ttl_s), cursor, timeout_s)


def stop_for_budget(run: RunDirectory, reason: str) -> BudgetError:
    """Record why the run stops; its checkpoint was recorded before. Gives what to raise."""
    run.record_stop(f"budget: {reason}")
    return BudgetError(f"stopped by its budget: {reason}. The same command with a larger budget= goes on")


def leave(
    run: RunDirectory,
    trainer: Trainer,
    step: int,
    cursor: Mapping[str, Any],
    error: NonFiniteError,
    timeout_s: float,
    ttl_s: int | None = None,
) -> NonFiniteError:
    """The error of training step `step`, named, with a checkpoint left of the weights before it: they did not move, for
    the trainer refused all that was queued behind the failure."""
    try:
        save_now(run, trainer, "rolling", step, cursor, timeout_s, ttl_s)
    except TinsmithError as also:  # the failure itself is what the caller hears of
        return NonFiniteError(f"step {step}: {error} (no checkpoint of it could be written: {also})")
    return named(run, step, error)


def named(run: RunDirectory, step: int, error: NonFiniteError) -> NonFiniteError:
    """The error with the step and the checkpoint that the run would go on from."""
    point = run.last_checkpoint
    return NonFiniteError(f"step {step}: {error}; the last checkpoint is {point.name if point else 'the start'}")


def batch_digest(batch: Batch) -> str:
    """Fixed by every bit of every column of the batch."""
    state = hashlib.blake2b(digest_size=16)
    state.update(batch.offsets.tobytes())
    for name in COLUMNS:
        column = getattr(batch, name)
        state.update(f"{name}:{None if column is None else (column.dtype.str, column.shape)};".encode())
        if column is not None:
            state.update(column.tobytes())
    return state.hexdigest()
