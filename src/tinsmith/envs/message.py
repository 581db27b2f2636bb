"""Environments that think in messages, and what turns them into environments of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from attrs import field, frozen

from tinsmith.domain.episodes import StopReason
from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Message, TextPart, Tool
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import Action, LimitAware, Observation, Step
from tinsmith.ports.sampler import FinishReason
from tinsmith.rendering import FailureKind, Parsed, Renderer, Termination

LONG = 50_000
"""Characters of a conversation from which on it is rendered off the event loop."""


def _messages(values: Iterable[Message]) -> tuple[Message, ...]:
    return tuple(values)


@frozen(kw_only=True)
class MessageStep:
    """The answer to a message. `messages` (what the policy reads next) are there exactly when `stop_reason` is not."""

    reward: float
    messages: tuple[Message, ...] = field(default=(), converter=_messages)
    stop_reason: StopReason | None = None
    masked: bool = False
    """Do not train on the message."""
    tool_calls: int = 0
    metrics: Mapping[str, float] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if (self.stop_reason is None) == (not self.messages):
            raise ValueError("a step either stops the episode or gives the messages that come next")


class MessageEnv(Protocol):
    """One episode, as a conversation. Its close is called exactly once, on every path."""

    @property
    def tools(self) -> Sequence[Tool]: ...
    async def reset(self) -> Sequence[Message]: ...
    async def step(self, message: Message) -> MessageStep: ...
    async def close(self) -> None: ...


@runtime_checkable
class Quittable(Protocol):
    """An environment that is told when its policy will say no more: a message was cut, or could not be read."""

    async def quit(self) -> float:
        """What the episode earns by that."""
        ...


@frozen(kw_only=True)
class ParseErrors:
    """What becomes of a message that cannot be read. A broken frame (thinking that never closes, a stray control token)
    ends the episode; content that cannot be read (a tool call that is no JSON) may be asked for again."""

    retries: int = 0
    """How often in a row the policy is told and may write again."""
    message: str = "The last message could not be read: {reason}. Write it again."
    penalty: float = 0.0
    """Taken from the reward for each message that is asked for again."""
    reward: float = -1.0
    """Of the message that ends the episode."""
    mask: bool = False
    """Do not train on messages that could not be read."""


@frozen(kw_only=True)
class RenderedEnv:
    """A `MessageEnv` as an `Env`: the conversation so far is the observation, rendered by `renderer`.

    What was sampled stays byte for byte in every later observation where the format allows it (`Renderer.bridge`);
    else the conversation is rendered anew, and its turns become several datums.
    """

    env: MessageEnv
    renderer: Renderer
    parse_errors: ParseErrors = field(factory=ParseErrors)
    length_reward: float = 0.0
    """Of a message that its limit of tokens cut, which ends the episode; a `Quittable` environment says so itself."""
    _history: list[Message] = field(factory=list, init=False)
    _errors: list[str] = field(factory=list, init=False)
    """Reasons of the errors in a row."""
    _prompt: list[Ints] = field(factory=list, init=False)
    """The last observation."""

    async def reset(self) -> Observation:
        self._history.extend(await self.env.reset())
        return self._observed(await self._rendered())

    async def step(self, action: Action) -> Step:
        if action.finish is FinishReason.LENGTH:
            earned = await self._quit()
            reward = self.length_reward if earned is None else earned
            return Step(reward=reward, stop_reason=StopReason.MAX_TOKENS, metrics={"parse_error": 0.0})
        parsed = self.renderer.parse(action.tokens, prompt=self._prompt[-1], tools=self.env.tools)
        self._history.append(parsed.message)
        if (reason := _unreadable(parsed)) is not None:
            return await self._not_read(action, parsed, reason)
        self._errors.clear()
        step = await self.env.step(parsed.message)
        metrics = {"parse_error": 0.0, **step.metrics}
        if step.stop_reason is not None:
            return Step(
                reward=step.reward,
                stop_reason=step.stop_reason,
                masked=step.masked,
                tool_calls=step.tool_calls,
                metrics=metrics,
            )
        return Step(
            reward=step.reward,
            observation=await self._next(action, step.messages),
            masked=step.masked,
            tool_calls=step.tool_calls,
            metrics=metrics,
        )

    async def _quit(self) -> float | None:
        return await self.env.quit() if isinstance(self.env, Quittable) else None

    async def on_limit(self, reason: StopReason) -> float:
        return await self.env.on_limit(reason) if isinstance(self.env, LimitAware) else 0.0

    async def close(self) -> None:
        await self.env.close()

    async def _not_read(self, action: Action, parsed: Parsed, reason: str) -> Step:
        policy = self.parse_errors
        self._errors.append(reason)
        broken = parsed.termination is Termination.MALFORMED or any(
            f.kind is FailureKind.STRUCTURAL for f in parsed.failures
        )
        metrics = {"parse_error": 1.0}
        if broken or len(self._errors) > policy.retries:
            await self._quit()
            return Step(reward=policy.reward, stop_reason=StopReason.PARSE_ERROR, masked=policy.mask, metrics=metrics)
        told = Message.user(policy.message.replace("{reason}", reason))
        return Step(
            reward=-policy.penalty, observation=await self._next(action, (told,)), masked=policy.mask, metrics=metrics
        )

    async def _next(self, action: Action, messages: Sequence[Message]) -> Observation:
        self._history.extend(messages)
        ids = self.renderer.bridge(self._prompt[-1], action.tokens, messages)
        return self._observed(await self._rendered() if ids is None else ids)

    async def _rendered(self) -> Ints:
        def render() -> Ints:
            try:
                return self.renderer.generation_prompt(self._history, tools=self.env.tools).ids
            except RenderError:  # a format may have no form for a call that could not be read
                shown = [as_it_reads(message) for message in self._history]
                if shown == self._history:
                    raise
                return self.renderer.generation_prompt(shown, tools=self.env.tools).ids

        long = sum(len(m.text) for m in self._history) > LONG
        return await asyncio.to_thread(render) if long else render()

    def _observed(self, ids: Ints) -> Observation:
        self._prompt[:] = [ids]
        return Observation(ids, stop_ids=self.renderer.stop.ids, stop=self.renderer.stop.strings)


def _unreadable(parsed: Parsed) -> str | None:
    """Why a message cannot be read; None where it can."""
    if parsed.failures:
        return "; ".join(f.reason for f in parsed.failures)
    return "it goes on after its end" if parsed.termination is Termination.MALFORMED else None


def as_it_reads(message: Message) -> Message:
    """Tool calls that cannot be read as text, for who knows none such."""
    if not message.unparsed_tool_calls:
        return message
    calls = tuple(TextPart(call.text) for call in message.unparsed_tool_calls)
    return Message("assistant", (*message.content, *calls), tool_calls=message.tool_calls)
