"""The environment protocol: what a policy acts in.

An environment is used for one episode: `reset` gives the first observation, `step` answers each action. It sees
tokens; blocks that think in messages build on it with a renderer. A model's mistake is a reward; an exception out of an
environment is the world's failure and never becomes one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeAlias, runtime_checkable

from attrs import field, frozen

from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.messages import Message
from tinsmith.domain.tokens import Floats, Ints
from tinsmith.ports.sampler import FinishReason


@frozen(eq=False)
class Observation:
    """All tokens that the policy sees before it acts, and what ends its action."""

    tokens: Ints
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()


@frozen(eq=False)
class Action:
    """What the policy sampled: tokens with their logprobs, and why sampling ended."""

    tokens: Ints
    logprobs: Floats
    finish: FinishReason


@frozen(eq=False, kw_only=True)
class Step:
    """The answer to an action. `observation` is there exactly when `stop_reason` is not."""

    reward: float
    stop_reason: StopReason | None = None
    observation: Observation | None = None
    masked: bool = False
    """Do not train on the action."""
    tool_calls: int = 0
    """Calls of tools that the action made."""
    metrics: Mapping[str, float] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if (self.stop_reason is None) == (self.observation is None):
            raise ValueError("a step either stops the episode or gives the next observation")


class EpisodeOver(Exception):
    """Raised by `Env.reset` where the episode is over before the policy acts (another player gave up)."""

    def __init__(
        self,
        reward: float,
        stop_reason: StopReason = StopReason.COMPLETED,
        metrics: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__(f"over before the first action: {stop_reason}")
        self.reward = reward
        self.stop_reason = stop_reason
        self.metrics = metrics


class Env(Protocol):
    """One episode."""

    async def reset(self) -> Observation: ...
    async def step(self, action: Action) -> Step: ...
    async def close(self) -> None:
        """Release what the episode held; called exactly once, on every path."""
        ...


@runtime_checkable
class LimitAware(Protocol):
    """An environment that pays for what was done when a limit ends its episode; without this, that pays nothing."""

    async def on_limit(self, reason: StopReason) -> float:
        """Added to the episode's reward."""
        ...


class GroupBuilder(Protocol):
    """Makes the G environments of one problem and may add rewards that compare their episodes."""

    @property
    def problem(self) -> str: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def coupled(self) -> bool:
        """The environments of the group act on each other (players of one game): when one fails, all begin anew."""
        ...

    def make(self, n: int) -> Sequence[Env]:
        """n environments, by place in the group. Called again where one failed; the others are then closed unused."""
        ...

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        """[G]: added to each episode's reward as its final reward."""
        ...


Speaker: TypeAlias = Callable[[str, int], "Message | str"]
"""A policy by hand: (all that is to be read before turn i, as text; i, from 0) -> what is said."""


@runtime_checkable
class Checkable(Protocol):
    """A group builder that says what a check of environments cannot know of itself; None for what it does not know."""

    @property
    def solution(self) -> Speaker | None:
        """Earns the top reward."""
        ...

    @property
    def reward_range(self) -> tuple[float, float] | None:
        """The least and the top reward of an episode."""
        ...


@runtime_checkable
class Shown(Protocol):
    """A group builder whose teacher is shown more than the policy, such as an answer."""

    @property
    def teacher_prompt(self) -> Ints | None:
        """What the teacher reads in place of the first observation; None: the same."""
        ...


class ProblemSource(Protocol):
    """Problems in a fixed order: the same index gives the same problem, in every process."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str:
        """Changes when the problems do; a run goes on with the problems that it began with alone."""
        ...

    def __len__(self) -> int:
        """Problems in one pass."""
        ...

    def __getitem__(self, index: int) -> GroupBuilder: ...
