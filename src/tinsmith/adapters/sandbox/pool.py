"""Any number of programs on a bounded number of sandboxes, with a book of what was created and released.

A backend knows how to make a sandbox, run one program in it and release it; whatever fails there, what was made is
released here. A release that fails is tried again before the next run and at the end, and counts as live until then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, Self

from tinsmith.domain.errors import CancelledWorkError, ConfigError
from tinsmith.ports.pending import Pending
from tinsmith.ports.sandbox import Isolation, Leases, Limits, Program, Ran, SandboxError

RELEASES = 3
"""Tries to release each sandbox at the end."""


def encoded(text: str) -> bytes:
    """UTF-8, and what no UTF-8 is (half of a surrogate pair) as Python would read it back."""
    return text.encode("utf-8", "surrogatepass")


class Stop:
    """Says to a run that nobody waits for it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._callback: Callable[[], object] | None = None

    @property
    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        with self._lock:
            self._set = True
            if self._callback is not None:
                self._callback()

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Inside, `set` also calls this, once at least where it was set before."""
        with self._lock:
            self._callback = callback
            if self._set:
                callback()
        try:
            yield
        finally:
            with self._lock:
                self._callback = None


class Backend(Protocol):
    """Calls come from several threads. Each takes bounded time, and raises SandboxError or OSError for what the world
    does."""

    name: str
    isolation: Isolation
    limits: Limits

    def create(self, stop: Stop) -> Any:
        """A sandbox; where it raises, nothing is left."""
        ...

    def run(self, sandbox: Any, program: Program, stop: Stop) -> Ran: ...

    def release(self, sandbox: Any) -> None:
        """Everything of it is gone. May be called again where it raised."""
        ...


class SandboxPool:
    """A `Sandbox` over a backend. max_concurrent: programs that run at once."""

    def __init__(self, backend: Backend, *, max_concurrent: int) -> None:
        if max_concurrent < 1:
            raise ConfigError(f"max_concurrent={max_concurrent}: at least 1")
        self._backend = backend
        self._lock = threading.Lock()
        self._created = self._released = 0
        self._live: list[Any] = []
        self._stuck: list[Any] = []
        """Live, but not in use: their release failed."""
        self._stops: set[Stop] = set()
        self._closed = False
        self._threads = ThreadPoolExecutor(max_concurrent, thread_name_prefix=f"sandbox-{backend.name}")

    @property
    def name(self) -> str:
        return self._backend.name

    @property
    def isolation(self) -> Isolation:
        return self._backend.isolation

    @property
    def limits(self) -> Limits:
        return self._backend.limits

    @property
    def leases(self) -> Leases:
        with self._lock:
            return Leases(created=self._created, released=self._released, live=len(self._live))

    def run(self, program: Program) -> Pending[Ran]:
        stop = Stop()
        with self._lock:
            if self._closed:
                raise CancelledWorkError(f"the sandbox {self.name} was closed")
            self._stops.add(stop)
            future = self._threads.submit(self._one, program, stop)
        future.add_done_callback(lambda _: self._stops.discard(stop))
        return Pending(future, on_cancel=stop.set)

    def _one(self, program: Program, stop: Stop) -> Ran:
        self._sweep()
        if stop.is_set:
            raise CancelledWorkError("the run was cancelled before its turn")
        try:
            sandbox = self._backend.create(stop)
            with self._lock:
                self._created += 1
                self._live.append(sandbox)
            try:
                ran = self._backend.run(sandbox, program, stop)
            finally:
                self._release(sandbox)
        except OSError as error:
            if stop.is_set:
                raise CancelledWorkError("the run was cancelled") from error
            if isinstance(error, SandboxError):
                raise
            raise SandboxError(f"{self.name}: {type(error).__name__}: {error}") from error
        if stop.is_set:
            raise CancelledWorkError("the run was cancelled")
        return ran

    def _release(self, sandbox: Any) -> None:
        try:
            self._backend.release(sandbox)
        except Exception:  # noqa: BLE001 - it stays on the books, and is tried again
            with self._lock:
                if sandbox not in self._stuck:
                    self._stuck.append(sandbox)
            return
        with self._lock:
            self._live.remove(sandbox)
            self._released += 1
            if sandbox in self._stuck:
                self._stuck.remove(sandbox)

    def _sweep(self) -> None:
        with self._lock:
            stuck, self._stuck = self._stuck, []
        for sandbox in stuck:
            self._release(sandbox)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            stops = list(self._stops)
        for stop in stops:
            stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for _ in range(RELEASES):
            self._sweep()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
