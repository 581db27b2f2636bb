"""An environment of the package `verifiers`, whose rollouts ask us for every answer.

The package runs its rollout and scores it (`Environment.run_rollout`); what it takes for a client is a `Client` of its
own kind that hands each request out and waits for the answer. It does so on an event loop of its own, on a thread:
training makes a new loop each step, and what an environment keeps (sessions, semaphores, a client) belongs to one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import logging
import math
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

from tinsmith.adapters.verifiers.convert import as_response, asked
from tinsmith.domain.errors import ConfigError, MissingExtraError, WorldError
from tinsmith.domain.messages import Message
from tinsmith.ports.foreign import Ask, Scored

T = TypeVar("T")

CLOSE_S = 10.0
"""Seconds that an environment has to clean up after its last rollout."""

_NETWORK = {"openai", "anthropic", "httpx", "httpcore", "aiohttp"}
"""Packages whose errors are the world's, though they derive from no OSError."""

_swallowed: ContextVar[list[BaseException]] = ContextVar("swallowed")


class _Listener(logging.Handler):
    """What a rubric does with an exception of a reward function is log it and pay nothing. This hears of it."""

    def emit(self, record: logging.LogRecord) -> None:
        error, heard = sys.exc_info()[1], _swallowed.get(None)
        if error is not None and heard is not None and record.levelno >= logging.ERROR:
            heard.append(error)


def _is_worlds(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _NETWORK


def version() -> tuple[int, ...]:
    """Of the installed package. Raises MissingExtraError, ConfigError for one that works otherwise."""
    try:
        text = importlib.metadata.version("verifiers")
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError("verifiers", "verifiers") from None
    parts = tuple(int(p) for p in text.split(".")[:3] if p.isdigit())
    if not (0, 1, 14) <= parts < (0, 4):
        raise ConfigError(
            f"verifiers {text}: versions 0.1.14 to 0.3.1 work; 0.4 has no environment that takes a client"
        )
    return parts


class VerifiersEnvironment:
    """A loaded environment. `close` ends its thread."""

    def __init__(self, name: str, args: Mapping[str, Any]) -> None:
        """Loads it, with the arguments of its `load_environment`. Raises ConfigError, MissingExtraError."""
        self._version = version()
        with _signals_kept():
            import verifiers

            try:
                self._env: Any = verifiers.load_environment(name, **args)
            except (ValueError, RuntimeError, TypeError, AttributeError) as error:
                raise ConfigError(f"env={name}: cannot be loaded: {error}") from error
        self.compares = bool(self._env.requires_group_rollouts)
        self.name, self._args = name, dict(args)
        self._listener = _Listener()
        logging.getLogger("verifiers").addHandler(self._listener)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="verifiers", daemon=True)
        self._thread.start()

    def rows(self, split: Literal["train", "test"]) -> Any:
        if split == "test":
            return self._env.get_eval_dataset() if self._env.build_eval_dataset() is not None else None
        try:
            return self._env.get_dataset()
        except ValueError as error:
            raise ConfigError(f"env={self.name}: has no problems to train on ({error})") from None

    def fingerprint(self, rows: Any) -> str:
        told = [self.name, json.dumps(self._args, sort_keys=True, default=str)]
        digest = hashlib.blake2b("\0".join(told).encode(), digest_size=12)
        for row in rows:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        return f"{self.name}/{len(rows)}/{digest.hexdigest()}"

    def rollouts(self, row: Mapping[str, Any], n: int) -> Sequence[VerifiersRollout]:
        if self.compares:
            return Run(self, row, n).seats
        return [Run(self, row, 1).seats[0] for _ in range(n)]

    async def within(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result, from the environment's loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def play(self, row: Mapping[str, Any], n: int, client: Any) -> list[tuple[str, Scored]]:
        """On the environment's loop: n rollouts to their end and their scores, in any order, each with its id where the
        rubric compares them."""
        heard: list[BaseException] = []
        _swallowed.set(heard)
        try:
            if self.compares:
                rows, named = [dict(row) for _ in range(n)], ["trajectory_id"]
                outputs = await self._env.run_group(rows, client, "policy", {}, state_columns=named)
            else:
                outputs = [await self._env.run_rollout(dict(row), client, "policy", {})]
        except Exception as error:
            raise WorldError(f"{self.name}: {type(error).__name__}: {str(error)[:500]}") from error
        for failure in filter(_is_worlds, heard):
            raise WorldError(f"{self.name}: a reward failed: {type(failure).__name__}: {failure}") from failure
        return [(str(o.get("trajectory_id", "")), self._scored(o, len(heard) / n)) for o in outputs]

    def _scored(self, output: Mapping[str, Any], errors: float) -> Scored:
        if output.get("error") is not None:
            raise WorldError(f"{self.name}: {str(output['error'])[:500]}")
        metrics = {str(k): float(v) for k, v in (output.get("metrics") or {}).items() if v is not None}
        reward = float(output["reward"])
        if not math.isfinite(reward):
            raise WorldError(f"{self.name}: a reward of {reward}")
        return Scored(reward=reward, metrics={**metrics, "reward_errors": errors})

    def close(self) -> None:
        logging.getLogger("verifiers").removeHandler(self._listener)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()


class Run:
    """One call of the package: a rollout, or all rollouts of a group whose rubric compares them. Seats are given to
    rollouts in the order in which they first ask."""

    def __init__(self, environment: VerifiersEnvironment, row: Mapping[str, Any], n: int) -> None:
        self._environment, self._row = environment, row
        self.seats = [VerifiersRollout(environment, self, i) for i in range(n)]
        self._taken: dict[str, int] = {}
        self._task: asyncio.Task[dict[int, Scored]] | None = None

    def begun(self) -> asyncio.Task[dict[int, Scored]]:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._played())
        return self._task

    async def _played(self) -> dict[int, Scored]:
        """The score of each seat."""
        scores = await self._environment.play(self._row, len(self.seats), make_client(self))
        silent = iter(i for i in range(len(self.seats)) if i not in self._taken.values())
        return {self._taken[name] if name in self._taken else next(silent): scored for name, scored in scores}

    async def request(self, state: Any, prompt: Any, tools: Any, sampling: Mapping[str, Any]) -> Any:
        """Called by the client: the package's answer to a prompt, once it is given."""
        name = str(state["trajectory_id"]) if self._environment.compares else ""
        seat = self._taken.setdefault(name, len(self._taken))
        return await self.seats[seat].request(prompt, tools, sampling)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task


