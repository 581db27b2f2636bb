"""What clients wait for, by request id. All of it on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from attrs import define, field

from tinsmith.adapters.serve.outcome import Outcome

KEPT_AFTER_RETRIEVAL_S = 60.0
"""A client whose connection broke while it read a result comes back for it."""
KEPT_UNRETRIEVED_S = 1800.0
"""A client that has not come for a result by then is gone."""
MAX_KEPT_BYTES = 512 * 2**20


@define(eq=False)
class _Entry:
    created: float
    done: asyncio.Event = field(factory=asyncio.Event)
    outcome: Outcome | None = None
    retrieved: float | None = None
    cancel: Callable[[], object] | None = None


class Rate:
    """Things a second over the last minute."""

    WINDOW_S = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: deque[tuple[float, int]] = deque(maxlen=100_000)

    def add(self, count: int) -> None:
        self._counts.append((self._clock(), count))

    def rate(self) -> float:
        since = self._clock() - self.WINDOW_S
        while self._counts and self._counts[0][0] < since:
            self._counts.popleft()
        return sum(count for _, count in self._counts) / self.WINDOW_S


class Futures:
    """Results from when a request is taken until a while after its client has them. Bounded by time and bytes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._bytes = 0
        self._closing = False

    def __contains__(self, request: str) -> bool:
        return request in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def waiting(self) -> int:
        return sum(entry.outcome is None for entry in self._entries.values())

    def open(self, request: str, cancel: Callable[[], object] | None = None) -> None:
        if request not in self._entries:
            self._entries[request] = _Entry(self._clock(), cancel=cancel)

    def outcome(self, request: str) -> Outcome | None:
        entry = self._entries.get(request)
        return None if entry is None else entry.outcome

    def set(self, request: str, outcome: Outcome) -> None:
        entry = self._entries.get(request)
        if entry is not None and entry.outcome is None:
            entry.outcome = outcome
            self._bytes += len(outcome.body)
            entry.done.set()

    def cancel(self, request: str) -> None:
        entry = self._entries.get(request)
        if entry is not None and entry.outcome is None and entry.cancel is not None:
            entry.cancel()

    async def wait(self, request: str, seconds: float) -> Outcome | None:
        """The outcome, or None when there is none in time. KeyError for a request that is not kept (any more)."""
        entry = self._entries[request]
        if entry.outcome is None and not self._closing:
            try:
                async with asyncio.timeout(seconds):
                    await entry.done.wait()
            except TimeoutError:
                return None
        if entry.outcome is not None:
            entry.retrieved = self._clock()
        return entry.outcome

    def retrieved(self, request: str) -> bool:
        entry = self._entries.get(request)
        return entry is None or entry.retrieved is not None

    def sweep(self) -> None:
        """Let go of what was had, and of what nobody comes for: the oldest first where there is too much."""
        now = self._clock()
        for request, entry in list(self._entries.items()):
            if entry.outcome is None:
                continue
            over = self._bytes > MAX_KEPT_BYTES
            age = now - (entry.created if entry.retrieved is None else entry.retrieved)
            if over or age > (KEPT_UNRETRIEVED_S if entry.retrieved is None else KEPT_AFTER_RETRIEVAL_S):
                del self._entries[request]
                self._bytes -= len(entry.outcome.body)

    def drop(self, request: str) -> None:
        """Forget work that was put off; whoever waits is told to come again."""
        entry = self._entries.get(request)
        if entry is not None and entry.outcome is None:
            del self._entries[request]
            entry.done.set()

    def forget(self, request: str) -> None:
        """As if it had never been taken."""
        entry = self._entries.pop(request, None)
        if entry is not None:
            self._bytes -= 0 if entry.outcome is None else len(entry.outcome.body)
            entry.done.set()

    def close(self) -> None:
        """Answer all that wait now: nothing, come again."""
        self._closing = True
        for entry in self._entries.values():
            entry.done.set()
