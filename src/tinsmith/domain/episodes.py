"""Episodes and groups: what rollouts give back.

A `Transition` is one turn of the policy: the observation it saw (all prompt tokens), the action it sampled and the
reward that followed. An `Episode` is a sequence of transitions with exactly one stop reason. A `Group` is G episodes of
one problem, the unit within which advantages are computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from tinsmith.domain.errors import ShapeError
from tinsmith.domain.tokens import Floats, Ints, floats, ints


class StopReason(StrEnum):
    """Why an episode ended; exactly one holds."""

    COMPLETED = "completed"
    TOOL_STOPPED = "tool_stopped"
    MAX_TOKENS = "max_tokens"
    """An action reached its own limit of tokens."""
    MAX_SAMPLED_TOKENS = "max_sampled_tokens"
    """All actions together reached theirs."""
    MAX_TURNS = "max_turns"
    MAX_TOOL_CALLS = "max_tool_calls"
    CONTEXT_OVERFLOW = "context_overflow"
    """The next observation leaves no room in the context, or in the episode's limit of tokens."""
    PARSE_ERROR = "parse_error"
    TIMEOUT = "rollout_timeout"

    @property
    def is_limit(self) -> bool:
        """The budget ended the episode, neither the policy nor its environment."""
        return self not in (StopReason.COMPLETED, StopReason.TOOL_STOPPED, StopReason.PARSE_ERROR)


@frozen(eq=False, kw_only=True)
class Transition:
    """One turn. `action` and `logprobs` have the same length; the action holds its stop token, if one was sampled."""

    observation: Ints = field(converter=ints)
    action: Ints = field(converter=ints)
    logprobs: Floats = field(converter=floats)
    """Natural-log probability of each action token under the policy that sampled it."""
    reward: float = 0.0
    policy_version: int = -1
    truncated: bool = False
    """The action ended at a token limit, not at a stop."""
    masked: bool = False
    """The action is not trained on (weight 0), though it was sampled."""
    metrics: Mapping[str, float] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if len(self.action) != len(self.logprobs):
            raise ShapeError(f"{len(self.action)} action tokens but {len(self.logprobs)} logprobs")


@frozen(eq=False, kw_only=True)
class Episode:
    transitions: tuple[Transition, ...]
    stop_reason: StopReason
    final_reward: float = 0.0
    """What group grading added to the rewards of the turns."""
    metrics: Mapping[str, float] = field(factory=dict)

    @property
    def reward(self) -> float:
        """Sum of the turns' rewards and the final reward."""
        return float(sum(t.reward for t in self.transitions)) + self.final_reward


@frozen(eq=False, kw_only=True)
class Group:
    """G episodes of one problem."""

    problem: str
    """Identifies the problem in logs, e.g. `gsm8k/17`."""
    episodes: tuple[Episode, ...]
    tags: tuple[str, ...] = ()

    @property
    def rewards(self) -> npt.NDArray[np.float64]:
        """[G] float64: total reward of each episode."""
        return np.array([e.reward for e in self.episodes], np.float64)

    @property
    def is_constant(self) -> bool:
        """All episodes earned the same: there is nothing to compare."""
        return len(set(self.rewards.tolist())) <= 1
