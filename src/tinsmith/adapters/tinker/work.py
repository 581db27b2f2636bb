"""Work that waits for futures of the SDK, as `Pending`.

A piece of work is a generator: it yields concurrent futures and is sent their results, and what it returns is the
result. Its first part runs in the thread that starts it, the others in a thread of the `Driver`: never in the SDK's
event loop, which whoever awaits a result could otherwise block.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Callable, Generator
from functools import cache
from typing import Any, TypeAlias, TypeVar

from tinsmith.adapters.tinker.errors import translated
from tinsmith.domain.errors import CancelledWorkError, DeadlineError, TinsmithError
from tinsmith.ports.pending import Pending

T = TypeVar("T")
Work: TypeAlias = Generator["concurrent.futures.Future[Any]", Any, T]

WAITING = 1024
"""Submissions that may wait for their turn; a further one blocks until there is room."""


class Task:
    """One piece of work under way."""

    def __init__(self, work: Callable[[], Work[Any]], number: int = 0) -> None:
        """number: its place in a lane."""
        self.work = work
        self.number = number
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.steps: Work[Any] | None = None
        self.waits_for: concurrent.futures.Future[Any] | None = None

    def fail(self, error: BaseException) -> None:
        """End it with `error` unless it has ended."""
        try:
            self.future.set_exception(error)
        except concurrent.futures.InvalidStateError:
            return

    def abandon(self) -> None:
        """Cancel it, and what it waits for."""
        self.future.cancel()
        self.stop_waiting()

    def stop_waiting(self) -> None:
        if self.waits_for is not None:
            self.waits_for.cancel()


class Driver:
    """Carries work on when what it waits for is done."""

    def __init__(self, name: str) -> None:
        self._ready: queue.SimpleQueue[tuple[Task, concurrent.futures.Future[Any]]] = queue.SimpleQueue()
        self.current: Task | None = None
        """What the driver's thread carries on now."""
        self._thread = threading.Thread(target=self._drive, name=name, daemon=True)
        self._thread.start()

    def start(self, task: Task) -> None:
        """Run the first part of the work here and now."""
        try:
            task.steps = task.work()
        except BaseException as error:  # noqa: BLE001 - handed to whoever awaits
            task.fail(translated(error))
            return
        self._advance(task, None)

    def _drive(self) -> None:
        while True:
            self.current, done = self._ready.get()
            self._advance(self.current, done)

    def _advance(self, task: Task, done: concurrent.futures.Future[Any] | None) -> None:
        assert task.steps is not None
        try:
            if done is None:
                waits_for = next(task.steps)
            elif done.cancelled():
                waits_for = task.steps.throw(CancelledWorkError("the work was cancelled before it finished"))
            elif (error := done.exception()) is not None:
                waits_for = task.steps.throw(translated(error))
            else:
                waits_for = task.steps.send(done.result())
        except StopIteration as end:
            try:
                task.future.set_result(end.value)
            except concurrent.futures.InvalidStateError:
                return  # cancelled meanwhile
        except BaseException as error:  # noqa: BLE001 - handed to whoever awaits
            task.fail(translated(error))
        else:
            task.waits_for = waits_for
            waits_for.add_done_callback(lambda future: self._ready.put((task, future)))


@cache
def driver() -> Driver:
    """The one driver of this process. What blocks does not belong on it: see `in_thread`."""
    return Driver("tinker results")


def in_thread(function: Callable[[], T]) -> concurrent.futures.Future[T]:
    """The result of a function that blocks, on a thread of its own; for work to wait for."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - handed on
            future.set_exception(error)

    threading.Thread(target=run, name="tinker blocking call", daemon=True).start()
    return future


class Lane:
    """Starts work in the order of submission, off the caller's thread, and does not wait for any to finish."""

    def __init__(self, name: str, driver: Driver, timeout: float) -> None:
        self._driver = driver
        self._timeout = timeout
        self._queue: queue.Queue[Task | None] = queue.Queue(WAITING)
        self._open: set[Task] = set()
        self._lock = threading.Lock()
        self._submitted = 0
        self._closed = False
        self._thread = threading.Thread(target=self._start_all, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._closed

    def submit(self, work: Callable[[], Work[T]], *, cancellable: bool = False) -> Pending[T]:
        """cancellable: cancelling the result also cancels what the work waits for. Never of numbered requests: the SDK
        sends nothing after one that was left out.

        Raises CancelledWorkError once closed, DeadlineError when there is no room for too long."""
        with self._lock:
            if self._closed:
                raise CancelledWorkError("this backend was closed")
            self._submitted += 1
            task = Task(work, self._submitted)
            self._open.add(task)
        task.future.add_done_callback(lambda _: self._forget(task))
        try:
            self._queue.put(task, timeout=self._timeout)
        except queue.Full:
            self._forget(task)
            raise DeadlineError(f"{WAITING} pieces of work wait, and none was begun for {self._timeout:g} s") from None
        return Pending(task.future, on_cancel=task.abandon if cancellable else None)

    def fail_behind(self, task: Task | None, error: BaseException) -> None:
        """End with `error` what was submitted after a task."""
        if task is None:
            return
        with self._lock:
            tasks = [other for other in self._open if other.number > task.number]
        for other in tasks:
            other.fail(error)

    def _forget(self, task: Task) -> None:
        with self._lock:
            self._open.discard(task)

    def _start_all(self) -> None:
        while (task := self._queue.get()) is not None:
            if self._closed:
                task.future.cancel()
            elif not task.future.done():
                self._driver.start(task)

    def close(self) -> None:
        """Cancel all that is under way."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            tasks = list(self._open)
        for task in tasks:  # all of them before any can fail for the sake of another
            task.future.cancel()
        for task in tasks:
            task.stop_waiting()
        try:
            self._queue.put_nowait(None)
        except queue.Full:  # the tasks that fill it are cancelled, so there is room soon
            self._queue.put(None, timeout=self._timeout)


def failing(error: TinsmithError) -> Pending[Any]:
    task = Task(lambda: (_ for _ in ()))
    task.fail(error)
    return Pending(task.future)
