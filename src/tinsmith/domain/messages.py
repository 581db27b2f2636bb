"""Messages, tool calls, tools and conversations.

A message's content is a tuple of typed parts; a plain string becomes one text part. Text is text: no part ever stands
for a control token. What a message weighs in training may be said by the data (`Message.weight`).
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from attrs import Attribute, field, frozen

from tinsmith.domain.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")


def _well_formed(_: Any, attribute: Attribute[Any], value: Any) -> None:
    """Text that UTF-8 can hold: a lone surrogate has no bytes, so no tokens."""
    if not isinstance(value, str):
        raise DataError(f"{attribute.name} must be text, not {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{attribute.name} holds a lone surrogate at character {error.start}") from None


def sound(value: Any) -> Any:
    """A text, or a value of JSON with all of its texts, as messages can hold it: JSON can spell halves of surrogate
    pairs, which become question marks. For what other libraries and tools say, who say again what a model wrote."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [sound(item) for item in value]
    if isinstance(value, dict):
        return {sound(key): sound(item) for key, item in value.items()}
    return value


def _tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


@frozen
class TextPart:
    text: str = field(validator=_well_formed)


@frozen
class ThinkingPart:
    """Reasoning before the answer, without the marks that a format puts around it."""

    text: str = field(validator=_well_formed)


def _source(_: Any, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, str | bytes) or not value:
        raise DataError(f"{attribute.name} must be bytes, a URL or a path, not {value!r:.40}")


@frozen
class ImagePart:
    """An image: the bytes of an image file, or the URL or path where it lies. Rendering never opens it."""

    source: str | bytes = field(validator=_source, repr=lambda s: repr(s[:40]))


@frozen
class AudioPart:
    """A sound: the bytes of an audio file, or the URL or path where it lies. Rendering never opens it."""

    source: str | bytes = field(validator=_source, repr=lambda s: repr(s[:40]))


MediaPart: TypeAlias = ImagePart | AudioPart
Part: TypeAlias = TextPart | ThinkingPart | ImagePart | AudioPart


@frozen
class ToolCall:
    name: str = field(validator=_well_formed)
    arguments: str = field(validator=_well_formed)
    """JSON text, kept as it was written."""
    id: str | None = None


@frozen
class UnparsedToolCall:
    """What a model wrote as a tool call and cannot be read as one."""

    text: str = field(validator=_well_formed)
    error: str = ""


@frozen
class Tool:
    """A function that the model may call. `definition` is the JSON object as it was given, nothing added or dropped."""

    definition: Mapping[str, Any]

    def __attrs_post_init__(self) -> None:
        name = self._function.get("name") if isinstance(self._function, Mapping) else None
        if not isinstance(name, str) or not name:
            raise DataError('a tool needs a "name" (at the top, or under "function")')

    @property
    def _function(self) -> Any:
        return self.definition.get("function", self.definition)

    @property
    def name(self) -> str:
        return str(self._function["name"])

    def json(self) -> str:
        """The definition as JSON text, the way chat templates print it."""
        return json.dumps(self.definition, ensure_ascii=False)


def _content(value: Any) -> Any:
    if isinstance(value, str):
        return (TextPart(value),) if value else ()
    return tuple(value) if isinstance(value, Iterable) else value


@frozen
class Message:
    """One message. `Message("user", "Hi")` is `Message("user", (TextPart("Hi"),))`; no content is the empty tuple."""

    role: str
    content: tuple[Part, ...] = field(default=(), converter=_content)
    tool_calls: tuple[ToolCall, ...] = field(default=(), converter=_tuple)
    unparsed_tool_calls: tuple[UnparsedToolCall, ...] = field(default=(), converter=_tuple)
    tool_call_id: str | None = None
    """Of a tool's result: the call it answers."""
    name: str | None = None
    weight: float | None = None
    """Loss weight that the data gives this message; None says nothing."""

    def __attrs_post_init__(self) -> None:
        if self.role not in ROLES:
            near = difflib.get_close_matches(str(self.role), ROLES, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"unknown role {self.role!r} (known: {', '.join(ROLES)}){hint}")
        if not isinstance(self.content, tuple) or not all(isinstance(p, Part) for p in self.content):
            raise DataError(f"content must be text or parts, not {self.content!r:.60}")
        if self.weight is not None and not (math.isfinite(self.weight) and self.weight >= 0):
            raise DataError(f"weight={self.weight}: finite, 0 or more")
        if self.role != "assistant":
            if self.tool_calls or self.unparsed_tool_calls:
                raise DataError(f"a {self.role} message cannot call tools")
            if any(isinstance(p, ThinkingPart) for p in self.content):
                raise DataError(f"a {self.role} message cannot hold thinking")

    @classmethod
    def system(cls, text: str) -> Message:
        return cls("system", text)

    @classmethod
    def user(cls, text: str) -> Message:
        return cls("user", text)

    @classmethod
    def assistant(cls, text: str) -> Message:
        return cls("assistant", text)

    @property
    def text(self) -> str:
        """All text parts joined."""
        if len(self.content) == 1 and type(self.content[0]) is TextPart:
            return self.content[0].text
        return "".join(p.text for p in self.content if isinstance(p, TextPart))

    @property
    def thinking(self) -> str | None:
        """All thinking parts joined; None when there is none."""
        if len(self.content) == 1 and type(self.content[0]) is TextPart:
            return None
        parts = [p.text for p in self.content if isinstance(p, ThinkingPart)]
        return "".join(parts) if parts else None

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """Images and sounds in order."""
        if len(self.content) == 1 and type(self.content[0]) is TextPart:
            return ()
        return tuple(p for p in self.content if isinstance(p, MediaPart))


@frozen
class Conversation:
    """Messages in order, and the tools that they may call."""

    messages: tuple[Message, ...] = field(converter=_tuple)
    tools: tuple[Tool, ...] = field(default=(), converter=_tuple)

    def __attrs_post_init__(self) -> None:
        if not self.messages:
            raise DataError("a conversation needs at least one message")
        for i, message in enumerate(self.messages):
            if not isinstance(message, Message):
                kind = type(message).__name__
                raise DataError(
                    f"message {i} is a {kind}, not a Message: Message(role, content), e.g. Message.user(text)"
                )


@frozen
class Preference:
    """Two answers to one conversation, the better one first."""

    prompt: Conversation
    chosen: tuple[Message, ...] = field(converter=_tuple)
    rejected: tuple[Message, ...] = field(converter=_tuple)
