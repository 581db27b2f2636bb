"""The journal as a file that only grows: append, sync, and refuse to go on after an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinsmith.domain.errors import JournalError, TinsmithError
from tinsmith.ports.clock import Clock
from tinsmith.ports.files import FileSystem, read, write_atomic
from tinsmith.workflows.journal.records import Event, Record, encode, scan

SYNC_SECONDS = 1.0
"""Longest time that a record waits to be synced while others are written."""


class Journal:
    """Appends records, and data files that records vouch for, so that no record is durable before its data is."""

    def __init__(self, path: Path, files: FileSystem, clock: Clock) -> None:
        self.path = path
        self.records: list[Record] = []
        """What was there when the journal was loaded."""
        self.cut_bytes = 0
        """Length of the torn tail that was cut."""
        self._files = files
        self._clock = clock
        self._count = 0
        self._durable = 0
        self._synced_at = clock.monotonic()
        self._unsynced: set[Path] = set()
        self._named: set[Path] = set()  # data files whose names are durable
        self._failed: JournalError | None = None

    @property
    def failed(self) -> bool:
        """Whether an error has ended the writing."""
        return self._failed is not None

    def create(self, event: Event) -> Record:
        """Begin anew with one record, in place of any journal that is there, at once or not at all."""
        record = Record(0, event, time=self._clock.now())
        line = encode(record)
        with self.guard(self.path, len(line)):
            write_atomic(self._files, self.path, line)
        self._count = self._durable = 1
        return record

    def load(self) -> None:
        """Read the records and cut a torn tail. JournalError for a file that is no journal, or a damaged one."""
        with self.guard(self.path):
            data = read(self._files, self.path)
        found = scan(data, str(self.path))
        if not found.records:
            raise JournalError(
                f"{self.path} is no journal of a run, or is damaged in its first record: use another log_path"
            )
        self.records = found.records
        self.cut_bytes = len(data) - found.length
        with self.guard(self.path):
            if self.cut_bytes:
                self._files.truncate(self.path, found.length)
            # A killed process may have left bytes and a name that are not on the disk yet.
            self._files.sync(self.path)
            self._files.sync(self.path.parent)
        self._count = self._durable = len(found.records)

    def read(self) -> list[Record]:
        """All records, those of this process too."""
        with self.guard(self.path):
            return scan(read(self._files, self.path), str(self.path)).records

    def append(self, event: Event, *, sync: bool = False) -> Record:
        """Write one record. With `sync`, it and all before it are durable on return."""
        record = Record(self._count, event, self._durable, self._clock.now())
        line = encode(record)
        if sync:
            self._sync_data()
        self._write(self.path, line)
        self._count += 1
        if sync or self._clock.monotonic() - self._synced_at >= SYNC_SECONDS:
            self.sync()
        return record

    def append_data(self, path: Path, data: bytes, *, synced: bool = True) -> None:
        """Add to another file; `synced` is False for what can be made again."""
        self._write(path, data)
        if synced:
            self._unsynced.add(path)

    def sync(self) -> None:
        """Make all that was written durable."""
        self._sync_data()
        if self._durable < self._count:
            with self.guard(self.path):
                self._files.sync(self.path)
        self._durable = self._count
        self._synced_at = self._clock.monotonic()

    def _sync_data(self) -> None:
        for path in sorted(self._unsynced):
            with self.guard(path):
                self._files.sync(path)
                if path not in self._named:
                    self._files.sync(path.parent)
            self._named.add(path)
            self._unsynced.discard(path)

    def _write(self, path: Path, data: bytes) -> None:
        with self.guard(path, len(data)):
            self._files.append(path, data)

    @contextmanager
    def guard(self, path: Path, size: int | None = None) -> Iterator[None]:
        """Turn an error of the disk into a JournalError, after which nothing more is written: once a write or sync
        has failed, only reading the file again tells what is in it."""
        if self._failed is not None:
            raise JournalError(f"nothing is recorded after an earlier error: {self._failed}") from self._failed
        try:
            yield
        except TinsmithError:
            raise
        except OSError as error:
            doing = "" if size is None else f" while writing {size} bytes"
            self._failed = JournalError(
                f"{path}: {error.strerror or error}{doing}. What was recorded before is safe; free some space or "
                "mend the disk, then run the same command again"
            )
            raise self._failed from error
