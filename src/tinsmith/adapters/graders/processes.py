"""The processes of a pool as their parent sees them: how they begin, are spoken to, and end.

`worker.py` is what runs in them; what they are given to do is the pool's business. All of it belongs to the one thread
whose selector calls back, with the events, when a socket has something: nothing here waits for a process.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tinsmith.adapters.graders.worker import ORDER, frame, unframe

TRIES = 5
"""Times in a row that a nursery may fail before it is given up."""
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT")


class Nursery:
    """The process that holds an engine and forks its workers, so that a replacement takes milliseconds.

    It is begun again when it ended, later each time. `ended` is called when its process is gone, with which its workers
    die; `given_up`, once, with the reason, when it never gave a worker or failed too often.
    """

    def __init__(
        self,
        engine: str,
        timeout: float,
        memory: int,
        selector: selectors.BaseSelector,
        *,
        ended: Callable[[], None],
        given_up: Callable[[str], None],
    ) -> None:
        self._words = [engine, str(os.getpid()), str(timeout), str(memory)]
        self._selector = selector
        self._ended, self._given_up = ended, given_up
        self._alive: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._received = bytearray()
        self._begin_at = 0.0
        self._failures = 0
        self._proven = self._hopeless = False

    @property
    def due(self) -> float | None:
        """When `keep` is to be called, in seconds of the monotonic clock; None while there is nothing to do."""
        return None if self._alive is not None or self._hopeless else self._begin_at

    def keep(self) -> None:
        """Begin it where it is due."""
        if self.due is not None and time.monotonic() >= self.due:
            self._begin()

    def fork(self, number: int, heard: Callable[[int, Any], None]) -> Process | None:
        """A new worker; None where the nursery is gone. What it says comes as `heard(number, ...)`."""
        if self._alive is None:
            return None
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._alive[1], [ORDER.pack(b"F", number)], [theirs.fileno()])
        except OSError:  # it is gone, which its own socket is about to say
            ours.close()
            return None
        finally:
            theirs.close()
        return Process(number, ours, self._selector, heard)

    def kill(self, process: Process) -> None:
        process.close()
        if self._alive is not None:
            with contextlib.suppress(OSError):
                self._alive[1].sendall(ORDER.pack(b"K", process.number))

    def proven(self) -> None:
        """A worker of it was ready."""
        self._proven, self._failures = True, 0

    def close(self) -> None:
        """End it and its workers."""
        if self._alive is None:
            return
        process, control = self._alive
        control.close()  # it kills and reaps its workers, then ends
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONHASHSEED": "0"}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            # -P: no module is ever taken from the directory where somebody happens to work.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tinsmith.adapters.graders.worker", *self._words],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            self._failed(str(error))
            return
        finally:
            theirs.close()
        self._alive = (process, ours)
        self._received = bytearray()
        self._selector.register(ours, selectors.EVENT_READ, self._hear)

    def _hear(self, events: int) -> None:
        assert self._alive is not None
        process, control = self._alive
        try:
            data = control.recv(1 << 16)
        except OSError:
            data = b""
        self._received += data
        for said in unframe(self._received):
            if said != "ready":
                self._failed(said)
        if not data:
            self._selector.unregister(control)
            control.close()
            process.wait()
            self._alive = None
            self._ended()
            self._failed(f"its process ended ({process.returncode})")

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._begin_at = time.monotonic() + 0.1 * 2**self._failures
        if (not self._proven or self._failures > TRIES) and not self._hopeless:
            self._hopeless = True
            self._given_up(why)


class Process:
    """A worker at the other end of a socket. What it says is `heard(number, value)`, None once it ended by itself."""

    def __init__(
        self,
        number: int,
        connection: socket.socket,
        selector: selectors.BaseSelector,
        heard: Callable[[int, Any], None],
    ) -> None:
        self.number = number
        self._connection, self._selector, self._heard = connection, selector, heard
        self._received, self._unsent = bytearray(), bytearray()
        self._open = True
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, self._talk)

    def tell(self, value: Any) -> None:
        self._unsent += frame(value)
        self._send()

    def close(self) -> None:
        """Hear nothing more of it."""
        self._open = False
        self._selector.unregister(self._connection)
        self._connection.close()

    def _talk(self, events: int) -> None:
        if self._open and events & selectors.EVENT_WRITE:  # it may have been closed a moment ago
            self._send()
        if not self._open or not events & selectors.EVENT_READ:
            return
        try:
            data = self._connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._heard(self.number, None)
            return
        self._received += data
        for said in unframe(self._received):
            self._heard(self.number, said)
            if not self._open:
                return

    def _send(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # it is gone; reading will say so
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._selector.get_key(self._connection).events != wanted:
            self._selector.modify(self._connection, wanted, self._talk)
