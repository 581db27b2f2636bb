"""The contract of every chat format.

A format is a class with five things of its own: the control tokens it needs, `stop`, `is_prefix_stable`, how it writes
messages (`_write`, `_write_header`), and how it reads a completion (`parse`). Everything else follows here, the same
for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Conversation, Message, Tool
from tinsmith.domain.tokens import Ints, ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.records import Examples, Origin, Overlong, Parsed, Rendered, Stop, Termination, TrainOn
from tinsmith.rendering.script import Script
from tinsmith.rendering.supervised import examples_of


class Renderer(ABC):
    """Messages to tokens and back, for one format and one tokenizer. Stateless: the same input gives the same
    tokens."""

    needs: tuple[str, ...] = ()
    """Control tokens without which the format cannot be written."""
    is_prefix_stable: bool = True
    """A prompt and its sampled answer are a prefix of every later rendering of that conversation. Where it is False,
    later turns rewrite earlier ones, and a conversation becomes several datums."""

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        missing = [t for t in self.needs if t not in tokenizer.special_tokens]
        if missing:
            raise RenderError(
                f"format {name!r} needs the control tokens {missing}; tokenizer {tokenizer.name!r} lacks them"
            )
        self.name = name
        self.tokenizer = tokenizer

    # What a format says.

    @property
    @abstractmethod
    def stop(self) -> Stop: ...

    @abstractmethod
    def parse(self, ids: Sequence[int] | Ints) -> Parsed:
        """Read a completion: what was sampled after a generation prompt, its stop included. Never raises for what a
        model wrote."""

    @abstractmethod
    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        """Write messages[start:], those before being known; tools and whatever opens a text only if start is 0."""

    @abstractmethod
    def _write_header(self, out: Script) -> None:
        """Write what comes before a model's output, after the last message."""

    def _write_after_stop(self, out: Script) -> None:  # noqa: B027 - nothing to write is the rule
        """Write what follows a sampled stop and is never sampled itself."""

    def _check(self, index: int, message: Message) -> None:  # noqa: B027 - no limits is a format too
        """Raise RenderError for a message that the format has no form for."""

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        """Whether the format leaves this prompt and completion as they are once `new` follows."""
        return self.is_prefix_stable

    # What follows from it.

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Rendered:
        """All messages, as the format writes a finished conversation."""
        return self._render(messages, tools, {})

    def generation_prompt(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), prefill: str = ""
    ) -> Rendered:
        """Tokens after which the model answers. `prefill` starts the answer: text that the model goes on from."""
        self.check(messages)
        out = Script(self.tokenizer)
        self._write(out, messages, tools, 0)
        out.message = len(messages)
        self._write_header(out)
        out.cut()
        out.text(prefill, Origin.TEXT)
        return out.render()

    def supervised(
        self,
        conversation: Conversation,
        *,
        train_on: TrainOn | str = TrainOn.ALL_ASSISTANT_MESSAGES,
        max_length: int | None = None,
        overlong: Overlong | str = Overlong.REFUSE,
    ) -> Examples:
        """The datums that train a conversation: one, or several where later turns rewrite earlier ones. Together they
        train each trained token exactly once, in the context in which it is sampled.

        `max_length` bounds the T tokens of a datum. Raises NothingToTrain, TooLong (see `overlong`), and RenderError
        for a message that the format cannot hold.
        """
        self.check(conversation.messages)
        memo: dict[tuple[str, bool], tuple[Ints, Ints]] = {}
        return examples_of(
            conversation,
            lambda n: self._render(conversation.messages[:n], conversation.tools, memo),
            stable=self.is_prefix_stable,
            train_on=TrainOn(train_on),
            max_length=max_length,
            overlong=Overlong(overlong),
        )

    def bridge(
        self, prompt: Sequence[int] | Ints, completion: Sequence[int] | Ints, new_messages: Sequence[Message]
    ) -> Ints | None:
        """The next generation prompt, beginning with `prompt` and `completion` byte for byte; None where the format
        would write them otherwise now, or where the completion did not end at its stop. `prompt` is a generation
        prompt."""
        prompt, completion = ints(prompt), ints(completion)
        if not new_messages or any(m.role == "assistant" for m in new_messages):
            return None
        if self.parse(completion).termination is not Termination.STOP or not self._bridges(
            prompt, completion, new_messages
        ):
            return None
        messages = (Message("assistant"), *new_messages)
        self.check(messages, answered=True)
        out = Script(self.tokenizer)
        self._write_after_stop(out)
        self._write(out, messages, (), 1)
        self._write_header(out)
        return np.concatenate([prompt, completion, out.render().ids])

    def check(self, messages: Sequence[Message], *, answered: bool = False) -> None:
        """Raise RenderError, naming the message, for messages that cannot be rendered. `answered`: they follow a turn
        that may have called tools."""
        called = answered
        for i, message in enumerate(messages):
            self._check(i, message)
            called = called or bool(message.tool_calls or message.unparsed_tool_calls)
            if message.role == "tool" and not called:
                raise RenderError(f"message {i} is a tool result, but no message before it calls a tool")

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Tool], memo: dict[tuple[str, bool], tuple[Ints, Ints]]
    ) -> Rendered:
        self.check(messages)
        out = Script(self.tokenizer, memo)
        self._write(out, messages, tools, 0)
        return out.render()

    def __repr__(self) -> str:
        return f"<renderer {self.name} on {self.tokenizer.name}>"
