"""Grading in processes that can be killed: which pair is given to which worker, and for how long.

One thread owns everything: it hands pairs to workers, a few at a time, takes an answer as soon as a worker has it, and
kills the worker that is over its time. Callers only leave a note and hold a future, so an event loop never waits.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from tinsmith.adapters.graders.processes import Nursery, Process
from tinsmith.domain.errors import CancelledWorkError, ConfigError, ShapeError, WorldError
from tinsmith.ports.grader import Grade
from tinsmith.ports.pending import Pending

MAX_CHARS = 4096
"""A longer answer is refused before any process sees it."""
CHUNK = 16
"""Pairs that a worker holds at most."""
STALL = 0.1
"""Seconds on one pair after which those behind it are given to other workers as well, and one more worker is made
(twice as many as usual at most), so that hostile answers hold nobody up."""
CACHE_PAIRS, CACHE_CHARS = 1 << 16, 1 << 24
START_SECONDS = 60.0
RETIRE = 10_000
"""Pairs after which a worker is replaced, so that no library's caches grow for ever."""


@define(eq=False)
class _Task:
    """A pair, with those who wait for it."""

    gold: str
    pred: str
    waiting: list[tuple[_Call, int]] = field(factory=list)
    done: bool = False
    spent: float = 0.0
    """Seconds that a worker took which then died."""
    attempts: int = 0


@define(eq=False)
class _Call:
    future: concurrent.futures.Future[list[Grade]]
    grades: list[Grade | None]
    missing: int
    golds: Sequence[str | None]
    preds: Sequence[str | None]
    expires: float | None
    over: bool = False


@define(eq=False)
class _Worker:
    process: Process
    since: float
    """When it began what it does now."""
    ready: bool = False
    tasks: OrderedDict[int, _Task] = field(factory=OrderedDict)
    stalled: bool = False
    """Long at one pair; what waits behind it was given back to the queue."""
    graded: int = 0

    @property
    def current(self) -> _Task | None:
        return next(iter(self.tasks.values()), None)


