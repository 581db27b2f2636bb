"""One model in training: its requests, carried out in the order of their sequence numbers, each once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from attrs import evolve

from tinsmith.adapters.serve.futures import Futures
from tinsmith.adapters.serve.operations import Operations
from tinsmith.adapters.serve.outcome import BusyError, HttpError, Outcome, failure
from tinsmith.adapters.serve.records import Model
from tinsmith.adapters.serve.store import Store
from tinsmith.domain.errors import JournalError, TrainingError
from tinsmith.ports.engine import Engine
from tinsmith.ports.pending import Pending, hand_over
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.trainer import Trainer

MAX_WAITING = 256
"""Requests of one model that wait; more are told to come again."""
MAX_WAITING_BYTES = 256 * 2**20
IN_FLIGHT = 8
"""Requests that the trainer has at once: enough that the next is always queued behind the one that runs."""
LARGE = 2**20
"""Bytes of a request that take milliseconds to read; other clients are heard between two of them."""
SNAPSHOT_EVERY_S = 2.0
"""Work since the last snapshot, in seconds: what a restart has to do again at most, beside one step."""
MAX_GAP_S = 600.0
"""How long requests wait for one with a smaller number that has not come; then all of them are given up. A client that
sends again gives up after half of that."""
MAX_AHEAD = 1024
"""How far beyond the request that is next a number may lie; the ones beyond are told to come again."""
KEPT_RESULTS = 1024
"""Requests behind the snapshot whose results are kept on disk for a client that did not get them."""


class TrainingRun:
    """All methods but those handed to the trainer run on the event loop."""

    def __init__(
        self,
        model: Model,
        engine: Engine,
        store: Store,
        futures: Futures,
        *,
        note: Callable[[str], object],
        count: Callable[[int], object],
        keep_sampler: Callable[[str, str, Sampler], object],
        after: asyncio.Task[None] | None = None,
    ) -> None:
        """`keep_sampler`: takes the model's id, the handle of a state, and a sampler of it. `after`: what has to end
        before files of the model are touched, the run that this one replaces."""
        self.model = model
        self.used = time.monotonic()
        self._engine = engine
        self._store = store
        self._futures = futures
        self._note = note
        self._operations = Operations(
            model,
            store,
            count=count,
            keep_sampler=lambda handle, made: self._loop.call_soon_threadsafe(keep_sampler, model.id, handle, made),
        )
        self._after = after
        self._gap: tuple[int, float] | None = None  # (the number that is missing, since when)
        self._trainer: Trainer | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: dict[int, tuple[str, bytes]] = {}
        self._waiting_bytes = 0
        self._next = 1
        self._last = model.last_seq  # the largest number that was ever taken
        self._running: set[int] = set()
        self._since_snapshot = 0.0
        self._began = 0.0
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def queued(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def is_open(self) -> bool:
        return self._trainer is not None

    def request_id(self, seq: int) -> str:
        return f"{self.model.id}:{seq}"

    def submit(self, seq: int, kind: str, body: bytes) -> str:
        """Take a request; gives the id of its result. One that was taken before is not taken again.

        After a JournalError the model may hold what is not on disk: the run is to be closed.
        """
        self.used = time.monotonic()
        if not 1 <= seq < 2**31:
            raise HttpError(400, f"seq_id={seq}: from 1 on, one more for each request of the model")
        request = self.request_id(seq)
        if seq in self._waiting or seq in self._running or request in self._futures:
            return request
        if seq <= self._last and (seq <= self.model.snapshot_seq or self._store.outcome(self.model.id, seq)[0]):
            return request
        full = len(self._waiting) >= MAX_WAITING or self._waiting_bytes + len(body) > MAX_WAITING_BYTES
        if full and seq != self._next:  # the one that all others wait for is always taken
            raise BusyError(f"{len(self._waiting)} requests of {self.model.id} wait already")
        first = max(self._next, self.model.last_seq + 1)
        if seq > first + MAX_AHEAD:
            raise BusyError(f"seq_id={seq} is far ahead: {first} is next")
        self._futures.open(request)
        self._put(seq, kind, body)
        self.open()
        self._drain()  # the work begins while it is written down; its client hears of it after that
        try:
            self._store.accept(self.model.id, seq, kind, body)
        except BaseException:
            self._futures.forget(request)
            raise
        self._last = max(self._last, seq)
        return request

    def resume(self, seq: int) -> bool:
        """Whether the request was ever taken; if it is not done, work on it goes on."""
        taken, outcome = self._store.outcome(self.model.id, seq)
        if taken:
            self._futures.open(self.request_id(seq))
            if outcome is None and seq <= self.model.snapshot_seq:
                lost = JournalError(f"request {seq} was carried out, but what it came to could not be written down")
                outcome = failure(lost)
            if outcome is not None:
                self._futures.set(self.request_id(seq), outcome)
            else:
                self.open()
        return taken

    def open(self) -> None:
        """See that there is a trainer, with all in it that was done before."""
        if self._trainer is None and self._opening is None:
            self._opening = self._loop.create_task(self._open())

    async def opened(self) -> None:
        """Wait for the trainer; raises what kept it from being made."""
        self.open()
        if self._opening is not None:
            await asyncio.shield(self._opening)

    async def _open(self) -> None:
        model = self.model
        try:
            if self._after is not None:
                await asyncio.wait({self._after})
            trainer = await asyncio.to_thread(
                self._engine.trainer, lora=model.lora, seed=model.seed, state_dir=self._store.states_of(model.id)
            )
            try:
                if model.snapshot is not None:
                    await trainer.load_state(model.snapshot)
                elif model.origin is not None:
                    if not self._store.has_state(model.origin):
                        raise HttpError(404, f"the checkpoint that {model.id} begins with was deleted")
                    await trainer.load_state(model.origin, optimizer=model.with_optimizer)
                    begun = await trainer.save_state("snapshot-0")
                    if not self._closed:
                        self._set_snapshot(0, begun)
            except BaseException:
                await asyncio.to_thread(trainer.close)
                raise
        except Exception as error:
            self._opening = None
            for seq in list(self._waiting):
                self._waiting_bytes -= len(self._waiting.pop(seq)[1])
                self._futures.set(
                    self.request_id(seq), failure(error)
                )  # not recorded: it is tried again when asked for
            raise
        if self._closed:
            await asyncio.to_thread(trainer.close)
            return
        self._next = self.model.snapshot_seq + 1
        for seq, kind, body, outcome in self._store.requests_after(model.id, self.model.snapshot_seq):
            self._futures.open(self.request_id(seq))
            if outcome is not None:
                self._futures.set(self.request_id(seq), outcome)
            if seq not in self._waiting:
                self._put(seq, kind, body)
        self._trainer, self._opening = trainer, None
        self._drain()

    def _put(self, seq: int, kind: str, body: bytes) -> None:
        self._waiting[seq] = (kind, body)
        self._waiting_bytes += len(body)

    def _drain(self) -> None:
        while self._trainer is not None and self._next in self._waiting and len(self._running) < IN_FLIGHT:
            seq, self._next = self._next, self._next + 1
            kind, body = self._waiting.pop(seq)
            self._waiting_bytes -= len(body)
            self._running.add(seq)
            if len(self._running) == 1:
                self._began = time.monotonic()
            due = self._since_snapshot > SNAPSHOT_EVERY_S
            try:
                submitted = self._operations.submit(self._trainer, seq, kind, body, snapshot_due=due)
            except Exception as error:  # noqa: BLE001 - it is the outcome of the request
                self._settle(seq, failure(error))
                continue
            if submitted.snapshot is not None:
                self._since_snapshot = 0.0
            if len(self._running) == 1:
                hand_over()  # what else is to be done for the request takes as long as the trainer takes to begin
            submitted.outcome.when_done(partial(self._done, seq, submitted.snapshot))
            if len(body) > LARGE:
                self._loop.call_soon(self._drain)
                break
        if not self._waiting or self._next in self._waiting:
            self._gap = None
        elif self._gap is None or self._gap[0] != self._next:
            self._gap = (self._next, time.monotonic())

    def give_up_gap(self) -> None:
        """End what waits for a request that does not come. Later ones find the model as it was before the gap."""
        if self._trainer is None or self._gap is None or time.monotonic() - self._gap[1] < MAX_GAP_S:
            return
        missing, last = self._gap[0], max(self._waiting)
        message = (
            f"request {missing} of {self.model.id} did not come in {MAX_GAP_S:.0f} s, so requests {missing} to {last} "
            "were not carried out; begin again from a checkpoint, or send what they asked for as new requests"
        )
        outcome = failure(TrainingError(message))
        self._store.give_up(self.model.id, range(missing, last + 1), outcome)
        self._note(message)
        self._gap, self._next = None, last + 1
        for seq in list(self._waiting):
            del self._waiting[seq]
            self._futures.set(self.request_id(seq), outcome)
        self._waiting_bytes = 0

    def _done(self, seq: int, snapshot: Pending[str] | None, pending: Pending[Outcome]) -> None:
        try:
            outcome = pending.result(0)
        except BaseException as error:  # noqa: BLE001 - it is the outcome of the request
            outcome = failure(error)
        self._finish(seq, outcome)
        if snapshot is not None and not outcome.failed:
            # Of a request that failed nothing is kept: after a restart it fails again.
            task = self._loop.create_task(self._keep(seq, snapshot))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _keep(self, seq: int, snapshot: Pending[str]) -> None:
        try:
            saved = await snapshot
            if not self._closed:  # else another run of the model may have begun, and results are not recorded here
                self._set_snapshot(seq, saved)
        except Exception as error:  # noqa: BLE001 - the log of requests still holds everything
            self._note(f"{self.model.id}: no snapshot after request {seq}: {error}")

    def _set_snapshot(self, seq: int, handle: str) -> None:
        """From now on a restart begins here."""
        self._store.set_snapshot(self.model.id, handle, seq)
        self._store.forget_requests(self.model.id, seq - KEPT_RESULTS)
        self.model = evolve(self.model, snapshot=handle, snapshot_seq=seq)
        for file in Path(handle).parent.glob("snapshot-*"):
            number = file.stem.removeprefix("snapshot-")
            if number.isdecimal() and int(number) < seq:
                self._store.remove_state(str(file))

    def _finish(self, seq: int, outcome: Outcome) -> None:
        self._settle(seq, outcome)
        self._drain()

    def _settle(self, seq: int, outcome: Outcome) -> None:
        self._running.discard(seq)
        now = time.monotonic()
        self._since_snapshot += now - self._began
        self._began = now
        if self._trainer is not None:  # else it was closed on the way, and the request is done again when asked for
            known = self._futures.outcome(self.request_id(seq))
            if known is not None and outcome.failed and not known.failed:
                self._note(f"{self.model.id}: request {seq} came off and fails now: {outcome.body.decode()}")
                return
            self._futures.set(self.request_id(seq), outcome)
            self._loop.call_soon(self._record, seq, outcome)  # right after the client's answer; done again, it is equal

    def _record(self, seq: int, outcome: Outcome) -> None:
        try:
            self._store.record(self.model.id, seq, outcome)
        except JournalError as error:  # its client gets it all the same; a restart does the request again
            self._note(f"{self.model.id}: the result of request {seq} is not on disk: {error}")

    async def close(self) -> None:
        """Let go of the trainer. Another run of the model makes it again, with all that was done."""
        self._closed = True
        trainer, self._trainer = self._trainer, None
        for seq in (*self._waiting, *self._running):
            self._futures.drop(self.request_id(seq))
        self._waiting.clear()
        self._waiting_bytes = 0
        if trainer is not None:
            await asyncio.to_thread(trainer.close)
