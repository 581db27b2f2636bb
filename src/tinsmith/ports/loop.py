"""An event loop of its own, for connections that outlive the loops that use them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from tinsmith.domain.errors import DeadlineError, WorldError

T = TypeVar("T")

STOP_S = 5.0
"""Seconds that work has to end in when its loop is closed."""


class BackgroundLoop:
    """A thread with an event loop. Rollouts run on a new event loop each; what stays connected between them lives here.

    Work whose caller is cancelled, or whose time is up, is cancelled.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._name = name
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]], what: str, seconds: float) -> T:
        """The work's result, from any other event loop. DeadlineError after `seconds`, WorldError once it is closed."""
        return await asyncio.wrap_future(self._submit(work, what, seconds))

    def wait(self, work: Callable[[], Coroutine[Any, Any, T]], what: str, seconds: float) -> T:
        """The same, from where there is no event loop."""
        return self._submit(work, what, seconds).result()

    def _submit(self, work: Callable[[], Coroutine[Any, Any, T]], what: str, seconds: float) -> Future[T]:
        if self._closed:
            raise WorldError(f"{self._name} is closed")

        async def bounded() -> T:
            try:
                async with asyncio.timeout(seconds) as limit:
                    return await work()
            except TimeoutError as error:
                if limit.expired():
                    raise DeadlineError(f"{what} gave no answer within {seconds:g} s") from error
                raise
            except asyncio.CancelledError as error:
                if self._closed:  # its caller was not cancelled, and must not take it so
                    raise WorldError(f"{self._name} was closed before {what} gave an answer") from error
                raise

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop)

    def close(self) -> None:
        """End what runs, and the thread."""
        if not self._closed:
            self._closed = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
            self._thread.join(STOP_S + 1.0)

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_S)
        self._loop.stop()
