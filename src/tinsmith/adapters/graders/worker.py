"""The processes that compare answers. `python -m tinsmith.adapters.graders.worker ENGINE PARENT TIMEOUT MEMORY` is the
*nursery*: it imports the engine once, then forks a worker for each request, in milliseconds. It has one thread, reads
nothing that a model wrote, and ends its workers when the grader's process goes away.

An engine is a module with `load()`, which gives `compare(gold, pred) -> (equal or None, reason)`.

On the nursery's standard input, a socket, come orders of 9 bytes: `F` and a number, with a descriptor, makes the worker
of that number on that socket; `K` and a number kills it and takes its exit status. It answers once, `ready` or why not.
A worker reads frames `[[id, gold, pred], ...]` and answers each pair as soon as it is done: `[id, equal, reason,
seconds]`. A frame is its length (4 bytes, little-endian) and JSON.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Compare = Callable[[str, str], tuple[bool | None, str]]

ORDER = struct.Struct("<cq")
LENGTH = struct.Struct("<I")
OPEN_FILES = 32
CPU_SPARE = 1.0
"""Seconds of processor time beyond the deadline."""


def frame(value: Any) -> bytes:
    data = json.dumps(value, separators=(",", ":")).encode("ascii")
    return LENGTH.pack(len(data)) + data


def unframe(buffer: bytearray) -> Iterator[Any]:
    """The complete frames at the beginning of the buffer, which are taken out of it."""
    while len(buffer) >= LENGTH.size:
        end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
        if len(buffer) < end:
            return
        data = bytes(buffer[LENGTH.size : end])
        del buffer[:end]
        yield json.loads(data)


def nursery(engine: str, parent: int, timeout: float, memory: int) -> None:
    _die_with(parent)
    control = socket.socket(fileno=os.dup(0))
    _silence()
    try:
        compare: Compare = importlib.import_module(engine).load()
    except BaseException as error:  # noqa: BLE001 - told to whoever waits for it
        control.sendall(frame(f"{type(error).__name__}: {error}"))
        return
    sys.dont_write_bytecode = True
    gc.collect()
    gc.freeze()  # what was imported stays shared with the workers
    control.sendall(frame("ready"))
    workers: dict[int, int] = {}
    try:
        while (order := _order(control)) is not None:
            kind, number, descriptors = order
            if kind == b"F":
                own, pid = os.getpid(), os.fork()
                if pid == 0:
                    control.close()
                    _work(socket.socket(fileno=descriptors[0]), compare, own, timeout, memory)
                os.close(descriptors[0])
                workers[number] = pid
            else:
                _end(workers.pop(number))
    finally:
        for pid in workers.values():
            _end(pid)


def _order(control: socket.socket) -> tuple[bytes, int, list[int]] | None:
    data = b""
    descriptors: list[int] = []
    while len(data) < ORDER.size:
        more, fds, _, _ = socket.recv_fds(control, ORDER.size - len(data), 1)
        if not more:
            return None
        data, descriptors = data + more, [*descriptors, *fds]
    kind, number = ORDER.unpack(data)
    return kind, number, descriptors


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _work(connection: socket.socket, compare: Compare, parent: int, timeout: float, memory: int) -> None:
    """Serve until the connection closes; never returns into the nursery."""
    try:
        os.setsid()
        _die_with(parent)
        _limit(memory)
        sys.addaudithook(_refuse)
        connection.sendall(frame("ready"))
        buffer = bytearray()
        while data := connection.recv(1 << 16):
            buffer += data
            for pairs in unframe(buffer):
                for number, gold, pred in pairs:
                    _allow(timeout)
                    began = time.perf_counter()
                    equal, reason = _compare(compare, gold, pred)
                    connection.sendall(frame([number, equal, reason, time.perf_counter() - began]))
                    if reason == "memory":  # what is left of this process cannot be trusted
                        os._exit(0)
    finally:
        os._exit(0)


def _allow(seconds: float) -> None:
    """A worker that nobody ends at the deadline, as its parent is gone, is ended by the kernel soon after."""
    limit = math.ceil(time.process_time() + seconds + CPU_SPARE)
    with contextlib.suppress(ValueError, OSError):  # where processor time is limited further already
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _compare(compare: Compare, gold: str, pred: str) -> tuple[bool | None, str]:
    try:
        return compare(_whole(gold), _whole(pred))
    except MemoryError:
        return None, "memory"
    except RecursionError:
        return None, "too_deep"
    except Exception:  # noqa: BLE001 - a library that stumbles over an answer has not compared it
        return None, "failed"


def _whole(text: str) -> str:
    """Lone surrogates stand for no character."""
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (Linux); elsewhere the closed socket has to do."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before
        os._exit(0)


def _limit(memory: int) -> None:
    """`memory` bytes beyond what is mapped now; no files, no processes, no core dump."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        mapped = 2 << 30
    for kind, limit in (
        (resource.RLIMIT_AS, mapped + memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        with contextlib.suppress(ValueError, OSError):  # a limit that is lower already stays
            resource.setrlimit(kind, (limit, limit))


REFUSED = ("os.", "subprocess.", "socket.", "shutil.", "pty.", "ctypes.", "ftplib.", "urllib.", "tempfile.", "signal.")
ALLOWED = frozenset({"os.listdir", "os.scandir"})
"""Looking for modules: libraries import late."""


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """A second wall. No text is ever executed; were it, it still could not act on the world."""
    if event == "open":
        _, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (
            isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            raise PermissionError("a grader's worker writes no files")
    elif event.startswith(REFUSED) and event not in ALLOWED:
        raise PermissionError(f"a grader's worker may not {event}")


if __name__ == "__main__":
    nursery(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
