"""One model in training: its requests, carried out in the order of their sequence numbers, each once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from attrs import evolve

from tinsmith.adapters.serve import names
from tinsmith.adapters.serve.futures import Futures
from tinsmith.adapters.serve.outcome import PROTOBUF, BusyError, HttpError, Outcome, failure, ok
from tinsmith.adapters.serve.sampling import Samplers
from tinsmith.adapters.serve.store import Checkpoint, Model, SamplingSession, Store
from tinsmith.domain import losses
from tinsmith.domain.errors import CapabilityError, NonFiniteError, TrainingError
from tinsmith.ports.engine import Engine
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.trainer import AdamW, OptimResult, Trainer, TrainResult
from tinsmith.wire import requests, training

MAX_WAITING = 256
"""Requests of one model that wait; more are told to come again."""
MAX_WAITING_BYTES = 256 * 2**20
IN_FLIGHT = 8
"""Requests that the trainer has at once: enough that the next is always queued behind the one that runs."""
SNAPSHOT_EVERY_S = 2.0
"""Work since the last snapshot, in seconds: what a restart has to do again at most, beside one step."""
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
        samplers: Samplers,
        *,
        note: Callable[[str], object],
        count: Callable[[int], object],
    ) -> None:
        self.model = model
        self.used = time.monotonic()
        self._engine = engine
        self._store = store
        self._futures = futures
        self._samplers = samplers
        self._note = note
        self._count = count
        self._trainer: Trainer | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: dict[int, tuple[str, bytes]] = {}
        self._waiting_bytes = 0
        self._next = 1
        self._running: set[int] = set()
        self._since_snapshot = 0.0
        self._began = 0.0
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def queued(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def is_open(self) -> bool:
        return self._trainer is not None

    def request_id(self, seq: int) -> str:
        return f"{self.model.id}:{seq}"

    def submit(self, seq: int, kind: str, body: bytes) -> str:
        """Take a request; gives the id of its result. One that was taken before is not taken again."""
        self.used = time.monotonic()
        if not 1 <= seq < 2**31:
            raise HttpError(400, f"seq_id={seq}: from 1 on, one more for each request of the model")
        request = self.request_id(seq)
        if seq in self._waiting or seq in self._running or request in self._futures:
            return request
        taken, _ = self._store.outcome(self.model.id, seq)
        if taken or seq <= self.model.snapshot_seq:
            return request
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + len(body) > MAX_WAITING_BYTES:
            raise BusyError(f"{len(self._waiting)} requests of {self.model.id} wait already")
        self._store.accept(self.model.id, seq, kind, body)
        self._futures.open(request)
        self._put(seq, kind, body)
        self.open()
        self._drain()
        return request

    def resume(self, seq: int) -> bool:
        """Whether the request was ever taken; if it is not done, work on it goes on."""
        taken, outcome = self._store.outcome(self.model.id, seq)
        if taken:
            self._futures.open(self.request_id(seq))
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
            trainer = await asyncio.to_thread(
                self._engine.trainer, lora=model.lora, seed=model.seed, state_dir=self._store.states_of(model.id)
            )
            try:
                if model.snapshot is not None:
                    await trainer.load_state(model.snapshot)
                elif model.origin is not None:
                    await trainer.load_state(model.origin, optimizer=model.with_optimizer)
                    self._set_snapshot(0, await trainer.save_state("snapshot-0"))
            except BaseException:
                trainer.close()
                raise
        except Exception as error:
            self._opening = None
            for seq in list(self._waiting):
                self._waiting_bytes -= len(self._waiting.pop(seq)[1])
                self._futures.set(
                    self.request_id(seq), failure(error)
                )  # not recorded: it is tried again when asked for
            raise
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
            try:
                pending = self._start(self._trainer, seq, kind, body)
            except Exception as error:  # noqa: BLE001 - it is the outcome of the request
                self._finish(seq, failure(error))
            else:
                self._later(self._watch(seq, pending))

    async def _watch(self, seq: int, pending: Pending[Outcome]) -> None:
        try:
            outcome = await pending
        except Exception as error:  # noqa: BLE001 - it is the outcome of the request
            outcome = failure(error)
        self._finish(seq, outcome)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _finish(self, seq: int, outcome: Outcome) -> None:
        self._running.discard(seq)
        now = time.monotonic()
        self._since_snapshot += now - self._began
        self._began = now
        if self._trainer is not None:  # else it was closed on the way, and the request is done again when asked for
            self._store.record(self.model.id, seq, outcome)
            self._futures.set(self.request_id(seq), outcome)
        self._drain()

    # What each request does

    def _start(self, trainer: Trainer, seq: int, kind: str, body: bytes) -> Pending[Outcome]:
        if kind == "forward_backward":
            return self._forward_backward(trainer, body)
        if kind == "optim_step":
            return self._optim_step(trainer, seq, requests.parse(requests.OptimStep, body))
        if kind == "save_weights":
            return self._save_weights(trainer, seq, requests.parse(requests.SaveWeights, body))
        if kind == "save_weights_for_sampler":
            return self._save_for_sampler(trainer, seq, requests.parse(requests.SaveWeightsForSampler, body))
        assert kind == "load_weights", kind
        return self._load_weights(trainer, seq, requests.parse(requests.LoadWeights, body))

    def _forward_backward(self, trainer: Trainer, body: bytes) -> Pending[Outcome]:
        request = training.decode_request(body)
        losses.check_loss(request.loss.name, request.loss.options)

        def encode(result: TrainResult) -> Outcome:
            value, metrics = result.loss, result.metrics
            if request.forward_only:
                evaluated = losses.evaluate(request.batch, result.logprobs, request.loss.name, request.loss.options)
                value, metrics = evaluated.value, evaluated.metrics
            if not math.isfinite(value):
                raise NonFiniteError(f"loss {request.loss.name} is {value}")
            self._count(request.batch.num_tokens)
            body = training.encode_result(result.logprobs, request.batch, request.widths, value, metrics)
            return Outcome(body, PROTOBUF)

        if request.forward_only:
            return trainer.forward(request.batch).then(encode)
        return trainer.forward_backward(request.batch, request.loss).then(encode)

    def _optim_step(self, trainer: Trainer, seq: int, request: requests.OptimStep) -> Pending[Outcome]:
        if request.adam_params is None:
            raise CapabilityError("optim_step without adam_params: AdamW is the one optimizer here")
        p = request.adam_params
        settings = AdamW(p.learning_rate, p.beta1, p.beta2, p.eps, p.weight_decay, p.grad_clip_norm)
        pending = trainer.optim_step(settings)
        if self._since_snapshot > SNAPSHOT_EVERY_S:
            self._since_snapshot = 0.0
            self._later(self._snapshot(seq, pending, trainer.save_state(f"snapshot-{seq}")))

        def encode(result: OptimResult) -> Outcome:
            return ok({"metrics": {**result.metrics, "step": result.step}, "type": "optim_step"})

        return pending.then(encode)

    async def _snapshot(self, seq: int, stepped: Pending[OptimResult], saved: Pending[str]) -> None:
        try:
            await stepped  # of a step that failed nothing is kept: after a restart it fails again
            self._set_snapshot(seq, await saved)
        except Exception as error:  # noqa: BLE001 - the log of requests still holds everything
            self._note(f"{self.model.id}: no snapshot after request {seq}: {error}")

    def _set_snapshot(self, seq: int, handle: str) -> None:
        old = self.model.snapshot
        self._store.set_snapshot(self.model.id, handle, seq)
        self._store.forget_requests(self.model.id, seq - KEPT_RESULTS)
        self.model = evolve(self.model, snapshot=handle, snapshot_seq=seq)
        if old is not None and old != handle:
            self._store.remove_state(old)

    def _save_weights(self, trainer: Trainer, seq: int, request: requests.SaveWeights) -> Pending[Outcome]:
        return self._save(
            trainer, seq, "weights", request.path, request.ttl_seconds, request.user_metadata, request.overwrite
        )

    def _save(
        self,
        trainer: Trainer,
        seq: int,
        kind: str,
        path: str | None,
        ttl: int | None,
        metadata: Mapping[str, Any] | None,
        overwrite: bool,
    ) -> Pending[Outcome]:
        name = names.checkpoint_name(path, seq)
        expires = names.expiry(ttl)
        full = f"tinker://{self.model.id}/{kind}/{name}"
        _, done = self._store.outcome(self.model.id, seq)
        if done is not None:  # before a restart
            return Pending.of(done)
        if not overwrite and any(c.path == full for c in self._store.checkpoints(self.model.id)):
            raise TrainingError(f"there is a checkpoint {full}; save under another name, or with overwrite")

        def record(handle: str) -> Outcome:
            size = names.file_size(handle)
            self._store.add_checkpoint(
                Checkpoint(
                    path=full,
                    model=self.model.id,
                    kind=kind,
                    name=name,
                    handle=handle,
                    created=time.time(),
                    expires=expires,
                    size=size,
                    metadata=metadata,
                )
            )
            said = "save_weights" if kind == "weights" else "save_weights_for_sampler"
            return ok({"path": full, "type": said})

        return trainer.save_state(f"{kind}-{name}").then(record)

    def _save_for_sampler(
        self, trainer: Trainer, seq: int, request: requests.SaveWeightsForSampler
    ) -> Pending[Outcome]:
        if request.path is not None or request.sampling_session_seq_id is None:
            return self._save(
                trainer, seq, "sampler_weights", request.path, request.ttl_seconds, request.user_metadata, True
            )
        _, done = self._store.outcome(self.model.id, seq)
        if done is not None:
            return Pending.of(done)
        session = names.sampling_session(self.model.session, request.sampling_session_seq_id)
        saved, made = trainer.save_state(f"sampler-{request.sampling_session_seq_id}"), trainer.sampler()

        def record(handle: str) -> Pending[Outcome]:
            def keep(sampler: Sampler) -> Outcome:
                self._store.add_sampler(
                    SamplingSession(
                        id=session,
                        session=self.model.session,
                        base_model=self.model.base_model,
                        path=None,
                        model=self.model.id,
                        handle=handle,
                    )
                )
                self._loop.call_soon_threadsafe(self._samplers.put, handle, sampler)
                return ok({"path": None, "sampling_session_id": session, "type": "save_weights_for_sampler"})

            return made.then(keep)

        return saved.and_then(record)

    def _load_weights(self, trainer: Trainer, seq: int, request: requests.LoadWeights) -> Pending[Outcome]:
        checkpoint = self._store.checkpoint(request.path)
        loaded = trainer.load_state(checkpoint.handle, optimizer=request.optimizer)
        saved = trainer.save_state(f"snapshot-{seq}")  # the checkpoint may be gone when the server comes back

        def both(_: None) -> Pending[Outcome]:
            def keep(handle: str) -> Outcome:
                self._loop.call_soon_threadsafe(self._set_snapshot, seq, handle)
                return ok({"path": request.path, "model_id": self.model.id, "type": "load_weights"})

            return saved.then(keep)

        return loaded.and_then(both)

    def close(self) -> None:
        """Let go of the trainer; a later request makes it again, with all that was done."""
        trainer, self._trainer = self._trainer, None
        for seq in (*self._waiting, *self._running):
            self._futures.drop(self.request_id(seq))
        self._waiting.clear()
        self._waiting_bytes = 0
        if trainer is not None:
            trainer.close()
