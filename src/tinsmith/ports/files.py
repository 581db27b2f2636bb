"""The disk under a run directory: few operations, each as strong as POSIX makes it and no stronger.

What a program wrote outlives the *process* at once. It outlives the *machine* (power cut, kernel panic) only after
`sync`: of the file, for its bytes, and of the directory, for the names in it. Until then a crash may keep any part of
it. The functions below build what a journal needs out of these operations, so that a fake disk which forgets and tears
whatever was not synced tests the very code that runs on a real one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class Lock(Protocol):
    """A lock that is held until `release`, or until the process ends in any way."""

    def release(self) -> None: ...


class FileSystem(Protocol):
    """Paths are absolute. A missing path raises FileNotFoundError, a full disk OSError with errno ENOSPC."""

    def list(self, directory: Path) -> list[str]:
        """Names in a directory, sorted; NotADirectoryError for a file."""
        ...

    def size(self, path: Path) -> int:
        """Bytes in a file; for a directory, any number or IsADirectoryError."""
        ...

    def modified(self, path: Path) -> float:
        """When a file was last written, in seconds since the epoch: for people to read, and for nothing to rely on."""
        ...

    def stream(self, path: Path, chunk_bytes: int = 1 << 20, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `start` on, in chunks."""
        ...

    def append(self, path: Path, data: bytes) -> None:
        """Write at the end of a file, which is created when it is missing. An error may leave part of it written."""
        ...

    def truncate(self, path: Path, size: int) -> None:
        """Shorten a file to `size` bytes."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name in its directory, in place of any file of that name, in one step."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file, or a directory with all that is in it. What is not there is no error."""
        ...

    def make_directory(self, path: Path) -> None:
        """Create one directory; its parent must exist. A directory that is there is no error."""
        ...

    def sync(self, path: Path) -> None:
        """Make durable: a file's bytes, or the names in a directory."""
        ...

    def lock(self, path: Path) -> Lock:
        """Hold the lock file at `path`, created when missing. RunLockedError names the process that has it."""
        ...

    def holder(self, path: Path) -> str | None:
        """Who holds the lock file at `path`, e.g. "4711 on host"; None when nobody does. Asking is in nobody's way."""
        ...


def exists(files: FileSystem, path: Path) -> bool:
    """Whether a file or directory is there."""
    try:
        files.size(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except IsADirectoryError:
        pass
    return True


def read(files: FileSystem, path: Path) -> bytes:
    return b"".join(files.stream(path))


def files_under(files: FileSystem, path: Path) -> list[Path]:
    """The file at `path`, or all files in the directory there and in those below it, sorted."""
    try:
        names = files.list(path)
    except NotADirectoryError:
        return [path]
    return [file for name in names for file in files_under(files, path / name)]


def digest(files: FileSystem, path: Path) -> tuple[int, str]:
    """Bytes in the files at or under `path`, and the SHA-256, in hex, of their names, lengths and contents."""
    state, total = hashlib.sha256(), 0
    for file in files_under(files, path):
        size = files.size(file)
        state.update(f"{file.relative_to(path).as_posix()} {size}\n".encode())
        for chunk in files.stream(file):
            state.update(chunk)
        total += size
    return total, state.hexdigest()


def sync_tree(files: FileSystem, path: Path) -> None:
    """Make the files at or under `path` durable, and their names up to and including that of `path`."""
    found = files_under(files, path)
    for file in found:
        files.sync(file)
    for directory in sorted({d for file in found for d in file.parents if d == path or path in d.parents}):
        files.sync(directory)
    files.sync(path.parent)


def write_atomic(files: FileSystem, path: Path, data: bytes) -> None:
    """Replace a file durably: after a crash at any moment it holds all of the old bytes or all of the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    files.remove(temporary)
    files.append(temporary, data)
    files.sync(temporary)
    files.rename(temporary, path)
    files.sync(path.parent)


def make_directories(files: FileSystem, path: Path) -> None:
    """Create a directory and its missing parents, durably. One that is there may have been left by a process that was
    killed before it made the name durable, so that is done in any case."""
    if path == path.parent:
        return
    if not exists(files, path):
        make_directories(files, path.parent)
        files.make_directory(path)
    files.sync(path.parent)
