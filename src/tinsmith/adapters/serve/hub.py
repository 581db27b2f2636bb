"""The state of one server: sessions, models, samplers, results. On one event loop."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from tinsmith.adapters.serve import names
from tinsmith.adapters.serve.futures import Futures, Rate
from tinsmith.adapters.serve.outcome import HttpError, Outcome, failure, ok
from tinsmith.adapters.serve.records import Checkpoint, Model, SamplingSession
from tinsmith.adapters.serve.sampling import Samplers, Sampling
from tinsmith.adapters.serve.store import Store
from tinsmith.adapters.serve.training import TrainingRun
from tinsmith.domain.errors import CapabilityError, ConfigError, JournalError
from tinsmith.ports.engine import Engine
from tinsmith.ports.trainer import Lora
from tinsmith.wire import requests, training

POLL_S = 20.0
"""How long a client's question for a result is held open before it is told to ask again; it waits 45 s itself."""
GONE_AFTER_S = 120.0
"""A session whose client gave no sign of life for so long (it gives one every 10 s) holds no memory."""
IDLE_AFTER_S = 600.0
"""A model that had no request for so long holds none; the next request makes it again from disk."""
ABANDONED_AFTER_S = 7 * 86400.0
"""A session without a request for so long is finished: what it did not name is deleted from disk."""
MAX_OPEN = 8
"""Models in memory."""
SWEEP_S = 5.0


