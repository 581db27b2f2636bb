"""A disk in memory that crashes on demand, and forgets and tears what was not synced.

`MemoryDisk` is the machine; `disk.mount()` is the FileSystem as one process sees it. A process dies at the n-th
operation that changes something (`crash_at`), in the middle of a write if it is one; its locks go with it. Then either
the machine lives on (`disk.kill()`: the page cache keeps every byte) or it does not (`disk.power_cut(choose)`: of what
was not synced, any part survives).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tinsmith.domain.errors import RunLockedError


class ProcessDied(BaseException):
    """The process ends here; nothing after it runs in a real one."""


class _Inode:
    """A file's bytes: `durable` are safe, `data` are what programs see, `pending` leads from one to the other."""

    def __init__(self) -> None:
        self.durable = b""
        self.data = b""
        self.pending: list[bytes | int] = []  # bytes: appended; int: truncated to

    def change(self, what: bytes | int) -> None:
        self.data = _changed(self.data, what)
        self.pending.append(what)

    def sync(self) -> None:
        self.durable = self.data
        self.pending.clear()

    def lose(self, choose: Callable[[int], int]) -> None:
        """Keep some of what was not synced: a prefix torn at any byte, or all of it but for a hole of zeros (blocks
        reach the disk in any order)."""
        if not self.pending:
            return
        if choose(1):
            start = min([len(self.durable), *(n for n in self.pending if isinstance(n, int))])
            room = max(0, len(self.data) - start)
            first = start + choose(room)
            last = first + choose(start + room - first)
            self.data = self.data[:first] + bytes(last - first) + self.data[last:]
        else:
            whole = choose(len(self.pending))
            data = self.durable
            for what in self.pending[:whole]:
                data = _changed(data, what)
            if whole < len(self.pending):
                torn = self.pending[whole]
                if isinstance(torn, bytes):
                    data += torn[: choose(len(torn))]
            self.data = data
        self.sync()


def _changed(data: bytes, what: bytes | int) -> bytes:
    return data[:what] if isinstance(what, int) else data + what


_Entry = _Inode | None  # None: a directory


