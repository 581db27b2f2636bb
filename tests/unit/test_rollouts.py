"""Rollouts when environments fail, hang, or overflow."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.errors import DeadlineError
from tinsmith.domain.tokens import ints
from tinsmith.envs.base import Action, Env, Observation, Step
from tinsmith.testing import FakeTokenizer, FakeTrainer
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out


class Scripted:
    """An environment of a few turns that does what it is told in `step`; it counts how often it is closed."""

    def __init__(self, behaviour: str, turns: int = 2, prompt: int = 3) -> None:
        self.behaviour, self.turns, self.prompt, self.closed = behaviour, turns, prompt, 0

    async def reset(self) -> Observation:
        return Observation(ints([5] * self.prompt))

    async def step(self, action: Action) -> Step:
        if self.behaviour == "fail":
            raise ConnectionError("the world is gone")
        if self.behaviour == "hang":
            await asyncio.sleep(60)
        self.turns -= 1
        if self.turns == 0:
            return Step(reward=1.0, stop_reason=StopReason.COMPLETED)
        return Step(reward=0.5, observation=Observation(ints([6] * (self.prompt + 4))))

    async def close(self) -> None:
        self.closed += 1


class Builder:
    problem, tags, coupled = "p", ("t",), False

    def __init__(self, envs: Sequence[Scripted]) -> None:
        self.envs = envs

    def make(self, n: int) -> Sequence[Env]:
        assert n == len(self.envs)
        return list(self.envs)

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [10.0] * len(episodes)


def plan(**limits: object) -> RolloutPlan:
    return RolloutPlan(limits=RolloutLimits(max_tokens=4, **limits), group_size=2)  # type: ignore[arg-type]


@pytest.fixture
def trainer():
    made = FakeTrainer(FakeTokenizer(), context=24)
    yield made
    made.close()


def test_rewards_add_up_over_turns_and_grading(trainer: FakeTrainer) -> None:
    envs = [Scripted("", turns=1), Scripted("", turns=3)]
    (group,) = roll_out(trainer.sampler().result(), [Builder(envs)], plan())
    assert group.rewards.tolist() == [11.0, 12.0]
    assert [len(e.transitions) for e in group.episodes] == [1, 3]
    assert [e.closed for e in envs] == [1, 1]


def test_a_limit_on_turns_keeps_the_reward_so_far(trainer: FakeTrainer) -> None:
    envs = [Scripted("", turns=9), Scripted("", turns=2)]
    (group,) = roll_out(trainer.sampler().result(), [Builder(envs)], plan(max_turns=2))
    assert [e.stop_reason for e in group.episodes] == [StopReason.MAX_TURNS, StopReason.COMPLETED]
    assert group.rewards.tolist() == [11.0, 11.5]


def test_a_prompt_that_fills_the_context_ends_its_episode_alone(trainer: FakeTrainer) -> None:
    envs = [Scripted("", prompt=24), Scripted("", turns=1)]
    (group,) = roll_out(trainer.sampler().result(), [Builder(envs)], plan())
    assert [e.stop_reason for e in group.episodes] == [StopReason.CONTEXT_OVERFLOW, StopReason.COMPLETED]


def test_the_failure_of_the_world_comes_out_as_it_is_and_every_environment_is_closed(trainer: FakeTrainer) -> None:
    failing, other = [Scripted("fail"), Scripted("")], [Scripted(""), Scripted("")]
    with pytest.raises(ConnectionError, match="the world is gone"):
        roll_out(trainer.sampler().result(), [Builder(failing), Builder(other)], plan())
    assert [e.closed for e in (*failing, *other)] == [1, 1, 1, 1]


def test_an_environment_that_hangs_costs_its_deadline(trainer: FakeTrainer) -> None:
    envs = [Scripted("hang"), Scripted("")]
    with pytest.raises(DeadlineError):
        roll_out(trainer.sampler().result(), [Builder(envs)], plan(turn_timeout=0.2))
    assert [e.closed for e in envs] == [1, 1]


class Slow(Scripted):
    """Its step takes a while, and says whether the environment was closed meanwhile."""

    closed_while_stepping = False

    async def step(self, action: Action) -> Step:
        try:
            await asyncio.sleep(0.3)
        finally:
            self.closed_while_stepping = self.closed > 0
        return await super().step(action)


def test_no_environment_is_closed_while_it_steps(trainer: FakeTrainer) -> None:
    slow = Slow("")
    with pytest.raises(ConnectionError):
        roll_out(trainer.sampler().result(), [Builder([Scripted("fail"), slow])], plan())
    assert slow.closed == 1
    assert not slow.closed_while_stepping


class StopsAt(Scripted):
    def __init__(self, stop_id: int) -> None:
        super().__init__("", turns=1)
        self.stop_id = stop_id

    async def reset(self) -> Observation:
        return Observation(ints([5, 5, 5]), stop_ids=(self.stop_id,))


def test_environments_that_stop_differently_share_no_sample(trainer: FakeTrainer) -> None:
    asked = []
    sampler = trainer.sampler().result()
    real = sampler.sample
    sampler.sample = lambda prompt, params, n=1: (asked.append(params.stop_ids), real(prompt, params, n))[1]  # type: ignore[method-assign]
    roll_out(sampler, [Builder([StopsAt(0), StopsAt(1)])], plan())
    assert sorted(asked) == [(0,), (1,)]


class Meeting(Scripted):
    """Its reset ends once `size` resets run at once; it counts how many did."""

    running = most = 0
    met: asyncio.Event

    def __init__(self, size: int) -> None:
        super().__init__("", turns=1)
        self.size = size

    async def reset(self) -> Observation:
        Meeting.running += 1
        Meeting.most = max(Meeting.most, Meeting.running)
        if Meeting.most >= self.size:
            Meeting.met.set()
        await Meeting.met.wait()
        await asyncio.sleep(0.01)  # one more than allowed would come now
        Meeting.running -= 1
        return await super().reset()


@pytest.mark.parametrize("bound", [1, 3])
def test_environments_start_together_but_never_more_than_the_bound(trainer: FakeTrainer, bound: int) -> None:
    Meeting.running, Meeting.most, Meeting.met = 0, 0, asyncio.Event()
    builders = [Builder([Meeting(bound), Meeting(bound)]) for _ in range(3)]
    roll_out(trainer.sampler().result(), builders, plan(max_resets_in_flight=bound, turn_timeout=5.0))
    assert Meeting.most == bound