class Hub:
    """`engines`: the base models, by the name that clients use."""

    def __init__(self, engines: Mapping[str, Engine], directory: Path, note: Callable[[str], object]) -> None:
        self.engines = engines
        self.store = Store(directory)
        self.store.collect()
        self.futures = Futures()
        self.started = time.time()
        self._note = note
        self._samplers = Samplers(self.engine, self.store)
        self.sampled, self.trained = Rate(), Rate()
        self.sampling = Sampling(self.engine, self.store, self.futures, self._samplers, self.sampled.add)
        self.runs: dict[str, TrainingRun] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, float] = {}
        self._finished: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        self.futures.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._close(list(self.runs.values()))
        await asyncio.to_thread(self._samplers.close)
        self.store.close()

    def engine(self, name: str) -> Engine:
        if name not in self.engines:
            raise HttpError(404, f"base_model {name!r} is not served here; served are {', '.join(self.engines)}")
        return self.engines[name]

    # Sessions

    def create_session(self, request: requests.CreateSession) -> str:
        session = str(uuid.uuid4())
        self.store.add_session(session, request.user_metadata)
        self._seen[session] = time.monotonic()
        return session

    def check_session(self, session: str) -> None:
        """HttpError 404 for one that is not known, 410 for one that was finished."""
        if session not in self._seen or session in self._finished:
            known, finished, _ = self.store.session(session)
            if not known:
                raise HttpError(404, f"there is no session {session}")
            if finished is not None:
                self._finished.add(session)
                raise HttpError(410, f"session {session} was finished ({finished})")
        self._seen[session] = time.monotonic()

    async def finish_session(self, session: str, request: requests.Finish) -> None:
        """First wins; a second finish changes nothing."""
        known, finished, _ = self.store.session(session)
        if not known:
            raise HttpError(404, f"there is no session {session}")
        if finished is not None:
            return
        self.store.finish_session(session, str(request.reason.get("type", "success"))[:40])
        self._finished.add(session)
        await self._release(session)
        samplers = self.store.samplers(session)
        states = self.store.unnamed_states(session)
        self._samplers.forget(states)
        self.sampling.forget(samplers)
        for handle in states:
            self.store.remove_state(handle)
        for model in self.store.models(session=session)[0]:
            self.store.forget_work(model.id)
        self._seen.pop(session, None)

    async def _release(self, session: str) -> None:
        """Stop what the session asked for, and let go of its memory."""
        for sampler in self.store.samplers(session):
            self.sampling.cancel(sampler)
        await self._close([run for run in self.runs.values() if run.model.session == session])

    async def _close(self, gone: Sequence[TrainingRun]) -> None:
        for task in self._let_go(gone):
            await task

    def _let_go(self, gone: Sequence[TrainingRun]) -> list[asyncio.Task[None]]:
        """From now on there are no such runs. One that takes the place of another begins when that has ended."""

        async def close(run: TrainingRun, before: asyncio.Task[None] | None) -> None:
            if before is not None:
                await before
            await run.close()
            if self._closing.get(run.model.id) is asyncio.current_task():
                del self._closing[run.model.id]

        tasks = []
        for run in gone:
            name = run.model.id
            del self.runs[name]
            tasks.append(asyncio.create_task(close(run, self._closing.get(name))))
            self._closing[name] = tasks[-1]
        return tasks

    # Models

    def create_model(self, request: requests.CreateModel) -> str:
        self.check_session(request.session_id)
        self.engine(request.base_model)
        if request.optimizer_config.type != "adamw":
            raise CapabilityError(f"optimizer {request.optimizer_config.type!r}: this server has adamw alone")
        config = request.lora_config or requests.LoraConfig(rank=32)
        model = self._new_model(
            request.session_id,
            request.model_seq_id,
            base_model=request.base_model,
            lora=Lora(
                rank=config.rank, attention=config.train_attn, mlp=config.train_mlp, unembed=config.train_unembed
            ),
            seed=secrets.randbits(31) if config.seed is None else config.seed % 2**63,
            metadata=request.user_metadata,
        )
        return self._make(model, ok({"model_id": model.id, "type": "create_model"}))

    def create_from_state(self, request: requests.LoadWeights) -> str:
        assert request.session_id is not None
        self.check_session(request.session_id)
        if request.model_seq_id is None:
            raise ConfigError("model_seq_id is missing")
        checkpoint = self.store.weights(request.path)
        origin = self._known(checkpoint.model)
        if request.base_model not in (None, origin.base_model):
            raise ConfigError(f"{request.path} is of {origin.base_model}, not of {request.base_model}")
        model = self._new_model(
            request.session_id,
            request.model_seq_id,
            base_model=origin.base_model,
            lora=origin.lora,
            seed=origin.seed,
            metadata=request.user_metadata,
            origin=checkpoint.handle,
            with_optimizer=request.optimizer,
        )
        return self._make(model, ok({"path": request.path, "model_id": model.id, "type": "load_weights"}))

    def _new_model(self, session: str, seq: int, **settings: Any) -> Model:
        now = time.time()
        name = names.training_model(session, seq)
        model = self.store.model(name)
        if model is None:
            blank = {"origin": None, "with_optimizer": True, "snapshot": None, "snapshot_seq": 0, "last_seq": 0}
            model = Model(id=name, session=session, created=now, last_request=now, **{**blank, **settings})
            self.store.add_model(model)
        return model

    def _make(self, model: Model, outcome: Outcome) -> str:
        request = f"{model.id}:create"
        if request not in self.futures:
            self.futures.open(request)
            self._later(self._open(request, self.run(model.id), outcome))
        return request

    async def _open(self, request: str, run: TrainingRun, outcome: Outcome) -> None:
        try:
            await run.opened()
        except Exception as error:  # noqa: BLE001 - it is the outcome of the request
            outcome = failure(error)
        self.futures.set(request, outcome)

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _known(self, name: str) -> Model:
        model = self.store.model(name)
        if model is None:
            raise HttpError(404, f"there is no model {name}")
        return model

    def run(self, name: str) -> TrainingRun:
        run = self.runs.get(name)
        if run is None:
            model = self._known(name)
            run = self.runs[name] = TrainingRun(
                model,
                self.engine(model.base_model),
                self.store,
                self.futures,
                note=self._note,
                count=self.trained.add,
                keep_sampler=self.sampling.keep,
                after=self._closing.get(name),
            )
            if len(self.runs) > MAX_OPEN:
                self._later(self._trim())
        return run

    def submit(self, name: str, seq: int, kind: str, body: bytes) -> str:
        run = self.runs.get(name)
        self.check_session((self._known(name) if run is None else run.model).session)
        run = self.run(name)
        try:
            return run.submit(seq, kind, body)
        except JournalError:
            self._let_go([run])
            raise

    def forward_backward(self, body: bytes) -> str:
        name, seq, _ = training.address(body)
        return self.submit(name, seq, "forward_backward", body)

    async def unload(self, name: str) -> None:
        if name in self.runs:
            await self._close([self.runs[name]])

    # Samplers

    def create_sampling_session(self, request: requests.CreateSamplingSession) -> str:
        self.check_session(request.session_id)
        name = names.sampling_session(request.session_id, request.sampling_session_seq_id)
        if self.store.sampler(name) is not None:
            return name
        blank = SamplingSession(id=name, session=request.session_id, base_model="", path=None, model=None, handle=None)
        if request.model_path is not None:
            checkpoint = self.store.weights(request.model_path)
            model = self._known(checkpoint.model)
            session = evolve(
                blank,
                base_model=model.base_model,
                path=request.model_path,
                model=model.id,
                handle=checkpoint.handle,
            )
        elif request.base_model is not None:
            self.engine(request.base_model)
            session = evolve(blank, base_model=request.base_model)
        else:
            raise ConfigError("base_model or model_path is needed")
        self.store.add_sampler(session)
        return name

    def sample(self, request: requests.Sample) -> tuple[str, list[str]]:
        if request.sampling_session_id is None or request.seq_id is None:
            raise ConfigError("sampling_session_id and seq_id are needed")
        session, _ = self.sampling.session(request.sampling_session_id)
        self.check_session(session.session)
        return self.sampling.submit(request.sampling_session_id, request.seq_id, request)

    # Results

    async def retrieve(self, request: str) -> Outcome | None:
        """The outcome, or None while there is none. HttpError for a request that is not known."""
        if request not in self.futures:
            self._find(request)
        return await self.futures.wait(request, POLL_S)

    def _find(self, request: str) -> None:
        """Take up a request that was taken before the server was started, or whose result was let go."""
        owner, _, number = request.rpartition(":")
        model = self.store.model(owner)
        if model is not None and self.store.session(model.session)[1] is None:
            if number == "create":
                kind = "create_model" if model.origin is None else "load_weights"
                self._make(model, ok({"model_id": owner, "type": kind}))
                return
            if number.isdecimal() and self.run(owner).resume(int(number)):
                return
        # 410 tells a client to sample again; an answer to the same seed and prompt is the same.
        raise HttpError(410 if ":sample:" in request else 404, f"there is no request {request}")

    # Checkpoints

    def delete_checkpoint(self, path: str) -> None:
        handle = self.store.checkpoint(path).handle
        self._samplers.forget([handle])
        self.store.remove_checkpoint(path)

    def info(self, path: str) -> tuple[Checkpoint, Model]:
        checkpoint = self.store.checkpoint(path)
        return checkpoint, self._known(checkpoint.model)

    def known_model(self, name: str) -> Model:
        return self._known(name)

    @property
    def open_samplers(self) -> int:
        return len(self._samplers)

    # Housekeeping

    async def _trim(self) -> None:
        """Hold MAX_OPEN models, and those that have work."""
        idle = sorted((r for r in self.runs.values() if not r.queued), key=lambda r: r.used)
        await self._close(idle[: max(len(self.runs) - MAX_OPEN, 0)])

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.futures.sweep()
                self.store.remove_expired()
                for run in list(self.runs.values()):
                    run.give_up_gap()
                for session in self.store.abandoned(time.time() - ABANDONED_AFTER_S):
                    # Just started, it has not heard yet from clients that are there.
                    if session not in self._seen and time.time() - self.started > GONE_AFTER_S:
                        await self.finish_session(session, requests.Finish({"type": "abandoned"}))
                now = time.monotonic()
                for session in [s for s, seen in self._seen.items() if now - seen > GONE_AFTER_S]:
                    del self._seen[session]
                    self._note(f"session {session}: its client is gone")
                    await self._release(session)
                await self._close([r for r in self.runs.values() if not r.queued and now - r.used > IDLE_AFTER_S])
                await self._trim()
            except Exception as error:  # noqa: BLE001 - the next sweep may do better
                self._note(f"housekeeping: {error}")
