"""Faults on schedule: wrap any port, and its n-th call of a method fails the way that you say.

    trainer = faulty(FakeTrainer(), {("forward_backward", 3): Fail(WorldError("connection reset"))})
    store = faulty(MemoryBlobStore(), {("put", 2): Torn(0.5)})

A schedule is a mapping from (method, call number from 1) to a fault, or a function of the two; it is deterministic, so
a failure comes again. What a faulty trainer's `sampler()` gives is faulty by the same schedule.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from attrs import frozen

from tinsmith.domain.errors import WorldError
from tinsmith.ports.pending import Pending

T = TypeVar("T")


@frozen
class Raise:
    """The call itself raises; nothing is done."""

    error: Exception


@frozen
class Fail:
    """The work is submitted and done, but its result never arrives: awaiting it raises. Also: a plain call raises after
    it was carried out."""

    error: Exception


@frozen
class Hang:
    """The result never comes; only a deadline or `cancel` ends the wait. The work is not done."""


@frozen
class Cancelled:
    """The backend cancels the work: awaiting it raises CancelledWorkError. The work is not done."""


@frozen
class Late:
    """The result (or the plain call) takes this much longer."""

    seconds: float


@frozen
class Torn:
    """`put` writes only the first part of its bytes (a share from 0 to 1), then raises; for other calls as Raise."""

    share: float = 0.5


Fault: TypeAlias = Raise | Fail | Hang | Cancelled | Late | Torn
Schedule: TypeAlias = Mapping[tuple[str, int], Fault] | Callable[[str, int], Fault | None]


def at_random(seed: int, rate: float, faults: Sequence[Fault], methods: Sequence[str] = ()) -> Schedule:
    """A schedule that draws a fault for a share `rate` of the calls (of `methods`, or of all), fixed by the seed."""

    def schedule(method: str, call: int) -> Fault | None:
        if methods and method not in methods:
            return None
        draw = int.from_bytes(hashlib.sha256(f"{seed}/{method}/{call}".encode()).digest()[:8])
        return faults[draw % len(faults)] if (draw >> 16) / 2**48 < rate else None

    return schedule


def faulty(target: T, schedule: Schedule, *, sleep: Callable[[float], None] = time.sleep) -> T:
    """`target` behind the schedule's faults; to a type checker still what it was."""
    return cast(T, _Faulty(target, schedule, sleep, Counter(), threading.Lock()))


class _Faulty:
    def __init__(
        self,
        target: Any,
        schedule: Schedule,
        sleep: Callable[[float], None],
        calls: Counter[str],
        lock: threading.Lock,
    ) -> None:
        self._target = target
        self._schedule = schedule
        self._sleep = sleep
        self._calls = calls
        self._lock = lock

    def _next_fault(self, method: str) -> Fault | None:
        with self._lock:
            self._calls[method] += 1
            call = self._calls[method]
        if isinstance(self._schedule, Mapping):
            return self._schedule.get((method, call))
        return self._schedule(method, call)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value) or name.startswith("_"):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            result = self._call(name, value, args, kwargs)
            if name == "sampler":
                return result.then(self._wrap)
            return result

        return call

    def __iter__(self) -> Iterator[Any]:
        """Rows of a source; row n is call n of `__iter__`."""
        for row in self._target:
            yield self._call("__iter__", lambda row=row: row, (), {})

    def _wrap(self, value: Any) -> Any:
        return _Faulty(value, self._schedule, self._sleep, self._calls, self._lock)

    def _call(self, name: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        match self._next_fault(name):
            case None:
                return method(*args, **kwargs)
            case Raise(error):
                raise error
            case Fail(error):
                result = method(*args, **kwargs)
                if not isinstance(result, Pending):
                    raise error
                return result.then(lambda _: _throw(error))
            case Hang():
                return Pending[Any](concurrent.futures.Future())
            case Cancelled():
                future: concurrent.futures.Future[Any] = concurrent.futures.Future()
                future.cancel()
                return Pending[Any](future)
            case Late(seconds):
                result = method(*args, **kwargs)
                if isinstance(result, Pending):
                    return result.then(lambda value: (self._sleep(seconds), value)[1])
                self._sleep(seconds)
                return result
            case Torn(share):
                if name == "put":
                    key, data = args
                    method(key, data[: int(len(data) * share)])
                raise WorldError(f"{name}: the connection broke")


def _throw(error: Exception) -> Any:
    raise error
