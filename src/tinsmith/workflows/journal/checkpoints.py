"""The checkpoints of a run: which there are, which is gone on from, and which are given up.

A state in the run directory is the file or directory `checkpoints/<name>` or `<name>.<suffix>`: verified before
anything relies on it, removed when no checkpoint names it. Of a state that a server keeps the handle alone is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from tinsmith.domain.errors import JournalError, WorldError
from tinsmith.ports.files import FileSystem, digest, make_directories, sync_tree
from tinsmith.workflows.journal.log import Journal
from tinsmith.workflows.journal.records import Checkpoint, Deleted, Record

CHECKPOINTS = "checkpoints"

Keep = Literal["periodic", "rolling", "final"]


@frozen(kw_only=True)
class ResumePoint:
    """The checkpoint that a run goes on from: its state is loaded, and step `step` (from 0) is the next to train."""

    step: int
    cursor: Mapping[str, Any]
    name: str
    handle: str


class Checkpoints:
    """Those that can be resumed from, oldest first."""

    def __init__(self, run: Path, files: FileSystem, journal: Journal, keep_rolling: int) -> None:
        self.directory = run / CHECKPOINTS
        self._run = run
        self._files = files
        self._journal = journal
        self._keep_rolling = keep_rolling
        self._listed: list[Checkpoint] = []
        self._delete: Callable[[str], object] | None = None

    @property
    def newest(self) -> ResumePoint | None:
        return self.point(self._listed[-1]) if self._listed else None

    def has(self, keep: Keep, step: int) -> bool:
        return any(c.keep == keep and c.step == step for c in self._listed)

    def point(self, checkpoint: Checkpoint) -> ResumePoint:
        handle = str(self._run / checkpoint.handle) if checkpoint.inside else checkpoint.handle
        return ResumePoint(step=checkpoint.step, cursor=checkpoint.cursor, name=checkpoint.name, handle=handle)

    def find(self, live: Iterable[Record], records: Iterable[Record]) -> None:
        """Take those of the live records that none of all records gives up."""
        deleted = {r.event.name for r in records if isinstance(r.event, Deleted)}
        self._listed = [r.event for r in live if isinstance(r.event, Checkpoint) and r.event.name not in deleted]

    def choose(self, live: Iterable[Record], load: Callable[[str], object], notes: list[str]) -> Record | None:
        """The record of the newest one that is whole and that `load` takes the handle of; see `RunDirectory.resume`.
        `notes` are told of those that are not."""
        usable = {c.name for c in self._listed}
        refusals: list[str] = []
        for record in reversed(list(live)):
            event = record.event
            if not isinstance(event, Checkpoint) or event.name not in usable:
                continue
            problem = self._problem(event)
            if problem is None:
                try:
                    load(self.point(event).handle)
                except WorldError:
                    raise
                except (OSError, ValueError) as error:
                    problem = str(error)
                    refusals.append(f"{event.name}: {problem}")
                else:
                    return record
            notes.append(f"checkpoint {event.name} cannot be used ({problem}); trying an older one")
        if refusals:
            raise JournalError(f"{self._run}: no checkpoint could be loaded:\n  " + "\n  ".join(refusals))
        return None

    def go_back(self, kept: Iterable[Record]) -> None:
        """Forget those that are not among the records that still count."""
        alive = {r.event.name for r in kept if isinstance(r.event, Checkpoint)}
        self._listed = [c for c in self._listed if c.name in alive]
        self.remove_strays()

    def record(
        self, name: str, keep: Keep, step: int, handle: str, cursor: dict[str, Any], rollouts: dict[str, int]
    ) -> None:
        """Add one to the journal, once its state is durable and was read back, if it is here; then prune."""
        size, sha256 = self._verified(name)
        inside = Path(handle).is_relative_to(self._run)
        checkpoint = Checkpoint(
            name=name,
            keep=keep,
            step=step,
            handle=Path(handle).relative_to(self._run).as_posix() if inside else handle,
            inside=inside,
            cursor=cursor,
            sha256=sha256,
            size=size,
            rollouts=rollouts,
        )
        self._journal.append(checkpoint, sync=True)
        self._listed.append(checkpoint)
        self._prune()

    def delete_by(self, delete: Callable[[str], object] | None) -> None:
        """From now on `delete` gets the handles of those that are given up; the first of them now."""
        self._delete = delete
        self._prune()

    def _prune(self) -> None:
        """Delete rolling checkpoints but the newest; each is given up in the journal before its state goes."""
        rolling = [c for c in self._listed if c.keep == "rolling"]
        for old in rolling[: -self._keep_rolling]:
            self._journal.append(Deleted(name=old.name), sync=True)
            self._listed.remove(old)
            if self._delete is not None:
                self._delete(self.point(old).handle)

    # States in the run directory

    def remove_strays(self) -> None:
        """Remove states that no checkpoint names: half of one that was being saved, or one whose time was over."""
        with self._journal.guard(self.directory):
            make_directories(self._files, self.directory)
            entries = self._files.list(self.directory)
            strays = [entry for entry in entries if not any(_is_state(entry, c.name) for c in self._listed)]
            for entry in strays:
                self._files.remove(self.directory / entry)
            if strays:
                self._files.sync(self.directory)

    def _verified(self, name: str) -> tuple[int | None, str | None]:
        """(bytes, SHA-256) of a state, durable and read back; (None, None) where it is not here."""
        with self._journal.guard(self.directory / name):
            state = self._state(name)
            if state is None:
                return None, None
            sync_tree(self._files, state)
            return digest(self._files, state)

    def _problem(self, checkpoint: Checkpoint) -> str | None:
        """Why the state of a checkpoint is not what was recorded."""
        if checkpoint.sha256 is None:
            return None
        try:
            state = self._state(checkpoint.name)
            if state is None:
                return "it is not there"
            size, sha256 = digest(self._files, state)
        except OSError as error:
            return error.strerror or str(error)
        if size != checkpoint.size:
            return f"it has {size} bytes instead of {checkpoint.size}"
        return None if sha256 == checkpoint.sha256 else "its bytes have changed"

    def _state(self, name: str) -> Path | None:
        entries = self._files.list(self.directory)
        return next((self.directory / entry for entry in entries if _is_state(entry, name)), None)


def _is_state(entry: str, name: str) -> bool:
    """Whether an entry of the directory is the state of the checkpoint `name`."""
    return entry == name or entry.startswith(f"{name}.")