class PoolGrader:
    """A Grader whose comparisons run in `workers` processes, by the engine that a module's `load()` gives.

    timeout: seconds that one pair may take; then its worker is killed and the pair is undecided ("timeout").
    memory: bytes that a worker may take beyond what it starts with; a pair that needs more is undecided ("memory").
    A pair that kills its worker is tried once more, within its time, then undecided ("crashed"). Grades are kept for
    the next time the same pair comes, timeouts too: groups repeat answers. Waits until the first worker is ready;
    raises WorldError when there is none within a minute.
    """

    def __init__(
        self, engine: str, *, name: str, workers: int = 2, timeout: float = 2.0, memory: int = 1 << 30
    ) -> None:
        if workers < 1 or timeout <= 0 or memory <= 0:
            raise ConfigError(f"workers={workers}, timeout={timeout}, memory={memory}: each must be above 0")
        self.name = name
        self._size, self._timeout = workers, timeout
        self._owner = os.getpid()
        self._counts: Counter[str] = Counter(workers_replaced=0)
        self._inbox: deque[_Call] = deque()
        self._queue: deque[_Task] = deque()
        self._running: dict[tuple[str, str], _Task] = {}
        self._cache: OrderedDict[tuple[str, str], Grade] = OrderedDict()
        self._cached_chars = 0
        self._expiries: list[tuple[float, int, _Call]] = []
        self._ids = itertools.count()
        self._workers: dict[int, _Worker] = {}
        self._broken: str | None = None
        self._closing = False
        self._up = threading.Event()
        self._lock = threading.Lock()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ear, selectors.EVENT_READ, self._awake)
        self._nursery = Nursery(engine, timeout, memory, self._selector, ended=self._all_lost, given_up=self._give_up)
        self._thread = threading.Thread(target=self._run, name=f"grader-{name}", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        self._up.wait(START_SECONDS)
        if self._broken is not None or not self._up.is_set():
            self.close()
            raise WorldError(f"the grader {name} does not start: {self._broken or f'no sign in {START_SECONDS:.0f} s'}")

    # The caller's side

    @property
    def counts(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._counts)

    def grade(
        self, golds: Sequence[str | None], preds: Sequence[str | None], *, deadline: float | None = None
    ) -> Pending[list[Grade]]:
        if len(golds) != len(preds):
            raise ShapeError(f"{len(golds)} right answers, but {len(preds)} answers")
        if os.getpid() != self._owner:
            raise WorldError(f"the grader {self.name} belongs to process {self._owner}; open one in each process")
        call = _Call(
            concurrent.futures.Future(),
            [None] * len(golds),
            len(golds),
            list(golds),
            list(preds),
            None if deadline is None else time.monotonic() + deadline,
        )
        with self._lock:
            if self._closing:
                raise CancelledWorkError(f"the grader {self.name} was closed")
            self._inbox.append(call)
        self._ring()
        return Pending(call.future, on_cancel=lambda: setattr(call, "over", True))

    def close(self) -> None:
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._closing = True
        self._ring()
        if threading.current_thread() is not self._thread:
            self._thread.join(START_SECONDS)
        atexit.unregister(self.close)

    def __enter__(self) -> PoolGrader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full: it is awake already; closed: it is over
            self._bell.send(b"!")

    # The thread's side

    def _run(self) -> None:
        try:
            while not self._closing:
                self._keep_workers()
                self._hand_out()
                for key, events in self._selector.select(self._patience()):
                    key.data(events)
                self._take_calls()
                self._look_at_clock()
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            self._broken = f"{type(error).__name__}: {error}"
        self._end()

    def _awake(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ear.recv(4096):
                pass

    def _patience(self) -> float | None:
        """Seconds until something is due."""
        now, due = time.monotonic(), []
        for worker in self._workers.values():
            if not worker.ready:
                due.append(worker.since + START_SECONDS)
            elif (task := worker.current) is not None:
                due.append(worker.since + self._timeout - task.spent)
                if not worker.stalled:
                    due.append(worker.since + STALL)
        if self._expiries:
            due.append(self._expiries[0][0])
        if (again := self._nursery.due) is not None:
            due.append(again)
        return max(0.0, min(due) - now) if due else None

    def _take_calls(self) -> None:
        while True:
            with self._lock:
                if not self._inbox:
                    return
                call = self._inbox.popleft()
            if self._broken is not None:
                self._fail(call, WorldError(self._broken))
                continue
            if call.expires is not None:
                heapq.heappush(self._expiries, (call.expires, next(self._ids), call))
            if not call.grades:
                self._settle(call)
            for index, (gold, pred) in enumerate(zip(call.golds, call.preds, strict=True)):
                self._enter(call, index, gold, pred)

    def _enter(self, call: _Call, index: int, gold: str | None, pred: str | None) -> None:
        if (grade := self._screened(gold, pred)) is None:
            assert gold is not None
            assert pred is not None
            key = (gold, pred)
            if (kept := self._cache.get(key)) is None:
                task = self._running.get(key)
                if task is None:
                    task = self._running[key] = _Task(gold, pred)
                    self._queue.append(task)
                task.waiting.append((call, index))
                return
            self._cache.move_to_end(key)
            grade = Grade(kept.equal, kept.reason, kept.tier)
        self._give(call, index, grade)

    def _screened(self, gold: str | None, pred: str | None) -> Grade | None:
        if gold is None or not gold.strip():
            return Grade(None, "gold_empty", self.name)
        if len(gold) > MAX_CHARS:
            return Grade(None, "gold_too_long", self.name)
        if pred is None or not pred.strip():
            return Grade(False, "empty", self.name)
        return Grade(None, "too_long", self.name) if len(pred) > MAX_CHARS else None

    def _give(self, call: _Call, index: int, grade: Grade) -> None:
        with self._lock:
            self._counts[grade.reason] += 1
        if call.grades[index] is None and not call.over:
            call.grades[index] = grade
            call.missing -= 1
            if call.missing == 0:
                self._settle(call)

    def _settle(self, call: _Call) -> None:
        call.over = True
        if call.future.set_running_or_notify_cancel():
            call.future.set_result([g for g in call.grades if g is not None])

    def _fail(self, call: _Call, error: Exception) -> None:
        call.over = True
        if call.future.set_running_or_notify_cancel():
            call.future.set_exception(error)

    def _finish(self, task: _Task, grade: Grade) -> None:
        if task.done:
            return
        task.done = True
        key = (task.gold, task.pred)
        del self._running[key]
        self._cache[key] = grade
        self._cached_chars += len(task.gold) + len(task.pred)
        while len(self._cache) > CACHE_PAIRS or self._cached_chars > CACHE_CHARS:
            (gold, pred), _ = self._cache.popitem(last=False)
            self._cached_chars -= len(gold) + len(pred)
        for call, index in task.waiting:
            self._give(call, index, grade)

    # Workers

    def _keep_workers(self) -> None:
        self._nursery.keep()
        size = self._size + min(self._size, sum(w.stalled for w in self._workers.values()))
        idle = [w for w in self._workers.values() if w.ready and not w.tasks]
        for worker in idle[: max(0, len(self._workers) - size)]:
            self._lost(worker)
        while len(self._workers) < size:
            number = next(self._ids)
            process = self._nursery.fork(number, self._hear)
            if process is None:
                return
            self._workers[number] = _Worker(process, time.monotonic())

    def _give_up(self, why: str) -> None:
        self._broken = why
        self._up.set()
        for task in self._running.values():
            for call, _ in task.waiting:
                if not call.over:
                    self._fail(call, WorldError(f"the grader {self.name} cannot go on: {why}"))
        self._running.clear()
        self._queue.clear()

    def _hear(self, number: int, said: Any) -> None:
        worker = self._workers[number]
        if said is None:
            self._lost(worker, blame=worker.current)
            return
        worker.since = time.monotonic()
        if said == "ready":
            worker.ready = True
            self._nursery.proven()
            self._up.set()
            return
        pair, equal, reason, seconds = said
        worker.graded += 1
        worker.stalled = False
        task = worker.tasks.pop(pair)
        self._finish(task, Grade(equal, reason, self.name, seconds + task.spent))
        if reason == "memory" or (not worker.tasks and worker.graded >= RETIRE):  # the first ends itself
            self._lost(worker)

    def _hand_out(self) -> None:
        if not self._queue:
            return
        idle = [w for w in self._workers.values() if w.ready and not w.tasks]
        size = max(1, min(CHUNK, len(self._queue) // (2 * self._size)))
        for worker in idle:
            while self._queue and len(worker.tasks) < size:
                task = self._queue.popleft()
                if task.done:
                    continue
                if all(call.over for call, _ in task.waiting):  # nobody waits for it any more
                    task.done = True
                    del self._running[(task.gold, task.pred)]
                    continue
                worker.tasks[next(self._ids)] = task
            if worker.tasks:
                worker.since = time.monotonic()
                worker.process.tell([[number, t.gold, t.pred] for number, t in worker.tasks.items()])

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        while self._expiries and self._expiries[0][0] <= now:
            _, _, call = heapq.heappop(self._expiries)
            if not call.over:
                for index, grade in enumerate(list(call.grades)):
                    if grade is None:
                        self._give(call, index, Grade(None, "deadline", self.name))
        for worker in list(self._workers.values()):
            task = worker.current
            if task is None:
                if not worker.ready and now >= worker.since + START_SECONDS:
                    self._lost(worker)
                continue
            spent = task.spent + now - worker.since
            if spent >= self._timeout:
                self._finish(task, Grade(None, "timeout", self.name, spent))
                self._lost(worker)
            elif now >= worker.since + STALL and not worker.stalled:
                worker.stalled = True
                self._queue.extendleft(reversed(list(worker.tasks.values())[1:]))

    def _lost(self, worker: _Worker, blame: _Task | None = None) -> None:
        """A worker ended, or is to: kill it, and put back what it held. A pair that is to blame comes back once."""
        del self._workers[worker.process.number]
        self._nursery.kill(worker.process)
        with self._lock:
            self._counts["workers_replaced"] += 1
        if blame is not None:
            blame.attempts += 1
            blame.spent += time.monotonic() - worker.since
            if blame.attempts > 1:
                self._finish(blame, Grade(None, "crashed", self.name, blame.spent))
        self._queue.extendleft(task for task in reversed(worker.tasks.values()) if not task.done)

    def _all_lost(self) -> None:
        for worker in list(self._workers.values()):
            self._lost(worker)

    def _end(self) -> None:
        for worker in self._workers.values():
            worker.process.close()
        self._nursery.close()
        with self._lock:
            self._closing = True
            left = list(self._inbox)
            self._inbox.clear()
        left += [call for task in self._running.values() for call, _ in task.waiting]
        why = "was closed" if self._broken is None else f"ended: {self._broken}"
        for call in left:
            if not call.over:
                self._fail(call, CancelledWorkError(f"the grader {self.name} {why}"))
        self._selector.close()
        self._bell.close()
        self._ear.close()
        self._up.set()
