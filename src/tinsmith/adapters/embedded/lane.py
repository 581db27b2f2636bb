"""One thread that carries out submitted work in order."""

from __future__ import annotations

import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from tinsmith.domain.errors import CancelledWorkError, DeadlineError
from tinsmith.ports.pending import DEADLINE_S, Pending

T = TypeVar("T")


class Lane:
    """Runs functions one after another, off the caller's thread.

    At most `bound` submissions wait; a further `submit` blocks until there is room, at most `timeout` seconds. `close`
    cancels what waits, asks what runs to stop through `interrupt`, and joins the thread.
    """

    def __init__(
        self,
        name: str,
        *,
        bound: int = 256,
        timeout: float = DEADLINE_S,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        self._waiting: deque[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._bound = bound
        self._timeout = timeout
        self._interrupt = interrupt
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], T]) -> Pending[T]:
        """Raises CancelledWorkError once closed, also while it waits for room; DeadlineError when none comes."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._bound, self._timeout):
                raise DeadlineError(f"{self._bound} pieces of work wait, and none was begun for {self._timeout} s")
            if self._closed:
                raise CancelledWorkError("this backend was closed")
            self._waiting.append((future, function))
            self._changed.notify_all()
        return Pending(future)

    @property
    def closed(self) -> bool:
        return self._closed

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._waiting))
                if self._closed:
                    return
                future, function = self._waiting.popleft()
                self._changed.notify_all()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - handed to whoever awaits
                future.set_exception(error)

    def close(self, timeout: float = 60.0) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        if self._interrupt is not None:
            self._interrupt()
        for future, _ in left:
            future.cancel()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
