"""The local disk."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakSet

from tinsmith.domain.errors import RunLockedError


class FileLock:
    """An flock: the kernel drops it when the process that holds it ends, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        _held.add(self)

    def release(self) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # at once, also when a child that forks now shares it
            self.forget()

    def forget(self) -> None:
        """Close this process's descriptor. The lock itself stays with those who share it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_held: WeakSet[FileLock] = WeakSet()


def _close_in_child() -> None:
    """A forked child shares the lock's descriptor; were it kept, a worker that outlives the run would hold the run."""
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_close_in_child)


class LocalFiles:
    """The FileSystem port on this machine's disk (POSIX)."""

    def list(self, directory: Path) -> list[str]:
        return sorted(os.listdir(directory))

    def size(self, path: Path) -> int:
        return os.stat(path).st_size

    def modified(self, path: Path) -> float:
        return os.stat(path).st_mtime

    def stream(self, path: Path, chunk_bytes: int = 1 << 20, start: int = 0) -> Iterator[bytes]:
        with open(path, "rb") as file:
            file.seek(start)
            while chunk := file.read(chunk_bytes):
                yield chunk

    def append(self, path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def rename(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):  # POSIX lets unlink of a directory fail with either
            if not path.is_dir():
                raise
            shutil.rmtree(path)

    def make_directory(self, path: Path) -> None:
        try:
            os.mkdir(path)
        except FileExistsError:
            if not path.is_dir():
                raise

    def sync(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: Path) -> FileLock:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _exclusive(descriptor)
        except BlockingIOError:
            holder = _named(descriptor)
            os.close(descriptor)
            raise RunLockedError(
                f"{path.parent}: process {holder} works in this run directory; wait for it, stop it, "
                "or use another log_path"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return FileLock(descriptor)

    def holder(self, path: Path) -> str | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _named(descriptor)
        finally:
            os.close(descriptor)
        return None


ASKING_SECONDS = 0.25
"""For how long a lock that is held is tried again: `holder` has it for the blink of an eye."""


def _exclusive(descriptor: int) -> None:
    """Take the lock, or raise BlockingIOError."""
    until = time.monotonic() + ASKING_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.01)
        else:
            return


def _named(descriptor: int) -> str:
    """What the holder wrote into the lock file."""
    return os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "unknown"
