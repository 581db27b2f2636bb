"""States of checkpoints that lie in a run directory: found by name, verified, and removed when nobody names them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tinsmith.ports.files import FileSystem, digest, make_directories, sync_tree
from tinsmith.workflows.journal.log import Journal
from tinsmith.workflows.journal.records import Checkpoint


class States:
    """Each is the file or directory `<name>` or `<name>.<suffix>`; those that a server keeps are not here."""

    def __init__(self, directory: Path, files: FileSystem, journal: Journal) -> None:
        self.directory = directory
        self._files = files
        self._journal = journal

    def verified(self, name: str) -> tuple[int | None, str | None]:
        """(bytes, SHA-256) of a state, durable and read back; (None, None) where it is not here."""
        with self._journal.guard(self.directory / name):
            state = self._find(name)
            if state is None:
                return None, None
            sync_tree(self._files, state)
            return digest(self._files, state)

    def problem(self, checkpoint: Checkpoint) -> str | None:
        """Why the state of a checkpoint is not what was recorded."""
        if checkpoint.sha256 is None:
            return None
        try:
            state = self._find(checkpoint.name)
            if state is None:
                return "it is not there"
            size, sha256 = digest(self._files, state)
        except OSError as error:
            return error.strerror or str(error)
        if size != checkpoint.size:
            return f"it has {size} bytes instead of {checkpoint.size}"
        return None if sha256 == checkpoint.sha256 else "its bytes have changed"

    def remove_strays(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Remove states that no checkpoint names: half of one that was being saved, or one whose time was over."""
        names = [checkpoint.name for checkpoint in checkpoints]
        with self._journal.guard(self.directory):
            make_directories(self._files, self.directory)
            entries = self._files.list(self.directory)
            strays = [entry for entry in entries if not any(_is_state(entry, name) for name in names)]
            for entry in strays:
                self._files.remove(self.directory / entry)
            if strays:
                self._files.sync(self.directory)

    def _find(self, name: str) -> Path | None:
        entries = self._files.list(self.directory)
        return next((self.directory / entry for entry in entries if _is_state(entry, name)), None)


def _is_state(entry: str, name: str) -> bool:
    """Whether an entry of the directory is the state of the checkpoint `name`."""
    return entry == name or entry.startswith(f"{name}.")