class VerifiersRollout:
    """A `ForeignRollout`."""

    def __init__(self, environment: VerifiersEnvironment, run: Run, seat: int) -> None:
        self._environment, self._run, self._seat = environment, run, seat
        self._asks: asyncio.Queue[tuple[Any, Any, Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._open: asyncio.Future[Any] | None = None
        """Where the answer to the last ask is waited for."""
        self._prompt: list[Mapping[str, Any]] = []
        self._said: Any = None
        """The answer that the last ask got, as the package keeps it."""

    async def next(self) -> Ask | Scored:
        return await self._environment.within(self._next())

    async def answer(self, message: Message, *, truncated: bool) -> None:
        await self._environment.within(self._answer(message, truncated))

    async def end(self) -> None:
        await self._environment.within(self._end())

    async def close(self) -> None:
        await self._environment.within(self._run.stop())

    async def request(self, prompt: Any, tools: Any, sampling: Mapping[str, Any]) -> Any:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asks.put_nowait((prompt, tools, sampling.get("stop"), reply))
        return await reply

    async def _next(self) -> Ask | Scored:
        task = self._run.begun()
        while True:
            getting = asyncio.ensure_future(self._asks.get())
            try:
                await asyncio.wait({getting, task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getting.done():
                    getting.cancel()
            if not getting.done() or getting.cancelled():
                return task.result()[self._seat]
            prompt, tools, stop, reply = getting.result()
            if not reply.done():  # else given up: the environment's own time limit
                self._open = reply
                return self._asked(prompt, tools, stop)

    def _asked(self, prompt: list[Any], tools: Any, stop: Any) -> Ask:
        told = [m if isinstance(m, Mapping) else m.model_dump(exclude_none=True) for m in prompt]
        before = [*self._prompt, self._said] if self._said is not None else []
        seen = len(before) if before and told[: len(before)] == before else 0
        self._prompt, self._said = told, None
        messages, given = asked(told, tools)
        return Ask(
            messages=messages, tools=given, stop=(stop,) if isinstance(stop, str) else tuple(stop or ()), seen=seen
        )

    async def _answer(self, message: Message, truncated: bool) -> None:
        response, said = as_response(message, truncated=truncated)
        self._said = said.model_dump(exclude_none=True)
        if self._open is not None and not self._open.done():
            self._open.set_result(response)

    async def _end(self) -> None:
        from verifiers.errors import OverlongPromptError

        if self._open is not None and not self._open.done():
            self._open.set_exception(OverlongPromptError("the limits of the episode are reached"))


_client_class: list[type] = []


def make_client(run: Run) -> Any:
    """The package's kind of client, over one call of it. What it calls native are the package's own messages."""
    if not _client_class:
        from verifiers.clients import Client

        class RunClient(Client):  # type: ignore[misc]
            def setup_client(self, config: Any) -> Any:
                return config

            async def to_native_tool(self, tool: Any) -> Any:
                return tool

            async def to_native_prompt(self, messages: Any) -> tuple[Any, dict[str, Any]]:
                return messages, {}

            async def get_native_response(
                self, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **more: Any
            ) -> Any:
                return await self.client.request(more.get("state"), prompt, tools, sampling_args or {})

            async def raise_from_native_response(self, response: Any) -> None:
                """An answer of ours is one."""

            async def from_native_response(self, response: Any) -> Any:
                return response

            async def close(self) -> None:
                """Nothing is held."""

        _client_class.append(RunClient)
    return _client_class[0](run)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """An environment sets handlers of Ctrl-C and SIGTERM as it is made. Those of the run stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
