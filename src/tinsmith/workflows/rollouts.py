"""Rollouts: a policy acts in environments, group by group.

The first turn of a group is one `sample(n=G)` when all its environments show the same observation, so that the prompt
is read once. Every random draw is fixed by (seed, split, step, group, episode, turn): the same rollout comes out
whatever else runs beside it. What the world fails is tried again as the plan's `FailurePolicy` says, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar, overload

from attrs import evolve, frozen

from tinsmith.domain.episodes import Episode, Group
from tinsmith.envs.base import Env, EpisodeOver, GroupBuilder, Observation
from tinsmith.ports.sampler import Completion, Sampler
from tinsmith.workflows.collecting import rare_full_collections
from tinsmith.workflows.episode import EpisodeRunner, RolloutHooks, within
from tinsmith.workflows.rollout_plan import FailurePolicy, RolloutLimits, RolloutPlan, draw_seed

T = TypeVar("T")

__all__ = [
    "FailurePolicy",
    "RolloutHooks",
    "RolloutLimits",
    "RolloutPlan",
    "Rollouts",
    "draw_seed",
    "roll_out",
    "roll_out_async",
]

EPISODES_BEGUN_AT_ONCE = 48
"""In one round of the event loop."""


@frozen(eq=False)
class Rollouts(Sequence[Group]):
    """The groups that came off, in the order of their builders, and what failed on the way."""

    groups: tuple[Group, ...]
    errors: Mapping[str, int]
    """How often the world failed an episode, by type of error; retries that came off then count too."""
    lost_groups: int = 0
    """Groups with too few episodes to go on with."""
    lost_episodes: int = 0
    """Episodes missing from the groups that are there."""

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | Sequence[Group]:
        return self.groups[index]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def metrics(self) -> dict[str, float]:
        """`rollout_errors/...`: nothing where nothing failed."""
        if not self.errors:
            return {}
        return {
            **{f"rollout_errors/{name}": float(count) for name, count in sorted(self.errors.items())},
            "rollout_errors/lost_groups": float(self.lost_groups),
            "rollout_errors/lost_episodes": float(self.lost_episodes),
        }


def roll_out(
    sampler: Sampler,
    builders: Sequence[GroupBuilder],
    plan: RolloutPlan,
    hooks: RolloutHooks | None = None,
    finished: Callable[[int], object] | None = None,
) -> Rollouts:
    """Roll out all groups concurrently and wait for them. `finished` is told how many are done, after each."""
    return asyncio.run(roll_out_async(sampler, builders, plan, hooks, finished))


async def roll_out_async(
    sampler: Sampler,
    builders: Sequence[GroupBuilder],
    plan: RolloutPlan,
    hooks: RolloutHooks | None = None,
    finished: Callable[[int], object] | None = None,
) -> Rollouts:
    gate = asyncio.Semaphore(plan.limits.max_groups_in_flight)
    resets = asyncio.Semaphore(plan.limits.max_resets_in_flight)
    errors: Counter[str] = Counter()
    done = 0

    async def one(index: int, builder: GroupBuilder) -> Group | None:
        nonlocal done
        async with gate:
            group = await _Group(sampler, builder, plan, index, resets, errors, hooks).run()
        done += 1
        if finished is not None:
            finished(done)
        return group

    running: list[asyncio.Task[Group | None]] = []
    at_once = max(EPISODES_BEGUN_AT_ONCE // plan.group_size, 1)
    try:
        with rare_full_collections():
            async with asyncio.TaskGroup() as tasks:
                for index, builder in enumerate(builders):
                    running.append(tasks.create_task(one(index, builder)))
                    if index % at_once == at_once - 1:
                        await asyncio.sleep(0)  # the loop looks at its clock between many beginnings
    except BaseExceptionGroup as failures:  # the first failure stopped the others; it is the one to tell of
        raise failures.exceptions[0] from failures
    groups = tuple(g for task in running if (g := task.result()) is not None)
    missing = sum(plan.group_size - len(group.episodes) for group in groups)
    return Rollouts(groups, errors, len(builders) - len(groups), missing)


class _Group:
    """One group. Every environment that was made is closed once, whatever happens."""

    def __init__(
        self,
        sampler: Sampler,
        builder: GroupBuilder,
        plan: RolloutPlan,
        index: int,
        resets: asyncio.Semaphore,
        errors: Counter[str],
        hooks: RolloutHooks | None,
    ) -> None:
        self._sampler = sampler
        self._builder = builder
        self._plan = plan
        self._index = index
        self._resets = resets
        self._errors = errors
        self._hooks = hooks
        self._retries = 0
        self._in_a_row = 0
        """Retries since an episode last came off."""

    async def run(self) -> Group | None:
        """None for a group that is left out."""
        while True:
            try:
                done = await self._attempt()
                if len(done) < self._plan.failures.needed(self._plan.group_size):
                    return None
                return self._group(done, await self._retried(partial(self._builder.grade, done)))
            except Exception as caught:
                error = caught.exceptions[0] if isinstance(caught, ExceptionGroup) else caught
                if not self._plan.failures.is_worlds(error):
                    raise error from caught
                # What is not coupled was tried again where it failed.
                if not (self._builder.coupled and await self._may_retry(error)):
                    if self._plan.failures.min_share is None:
                        raise error from caught
                    return None

    async def _attempt(self) -> list[Episode]:
        """The episodes that came off."""
        envs = list(self._builder.make(self._plan.group_size))
        try:
            # A failure ends the other episodes before anything is closed.
            if self._builder.coupled:  # one may begin only after another has acted
                async with asyncio.TaskGroup() as tasks:
                    running = [tasks.create_task(self._whole(envs, i)) for i in range(len(envs))]
            else:
                async with asyncio.TaskGroup() as starting:
                    starts = [starting.create_task(self._begin(envs, i)) for i in range(len(envs))]
                first = [task.result() for task in starts]
                shared = await self._first_actions(first)
                async with asyncio.TaskGroup() as tasks:
                    running = [
                        tasks.create_task(self._member(envs, i, observation, completion))
                        for i, (observation, completion) in enumerate(zip(first, shared, strict=True))
                    ]
            return [episode for task in running if (episode := task.result()) is not None]
        finally:
            # What closing raises, or its deadline, must not hide what came before it.
            await asyncio.gather(*(self._close(env) for env in envs), return_exceptions=True)

    async def _whole(self, envs: list[Env], member: int) -> Episode | None:
        return await self._member(envs, member, await self._begin(envs, member), None)

    async def _begin(self, envs: list[Env], member: int) -> Observation | Episode | None:
        """The first observation of an episode, from another environment where the first one failed; an Episode that is
        over already; None where the episode is left out."""
        while True:
            try:
                # Players wait for each other: a bound on how many begin at once could keep out the one they wait for.
                async with contextlib.nullcontext() if self._builder.coupled else self._resets:
                    return await within(envs[member].reset(), self._plan.limits.turn_timeout)
            except EpisodeOver as over:
                return Episode(
                    transitions=(), stop_reason=over.stop_reason, final_reward=over.reward, metrics=over.metrics
                )
            except Exception as error:  # noqa: BLE001 - sorted there
                if not await self._goes_on(error):
                    return None
            await self._replace(envs, member)

    async def _first_actions(self, first: Sequence[Observation | Episode | None]) -> list[Completion | None]:
        """The first action of every episode, from one call, where all begin with the same observation."""
        seen = [o for o in first if isinstance(o, Observation)]
        if not seen or not all(o is seen[0] or _same(o, seen[0]) for o in seen):
            return [None] * len(first)
        room, _ = self._plan.room(seen[0], 0, self._sampler.context)
        if room < 1:
            return [None] * len(first)
        seed = draw_seed(self._plan.seed, self._plan.split, self._plan.step, self._index)
        params = self._plan.params(seen[0], seed, room)
        result = await self._retried(lambda: self._sampler.sample(seen[0].tokens, params, n=len(first)))
        return list(result.completions)

    async def _member(
        self,
        envs: list[Env],
        member: int,
        first: Observation | Episode | None,
        completion: Completion | None,
    ) -> Episode | None:
        """One episode of the group; None where it is left out. A retry draws as the first try did, so that what comes
        out is what would have come out had nothing failed."""
        known = first
        while isinstance(first, Observation):
            if isinstance(known, Observation) and not _same(first, known):
                completion = None  # it begins otherwise this time
            place = (self._index, member)
            runner = EpisodeRunner(
                self._sampler, self._plan, problem=self._builder.problem, place=place, hooks=self._hooks
            )
            try:
                episode = await runner.run(envs[member], first, completion)
                self._in_a_row = 0
                return episode
            except Exception as error:  # noqa: BLE001 - sorted there
                if not await self._goes_on(error):
                    return None
            await self._replace(envs, member)
            first = await self._begin(envs, member)
        return first

    async def _goes_on(self, error: Exception) -> bool:
        """After a failure of one episode: True to try it again, False to leave it out; raises where neither may be."""
        if self._builder.coupled or not self._plan.failures.is_worlds(error):
            raise error
        if await self._may_retry(error):
            return True
        if self._plan.failures.min_share is None:
            raise error
        return False

    async def _replace(self, envs: list[Env], member: int) -> None:
        """Another environment for an episode whose own failed: of the same place, for those of a group may differ."""
        made = list(self._builder.make(self._plan.group_size))
        failed, envs[member] = envs[member], made[member]
        made[member] = failed
        # The others were not begun, and the one that failed did so already.
        await asyncio.gather(*(self._close(env) for env in made), return_exceptions=True)

    async def _retried(self, work: Callable[[], Awaitable[T]]) -> T:
        """The work's result, tried again as the policy allows."""
        while True:
            try:
                return await within(work(), self._plan.limits.turn_timeout)
            except Exception as error:
                if not self._plan.failures.is_worlds(error) or not await self._may_retry(error):
                    raise

    async def _may_retry(self, error: BaseException) -> bool:
        """Count the failure; wait before the next try, if there is one left."""
        self._errors[type(error).__name__] += 1
        if self._retries >= self._plan.failures.retries:
            return False
        self._retries += 1
        self._in_a_row += 1
        await asyncio.sleep(self._plan.failures.wait_s(self._in_a_row - 1))
        return True

    async def _close(self, env: Env) -> None:
        await within(env.close(), self._plan.limits.turn_timeout)

    def _group(self, episodes: Sequence[Episode], final: Sequence[float]) -> Group:
        graded = []
        for episode, reward in zip(episodes, final, strict=True):
            done = evolve(episode, final_reward=episode.final_reward + float(reward)) if reward else episode
            if self._plan.limits.zero_reward_on_limit and done.stop_reason.is_limit and done.reward > 0:
                taken = {**done.metrics, "zero_reward_on_limit": 1.0}
                done = evolve(done, final_reward=done.final_reward - done.reward, metrics=taken)
            graded.append(done)
        return Group(problem=self._builder.problem, episodes=tuple(graded), tags=self._builder.tags)


def _same(one: Observation, other: Observation) -> bool:
    return (one.tokens.tobytes(), one.stop_ids, one.stop) == (other.tokens.tobytes(), other.stop_ids, other.stop)
