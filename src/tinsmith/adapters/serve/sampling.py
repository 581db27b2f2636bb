"""Samplers of saved weights and base models: made when they are needed, a few kept."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence

from attrs import define

from tinsmith.adapters.serve.futures import Futures
from tinsmith.adapters.serve.outcome import PROTOBUF, BusyError, HttpError, Outcome, failure
from tinsmith.adapters.serve.records import SamplingSession
from tinsmith.adapters.serve.store import Store
from tinsmith.domain.errors import JournalError
from tinsmith.domain.tokens import Floats, floats, ints
from tinsmith.ports.engine import Engine
from tinsmith.ports.pending import hand_over
from tinsmith.ports.sampler import Completion, FinishReason, Sampler, SampleResult
from tinsmith.ports.trainer import Lora
from tinsmith.wire import requests, sampling

MAX_SEQUENCES = 4096
"""Completions that are asked for and not done, over all clients; more are told to come again."""
KEPT_IDLE = 4
"""Samplers kept for the next request. Each holds its weights: a training run makes a new one every step."""
KEPT_UNNAMED = 32
"""Unnamed samplers of a model whose weights are kept on disk: those that were last made or used."""
TOUCH_EVERY_S = 60.0


@define(eq=False)
class _Open:
    sampler: Sampler
    in_use: int = 0
    used: float = 0.0


class Samplers:
    """Open samplers by the handle of their weights ("" and the model's name for a base model)."""

    def __init__(self, engines: Callable[[str], Engine], store: Store) -> None:
        self._engine = engines
        self._store = store
        self._open: dict[str, _Open] = {}
        self._making: dict[str, asyncio.Task[_Open]] = {}
        self._closing: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    def put(self, key: str, sampler: Sampler) -> None:
        """A sampler that was made of a trainer as it stood."""
        if key in self._open:
            self._close(sampler)
        else:
            self._open[key] = _Open(sampler, used=time.monotonic())
        self._trim()

    async def acquire(self, session: SamplingSession, lora: Lora | None) -> tuple[str, Sampler]:
        """(what to give to `release`, the sampler)."""
        key = session.handle or f":{session.base_model}"
        entry = self._open.get(key)
        if entry is None:
            task = self._making.get(key)
            if task is None:
                task = self._making[key] = asyncio.create_task(self._make(key, session, lora))
            entry = await asyncio.shield(task)
        entry.in_use += 1
        entry.used = time.monotonic()
        return key, entry.sampler

    def release(self, key: str) -> None:
        entry = self._open.get(key)
        if entry is not None:
            entry.in_use -= 1
            entry.used = time.monotonic()
        self._trim()

    async def _make(self, key: str, session: SamplingSession, lora: Lora | None) -> _Open:
        try:
            engine = self._engine(session.base_model)
            if session.handle is not None and not self._store.has_state(session.handle):
                raise HttpError(404, f"the weights that {session.id} samples from were deleted")
            if session.handle is None:
                sampler = await asyncio.to_thread(engine.sampler)
            else:
                trainer = await asyncio.to_thread(engine.trainer, lora=lora, seed=0, state_dir=None)
                try:
                    await trainer.load_state(session.handle)
                    sampler = await trainer.sampler()
                finally:
                    await asyncio.to_thread(trainer.close)
            entry = self._open[key] = _Open(sampler, used=time.monotonic())
            return entry
        finally:
            del self._making[key]

    def _trim(self) -> None:
        idle = sorted((k for k, e in self._open.items() if e.in_use <= 0), key=lambda k: self._open[k].used)
        for key in idle[: max(len(idle) - KEPT_IDLE, 0)]:
            self._close(self._open.pop(key).sampler)

    def _close(self, sampler: Sampler) -> None:
        """Off the loop: it waits for the sampler's thread."""
        future = asyncio.get_running_loop().run_in_executor(None, sampler.close)
        self._closing.add(future)
        future.add_done_callback(self._closing.discard)

    def forget(self, keys: Sequence[str]) -> None:
        """Close those of these that nobody uses."""
        for key in keys:
            entry = self._open.get(key)
            if entry is not None and entry.in_use <= 0:
                self._close(self._open.pop(key).sampler)

    def close(self) -> None:
        for entry in self._open.values():
            entry.sampler.close()
        self._open.clear()


def _scored(scores: Floats, n: int) -> SampleResult:
    """A prompt that fills the context, as clients score it (with room for a token that they do not want)."""
    nothing = Completion(tokens=ints([]), logprobs=floats([]), finish=FinishReason.LENGTH)
    return SampleResult(completions=(nothing,) * n, prompt_logprobs=scores)


class Sampling:
    """asample: requests of all clients, on the samplers of their sessions."""

    def __init__(
        self,
        engines: Callable[[str], Engine],
        store: Store,
        futures: Futures,
        samplers: Samplers,
        count: Callable[[int], object],
    ) -> None:
        self._engine = engines
        self._store = store
        self._futures = futures
        self._samplers = samplers
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sessions: dict[str, tuple[SamplingSession, Lora | None]] = {}
        self._touched: dict[str, float] = {}
        self._count = count
        self.sequences = 0

    def session(self, name: str) -> tuple[SamplingSession, Lora | None]:
        """(the session, the adapters of its weights)."""
        known = self._sessions.get(name)
        if known is None:
            session = self._store.sampler(name)
            if session is None:
                raise HttpError(
                    404,
                    f"there is no sampling session {name} (of those without a name, a model's last {KEPT_UNNAMED} are "
                    "kept; save_weights_for_sampler with a name is for longer)",
                )
            model = None if session.model is None else self._store.model(session.model)
            known = self._sessions[name] = (session, None if model is None else model.lora)
        return known

    def forget(self, names: Sequence[str]) -> None:
        for name in names:
            self._sessions.pop(name, None)
            self._touched.pop(name, None)

    def keep(self, model: str, handle: str, sampler: Sampler) -> None:
        """An unnamed sampler, just made; the ones that were longest not used are let go."""
        self._samplers.put(handle, sampler)
        for name, old in self._store.surplus_samplers(model, KEPT_UNNAMED):
            self._samplers.forget([old])
            self.forget([name])
            self._store.remove_sampler(name, old)

    def _touch(self, session: SamplingSession) -> None:
        now = time.monotonic()
        if session.path is None and session.handle and now - self._touched.get(session.id, -1e9) > TOUCH_EVERY_S:
            self._touched[session.id] = now
            with contextlib.suppress(JournalError):  # a full disk is no reason not to sample
                self._store.add_sampler(session)

    def submit(self, name: str, seq: int, request: requests.Sample) -> tuple[str, list[str]]:
        """(request id, ids of its completions). A request that was taken before is not taken again."""
        session, lora = self.session(name)
        if seq < 0:
            raise HttpError(400, f"seq_id={seq}: 0 or more")
        if request.num_samples > MAX_SEQUENCES:
            raise HttpError(400, f"num_samples={request.num_samples}: at most {MAX_SEQUENCES}")
        request_id = f"{name}:{seq}"
        sequences = [f"{request_id}:{i}" for i in range(max(request.num_samples, 0))]
        if request_id in self._futures:
            return request_id, sequences
        engine = self._engine(session.base_model)
        decoded = sampling.decode_request(
            request,
            seed=secrets.randbits(62),
            stop_ids=engine.stop_ids,
            context=engine.context,
            vocab_size=engine.vocab_size,
        )
        if self.sequences + decoded.n > MAX_SEQUENCES:
            raise BusyError(f"{self.sequences} completions are asked for already")
        self._touch(session)
        self.sequences += decoded.n
        task = asyncio.get_running_loop().create_task(self._work(request_id, session, lora, decoded))
        task.add_done_callback(lambda task: self._done(request_id, decoded.n, task))
        self._tasks[request_id] = task
        self._futures.open(request_id, cancel=task.cancel)
        return request_id, sequences

    async def _work(
        self, request_id: str, session: SamplingSession, lora: Lora | None, request: sampling.SampleRequest
    ) -> None:
        try:
            key, sampler = await self._samplers.acquire(session, lora)
            try:
                if len(request.prompt) == sampler.context and request.scores and not request.params.top_prompt_logprobs:
                    result = _scored(await sampler.score(request.prompt), request.n)
                else:
                    drawn = sampler.sample(request.prompt, request.params, request.n)
                    if self.sequences == request.n:  # it was idle
                        hand_over()
                    result = await drawn
                outcome = Outcome(sampling.encode_result(result, request), PROTOBUF)
                self._count(sum(len(c.tokens) for c in result.completions))
            finally:
                self._samplers.release(key)
        except Exception as error:  # noqa: BLE001 - it is the outcome of the request
            outcome = failure(error)
        self._futures.set(request_id, outcome)

    def _done(self, request_id: str, n: int, task: asyncio.Task[None]) -> None:
        """Also of a task that was cancelled before it began, of which nothing ran."""
        self.sequences -= n
        self._tasks.pop(request_id, None)
        if task.cancelled():
            self._futures.set(request_id, failure(HttpError(410, "the request was cancelled")))

    def cancel(self, session: str) -> None:
        """Stop what was asked for in a session whose client is gone."""
        for request_id, task in list(self._tasks.items()):
            if request_id.startswith(f"{session}:"):
                task.cancel()
