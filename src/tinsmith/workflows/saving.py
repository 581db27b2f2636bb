"""Checkpoints of a loop: weights and cursor together, labelled only with awaited results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from tinsmith.domain.datums import COLUMNS, Batch
from tinsmith.domain.errors import ConfigError
from tinsmith.ports.pending import Pending
from tinsmith.ports.trainer import Trainer
from tinsmith.workflows.journal import RunDirectory

Keep = Literal["periodic", "rolling", "final"]


def restore(run: RunDirectory, trainer: Trainer) -> tuple[int, Mapping[str, Any]]:
    """Load the newest usable checkpoint; gives the step to go on with and its cursor (0 and {} for a new run)."""
    point = run.resume(
        load=lambda handle: trainer.load_state(handle).result(),
        delete=lambda handle: trainer.delete_state(handle).result(),
    )
    return (0, {}) if point is None else (point.step, point.cursor)


def same_data(cursor: Mapping[str, Any], fingerprint: str, where: str) -> None:
    """Refuse to go on with other data than a run began with: its place in them would mean something else."""
    if cursor.get("data", fingerprint) != fingerprint:
        raise ConfigError(
            f"{where}: the data changed since this run began, so it cannot go on; restore the data, use another "
            "log_path, or start again with if_exists=delete"
        )


def submit_save(run: RunDirectory, trainer: Trainer, keep: Keep, step: int) -> Pending[str]:
    """Queue the saving of the state after `step` steps."""
    return trainer.save_state(run.checkpoint_name(keep, step))


def record_save(run: RunDirectory, keep: Keep, step: int, saved: Pending[str], cursor: Mapping[str, Any]) -> None:
    """Record a state once it is written."""
    run.record_checkpoint(keep, step, saved.result(), cursor)


def save_now(run: RunDirectory, trainer: Trainer, keep: Keep, step: int, cursor: Mapping[str, Any]) -> None:
    """Save and record, unless that was done before the process was killed."""
    if not run.has_checkpoint(keep, step):
        record_save(run, keep, step, submit_save(run, trainer, keep, step), cursor)


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
