"""How rollouts are run: what an episode may use, what a limit does to its reward, what becomes of failures."""

from __future__ import annotations

import hashlib
import math

from attrs import evolve, field, frozen

from tinsmith.domain.errors import ConfigError, TinsmithError, WorldError
from tinsmith.envs.base import Observation
from tinsmith.ports.sampler import SamplingParams


@frozen(kw_only=True)
class RolloutLimits:
    """What an episode may use. A limit ends the episode with its own stop reason; the reward earned so far stays."""

    max_tokens: int
    """Per action."""
    max_turns: int | None = None
    max_sampled_tokens: int | None = None
    """Of all actions of the episode together."""
    max_trajectory_tokens: int | None = None
    """Of an observation and the action that follows it: the length of the conversation."""
    max_tool_calls: int | None = None
    rollout_timeout: float | None = None
    """Seconds an episode may take; what it did by then stays."""
    zero_reward_on_limit: bool = False
    """An episode that a limit ended earns at most nothing: what it earned beyond is taken back at its end."""
    max_groups_in_flight: int = 4096
    max_resets_in_flight: int = 64
    """Environments that start at once, over all groups: a start may be a process or a container."""
    turn_timeout: float = 600.0
    """Seconds that one sampling or environment call may take; beyond it the *world* failed: DeadlineError."""

    def __attrs_post_init__(self) -> None:
        for name in ("max_tokens", "max_turns", "max_sampled_tokens", "max_trajectory_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: at least 1")


@frozen(kw_only=True)
class FailurePolicy:
    """What becomes of an episode that the world failed. It is never a reward: it is tried again, left out, or stops
    the run. Other errors (a mistake in an environment's code, in the data, in the settings) stop the run at once."""

    retries: int = 0
    """Further tries that a group has for all of its episodes together."""
    backoff_s: float = 0.5
    """Seconds before the first retry; twice as long before each further one until an episode of the group comes off, 30
    at most."""
    min_share: float | None = None
    """Share of its episodes with which a group goes on when retries are used up; with fewer it is left out and
    counted. None: the failure stops the run."""
    retry_on: tuple[type[BaseException], ...] = (OSError, TimeoutError)
    """Which errors are the world's."""

    def __attrs_post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigError(f"retries={self.retries}: 0 or more")
        if self.min_share is not None and not 0 < self.min_share <= 1:
            raise ConfigError(f"min_share={self.min_share}: above 0, at most 1")

    def is_worlds(self, error: BaseException) -> bool:
        if isinstance(error, TinsmithError) and not isinstance(error, WorldError):
            return False  # a missing file of the user's is an OSError too
        return isinstance(error, self.retry_on)

    def wait_s(self, retry: int) -> float:
        return min(self.backoff_s * 2.0**retry, 30.0)

    def needed(self, members: int) -> int:
        """Episodes without which a group is left out."""
        return members if self.min_share is None else max(math.ceil(self.min_share * members), 1)


@frozen(kw_only=True)
class RolloutPlan:
    """How a set of groups is rolled out."""

    limits: RolloutLimits
    group_size: int
    failures: FailurePolicy = field(factory=FailurePolicy)
    temperature: float = 1.0
    seed: int = 0
    split: str = "train"
    step: int = 0
    _params: SamplingParams = field(init=False)

    @_params.default
    def _make_params(self) -> SamplingParams:
        return SamplingParams(max_tokens=self.limits.max_tokens, temperature=self.temperature)

    def params(self, observation: Observation, seed: int, room: int) -> SamplingParams:
        """`room`: tokens that the action may have besides its own limit."""
        return evolve(
            self._params,
            max_tokens=min(self.limits.max_tokens, room),
            stop_ids=observation.stop_ids,
            stop=observation.stop,
            seed=seed,
        )

    def room(self, observation: Observation, sampled: int, context: int) -> tuple[int, bool]:
        """(tokens that the next action may have, whether the limit of all sampled tokens is what binds)."""
        length = len(observation.tokens)
        left = context - length
        if self.limits.max_trajectory_tokens is not None:
            left = min(left, self.limits.max_trajectory_tokens - length)
        if self.limits.max_sampled_tokens is None:
            return left, False
        budget = self.limits.max_sampled_tokens - sampled
        return min(left, budget), budget < min(left, self.limits.max_tokens)


def draw_seed(*parts: object) -> int:
    """A seed below 2**63 that is fixed by its parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
