"""One thread that carries out submitted work in order."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from tinsmith.domain.errors import CancelledWorkError
from tinsmith.ports.pending import Pending

T = TypeVar("T")


class Lane:
    """Runs functions one after another, off the caller's thread.

    At most `bound` submissions wait; a further `submit` blocks until there is room. `close` cancels what waits, asks
    what runs to stop through `interrupt`, and joins the thread.
    """

    def __init__(self, name: str, *, bound: int = 256, interrupt: Callable[[], None] | None = None) -> None:
        self._queue: queue.Queue[tuple[concurrent.futures.Future[Any], Callable[[], Any]] | None] = queue.Queue(bound)
        self._interrupt = interrupt
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], T]) -> Pending[T]:
        if self._closed.is_set():
            raise CancelledWorkError("this backend was closed")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._queue.put((future, function))
        if self._closed.is_set():  # closed meanwhile: nobody may be left to take it
            future.cancel()
        return Pending(future)

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            future, function = item
            if self._closed.is_set():
                future.cancel()
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - handed to whoever awaits
                future.set_exception(error)

    def close(self, timeout: float = 60.0) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        if self._interrupt is not None:
            self._interrupt()
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
