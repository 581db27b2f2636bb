"""Rollouts: a policy acts in environments, group by group.

The first turn of a group is one `sample(n=G)` when all its environments show the same observation, so that the prompt
is read once. Every random draw is fixed by (seed, split, step, group, episode, turn): the same rollout comes out
whatever else runs beside it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from attrs import evolve, field, frozen

from tinsmith.domain.episodes import Episode, Group, StopReason, Transition
from tinsmith.domain.errors import DeadlineError
from tinsmith.envs.base import Action, Env, GroupBuilder, Observation, Step
from tinsmith.ports.sampler import Completion, FinishReason, Sampler, SamplingParams

T = TypeVar("T")


@frozen(kw_only=True)
class RolloutLimits:
    """What an episode may use. A limit ends the episode with its own stop reason; the reward earned so far stays."""

    max_tokens: int
    """Per action."""
    max_turns: int | None = None
    max_groups_in_flight: int = 4096
    max_resets_in_flight: int = 64
    """Environments that start at once, over all groups: a start may be a process or a container."""
    turn_timeout: float = 600.0
    """Seconds that one sampling or environment call may take; beyond it the *world* failed: DeadlineError."""


@frozen(kw_only=True)
class RolloutPlan:
    """How a set of groups is rolled out."""

    limits: RolloutLimits
    group_size: int
    temperature: float = 1.0
    seed: int = 0
    split: str = "train"
    step: int = 0
    _params: SamplingParams = field(init=False)

    @_params.default
    def _make_params(self) -> SamplingParams:
        return SamplingParams(max_tokens=self.limits.max_tokens, temperature=self.temperature)

    def params(self, observation: Observation, seed: int, context: int) -> SamplingParams:
        room = context - len(observation.tokens)
        return evolve(
            self._params,
            max_tokens=min(self.limits.max_tokens, room),
            stop_ids=observation.stop_ids,
            stop=observation.stop,
            seed=seed,
        )


def draw_seed(*parts: object) -> int:
    """A seed below 2**63 that is fixed by its parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def roll_out(sampler: Sampler, builders: Sequence[GroupBuilder], plan: RolloutPlan) -> list[Group]:
    """Roll out all groups concurrently and wait for them; the groups come back in the order of `builders`."""
    return asyncio.run(roll_out_async(sampler, builders, plan))


async def roll_out_async(sampler: Sampler, builders: Sequence[GroupBuilder], plan: RolloutPlan) -> list[Group]:
    gate = asyncio.Semaphore(plan.limits.max_groups_in_flight)
    resets = asyncio.Semaphore(plan.limits.max_resets_in_flight)

    async def one(index: int, builder: GroupBuilder) -> Group:
        async with gate:
            return await roll_out_group(sampler, builder, plan, index, resets)

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(i, b)) for i, b in enumerate(builders)]
    except BaseExceptionGroup as failures:  # the first failure stopped the others; it is the one to tell of
        raise failures.exceptions[0] from failures
    return [task.result() for task in running]


async def roll_out_group(
    sampler: Sampler, builder: GroupBuilder, plan: RolloutPlan, index: int, resets: asyncio.Semaphore
) -> Group:
    """One group. Every environment that was made is closed, whatever happens; `resets` bounds those that start."""
    envs = builder.make(plan.group_size)

    async def reset(env: Env) -> Observation:
        async with resets:
            return await _within(plan, env.reset())

    try:
        async with asyncio.TaskGroup() as starting:
            starts = [starting.create_task(reset(env)) for env in envs]
        observations = [task.result() for task in starts]
        first = observations[0]
        shared: list[Completion | None] = [None] * len(envs)
        same = all(
            o is first
            or (o.tokens.tobytes(), o.stop_ids, o.stop) == (first.tokens.tobytes(), first.stop_ids, first.stop)
            for o in observations
        )
        if same and len(first.tokens) < sampler.context:
            seed = draw_seed(plan.seed, plan.split, plan.step, index)
            params = plan.params(first, seed, sampler.context)
            result = await _within(plan, sampler.sample(first.tokens, params, n=len(envs)))
            shared = list(result.completions)
        # A failure ends the other episodes before anything is closed.
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(_episode(sampler, env, observation, completion, plan, (index, member)))
                for member, (env, observation, completion) in enumerate(zip(envs, observations, shared, strict=True))
            ]
        episodes = [task.result() for task in running]
        final = await _within(plan, builder.grade(episodes))
        graded = tuple(evolve(e, final_reward=float(r)) if r else e for e, r in zip(episodes, final, strict=True))
        return Group(problem=builder.problem, episodes=graded, tags=builder.tags)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    finally:
        # What closing raises, or its deadline, must not hide what came before it.
        await asyncio.gather(*(_within(plan, env.close()) for env in envs), return_exceptions=True)


async def _episode(
    sampler: Sampler,
    env: Env,
    observation: Observation,
    completion: Completion | None,
    plan: RolloutPlan,
    place: tuple[int, int],
) -> Episode:
    transitions: list[Transition] = []
    while True:
        if len(observation.tokens) >= sampler.context:
            return Episode(transitions=tuple(transitions), stop_reason=StopReason.CONTEXT_OVERFLOW)
        if completion is None:
            seed = draw_seed(plan.seed, plan.split, plan.step, *place, len(transitions))
            params = plan.params(observation, seed, sampler.context)
            completion = (await _within(plan, sampler.sample(observation.tokens, params, n=1))).completions[0]
        step: Step = await _within(plan, env.step(Action(completion.tokens, completion.logprobs, completion.finish)))
        transitions.append(
            Transition(
                observation=observation.tokens,
                action=completion.tokens,
                logprobs=completion.logprobs,
                reward=step.reward,
                policy_version=sampler.policy_version,
                truncated=completion.finish is FinishReason.LENGTH,
                masked=step.masked,
                metrics=step.metrics,
            )
        )
        completion = None
        if step.observation is None:
            assert step.stop_reason is not None
            return Episode(transitions=tuple(transitions), stop_reason=step.stop_reason)
        if plan.limits.max_turns is not None and len(transitions) >= plan.limits.max_turns:
            return Episode(transitions=tuple(transitions), stop_reason=StopReason.MAX_TURNS)
        observation = step.observation


async def _within(plan: RolloutPlan, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(plan.limits.turn_timeout):
            return await work
    except TimeoutError as error:
        if isinstance(error, DeadlineError):
            raise
        raise DeadlineError(
            f"a sampling or environment call took longer than {plan.limits.turn_timeout:g} s; if it is slow and not "
            "stuck, set a larger timeout_s"
        ) from error
