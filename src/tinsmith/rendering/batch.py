"""Many conversations at once: the formats write them all, then one call makes tokens of them.

What a batch gives is what its conversations give one by one; only the time differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from attrs import evolve

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Conversation, Message, Tool
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.given import conversation_of
from tinsmith.rendering.records import Examples, Overlong, Rendered, TrainOn
from tinsmith.rendering.script import RenderedBatch, Script, encode
from tinsmith.rendering.supervised import Plan, examples_of, plan_of


class Writer(Protocol):
    """What a batch needs of a renderer."""

    is_prefix_stable: bool

    @property
    def tokenizer(self) -> Tokenizer: ...
    def check(self, messages: Sequence[Message], tools: Sequence[Tool]) -> None: ...
    def written(self, messages: Sequence[Message], tools: Sequence[Tool], *, sampled: bool = False) -> Script: ...
    def with_media(self, rendered: Rendered, messages: Sequence[Message]) -> Rendered: ...


Given: TypeAlias = Sequence[Conversation | Mapping[str, Any]]


def render_batch(renderer: Writer, given: Given, write: Callable[[Conversation], Script]) -> RenderedBatch:
    """What `write` makes of each. Raises RenderError, naming the conversation, for the first that cannot be
    rendered."""
    scripts = []
    with_media: list[tuple[int, Sequence[Message]]] = []
    for number, one in enumerate(given):
        try:
            conversation = conversation_of(one)
            renderer.check(conversation.messages, conversation.tools)
            scripts.append(write(conversation))
        except RenderError as error:
            raise RenderError(f"conversation {number}: {error}") from error
        if any(m.media for m in conversation.messages):
            with_media.append((number, conversation.messages))
    batch = encode(renderer.tokenizer, scripts)
    media = {number: renderer.with_media(batch[number], messages).media for number, messages in with_media}
    return evolve(batch, media=media) if media else batch


def supervised_batch(
    renderer: Writer, given: Given, *, train_on: TrainOn, max_length: int | None, overlong: Overlong
) -> list[Examples | RenderError]:
    """`supervised` of each, or in its place the error that it raises."""
    scripts: list[Script] = []
    found: list[tuple[Conversation, Plan, int] | RenderError] = []  # with the first of its scripts
    for one in given:
        start = len(scripts)
        try:
            conversation = conversation_of(one)
            renderer.check(conversation.messages, conversation.tools)
            plan = plan_of(conversation.messages, stable=renderer.is_prefix_stable, train_on=train_on)
            for end in plan.ends:
                scripts.append(renderer.written(conversation.messages[:end], conversation.tools, sampled=True))
        except RenderError as error:
            del scripts[start:]
            found.append(error)
        else:
            found.append((conversation, plan, start))
    batch = encode(renderer.tokenizer, scripts)

    def examples(conversation: Conversation, plan: Plan, start: int) -> Examples:
        return examples_of(
            plan,
            lambda n: renderer.with_media(batch[start + plan.ends.index(n)], conversation.messages[:n]),
            train_on=train_on,
            max_length=max_length,
            overlong=overlong,
        )

    out: list[Examples | RenderError] = []
    for item in found:
        try:
            out.append(item if isinstance(item, RenderError) else examples(*item))
        except RenderError as error:
            out.append(error)
    return out
