"""Environments are checked without a model: what every environment must hold to, on problems of its own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from attrs import frozen

from tinsmith.domain.episodes import Episode, Group, StopReason
from tinsmith.domain.errors import ConfigError, DeadlineError, RenderError
from tinsmith.domain.messages import Message, UnparsedToolCall
from tinsmith.domain.tokens import Ints, ints
from tinsmith.envs.base import (
    Action,
    Checkable,
    Env,
    GroupBuilder,
    LimitAware,
    Observation,
    ProblemSource,
    Speaker,
    Step,
)
from tinsmith.rendering import Renderer
from tinsmith.workflows.by_hand import ByHand, said
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out_async

MAX_TURNS = 1000
"""Turns after which an episode that sets itself no limit never ends."""
GRACE_S = 10.0
"""Seconds beyond all deadlines after which the event loop is taken to be held up."""

FITS = "prompts fit beside max_tokens into the context"
SAME = "the same index gives the same problem"
ENDS = "every episode ends in time"
RAISES = "nothing that a policy says raises an error"
RANGE = "rewards and metrics are finite, and rewards in range"
SOLVED = "the reference answer earns the top reward"
GARBAGE = "garbage earns less than the top reward"
CLOSES = "environments close"
LAWS = (FITS, SAME, ENDS, RAISES, RANGE, SOLVED, GARBAGE, CLOSES)


@frozen
class Verdict:
    """What came of one law."""

    law: str
    tried: int
    """How often; 0: it could not be tried."""
    failures: tuple[str, ...]
    """Each says on which problem, and what was found."""


@frozen
class EnvReport:
    verdicts: tuple[Verdict, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """Every failure of every law, a line each. None: the environment is sound as far as that was tried."""
        return tuple(f"{v.law}: {failure}" for v in self.verdicts for failure in v.failures)

    def with_(self, other: EnvReport, words: str) -> EnvReport:
        """Both together; the failures of the other begin with `words`."""
        return EnvReport(
            tuple(
                Verdict(one.law, one.tried + two.tried, (*one.failures, *(words + failure for failure in two.failures)))
                for one, two in zip(self.verdicts, other.verdicts, strict=True)
            )
        )


@frozen(kw_only=True)
class CheckSettings:
    """The limits that the environments are meant for, and what is known of them."""

    max_tokens: int = 1024
    """Of an action."""
    context: int = 32768
    """Tokens of a prompt and the action after it."""
    max_turns: int | None = None
    max_trajectory_tokens: int | None = None
    problems: int = 16
    deadline_s: float = 60.0
    """Seconds that a call of an environment may take, and a whole episode."""
    solution: Callable[[GroupBuilder], Speaker] | None = None
    """The policy that earns the top reward of a builder, where that does not say so itself (see `Checkable`)."""
    reward_range: tuple[float, float] | None = None
    """The same for the least and the top reward."""


def check_env(
    envs: ProblemSource | GroupBuilder, renderer: Renderer, settings: CheckSettings | None = None
) -> EnvReport:
    """Try the environments of a source's first problems, or of one builder, on a reference answer and on garbage.

    Needs no model, and may be called from anywhere, also where an event loop runs:

        assert not check_env(MyProblems(), renderer, CheckSettings(max_tokens=64)).failures

    An environment that hangs, even one that holds up its event loop, fails; it ends the check where it stands.
    """
    settings = settings or CheckSettings()
    check = _Check(envs, renderer, settings)
    beats: queue.SimpleQueue[BaseException | bool] = queue.SimpleQueue()

    def work() -> None:
        try:
            asyncio.run(check.run(lambda: beats.put(True)))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            beats.put(error)
        else:
            beats.put(False)

    threading.Thread(target=work, name="check of environments", daemon=True).start()
    while True:
        try:
            beat = beats.get(timeout=2 * settings.deadline_s + GRACE_S)
        except queue.Empty:
            check.fail(ENDS, f"{check.where}: a call holds up its event loop, so that no deadline can end it")
            break
        if isinstance(beat, BaseException):
            raise beat
        if not beat:
            break
    return check.report()


class _Hung(Exception):
    """The check cannot go on."""


class _Check:
    def __init__(self, envs: ProblemSource | GroupBuilder, renderer: Renderer, settings: CheckSettings) -> None:
        self._envs = envs
        self._renderer = renderer
        self._settings = settings
        self._tried = dict.fromkeys(LAWS, 0)
        self._failures: dict[str, list[str]] = {law: [] for law in LAWS}
        self.where = ""

    def report(self) -> EnvReport:
        return EnvReport(tuple(Verdict(law, self._tried[law], tuple(self._failures[law])) for law in LAWS))

    def fail(self, law: str, why: str) -> None:
        self._failures[law].append(why)

    async def run(self, beat: Callable[[], object]) -> None:
        builders: list[Callable[[], GroupBuilder]]
        envs: Any = self._envs
        if hasattr(envs, "__getitem__"):
            builders = [partial(envs.__getitem__, i) for i in range(min(self._settings.problems, len(envs)))]
        else:
            builders = [lambda: envs]
        with contextlib.suppress(_Hung):
            for make in builders:
                await self._problem(make, beat)

    async def _problem(self, make: Callable[[], GroupBuilder], beat: Callable[[], object]) -> None:
        builder = make()
        solution, paid = self._known(builder)
        seats = await self._seats(builder)
        top = None if paid is None else paid[1]
        if solution is not None:
            group = await self._roll(builder, "the reference answer", self._speaks(solution), seats, paid)
            beat()
            if group is not None and top is not None:
                self._judge_solution(builder, group, top)
        first: Group | None = None
        for name, policy in _garbage(self._renderer):
            group = await self._roll(builder, name, policy, seats, paid)
            beat()
            if group is None:
                continue
            if first is None:
                first = group
            # Of players who all say the same, one may win.
            if top is not None and (not builder.coupled or seats == 1):
                spoke = [e.reward for e in group.episodes if e.transitions]
                self._tried[GARBAGE] += bool(spoke)
                if spoke and max(spoke) >= top:
                    self.fail(GARBAGE, f"{builder.problem}: {name} earns {max(spoke):g}, the top is {top:g}")
        if first is not None:
            self._fits(first)
            name, policy = next(_garbage(self._renderer))
            again = make()
            other = await self._roll(again, name, policy, seats, paid)
            beat()
            self._tried[SAME] += 1
            if (builder.problem, builder.tags) != (again.problem, again.tags):
                self.fail(SAME, f"{builder.problem} is {again.problem} the second time")
            elif other is not None and _prompts(other) != _prompts(first):
                self.fail(SAME, f"{builder.problem}: its first prompts differ the second time")

    def _known(self, builder: GroupBuilder) -> tuple[Speaker | None, tuple[float, float] | None]:
        solution, paid = (builder.solution, builder.reward_range) if isinstance(builder, Checkable) else (None, None)
        if self._settings.solution is not None:
            solution = self._settings.solution(builder)
        return solution, self._settings.reward_range or paid

    def _speaks(self, speaker: Speaker) -> Callable[[Ints, int, int, int], Ints]:
        def answer(prompt: Ints, turn: int, member: int, most: int) -> Ints:
            return said(self._renderer, speaker(self._renderer.tokenizer.decode(prompt), turn))

        return answer

    async def _seats(self, builder: GroupBuilder) -> int:
        """Members of a group that is tried: two, or of players who need each other as few as there can be."""
        if not builder.coupled:
            return 2
        for n in range(1, 9):
            try:
                envs = builder.make(n)
            except ConfigError:
                continue
            await asyncio.gather(*(env.close() for env in envs), return_exceptions=True)
            return n
        return 2

    async def _roll(
        self,
        builder: GroupBuilder,
        name: str,
        policy: Callable[[Ints, int, int, int], Ints],
        seats: int,
        paid: tuple[float, float] | None,
    ) -> Group | None:
        """One group by this policy. None where it did not come off, which is told."""
        settings = self._settings
        self.where = f"{builder.problem}, {name}"
        watched = _Watched(builder)
        limits = RolloutLimits(
            max_tokens=settings.max_tokens,
            max_turns=settings.max_turns or MAX_TURNS,
            max_trajectory_tokens=settings.max_trajectory_tokens,
            rollout_timeout=settings.deadline_s,
            turn_timeout=settings.deadline_s,
        )
        sampler = ByHand(policy, settings.context)
        self._tried[ENDS] += 1
        self._tried[RAISES] += 1
        try:
            rollouts = await roll_out_async(
                sampler, [watched], RolloutPlan(limits=limits, group_size=seats), sampler.hooks
            )
        except DeadlineError as error:
            self.fail(ENDS, f"{self.where}: {error}")
            raise _Hung from error
        except Exception as error:  # noqa: BLE001 - that it raised is the finding
            self.fail(RAISES, f"{self.where}: {type(error).__name__}: {error}")
            return None
        finally:
            self._tried[CLOSES] += 1
            for why in watched.errors:
                self.fail(CLOSES, f"{self.where}: {why}")
        (group,) = rollouts
        for episode in group.episodes:
            self._episode(episode, paid)
        return group

    def _episode(self, episode: Episode, paid: tuple[float, float] | None) -> None:
        if episode.stop_reason is StopReason.TIMEOUT:
            self.fail(ENDS, f"{self.where}: still under way after {self._settings.deadline_s:g} s")
            raise _Hung
        if self._settings.max_turns is None and len(episode.transitions) >= MAX_TURNS:
            self.fail(ENDS, f"{self.where}: still under way after {MAX_TURNS} turns; end it, or limit max_turns")
            raise _Hung
        self._tried[RANGE] += 1
        told = [("reward", episode.reward), *episode.metrics.items()]
        told += [item for t in episode.transitions for item in t.metrics.items()]
        if bad := [f"{name} is {value}" for name, value in told if not math.isfinite(value)]:
            self.fail(RANGE, f"{self.where}: {', '.join(bad)}")
        elif paid is not None and not paid[0] - 1e-6 <= episode.reward <= paid[1] + 1e-6:
            self.fail(RANGE, f"{self.where}: earns {episode.reward:g}, out of {paid[0]:g} to {paid[1]:g}")

    def _judge_solution(self, builder: GroupBuilder, group: Group, top: float) -> None:
        self._tried[SOLVED] += 1
        for episode in group.episodes:
            if abs(episode.reward - top) > 1e-6:
                why = f"earns {episode.reward:g}, the top is {top:g}"
                if episode.stop_reason.is_limit:
                    longest = max((len(t.observation) + len(t.action) for t in episode.transitions), default=0)
                    why += f"; a limit ended it, {episode.stop_reason} ({longest} tokens by then)"
                elif episode.stop_reason is StopReason.PARSE_ERROR:
                    why += "; it could not be read (parse_error)"
                self.fail(SOLVED, f"{builder.problem}: the reference answer {why}")
                return

    def _fits(self, group: Group) -> None:
        settings = self._settings
        self._tried[FITS] += 1
        room = min(settings.context, settings.max_trajectory_tokens or settings.context)
        longest = max((len(e.transitions[0].observation) for e in group.episodes if e.transitions), default=0)
        if any(e.stop_reason is StopReason.CONTEXT_OVERFLOW and not e.transitions for e in group.episodes):
            self.fail(FITS, f"{group.problem}: the prompt leaves no room for an answer in {room} tokens")
        elif longest + settings.max_tokens > room:
            self.fail(
                FITS, f"{group.problem}: {longest} tokens and max_tokens={settings.max_tokens} are more than {room}"
            )


def _prompts(group: Group) -> list[bytes]:
    return [e.transitions[0].observation.tobytes() if e.transitions else b"" for e in group.episodes]


def _garbage(renderer: Renderer) -> Iterator[tuple[str, Callable[[Ints, int, int, int], Ints]]]:
    """What no environment should pay for. None of it is an answer by chance: it holds no digit that could be one, and
    no letter alone."""
    stop = ints(renderer.stop.ids[:1])
    tokenizer = renderer.tokenizer

    def text(words: str) -> Callable[[Ints, int, int, int], Ints]:
        tokens = np.concatenate([ints(tokenizer.encode(words)), stop])
        return lambda prompt, turn, member, most: tokens

    yield "nothing", text("")
    yield "nonsense", text("zzqx vrrk ggwp")
    yield "brackets", text("\\boxed{ <answer> </ [[ {{ ``` Answer: Guess:")
    word = ints(tokenizer.encode("zzqx "))
    yield "words without end", lambda prompt, turn, member, most: np.resize(word, most + 1)
    rng = np.random.default_rng(0)
    plain = [i for i, b in enumerate(tokenizer.token_bytes()) if not any(c < 128 and chr(c).isalnum() for c in b)]
    control = sorted(set(tokenizer.special_tokens.values()) - set(renderer.stop.ids))
    drawn = rng.choice([*plain, *control * 10], 12) if plain or control else np.zeros(0, np.int64)
    noise = np.concatenate([ints(drawn), stop])
    yield "control tokens and signs", lambda prompt, turn, member, most: noise
    if renderer.calls_tools:
        with contextlib.suppress(RenderError):
            broken = Message("assistant", unparsed_tool_calls=(UnparsedToolCall('{"name": "x", "argum', "cut"),))
            tokens = said(renderer, broken)
            yield "a broken tool call", lambda prompt, turn, member, most: tokens


class _Watched:
    """A builder whose environments tell of what their closing raises; the rollout would keep it to itself."""

    def __init__(self, builder: GroupBuilder) -> None:
        self._builder = builder
        self.problem, self.tags, self.coupled = builder.problem, builder.tags, builder.coupled
        self.grade = builder.grade
        self.errors: list[str] = []

    def make(self, n: int) -> Sequence[Env]:
        kinds = {True: _LimitAwareEnv, False: _Env}
        return [kinds[isinstance(env, LimitAware)](env, self.errors) for env in self._builder.make(n)]


class _Env:
    def __init__(self, env: Any, errors: list[str]) -> None:
        self._env = env
        self._errors = errors

    async def reset(self) -> Observation:
        observation: Observation = await self._env.reset()
        return observation

    async def step(self, action: Action) -> Step:
        step: Step = await self._env.step(action)
        return step

    async def close(self) -> None:
        try:
            await self._env.close()
        except asyncio.CancelledError:
            self._errors.append("closing takes too long")
            raise
        except Exception as error:
            self._errors.append(f"closing raises {type(error).__name__}: {error}")
            raise


class _LimitAwareEnv(_Env):
    async def on_limit(self, reason: StopReason) -> float:
        return float(await self._env.on_limit(reason))
