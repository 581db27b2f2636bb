"""The run directory: one run, and everything needed to go on with it after it was killed.

    journal.jsonl      what happened; the rest follows from it or is vouched for by it
    config.json        the resolved config in force
    metrics.jsonl      a line a step, for people and plots
    rollouts/*.jsonl   a line an episode
    checkpoints/       states of the trainer
    tinsmith.lock      held by the one process that works on the run

A record is in the operating system's hands when `record_*` returns, so a killed process loses nothing. Before anything
relies on a record (a checkpoint, a deletion, the end) it is synced to the disk, and at least once a second besides: a
power cut may take the last second, which a resume trains again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from tinsmith.domain.cost import Spent, Tokens
from tinsmith.domain.errors import ConfigError, JournalError, RunPathError, TinsmithError
from tinsmith.ports.clock import Clock
from tinsmith.ports.files import FileSystem, exists, make_directories
from tinsmith.workflows.journal.checkpoints import Checkpoints, Keep, ResumePoint
from tinsmith.workflows.journal.log import Journal
from tinsmith.workflows.journal.outputs import Outputs
from tinsmith.workflows.journal.records import (
    Cause,
    Checkpoint,
    Evaluation,
    Finished,
    Record,
    Resumed,
    Started,
    Step,
    Stopped,
    before,
    live,
)
from tinsmith.workflows.journal.settings import changed_settings, json_object

LOCK, JOURNAL = "tinsmith.lock", "journal.jsonl"

IfExists = Literal["resume", "raise", "delete"]


class RunDirectory:
    """An open run directory: `open` it, call `resume` once, record what was done, `finish`, and close it (or `with`).

    After an error in writing it refuses further records: what was recorded is safe, and opening it again repairs it.
    """

    def __init__(self, path: Path, files: FileSystem, clock: Clock, keep_rolling: int) -> None:
        """Locks the directory; use `open`."""
        self.path = path
        self.notes: list[str] = []
        """What was wrong with the directory and how it was handled, for the user to see."""
        self._files = files
        self._journal = Journal(path / JOURNAL, files, clock)
        self._outputs = Outputs(path, files, self._journal)
        self._checkpoints = Checkpoints(path, files, self._journal, keep_rolling)
        self._lock = files.lock(path / LOCK)
        self._config: dict[str, Any] = {}
        self._trained_with: dict[str, Any] | None = None  # the config of the last step that counts
        self._records: list[Record] = []  # those that count when the directory was opened; empty after `resume`
        self._reopened = False
        self._session = 0  # how often the run was resumed before
        self._next_step: int | None = None  # None until `resume`
        self._made_by = ""  # of the steps that count
        self._finished_at: int | None = None
        self._stopped = False
        self._spent = Spent()

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        recipe: str,
        config: Mapping[str, Any],
        files: FileSystem,
        clock: Clock,
        may_change: Iterable[str] = (),
        if_exists: IfExists = "resume",
        keep_rolling: int = 1,
    ) -> RunDirectory:
        """Open or create the run directory of `recipe` at `path`, and lock it.

        config: the resolved config in JSON types. A run is opened only with the config that it was started with, but
            for the dotted keys in `may_change` (a key covers all below it).
        if_exists: what to do with a run that is there: go on with it, refuse, or delete it and start again.
        keep_rolling: how many rolling checkpoints to keep, at least 1.

        Raises ConfigError for another recipe or config, naming each key with both values; RunLockedError while another
        process has it open; RunPathError for a directory that holds other files (it is left alone whatever `if_exists`
        says) or cannot be made; JournalError for a damaged journal, and for `if_exists="raise"` when there is a run.
        """
        path = Path(os.path.abspath(path))
        try:
            names = set(files.list(path)) if exists(files, path) else set()
            if names - {LOCK, f".{JOURNAL}.tmp"} and JOURNAL not in names:
                raise RunPathError(f"{path} holds other files and no run: it is left alone; use another log_path")
            make_directories(files, path)
            run = cls(path, files, clock, max(1, keep_rolling))
        except TinsmithError:
            raise
        except OSError as error:
            raise RunPathError(f"{path} cannot be used as a run directory: {error.strerror or error}") from error
        try:
            run._open(recipe, json_object(config), tuple(may_change), if_exists)
        except BaseException:
            run._lock.release()
            raise
        return run

    def _open(self, recipe: str, config: dict[str, Any], may_change: tuple[str, ...], if_exists: IfExists) -> None:
        self._config = config
        is_run = exists(self._files, self.path / JOURNAL)
        if is_run and if_exists == "raise":
            raise JournalError(
                f"{self.path} holds a run; if_exists=resume goes on with it, if_exists=delete starts again"
            )
        if is_run:
            self._journal.load()
        if not is_run or if_exists == "delete":
            self._start(recipe)
        else:
            self._reopen(recipe, may_change)

    def _start(self, recipe: str) -> None:
        """Replace the journal in one step; only then remove what belonged to the old one."""
        self._records = [self._journal.create(Started(recipe=recipe, config=self._config))]
        with self._journal.guard(self.path):
            for name in self._files.list(self.path):
                if name not in (LOCK, JOURNAL):
                    self._files.remove(self.path / name)

    def _reopen(self, recipe: str, may_change: tuple[str, ...]) -> None:
        records = self._journal.records
        first, last = records[0].event, [r.event for r in records if isinstance(r.event, Started | Resumed)][-1]
        if not isinstance(first, Started):
            raise JournalError(f"{self.path / JOURNAL}, line 1: a journal begins with how the run was started")
        if first.recipe != recipe:
            raise ConfigError(f"{self.path} is a run of {first.recipe}, not of {recipe}: use another log_path")
        self.notes.extend(changed_settings(self.path, last.config, self._config, may_change))
        if self._journal.cut_bytes:
            self.notes.append(f"cut {self._journal.cut_bytes} bytes that a crash left after record {len(records)}")
        self._reopened = True
        current: dict[str, Any] = dict(first.config)
        for record in records:
            if isinstance(record.event, Started | Resumed):
                current = dict(record.event.config)
            elif isinstance(record.event, Step):
                self._trained_with = current
                self._spent = self._spent.plus(Tokens.of_metrics(record.event.metrics))
        self._session = sum(isinstance(r.event, Resumed) for r in records)
        self._records = live(records)
        self._checkpoints.find(self._records, records)
        for record in self._records:
            if isinstance(record.event, Finished):
                self._finished_at = record.event.step
        if self._finished_at is not None:  # the last process may have been killed before it put these right
            self._outputs.rewrite(self._trained_with or self._config, self._records)
            self._checkpoints.remove_strays()

    @property
    def finished_at(self) -> int | None:
        """Steps after which the run was complete; None while it is not. A run may go on past it: `resume`."""
        return self._finished_at

    @property
    def spent(self) -> Spent:
        """What the run had used when it was opened, steps that no longer count included: they were paid for."""
        return self._spent

    @property
    def last_checkpoint(self) -> ResumePoint | None:
        """The newest checkpoint, e.g. that of a finished run; not verified."""
        return self._checkpoints.newest

    @property
    def checkpoints(self) -> Path:
        """Where a trainer on this machine is to keep its states: each as the file or directory `checkpoints/<name>`
        or `<name>.<suffix>`, which is then verified before it is loaded."""
        return self._checkpoints.directory

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return self._outputs.read_metrics()

    @property
    def reopened(self) -> bool:
        """Whether the directory held a run already."""
        return self._reopened

    # Going on

    def resume(
        self, load: Callable[[str], object], delete: Callable[[str], object] | None = None
    ) -> ResumePoint | None:
        """Go back to the newest checkpoint that is whole; None when the run begins at step 0. Call it once.

        load: loads the state of a handle into the trainer. When it raises OSError or ValueError the next older
            checkpoint is tried, except for a WorldError, which says nothing about the state and is passed on.
        delete: deletes the state of a handle; for rolling checkpoints, once newer ones are verified and durable.

        What was recorded after the checkpoint no longer counts: metrics.jsonl, rollouts and states are put back to it.
        Raises JournalError when `load` refused every checkpoint that was whole: the trainer is then in no known state.
        """
        if self._next_step is not None:
            raise JournalError(f"{self.path}: resume is called once, before anything is recorded")
        chosen = self._checkpoints.choose(self._records, load, self.notes)
        checkpoint = chosen.event if chosen and isinstance(chosen.event, Checkpoint) else None
        resumed = Resumed(
            step=checkpoint.step if checkpoint else 0,
            after=chosen.seq if chosen else 0,
            checkpoint=checkpoint.name if checkpoint else None,
            config=self._config,
            notes=list(self.notes),
        )
        if self._reopened:
            self._journal.append(resumed, sync=True)
            self._session += 1
        kept = before(self._records, resumed)
        self._next_step = resumed.step
        for record in kept:
            if isinstance(record.event, Step):
                self._made_by = self.made_by(record.event.metrics, datums=record.event.datums)
        self._records, self._finished_at = [], None
        self._checkpoints.go_back(kept)
        self.notes.extend(self._outputs.cut_rollouts(checkpoint.rollouts if checkpoint else {}))
        self._outputs.rewrite(self._config, kept)
        self._checkpoints.delete_by(delete)
        return self._checkpoints.point(checkpoint) if checkpoint else None

    def nothing_left(self, steps: int) -> str:
        """Leave a complete run as it was trained: config.json keeps the config of its last step. What to say of it."""
        if self._trained_with is not None:
            self._config = self._trained_with
            self._outputs.write_config(self._config)
        return f"this run is complete: {steps} steps were taken and none is left; nothing was changed"

    def made_by(self, metrics: Mapping[str, Any] | None = None, *, datums: str = "") -> str:
        """A digest of the steps that made the weights, with one more if its metrics and datums are given: a run that
        went back and took other steps has other weights after as many of them."""
        if metrics is None:
            return self._made_by
        rate = metrics.get("optim/lr", metrics.get("learning_rate"))
        told = (self._made_by, datums, None if rate is None else float(rate))
        return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()

    # Recording

    def record_step(self, step: int, metrics: Mapping[str, Any], *, datums: str) -> None:
        """Step `step` (from 0, one after the other) is done: its results were awaited.

        metrics: numbers by name; a NaN or infinity is written as a string that `float` reads.
        datums: a digest of the datums that were trained.
        """
        if step != self._expected():
            raise JournalError(f"{self.path}: step {step} is recorded where step {self._expected()} is next")
        self._journal.append(Step(step=step, metrics=dict(metrics), datums=datums))
        self._made_by = self.made_by(metrics, datums=datums)
        self._next_step = step + 1
        self._outputs.add_step(step, metrics)

    def record_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """The weights after `step` steps were evaluated. Its metrics join those of step `step` in metrics.jsonl."""
        if step > self._expected():
            raise JournalError(f"{self.path}: evaluation after step {step}, of which {self._expected()} are done")
        self._journal.append(Evaluation(step=step, metrics=dict(metrics)))
        if step == self._next_step:
            self._outputs.add_evaluation(step, metrics)
        else:
            self._outputs.rewrite(self._config, live(self._journal.read()))

    def checkpoint_name(self, keep: Keep, step: int) -> str:
        """The name under which to save the state: no two checkpoints of a run share one, also after a resume."""
        return f"{step:06d}-{keep}" + (f"-r{self._session}" if self._session else "")

    def has_checkpoint(self, keep: Keep, step: int) -> bool:
        """E.g. the final one, when the process died between it and the end."""
        return self._checkpoints.has(keep, step)

    def record_checkpoint(self, keep: Keep, step: int, handle: str, cursor: Mapping[str, Any]) -> None:
        """The state after `step` steps was saved as `handle`, awaited, under `checkpoint_name(keep, step)`.

        What belongs to step `step` (evaluations of these weights, rollouts) counts as coming after it: a resume makes
        it again. What belongs to earlier steps must be recorded before.

        cursor: JSON types; all that the loop needs beside the trainer's state to go on exactly.
        """
        if step != self._expected():
            raise JournalError(
                f"{self.path}: a checkpoint of {step} steps where {self._expected()} are done and awaited"
            )
        if self.has_checkpoint(keep, step):
            raise JournalError(f"{self.path}: there is a {keep} checkpoint of step {step} already")
        name, rollouts = self.checkpoint_name(keep, step), self._outputs.rollouts_before(step)
        self._checkpoints.record(name, keep, step, handle, json_object(cursor), rollouts)

    def write_rollouts(self, step: int, rows: Iterable[Mapping[str, Any]], *, name: str = "train") -> None:
        """Add a line an episode to `rollouts/<name>.jsonl`, whose steps never fall; call it before what came of them is
        recorded."""
        if step > self._expected():
            raise JournalError(f"{self.path}: rollouts of step {step} where step {self._expected()} is next")
        self._outputs.add_rollouts(name, step, rows)

    def record_stop(self, reason: str) -> None:
        """A limit of the run's own stops it here, after its checkpoint was recorded."""
        self._stopped = True
        self._journal.append(Stopped(step=self._expected(), reason=reason), sync=True)

    def record_end(self, cause: Cause, reason: str) -> None:
        """Say why the process leaves the run unfinished, for those who look at it; a resume does not need it. Says
        nothing of a run that is complete or was stopped already, nor where nothing can be written."""
        if self._next_step is None or self._finished_at is not None or self._stopped or self._journal.failed:
            return
        with suppress(JournalError):
            self._journal.append(Stopped(step=self._next_step, reason=reason, cause=cause), sync=True)

    def finish(self, reason: str) -> None:
        """The run is complete; everything recorded is durable. Close it next."""
        step = self._expected()
        self._outputs.add_waiting()
        self._journal.append(Finished(step=step, reason=reason), sync=True)
        self._finished_at = step

    def close(self) -> None:
        """Make everything durable and let go of the directory."""
        try:
            if not self._journal.failed:
                self._journal.sync()
        finally:
            self._lock.release()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except JournalError as also:
            if error is None:
                raise
            error.add_note(f"and closing the run directory failed: {also}")

    # Helpers

    def _expected(self) -> int:
        if self._next_step is None:
            raise JournalError(f"{self.path}: call resume before anything is recorded")
        return self._next_step
