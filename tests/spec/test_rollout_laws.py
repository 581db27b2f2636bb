"""Rollouts: budgets hold, every episode ends for one reason, and what the world fails changes no reward."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith.domain.episodes import Episode, Group, StopReason
from tinsmith.domain.errors import ConfigError, DataNotFoundError, DeadlineError
from tinsmith.domain.tokens import Ints, ints
from tinsmith.envs.base import Action, Env, Observation, Step
from tinsmith.ports.sampler import FinishReason, Sampler
from tinsmith.testing import FakeTokenizer, FakeTrainer
from tinsmith.testing.faulty import Fail, Raise, at_random, faulty
from tinsmith.workflows.rollouts import FailurePolicy, RolloutHooks, RolloutLimits, RolloutPlan, Rollouts, roll_out

CONTEXT = 40
quick = settings(deadline=None)


@pytest.fixture(scope="module")
def sampler() -> Iterator[Sampler]:
    trainer = FakeTrainer(FakeTokenizer(), context=CONTEXT)
    made = trainer.sampler().result()
    yield made
    made.close()
    trainer.close()


class World:
    """Makes environments, fails on schedule, and counts what was made and closed."""

    def __init__(self, faults: Sequence[bool] = (), error: Callable[[], Exception] = lambda: OSError("gone")) -> None:
        self.faults = iter(faults)
        self.error = error
        self.made = self.closed = self.failed = 0

    def may_fail(self) -> None:
        if next(self.faults, False):
            self.failed += 1
            raise self.error()


class Chat:
    """`turns` turns; each shows all tokens so far and one more. An action earns its number of even tokens."""

    def __init__(self, world: World, prompt: Ints, turns: int, calls: int = 0) -> None:
        world.made += 1
        self.world, self.turns, self.calls, self.tokens = world, turns, calls, prompt
        self.open = True

    async def reset(self) -> Observation:
        self.world.may_fail()
        return Observation(self.tokens)

    async def step(self, action: Action) -> Step:
        self.world.may_fail()
        await asyncio.sleep(0)
        reward = float(np.count_nonzero(action.tokens % 2 == 0))
        self.turns -= 1
        if action.finish is FinishReason.LENGTH and self.turns <= 0:
            return Step(reward=reward, stop_reason=StopReason.MAX_TOKENS, tool_calls=self.calls)
        if self.turns <= 0:
            return Step(reward=reward, stop_reason=StopReason.COMPLETED, tool_calls=self.calls)
        self.tokens = ints([*self.tokens, *action.tokens, 9])
        return Step(reward=reward, observation=Observation(self.tokens), tool_calls=self.calls)

    async def close(self) -> None:
        assert self.open, "closed twice"
        self.open = False
        self.world.closed += 1


class Chats:
    """Groups of chats; `prompts` of different length make groups without a common first action."""

    def __init__(
        self, world: World, number: int, turns: int, *, same: bool = True, coupled: bool = False, calls: int = 0
    ):
        self.world, self.number, self.turns = world, number, turns
        self.same, self.coupled, self.calls = same, coupled, calls

    @property
    def problem(self) -> str:
        return f"chat/{self.number}"

    @property
    def tags(self) -> tuple[str, ...]:
        return (f"tag{self.number}",)

    def make(self, n: int) -> Sequence[Env]:
        prompts = [ints([5] * (3 + (0 if self.same else i))) for i in range(n)]
        return [Chat(self.world, prompt, self.turns, self.calls) for prompt in prompts]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        self.world.may_fail()
        return [0.25] * len(episodes)


def plan(size: int = 3, failures: FailurePolicy | None = None, **limits: object) -> RolloutPlan:
    return RolloutPlan(
        limits=RolloutLimits(**{"max_tokens": 5, **limits}),
        group_size=size,
        failures=failures or FailurePolicy(),
        seed=3,
    )


def content(groups: Sequence[Group]) -> list[object]:
    """Everything of the groups that training reads."""
    return [
        (
            g.problem,
            g.tags,
            [
                (
                    e.stop_reason,
                    e.final_reward,
                    [
                        (t.observation.tobytes(), t.action.tobytes(), t.logprobs.tobytes(), t.reward)
                        for t in e.transitions
                    ],
                )
                for e in g.episodes
            ],
        )
        for g in groups
    ]


def rolled(sampler: Sampler, world: World, how: RolloutPlan, **kind: object) -> Rollouts:
    return roll_out(sampler, [Chats(world, i, turns=2, **kind) for i in range(3)], how)


@quick
@given(st.lists(st.booleans(), max_size=60), st.booleans())
def test_what_the_world_fails_is_tried_again_and_comes_out_as_if_nothing_had_failed(sampler, faults, coupled):
    """Resets, steps and grading fail on schedule: the same episodes, rewards and draws come out, each failure is
    counted, and every environment that was made is closed once."""
    calm = rolled(sampler, World(), plan(), coupled=coupled)
    world = World(faults)
    got = rolled(sampler, world, plan(failures=FailurePolicy(retries=200, backoff_s=0.0)), coupled=coupled)
    assert content(got) == content(calm)
    assert world.made == world.closed
    assert got.errors.get("OSError", 0) <= world.failed
    assert bool(got.errors) == bool(world.failed)
    if not coupled:
        assert got.errors.get("OSError", 0) == world.failed
    assert (got.lost_groups, got.lost_episodes) == (0, 0)


@quick
@given(st.integers(0, 1000), st.sampled_from([0.05, 0.3]), st.booleans())
def test_a_sampler_that_fails_changes_no_reward(sampler, seed, rate, same):
    """Calls of the sampler are refused, or their results never arrive."""
    calm = rolled(sampler, World(), plan(), same=same)
    faults = at_random(seed, rate, [Raise(ConnectionError("refused")), Fail(ConnectionError("reset"))], ("sample",))
    policy = FailurePolicy(retries=1000, backoff_s=0.0)
    world = World()
    assert content(rolled(faulty(sampler, faults), world, plan(failures=policy), same=same)) == content(calm)
    assert world.made == world.closed


def test_the_wait_before_a_retry_grows_until_an_episode_comes_off(sampler):
    """A dead world is given time; single failures of a group that gets on are not."""
    waits: list[int] = []
    came_off = asyncio.Event()

    class Noted(FailurePolicy):
        def wait_s(self, retry):
            waits.append(retry)
            return 0.0

    class Fails(Chat):
        async def step(self, action: Action) -> Step:
            self.world.may_fail()
            return await super().step(action)

    class Late(Chat):
        async def step(self, action: Action) -> Step:
            if len(waits) < 3:
                await came_off.wait()
                raise OSError("once")
            return await super().step(action)

        async def close(self) -> None:
            await super().close()

    class Builder(Chats):
        def make(self, n: int) -> Sequence[Env]:
            return [Fails(self.world, ints([5] * 3), 1), Late(World(), ints([5] * 3), 1)][:n]

    class Watch(RolloutHooks):
        async def on_stop(self, state, reason):
            asyncio.get_running_loop().call_soon(came_off.set)
            return reason

    (group,) = roll_out(
        sampler, [Builder(World([False, True, False, True]), 0, 1)], plan(2, Noted(retries=100)), hooks=Watch()
    )
    assert waits == [0, 1, 0]
    assert len(group.episodes) == 2


def test_full_collections_of_garbage_are_put_off_while_episodes_run_and_no_longer(sampler):
    before, inside = gc.get_threshold(), []

    class Looks(Chat):
        async def step(self, action: Action) -> Step:
            inside.append(gc.get_threshold()[2])
            return await super().step(action)

    class Builder(Chats):
        def make(self, n: int) -> Sequence[Env]:
            return [Looks(self.world, ints([5] * 3), 1) for _ in range(n)]

    roll_out(sampler, [Builder(World(), i, 1) for i in range(2)], plan())
    assert min(inside) > before[2]
    assert gc.get_threshold() == before
    with pytest.raises(OSError, match="gone"):
        rolled(sampler, World([True]), plan())
    assert gc.get_threshold() == before


@quick
@given(
    st.lists(st.sampled_from([True, False, False]), max_size=80), st.integers(0, 3), st.sampled_from([0.3, 0.6, 1.0])
)
def test_a_group_goes_on_with_enough_episodes_or_is_left_out(sampler, faults, retries, share):
    calm = {row[0]: [episode[2] for episode in row[2]] for row in content(rolled(sampler, World(), plan()))}
    world = World(faults)
    policy = FailurePolicy(retries=retries, backoff_s=0.0, min_share=share)
    got = rolled(sampler, world, plan(failures=policy))
    assert world.made == world.closed
    assert got.lost_groups == 3 - len(got)
    assert got.lost_episodes == sum(3 - len(g.episodes) for g in got)
    assert got.errors.get("OSError", 0) <= world.failed
    for group, seen in zip(got, content(got), strict=True):
        assert len(group.episodes) >= policy.needed(3)
        assert group.tags == (f"tag{group.problem[-1]}",), "a group that failed must not shift another's tags"
        for episode in seen[2]:
            assert episode[2] in calm[group.problem]


@quick
@given(
    st.booleans(),
    st.integers(1, 8),
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 12),
    st.none() | st.integers(1, CONTEXT + 10),
    st.none() | st.integers(1, 5),
    st.integers(0, 2),
    st.integers(1, 4),
)
def test_no_episode_uses_more_than_its_limits(
    sampler, same, max_tokens, max_turns, max_sampled, max_trajectory, max_calls, calls, turns
):
    how = plan(
        max_tokens=max_tokens,
        max_turns=max_turns,
        max_sampled_tokens=max_sampled,
        max_trajectory_tokens=max_trajectory,
        max_tool_calls=max_calls,
    )
    (group,) = roll_out(sampler, [Chats(World(), 0, turns, same=same, calls=calls)], how)
    for episode in group.episodes:
        done = episode.transitions
        sampled = [len(t.action) for t in done]
        assert all(n <= max_tokens for n in sampled)
        assert max_turns is None or len(done) <= max_turns
        assert max_sampled is None or sum(sampled) <= max_sampled
        limit = min(CONTEXT, max_trajectory or CONTEXT)
        assert all(len(t.observation) + len(t.action) <= limit for t in done)
        match episode.stop_reason:
            case StopReason.COMPLETED:
                assert len(done) == turns
            case StopReason.MAX_TURNS:
                assert len(done) == max_turns < turns
            case StopReason.MAX_TOOL_CALLS:
                assert len(done) * calls >= max_calls > (len(done) - 1) * calls
            case StopReason.MAX_SAMPLED_TOKENS:
                assert sum(sampled) == max_sampled
            case StopReason.MAX_TOKENS:
                assert done[-1].truncated
            case StopReason.CONTEXT_OVERFLOW:
                assert len(done) < turns
            case other:
                raise AssertionError(other)


@pytest.mark.parametrize("zero", [False, True])
def test_what_a_limit_does_to_the_reward_is_said(sampler, zero):
    how = plan(max_turns=1, zero_reward_on_limit=zero)
    (group,) = roll_out(sampler, [Chats(World(), 0, turns=2)], how)
    for episode in group.episodes:
        assert episode.stop_reason is StopReason.MAX_TURNS
        assert episode.reward == (0.0 if zero else episode.transitions[0].reward + 0.25)
        assert episode.metrics.get("zero_reward_on_limit", 0.0) == float(zero)


def test_an_episode_that_runs_out_of_its_time_keeps_what_it_did(sampler):
    class Slow(Chat):
        async def step(self, action: Action) -> Step:
            if self.turns == 1:
                await asyncio.sleep(30)
            return await super().step(action)

    class Builder(Chats):
        def make(self, n: int) -> Sequence[Env]:
            return [(Slow if i == 0 else Chat)(self.world, ints([5] * 3), 2) for i in range(n)]

    world = World()
    (group,) = roll_out(sampler, [Builder(world, 0, 2)], plan(rollout_timeout=0.3))
    assert [e.stop_reason is StopReason.TIMEOUT for e in group.episodes] == [True, False, False]
    assert [len(e.transitions) for e in group.episodes] == [1, 2, 2]
    assert world.made == world.closed


def test_a_hung_environment_costs_its_deadline_and_nothing_else(sampler):
    class Hangs(Chat):
        async def step(self, action: Action) -> Step:
            await asyncio.sleep(30)
            raise AssertionError

    class Builder(Chats):
        def make(self, n: int) -> Sequence[Env]:
            return [(Hangs if self.number == 1 and i == 1 else Chat)(self.world, ints([5] * 3), 2) for i in range(n)]

    world = World()
    policy = FailurePolicy(min_share=0.5)
    got = roll_out(sampler, [Builder(world, i, 2) for i in range(3)], plan(failures=policy, turn_timeout=0.2))
    assert [len(g.episodes) for g in got] == [3, 2, 3]
    assert got.metrics == {
        "rollout_errors/DeadlineError": 1.0,
        "rollout_errors/lost_groups": 0.0,
        "rollout_errors/lost_episodes": 1.0,
    }
    with pytest.raises(DeadlineError):
        roll_out(sampler, [Builder(World(), 1, 2)], plan(turn_timeout=0.2))


@pytest.mark.parametrize("error", [ValueError("a mistake in the code"), DataNotFoundError("a file of the user's")])
def test_mistakes_are_not_the_worlds(sampler, error):
    world = World([False] * 4 + [True], lambda: error)
    with pytest.raises(type(error), match=str(error)):
        rolled(sampler, world, plan(failures=FailurePolicy(retries=5, min_share=0.1)))
    assert world.made == world.closed


def test_hooks_see_every_turn_and_may_name_the_end(sampler):
    class Watch(RolloutHooks):
        def __init__(self) -> None:
            self.turns: list[tuple[int, int]] = []

        async def before_turn(self, state):
            self.turns.append((state.member, len(state.transitions)))

        async def on_stop(self, state, reason):
            return StopReason.TOOL_STOPPED if reason is StopReason.COMPLETED else reason

    watch = Watch()
    (group,) = roll_out(sampler, [Chats(World(), 0, turns=2)], plan(), hooks=watch)
    assert sorted(watch.turns) == [(i, t) for i in range(3) for t in range(2)]
    assert {e.stop_reason for e in group.episodes} <= {StopReason.TOOL_STOPPED, StopReason.MAX_TOKENS}


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"max_turns": 0}, {"max_sampled_tokens": 0}, {"max_tokens": 0}):
        with pytest.raises(ConfigError):
            plan(**wrong)
    for wrong in ({"retries": -1}, {"min_share": 0.0}, {"min_share": 1.5}):
        with pytest.raises(ConfigError):
            FailurePolicy(**wrong)
