"""The contract of every chat format.

A format is a class with a few things of its own: what it holds (`needs`, `ends`, `roles`, `thinks`, `calls_tools`,
`keeps_unread_calls`, `placeholders`), `is_prefix_stable`, how it writes messages (`_write`, `_write_header`), and how
it reads a completion (`_read`). Everything else follows here, the same for all.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Conversation, MediaPart, Message, TextPart, Tool
from tinsmith.domain.tokens import Ints, ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.answers import check_schema, declared_types, is_object
from tinsmith.rendering.batch import render_batch, supervised_batch
from tinsmith.rendering.given import conversation_of, messages_of, tools_of
from tinsmith.rendering.records import Examples, Hints, Origin, Overlong, Parsed, Rendered, Stop, Termination, TrainOn
from tinsmith.rendering.script import LooseScript, RenderedBatch, Script
from tinsmith.rendering.streaming import Stream
from tinsmith.rendering.supervised import examples_of, plan_of


class Renderer(ABC):
    """Messages to tokens and back, for one format and one tokenizer. Stateless: the same input gives the same
    tokens.

    Messages, tools and conversations are given as values of the domain or as the mappings that chat APIs use
    (`{"role": ..., "content": ...}`).
    """

    needs: tuple[str, ...] = ()
    """Control tokens without which the format cannot be written."""
    ends: tuple[str, ...] = ()
    """Those of them that end an answer, beside those that the tokenizer says do."""
    roles: tuple[str, ...] = ("system", "user", "assistant", "tool")
    """Roles that the format has a form for."""
    thinks: bool = True
    """It has a form for thinking."""
    calls_tools: bool = True
    """It has a form for tools, calls and results."""
    keeps_unread_calls: bool = True
    """It has a form for a call that could not be read."""
    placeholders: Mapping[type[MediaPart], str] = {}
    """The kinds of media that the format takes, each with the control token that stands for one."""
    thinking_marks: tuple[str, str] | None = None
    """The control tokens around thinking, if these are what a prompt may leave open."""
    is_prefix_stable: bool = True
    """A prompt and its sampled answer are a prefix of every later rendering of that conversation. Where it is False,
    later turns rewrite earlier ones, and a conversation becomes several datums."""

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        missing = [t for t in (*self.needs, *self.placeholders.values()) if t not in tokenizer.special_tokens]
        if missing:
            raise RenderError(
                f"format {name!r} needs the control tokens {missing}; tokenizer {tokenizer.name!r} lacks them"
            )
        self.name = name
        self.tokenizer = tokenizer
        self._id = {t: tokenizer.special_tokens[t] for t in self.needs}
        self._script: type[Script] = Script

    # What a format says.

    @property
    def stop(self) -> Stop:
        """What ends an answer."""
        return Stop(ids=tuple(dict.fromkeys((*(self._id[t] for t in self.ends), *self.tokenizer.eos_ids))))

    @abstractmethod
    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        """Read a completion, whatever it holds."""

    @abstractmethod
    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        """Write messages[start:], those before being known; tools and whatever opens a text only if start is 0."""

    @abstractmethod
    def _write_header(self, out: Script) -> None:
        """Write what comes before a model's output, after the last message."""

    def _write_after_stop(self, out: Script) -> None:  # noqa: B027 - nothing to write is the rule
        """Write what follows a sampled stop and is never sampled itself."""

    def _write_prefill(self, out: Script, prefill: str) -> None:
        """Write what starts an answer, after the header."""
        out.text(prefill, Origin.TEXT)

    def _write_media(self, out: Script, part: MediaPart) -> None:
        """Write what stands for an image or a sound: its placeholder, and what the format puts around it."""
        out.control(self.placeholders[type(part)])

    def _check(self, index: int, message: Message) -> None:  # noqa: B027 - no limits is a format too
        """Raise RenderError for a message that the format has no form for, beyond what the class attributes say."""

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        """Whether the format leaves this prompt and completion as they are once `new` follows."""
        return self.is_prefix_stable

    # What formats share.

    def _write_content(self, out: Script, message: Message) -> None:
        """Write text and media in order; thinking is left to the format."""
        for part in message.content:
            if isinstance(part, TextPart):
                out.text(part.text, Origin.TEXT)
            elif isinstance(part, MediaPart):
                self._write_media(out, part)

    # What follows from it.

    def render(
        self, messages: Sequence[Message | Mapping[str, Any]], tools: Sequence[Tool | Mapping[str, Any]] = ()
    ) -> Rendered:
        """All messages, as the format writes a finished conversation."""
        messages, tools = messages_of(messages), tools_of(tools)
        self.check(messages, tools)
        return self.with_media(self.written(messages, tools).render(), messages)

    def render_batch(self, conversations: Sequence[Conversation | Mapping[str, Any]]) -> RenderedBatch:
        """`render` of each conversation, all in one call. Raises RenderError with the conversation's index."""
        return render_batch(self, conversations, lambda c: self.written(c.messages, c.tools))

    def generation_prompt(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        prefill: str = "",
    ) -> Rendered:
        """Tokens after which the model answers. `prefill` starts the answer: text that the model goes on from."""
        messages, tools = messages_of(messages), tools_of(tools)
        self.check(messages, tools)
        return self.with_media(self.asked(messages, tools, prefill).render(), messages)

    def generation_prompt_batch(
        self, conversations: Sequence[Conversation | Mapping[str, Any]], *, prefill: str = ""
    ) -> RenderedBatch:
        """`generation_prompt` of each conversation, all in one call. Raises RenderError with the conversation's
        index."""
        return render_batch(self, conversations, lambda c: self.asked(c.messages, c.tools, prefill))

    def supervised(
        self,
        conversation: Conversation | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]],
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
        conversation = conversation_of(conversation)
        self.check(conversation.messages, conversation.tools)
        return examples_of(
            plan_of(conversation.messages, stable=self.is_prefix_stable, train_on=TrainOn(train_on)),
            lambda n: self.with_media(
                self.written(conversation.messages[:n], conversation.tools, sampled=True).render(),
                conversation.messages[:n],
            ),
            train_on=TrainOn(train_on),
            max_length=max_length,
            overlong=Overlong(overlong),
        )

    def supervised_batch(
        self,
        conversations: Sequence[Conversation | Mapping[str, Any]],
        *,
        train_on: TrainOn | str = TrainOn.ALL_ASSISTANT_MESSAGES,
        max_length: int | None = None,
        overlong: Overlong | str = Overlong.REFUSE,
    ) -> list[Examples | RenderError]:
        """`supervised` of each conversation, all in one call; in place of examples the error that it would raise."""
        return supervised_batch(
            self, conversations, train_on=TrainOn(train_on), max_length=max_length, overlong=Overlong(overlong)
        )

    def written(self, messages: Sequence[Message], tools: Sequence[Tool], *, sampled: bool = False) -> Script:
        """All messages, checked before, as they are written, before they are tokens. See `Script.sampled`."""
        out = self._script(self.tokenizer)
        out.sampled = sampled
        self._write(out, messages, tools, 0)
        return out

    def asked(self, messages: Sequence[Message], tools: Sequence[Tool], prefill: str) -> Script:
        """All messages, checked before, and what comes before an answer, before they are tokens."""
        out = self._script(self.tokenizer)
        self._write(out, messages, tools, 0)
        out.message = len(messages)
        self._write_header(out)
        out.cut()
        self._write_prefill(out, prefill)
        return out

    def bridge(
        self,
        prompt: Sequence[int] | Ints,
        completion: Sequence[int] | Ints,
        new_messages: Sequence[Message | Mapping[str, Any]],
    ) -> Ints | None:
        """The next generation prompt, beginning with `prompt` and `completion` byte for byte; None where the format
        would write them otherwise now, or where the completion did not end at its stop. `prompt` is a generation
        prompt."""
        prompt, completion, new = ints(prompt), ints(completion), messages_of(new_messages)
        if not new or any(m.role == "assistant" for m in new):
            return None
        answer = self.parse(completion, prompt=prompt)
        if answer.termination is not Termination.STOP or not self._bridges(prompt, completion, new):
            return None
        called = bool(answer.message.tool_calls or answer.message.unparsed_tool_calls)
        self.check((Message("assistant"), *new), answered=called)
        out = self._script(self.tokenizer)
        self._write_after_stop(out)
        self._write(out, (answer.message, *new), (), 1)
        self._write_header(out)
        return np.concatenate([prompt, completion, out.render().ids])

    def parse(
        self,
        ids: Sequence[int] | Ints,
        *,
        prompt: Sequence[int] | Ints | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] = (),
    ) -> Parsed:
        """Read a completion: what was sampled after a generation prompt, its stop included. Never raises for what a
        model wrote.

        `prompt`, where it is given, says whether it left a thinking block open: not every prompt of a format does the
        same (after a tool's result some leave none). `tools` say which arguments are text, in the formats that write
        them without quotes; what is not declared, and all of it without tools, is read as JSON where it is JSON.
        """
        opened = None
        if prompt is not None and self.thinking_marks is not None:
            opens, closes = (self.tokenizer.special_tokens.get(mark, -1) for mark in self.thinking_marks)
            marks = [id for id in ints(prompt).tolist() if id in (opens, closes)]
            opened = bool(marks) and marks[-1] == opens
        return self._read(ints(ids), Hints(opened, declared_types(tools_of(tools))))

    def stream(
        self,
        *,
        prompt: Sequence[int] | Ints | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] = (),
    ) -> Stream:
        """A parser that is fed a completion as it is sampled; see `parse` and `Stream`."""
        return Stream(self, lambda ids: self.parse(ids, prompt=prompt, tools=tools))

    def check(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, answered: bool = False) -> None:
        """Raise RenderError, naming the message, for messages that cannot be rendered. `answered`: they follow a turn
        that may have called tools."""
        declared = {tool.name for tool in tools}
        if declared and not self.calls_tools:
            raise RenderError(f"{self.name} has no form for tools")
        for tool in tools:
            check_schema(tool)
        called, ids = answered, set[str]()
        for i, message in enumerate(messages):
            self._check_form(i, message)
            self._check(i, message)
            for call in message.tool_calls:
                if not is_object(call.arguments):
                    raise RenderError(
                        f"message {i}: the arguments of its call of {call.name!r} are no JSON object: "
                        f"{call.arguments!r:.60}; what a model wrote wrong is an UnparsedToolCall"
                    )
                if declared and call.name not in declared:
                    raise RenderError(
                        f"message {i} calls the tool {call.name!r}, which is not declared "
                        f"(declared: {', '.join(sorted(declared))})"
                    )
            if message.role == "tool":
                if not called:
                    raise RenderError(f"message {i} is a tool result, but no message before it calls a tool")
                if ids and message.tool_call_id is not None and message.tool_call_id not in ids:
                    raise RenderError(
                        f"message {i} is the result of call {message.tool_call_id!r}; no call before it has that id"
                    )
            called = called or bool(message.tool_calls or message.unparsed_tool_calls)
            ids |= {call.id for call in message.tool_calls if call.id is not None}

    def _check_form(self, index: int, message: Message) -> None:
        if message.role not in self.roles:
            raise RenderError(f"message {index}: {self.name} has no form for role {message.role!r}")
        if message.thinking and not self.thinks:
            raise RenderError(f"message {index}: {self.name} has no form for thinking")
        if (message.tool_calls or message.unparsed_tool_calls) and not self.calls_tools:
            raise RenderError(f"message {index}: {self.name} has no form for tool calls")
        if message.unparsed_tool_calls and not self.keeps_unread_calls:
            raise RenderError(f"message {index}: {self.name} has no form for a tool call that cannot be read")
        for part in message.media:
            if type(part) not in self.placeholders:
                what = type(part).__name__.removesuffix("Part").lower()
                raise RenderError(f"message {index} holds an {what} part; {self.name} is a format without {what}s")

    def with_media(self, rendered: Rendered, messages: Sequence[Message]) -> Rendered:
        """Pair each placeholder with its part."""
        if not self.placeholders or not any(m.media for m in messages):
            return rendered
        which = [self.tokenizer.special_tokens[t] for t in self.placeholders.values()]
        at = np.flatnonzero(np.isin(rendered.ids, which)).tolist()
        parts = [part for i in dict.fromkeys(rendered.message[at].tolist()) for part in messages[i].media]
        if len(parts) != len(at):
            raise RenderError(f"{self.name} wrote {len(at)} placeholders for {len(parts)} images and sounds")
        return evolve(rendered, media=tuple(zip(at, parts, strict=True)))

    def allow_control_tokens(self) -> Renderer:
        """From now on text that spells a control token becomes that token, whoever wrote it. Only for text that is
        trusted: whoever writes a message can then end it and speak as anyone."""
        warnings.warn(f"{self.name}: text may now write control tokens, anyone's text", stacklevel=2)
        self._script = LooseScript
        return self

    def __repr__(self) -> str:
        return f"<renderer {self.name} on {self.tokenizer.name}>"
