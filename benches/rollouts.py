"""Many rollouts at once against a sampler that only takes its time: what the client costs.

    python benches/rollouts.py [--episodes 2000] [--members 8] [--turns 5] [--latency 4.0] [--faults 0.05]

Every episode is a conversation of some turns, rendered in the tiny model's chat format. The sampler draws random
words, fixed by prompt and seed, and gives them after `latency` seconds, evenly between a half and one and a half of
that. Three runs: `calm`, with nothing failing; `faulty`, with a share of all calls (of sampler and environment)
failing, after which every episode must be what it was; and `rounds`, three times as many episodes of which as many as
before run at once, which tells how much memory is held by the work and how much by its results.

Of the event loop's thread: processor time a turn, and of it that of rendering and of parsing; the longest callback, and
the longest round of callbacks between two looks at its clock, in processor time (which other programs do not lengthen);
how late a sleep ended at worst, by the wall; memory at its peak.
Each run is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import heapq
import json
import multiprocessing
import resource
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import count
from typing import Any

import numpy as np

import tinsmith as ts
from tinsmith.domain.episodes import Episode, Group, StopReason
from tinsmith.domain.messages import Message
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import Env
from tinsmith.envs.message import MessageStep, RenderedEnv
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Completion, FinishReason, SampleResult, SamplingParams
from tinsmith.rendering import Renderer
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits, RolloutPlan, Rollouts, roll_out_async

MAX_TOKENS = 64
LOOK_S = 0.005
WORDS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("and", "or", "not", "the", "sum", "of", "what", "is"),
)


class Faults:
    """Fails a share of all calls, in an order of its own."""

    def __init__(self, share: float) -> None:
        self._rng, self._share = np.random.default_rng(1), share
        self.calls = self.failed = 0
        self._lock = threading.Lock()

    def may_fail(self) -> None:
        with self._lock:
            self.calls += 1
            fails = self._rng.random() < self._share
            self.failed += fails
        if fails:
            raise ConnectionError("injected")


class SlowSampler:
    """Random words after a while, from a thread of its own, as the client of a server would give them."""

    policy_version = 0
    context = 1 << 16

    def __init__(self, renderer: Renderer, ids: Sequence[int], latency: float, faults: Faults) -> None:
        self._stop = renderer.stop.ids[0]
        self._ids = np.array(ids, np.int32)
        self._latency, self._faults = latency, faults
        self._late: list[tuple[float, int, Future[SampleResult], SampleResult | Exception]] = []
        self._numbers = count()
        self._lock = threading.Lock()
        self._open = True
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def sample(self, prompt: Ints, params: SamplingParams, n: int = 1) -> Pending[SampleResult]:
        key = hashlib.blake2b(prompt.tobytes() + params.seed.to_bytes(8), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(key))
        result: SampleResult | Exception
        try:
            self._faults.may_fail()
            result = SampleResult(completions=tuple(self._completion(rng) for _ in range(n)))
        except ConnectionError as error:
            result = error
        future: Future[SampleResult] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            due = time.monotonic() + self._latency * rng.uniform(0.5, 1.5)
            heapq.heappush(self._late, (due, next(self._numbers), future, result))
        return Pending(future)

    def _completion(self, rng: np.random.Generator) -> Completion:
        tokens = np.append(rng.choice(self._ids, int(rng.integers(MAX_TOKENS // 4, MAX_TOKENS))), self._stop)
        logprobs = -rng.exponential(0.5, len(tokens))
        return Completion(
            tokens=tokens.astype(np.int32), logprobs=logprobs.astype(np.float32), finish=FinishReason.STOP
        )

    def _deliver(self) -> None:
        while self._open:
            time.sleep(LOOK_S)
            with self._lock:
                due, now = [], time.monotonic()
                while self._late and self._late[0][0] <= now:
                    due.append(heapq.heappop(self._late))
            for _, _, future, result in due:
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def score(self, tokens: Ints) -> Pending[Any]:
        raise NotImplementedError

    def close(self) -> None:
        self._open = False
        self._thread.join()

    def __enter__(self) -> SlowSampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Timed:
    """A renderer, and the processor time of its work."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._renderer, name)
        if name not in ("generation_prompt", "bridge", "parse"):
            return value

        def call(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return value(*args, **options)
            finally:
                self.seconds += time.thread_time() - began

        return call


class Talk:
    """A conversation of some turns; a message is paid by its words."""

    tools = ()

    def __init__(self, number: int, turns: int, faults: Faults) -> None:
        self._rng, self._turns, self._faults = np.random.default_rng(number), turns, faults

    def _says(self) -> Message:
        return Message.user(" ".join(WORDS[i] for i in self._rng.integers(len(WORDS), size=40)))

    async def reset(self) -> Sequence[Message]:
        self._faults.may_fail()
        return [self._says()]

    async def step(self, message: Message) -> MessageStep:
        self._faults.may_fail()
        reward = float(message.text.count("e"))
        self._turns -= 1
        if self._turns == 0:
            return MessageStep(reward=reward, stop_reason=StopReason.COMPLETED)
        return MessageStep(reward=reward, messages=(self._says(),))

    async def close(self) -> None: ...


class Talks:
    coupled = False
    tags = ("talk",)

    def __init__(self, number: int, turns: int, renderer: Renderer, faults: Faults) -> None:
        self._number, self._turns, self._renderer, self._faults = number, turns, renderer, faults
        self.problem = f"talk/{number}"

    def make(self, n: int) -> Sequence[Env]:
        made = [Talk(self._number, self._turns, self._faults) for _ in range(n)]
        return [RenderedEnv(env=env, renderer=self._renderer) for env in made]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)


