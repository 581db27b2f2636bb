"""Policies that are no model: a function or a person says what comes next, in the place of a sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np

from tinsmith.domain.episodes import StopReason
from tinsmith.domain.errors import CapabilityError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.domain.tokens import Floats, Ints, ints
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Completion, FinishReason, SampleResult, SamplingParams
from tinsmith.rendering import Renderer, TrainOn
from tinsmith.workflows.episode import RolloutHooks, RolloutState


def said(renderer: Renderer, message: Message | str) -> Ints:
    """The tokens that a policy samples when it says `message`, its stop included."""
    if isinstance(message, str):
        message = Message.assistant(message)
    conversation = Conversation((Message.user("?"), message))
    datum = renderer.supervised(conversation, train_on=TrainOn.LAST_ASSISTANT_MESSAGE).datums[-1]
    return ints(datum.targets[datum.weights > 0])


class ByHand:
    """A Sampler whose answers `answer` gives: (the prompt's tokens, which turn of which member of the group, the most
    tokens) -> tokens. What is longer than the request allows is cut, and ends by length. Its `hooks` go to the rollout,
    which tells it so whose turn it is."""

    policy_version = -1

    def __init__(self, answer: Callable[[Ints, int, int, int], Ints], context: int) -> None:
        self._answer = answer
        self.context = context
        self.hooks = _Turns()

    def sample(self, prompt: Ints, params: SamplingParams, n: int = 1) -> Pending[SampleResult]:
        turn, member = self.hooks.take()
        made = tuple(self._completion(prompt, turn, member + j, params) for j in range(n))
        return Pending.of(SampleResult(completions=made))

    def _completion(self, prompt: Ints, turn: int, member: int, params: SamplingParams) -> Completion:
        tokens = ints(self._answer(prompt, turn, member, params.max_tokens))
        cut = len(tokens) > params.max_tokens
        kept = tokens[: params.max_tokens]
        finish = FinishReason.LENGTH if cut else FinishReason.STOP
        return Completion(tokens=kept, logprobs=np.zeros(len(kept), np.float32), finish=finish)

    def score(self, tokens: Ints) -> Pending[Floats]:
        raise CapabilityError("what is said by hand has no probability")

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""


class _Turns(RolloutHooks):
    """Whose turn it is. Between the hook and the sample that follows it no other episode runs; the first samples of a
    group have no hook before them, and are of turn 0."""

    def __init__(self) -> None:
        self._next = (0, 0)

    async def before_turn(self, state: RolloutState) -> None:
        self._next = (len(state.transitions), state.member)

    def take(self) -> tuple[int, int]:
        now, self._next = self._next, (0, 0)
        return now

    async def on_stop(self, state: RolloutState, reason: StopReason) -> StopReason:
        self._next = (0, 0)
        return reason