class MemoryDisk:
    """The machine. `capacity` bytes may be stored in files; a write beyond it stores what fits and fails."""

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.entries: dict[Path, _Entry] = {Path("/"): None}
        self._durable: dict[Path, _Entry] = {Path("/"): None}
        self._pending: dict[Path, list[tuple[tuple[Path, _Entry | str], ...]]] = {}  # by directory, in order
        self.processes: list[MemoryFiles] = []

    def mount(self, crash_at: int | None = None, tear: Callable[[int], int] = lambda n: n // 2) -> MemoryFiles:
        """The disk as a new process sees it, which dies at operation `crash_at` (from 1); `tear(n)` is how many of n
        bytes a write that dies still writes."""
        process = MemoryFiles(self, crash_at, tear)
        self.processes.append(process)
        return process

    def kill(self) -> None:
        """All processes are gone; the page cache is not."""
        for process in self.processes:
            process.alive = False
            process.locks.clear()
        self.processes.clear()

    def power_cut(self, choose: Callable[[int], int]) -> None:
        """All processes are gone, and of what was not synced a part that `choose` picks: it gives 0 to n for n.

        Names come back as of any moment since their directory was synced, each directory for itself.
        """
        self.kill()
        survived = dict(self._durable)
        for directory in sorted(self._pending):
            changes = self._pending[directory]
            for change in changes[: choose(len(changes))]:
                _apply(survived, change)
        self._pending.clear()
        # What lay in a directory that is gone is gone.
        survived = {p: e for p, e in survived.items() if all(parent in survived for parent in p.parents)}
        self._durable, self.entries = survived, dict(survived)
        for inode in [e for _, e in sorted(survived.items()) if e is not None]:
            inode.lose(choose)

    def flip(self, path: Path, position: int) -> None:
        """Damage one byte of a file, durably."""
        inode = self.inode(path)
        data = bytearray(inode.data)
        data[position] ^= 0x55
        inode.data = bytes(data)
        inode.sync()

    def used(self) -> int:
        return sum(len(e.data) for e in self.entries.values() if e is not None)

    def inode(self, path: Path) -> _Inode:
        if path not in self.entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        inode = self.entries[path]
        if inode is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        return inode

    def change(self, directory: Path, *change: tuple[Path, _Entry | str]) -> None:
        """Change names in a directory in one step: to an inode, to a directory (None), or to "gone"."""
        _apply(self.entries, change)
        self._pending.setdefault(directory, []).append(change)

    def sync_directory(self, path: Path) -> None:
        for change in self._pending.pop(path, []):
            _apply(self._durable, change)


def _apply(entries: dict[Path, _Entry], change: tuple[tuple[Path, _Entry | str], ...]) -> None:
    for path, entry in change:
        if isinstance(entry, str):
            entries.pop(path, None)
        else:
            entries[path] = entry


class _MemoryLock:
    def __init__(self, process: MemoryFiles, path: Path) -> None:
        self._process, self._path = process, path

    def release(self) -> None:
        self._process.locks.discard(self._path)


class MemoryFiles:
    """The FileSystem port on a MemoryDisk, as one process sees it."""

    def __init__(self, disk: MemoryDisk, crash_at: int | None, tear: Callable[[int], int]) -> None:
        self.disk = disk
        self.alive = True
        self.operations = 0
        """Operations that changed something or made it durable."""
        self.syncs = 0
        self.locks: set[Path] = set()
        self._crash_at = crash_at
        self._tear = tear

    def die(self, at: int, tear: Callable[[int], int]) -> None:
        """Let the process die at operation `at`, which is counted by `operations`."""
        self._crash_at, self._tear = at, tear

    def _operate(self) -> bool:
        """Count an operation; whether the process dies in it."""
        self._check()
        self.operations += 1
        return self.operations == self._crash_at

    def _check(self) -> None:
        if not self.alive:
            raise ProcessDied

    def _step(self) -> None:
        if self._operate():
            self._die()

    def _die(self) -> None:
        self.alive = False
        self.locks.clear()
        raise ProcessDied

    def list(self, directory: Path) -> list[str]:
        self._check()
        if directory not in self.disk.entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))
        if self.disk.entries[directory] is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
        return sorted(p.name for p in self.disk.entries if p.parent == directory and p != directory)

    def size(self, path: Path) -> int:
        self._check()
        return len(self.disk.inode(path).data)

    def modified(self, path: Path) -> float:
        self._check()
        self.disk.inode(path)
        return 0.0

    def stream(self, path: Path, chunk_bytes: int = 1 << 20, start: int = 0) -> Iterator[bytes]:
        self._check()
        data = self.disk.inode(path).data[start:]
        return (data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes))

    def append(self, path: Path, data: bytes) -> None:
        dies = self._operate()
        if path not in self.disk.entries:
            self.list(path.parent)
            self.disk.change(path.parent, (path, _Inode()))
        inode = self.disk.inode(path)
        capacity = self.disk.capacity
        room = len(data) if capacity is None else max(0, min(len(data), capacity - self.disk.used()))
        written = min(room, self._tear(len(data))) if dies else room
        if written:
            inode.change(data[:written])
        if dies:
            self._die()
        if room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def truncate(self, path: Path, size: int) -> None:
        self._step()
        self.disk.inode(path).change(size)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        if old.parent != new.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(new))
        self.disk.change(old.parent, (old, "gone"), (new, self.disk.inode(old)))

    def remove(self, path: Path) -> None:
        if self.disk.entries.get(path, "gone") is None:
            for name in self.list(path):
                self.remove(path / name)
        self._step()
        if path in self.disk.entries:
            self.disk.change(path.parent, (path, "gone"))

    def make_directory(self, path: Path) -> None:
        self._step()
        self.list(path.parent)
        if path not in self.disk.entries:
            self.disk.change(path.parent, (path, None))
        elif self.disk.entries[path] is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))

    def sync(self, path: Path) -> None:
        self._step()
        self.syncs += 1
        if path in self.disk.entries and self.disk.entries[path] is None:
            self.disk.sync_directory(path)
        else:
            self.disk.inode(path).sync()

    def lock(self, path: Path) -> _MemoryLock:
        if any(path in process.locks for process in self.disk.processes):
            raise RunLockedError(f"{path.parent}: process 1 works in this run directory")
        if path not in self.disk.entries:
            self.append(path, b"")
        self._check()
        self.locks.add(path)
        return _MemoryLock(self, path)

    def holder(self, path: Path) -> str | None:
        self._check()
        return "1 on this disk" if any(path in process.locks for process in self.disk.processes) else None