def measured(options: argparse.Namespace, episodes: int, share: float) -> dict[str, Any]:
    model = ts.load_model("tiny")
    renderer: Any = Timed(model.renderer)
    ids = [i for word in WORDS for i in model.tokenizer.encode(" " + word)]
    faults = Faults(share)
    at_once = -(-options.episodes // options.members)
    plan = RolloutPlan(
        limits=RolloutLimits(max_tokens=MAX_TOKENS, max_groups_in_flight=at_once),
        group_size=options.members,
        failures=FailurePolicy(retries=10_000, backoff_s=0.01),
    )
    builders = [Talks(i, options.turns, renderer, faults) for i in range(episodes // options.members)]
    lag = [0.0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    with SlowSampler(renderer, ids, options.latency, faults) as sampler:

        async def rolled() -> tuple[Rollouts, float]:
            looking = asyncio.create_task(_lag(lag))
            began = time.thread_time()
            found = await roll_out_async(sampler, builders, plan)
            looking.cancel()
            return found, time.thread_time() - began

        began = time.perf_counter()
        loop = Watched()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            found, busy = runner.run(rolled())
        wall = time.perf_counter() - began
    turns = sum(len(episode.transitions) for group in found for episode in group.episodes)
    held = sum(
        t.observation.nbytes + t.action.nbytes + t.logprobs.nbytes
        for group in found
        for episode in group.episodes
        for t in episode.transitions
    )
    return {
        "episodes": sum(len(group.episodes) for group in found),
        "turns": turns,
        "calls that failed": f"{faults.failed} of {faults.calls}",
        "errors counted": dict(found.errors),
        "wall, s": round(wall, 2),
        "loop's processor time a turn, ms": round(1e3 * busy / turns, 3),
        "of it rendering and parsing, ms": round(1e3 * renderer.seconds / turns, 3),
        "longest callback, processor ms": round(1e3 * loop.longest_callback, 1),
        "longest round, processor ms": round(1e3 * loop.longest_round, 1),
        "latest look at the clock, wall ms": round(1e3 * lag[0], 1),
        "memory above the start at its peak, MB": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before, 1
        ),
        "tokens of the results, MB": round(held / 1e6, 1),
        "digest": digest(found),
    }


class Watched(asyncio.SelectorEventLoop):
    """Knows the longest callback (all that runs on a loop is one) and the longest round (all callbacks that are ready,
    between two looks at clock and sockets), in seconds of its thread's processor time."""

    def __init__(self) -> None:
        super().__init__()
        self.longest_callback = self.longest_round = 0.0
        run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            self.longest_callback = max(self.longest_callback, time.thread_time() - began)

        asyncio.Handle._run = timed  # type: ignore[method-assign]

    def _run_once(self) -> None:
        began = time.thread_time()
        super()._run_once()  # type: ignore[misc]
        self.longest_round = max(self.longest_round, time.thread_time() - began)


async def _lag(longest: list[float]) -> None:
    """How much later than asked for a sleep ends, by the wall."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(LOOK_S)
        longest[0] = max(longest[0], time.perf_counter() - began - LOOK_S)


def digest(groups: Sequence[Group]) -> str:
    """Of everything that training reads."""
    seen = hashlib.sha256()
    for group in groups:
        for episode in group.episodes:
            seen.update(f"{group.problem} {episode.stop_reason} {episode.final_reward}".encode())
            for t in episode.transitions:
                seen.update(t.observation.tobytes() + t.action.tobytes() + t.logprobs.tobytes())
                seen.update(repr(t.reward).encode())
    return seen.hexdigest()


def _child(pipe: Any, options: argparse.Namespace, episodes: int, share: float) -> None:
    pipe.send(measured(options, episodes, share))


def alone(options: argparse.Namespace, episodes: int, share: float) -> dict[str, Any]:
    """Measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(there, options, episodes, share))
    process.start()
    there.close()
    result: dict[str, Any] = here.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=2000, help="that run at once")
    parser.add_argument("--members", type=int, default=8, help="of a group")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--latency", type=float, default=4.0, help="seconds of a sample, on average")
    parser.add_argument("--faults", type=float, default=0.05, help="share of calls that fail")
    options = parser.parse_args()
    calm = alone(options, options.episodes, 0.0)
    faulty = alone(options, options.episodes, options.faults)
    rounds = alone(options, 3 * options.episodes, 0.0)
    same = calm["digest"] == faulty["digest"]
    print(json.dumps({"tinsmith": ts.__version__, "calm": calm, "faulty": faulty, "rounds": rounds}, indent=2))
    print(f"faults changed {'nothing' if same else 'WHAT CAME OUT'}")
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
