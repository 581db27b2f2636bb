"""One episode: a policy acts in one environment until it ends or a limit ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from attrs import frozen

from tinsmith.domain.episodes import Episode, StopReason, Transition
from tinsmith.domain.errors import DeadlineError
from tinsmith.envs.base import Action, Env, LimitAware, Observation, Step
from tinsmith.ports.pending import turn
from tinsmith.ports.sampler import Completion, FinishReason, Sampler
from tinsmith.workflows.rollout_plan import RolloutPlan, draw_seed

T = TypeVar("T")


@frozen(kw_only=True)
class RolloutState:
    """What a hook sees of an episode."""

    problem: str
    member: int
    """Place of the episode in its group."""
    transitions: tuple[Transition, ...]
    observation: Observation
    elapsed_s: float


class RolloutHooks:
    """Called around the turns of every episode; these do nothing. What they raise ends the run."""

    async def before_turn(self, state: RolloutState) -> None:
        """The policy is about to act on `state.observation`."""

    async def on_stop(self, state: RolloutState, reason: StopReason) -> StopReason:
        """The episode ends; gives the reason that is recorded."""
        return reason


class _OutOfTime(Exception):
    """The episode's own time is up."""


class EpisodeRunner:
    """Runs one attempt at one episode."""

    def __init__(
        self,
        sampler: Sampler,
        plan: RolloutPlan,
        *,
        problem: str,
        place: tuple[int, ...],
        hooks: RolloutHooks | None = None,
    ) -> None:
        """`place`: (group, member) and the attempt where it is not the first; with the plan it fixes every draw."""
        self._sampler = sampler
        self._plan = plan
        self._problem = problem
        self._place = place
        self._hooks = hooks
        self._began = asyncio.get_running_loop().time()

    async def run(self, env: Env, observation: Observation, completion: Completion | None) -> Episode:
        """`completion`: the first action, where it was sampled with the group's."""
        limits = self._plan.limits
        if completion is not None:
            await turn()  # all members of a group come here at once
        transitions: list[Transition] = []
        sampled = calls = 0
        while True:
            room, by_sampled = self._plan.room(observation, sampled, self._sampler.context)
            if room < 1:
                over = StopReason.MAX_SAMPLED_TOKENS if by_sampled else StopReason.CONTEXT_OVERFLOW
                return await self._end(env, transitions, observation, over)
            try:
                if self._hooks is not None:
                    await self._hooks.before_turn(self._state(transitions, observation))
                if completion is None:
                    completion = await self._sample(observation, len(transitions), room)
                action = Action(completion.tokens, completion.logprobs, completion.finish)
                step: Step = await self.within(env.step(action))
            except _OutOfTime:
                return await self._end(env, transitions, observation, StopReason.TIMEOUT)
            transitions.append(
                Transition(
                    observation=observation.tokens,
                    action=completion.tokens,
                    logprobs=completion.logprobs,
                    reward=step.reward,
                    policy_version=self._sampler.policy_version,
                    truncated=completion.finish is FinishReason.LENGTH,
                    masked=step.masked,
                    metrics=step.metrics,
                )
            )
            sampled, calls = sampled + len(completion.tokens), calls + step.tool_calls
            if step.observation is None:
                assert step.stop_reason is not None
                cut = step.stop_reason is StopReason.MAX_TOKENS and by_sampled
                reason = StopReason.MAX_SAMPLED_TOKENS if cut else step.stop_reason
                return await self._end(env, transitions, observation, reason)
            if limits.max_turns is not None and len(transitions) >= limits.max_turns:
                return await self._end(env, transitions, observation, StopReason.MAX_TURNS)
            if limits.max_tool_calls is not None and calls >= limits.max_tool_calls:
                return await self._end(env, transitions, observation, StopReason.MAX_TOOL_CALLS)
            observation, completion = step.observation, None

    async def _sample(self, observation: Observation, turn: int, room: int) -> Completion:
        seed = draw_seed(self._plan.seed, self._plan.split, self._plan.step, *self._place, turn)
        params = self._plan.params(observation, seed, room)
        return (await self.within(self._sampler.sample(observation.tokens, params, n=1))).completions[0]

    async def _end(
        self, env: Env, transitions: list[Transition], observation: Observation, reason: StopReason
    ) -> Episode:
        reward = 0.0
        # An action that its own limit cut was shown to the environment, which paid for it.
        shown = reason in (StopReason.MAX_TOKENS, StopReason.MAX_SAMPLED_TOKENS)
        if (
            reason.is_limit
            and isinstance(env, LimitAware)
            and not (shown and transitions and transitions[-1].truncated)
        ):
            reward = await within(env.on_limit(reason), self._plan.limits.turn_timeout)
        if self._hooks is not None:
            reason = await self._hooks.on_stop(self._state(transitions, observation), reason)
        return Episode(transitions=tuple(transitions), stop_reason=reason, final_reward=reward)

    def _state(self, transitions: list[Transition], observation: Observation) -> RolloutState:
        return RolloutState(
            problem=self._problem,
            member=self._place[1],
            transitions=tuple(transitions),
            observation=observation,
            elapsed_s=asyncio.get_running_loop().time() - self._began,
        )

    async def within(self, work: Awaitable[T]) -> T:
        """Wait as long as a turn may take, and no longer than is left of the episode's time."""
        limits, now = self._plan.limits, asyncio.get_running_loop().time()
        left = limits.turn_timeout
        ends_first = False
        if limits.rollout_timeout is not None:
            rest = self._began + limits.rollout_timeout - now
            ends_first = rest < left
            left = min(left, max(rest, 0.0))
        return await within(work, left, (lambda: _OutOfTime()) if ends_first else None)


async def within(work: Awaitable[T], seconds: float, late: Callable[[], Exception] | None = None) -> T:
    """The work's result, or an error when it takes longer: DeadlineError, or what `late` gives."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():  # the work's own
            raise
        if late is not None:
            raise late() from None
        raise DeadlineError(
            f"a sampling or environment call took longer than {seconds:g} s; if it is slow and not stuck, set a larger "
            "timeout_s"
        ) from error
