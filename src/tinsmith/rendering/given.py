"""What callers give renderers: values of the domain, or the mappings that chat APIs and data files use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.domain.chat_rows import conversation_from_row, message_from_row
from tinsmith.domain.errors import DataError, RenderError
from tinsmith.domain.messages import Conversation, Message, Tool


def messages_of(given: Sequence[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    """Raises RenderError with the message's index."""
    out = []
    for i, message in enumerate(given):
        try:
            out.append(message if isinstance(message, Message) else message_from_row(message))
        except DataError as error:
            raise RenderError(f"message {i}: {error}") from None
    return tuple(out)


def tools_of(given: Sequence[Tool | Mapping[str, Any]] | None) -> tuple[Tool, ...]:
    out = []
    for i, tool in enumerate(given or ()):
        try:
            out.append(tool if isinstance(tool, Tool) else Tool(tool))
        except (DataError, AttributeError) as error:
            raise RenderError(f"tool {i}: {error}") from None
    return tuple(out)


def conversation_of(
    given: Conversation | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]],
) -> Conversation:
    if isinstance(given, Conversation):
        return given
    try:
        return conversation_from_row(given) if isinstance(given, Mapping) else Conversation(messages_of(given))
    except DataError as error:
        raise RenderError(str(error)) from None
