"""Work that was submitted and is awaited later."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

from tinsmith.domain.errors import CancelledWorkError, DeadlineError

T = TypeVar("T")
U = TypeVar("U")

DEADLINE_S = 3600.0
"""Seconds that a wait takes at most when its caller names no other limit. Far above what one step, sample or save takes
on a laptop, its turn in the queue included: what is not there by then most likely never comes."""

_CANCELLED = "the work was cancelled before it finished"
_BEGIN_S = 1e-4
"""Seconds in which a thread that was woken has begun, where a processor is free."""
WOKEN_AT_ONCE = 12
"""Of those that wait on one event loop, how many go on in one of its rounds, between which it looks at its clock and
its sockets: what each then does may take half a millisecond."""


class _Wakes:
    """Wakes those who wait on an event loop for work of other threads, many at a time.

    `asyncio.wrap_future` does it one by one, with a write to a socket each, at which the thread that finishes the work
    loses the interpreter's lock; and it leaves a cycle for each that holds the result until the collector comes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._finished: deque[Callable[[], object]] = deque()
        self._called = False

    def when_done(self, work: concurrent.futures.Future[Any]) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = self.loop.create_future()
        work.add_done_callback(lambda _: self.soon(partial(_go_on, waiter)))
        return waiter

    def turn(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = self.loop.create_future()
        self.soon(partial(_go_on, waiter))
        return waiter

    def soon(self, function: Callable[[], object]) -> None:
        """Call it on the loop; from any thread."""
        with self._lock:
            self._finished.append(function)
            called, self._called = self._called, True
        if not called:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        with self._lock:
            some = [self._finished.popleft() for _ in range(min(len(self._finished), WOKEN_AT_ONCE))]
            self._called = bool(self._finished)
        if self._called:
            self.loop.call_soon(self._wake)
        for function in some:
            try:
                function()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - the others have their turn all the same
                self.loop.call_exception_handler({"message": f"in {function}", "exception": error})


def _go_on(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


_local = threading.local()


def _wakes() -> _Wakes:
    """Of the loop that runs in this thread."""
    loop = asyncio.get_running_loop()
    wakes: _Wakes | None = getattr(_local, "wakes", None)
    if wakes is None or wakes.loop is not loop:
        wakes = _local.wakes = _Wakes(loop)
    return wakes


def hand_over() -> None:
    """Let threads that were just given work begin with it. One that wakes needs the interpreter first, and gets it from
    a thread that stays busy only after `sys.getswitchinterval()` (5 ms)."""
    time.sleep(_BEGIN_S)


async def turn() -> None:
    """Wait until it is one's turn, behind those who wait for work that is finished: so many go on in one round of the
    event loop. For tasks that begin in numbers with half a millisecond of work."""
    await _wakes().turn()


class Pending(Generic[T]):
    """A result that a backend still owes. Submitting keeps the order; awaiting may come much later.

    `result(timeout)` blocks; `await pending` does not. Both raise what the work raised.
    """

    def __init__(self, future: concurrent.futures.Future[T], *, on_cancel: Callable[[], None] | None = None) -> None:
        self._future = future
        self._on_cancel = on_cancel

    @classmethod
    def of(cls, value: T) -> Pending[T]:
        """A result that is already there."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        future.set_result(value)
        return cls(future)

    def result(self, timeout: float | None = DEADLINE_S) -> T:
        """Wait at most `timeout` seconds (None: as long as the work takes).

        Raises DeadlineError when the time is up (the work goes on), CancelledWorkError when it was cancelled.
        """
        try:
            return self._future.result(timeout)
        except concurrent.futures.CancelledError:
            raise CancelledWorkError(_CANCELLED) from None
        except TimeoutError as error:
            if self._future.done():
                raise
            raise DeadlineError(f"no result after {timeout} s; the work goes on") from error

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        try:
            if self._future.done():
                await turn()  # others have theirs all the same
            else:
                await _wakes().when_done(self._future)
        except asyncio.CancelledError:
            self.cancel()  # nobody awaits it any more
            raise
        try:
            return self._future.result(0)
        except concurrent.futures.CancelledError:
            raise CancelledWorkError(_CANCELLED) from None

    def done(self) -> bool:
        return self._future.done()

    def when_done(self, function: Callable[[Pending[T]], object]) -> None:
        """Call `function` with the finished work, on the event loop that runs here: what a task does that awaits it, in
        fewer steps."""
        wakes = _wakes()  # the callback may not hold `self`: the future keeps it, and both would wait for the collector
        self._future.add_done_callback(lambda done: wakes.soon(partial(function, Pending(done))))

    def cancel(self) -> bool:
        """Ask for the work to stop; True when it will not give a result."""
        if self._on_cancel is not None:
            self._on_cancel()
        return self._future.cancel()

    def then(self, function: Callable[[T], U]) -> Pending[U]:
        """A pending of `function(result)`, computed by the thread that finishes the work."""
        mapped: concurrent.futures.Future[U] = concurrent.futures.Future()

        def finish(done: concurrent.futures.Future[T]) -> None:
            if not mapped.set_running_or_notify_cancel():
                return
            try:
                mapped.set_result(function(done.result()))
            except concurrent.futures.CancelledError:
                mapped.set_exception(CancelledWorkError(_CANCELLED))
            except BaseException as error:  # noqa: BLE001 - handed to whoever awaits
                mapped.set_exception(error)

        self._future.add_done_callback(finish)
        return Pending(mapped, on_cancel=self.cancel_quietly)

    def and_then(self, function: Callable[[T], Pending[U]]) -> Pending[U]:
        """A pending of the result of more work, which `function(result)` submits when this work is finished."""
        last: concurrent.futures.Future[U] = concurrent.futures.Future()
        more: list[Pending[U]] = []

        def cancel() -> None:
            self.cancel()
            for pending in more:
                pending.cancel()

        def hand_on(done: concurrent.futures.Future[Any], submit: Callable[[Any], Pending[U]] | None) -> None:
            try:
                value = done.result()
                if submit is None:
                    last.set_result(value)
                else:
                    more.append(submit(value))
                    more[0]._future.add_done_callback(lambda f: hand_on(f, None))
            except concurrent.futures.CancelledError:
                last.set_exception(CancelledWorkError(_CANCELLED))
            except BaseException as error:  # noqa: BLE001 - handed to whoever awaits
                last.set_exception(error)

        last.set_running_or_notify_cancel()  # from here on it ends by what the work does
        self._future.add_done_callback(lambda f: hand_on(f, function))
        return Pending(last, on_cancel=cancel)

    def cancel_quietly(self) -> None:
        self.cancel()
