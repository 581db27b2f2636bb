"""Messages, tools and answers of `inspect-ai` and ours."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from inspect_ai.model import ChatMessageAssistant, ContentReasoning, ContentText
from inspect_ai.tool import ToolCall as TheirToolCall

from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import (
    AudioPart,
    ImagePart,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCall,
    sound,
)


def messages_of(given: Sequence[Any]) -> list[Message]:
    """Raises DataError for what a message here cannot hold."""
    return [_message(message) for message in given]


def _message(given: Any) -> Message:
    if given.role == "tool":
        text = given.text if given.error is None else f"error: {given.error.message}"
        return Message("tool", sound(text), tool_call_id=given.tool_call_id, name=given.function)
    parts = tuple(_parts(given.content))
    if given.role != "assistant":
        return Message(given.role, parts)
    calls = (
        ToolCall(c.function, json.dumps(sound(c.arguments), ensure_ascii=False), c.id) for c in given.tool_calls or ()
    )
    return Message("assistant", parts, tool_calls=tuple(calls))


def _parts(content: str | list[Any]) -> Iterable[Part]:
    for part in [ContentText(text=content)] if isinstance(content, str) else content:
        if part.type == "text":
            if part.text:
                yield TextPart(sound(part.text))
        elif part.type == "reasoning":
            yield ThinkingPart(sound(part.reasoning))
        elif part.type == "image":
            yield ImagePart(part.image)
        elif part.type == "audio":
            yield AudioPart(part.audio)
        else:
            raise DataError(f"a message holds {part.type}, which a prompt here has no form for")


def tools_of(given: Sequence[Any]) -> list[Tool]:
    return [
        Tool({"type": "function", "function": tool.model_dump(exclude_none=True, exclude={"options"})})
        for tool in given
    ]


def answer_of(message: Message, model: str) -> Any:
    """What was sampled, as the package's assistant message. A call that cannot be read is told to the task as one with
    a parse error where it has a name, and is text where it has none."""
    content: list[Any] = []
    if message.thinking is not None:
        content.append(ContentReasoning(reasoning=message.thinking))
    text = message.text + "".join(call.text for call in message.unparsed_tool_calls)
    content.append(ContentText(text=text))
    calls = [_call(call) for call in message.tool_calls]
    return ChatMessageAssistant(
        content=text if len(content) == 1 else content, tool_calls=calls or None, model=model, source="generate"
    )


def _call(call: ToolCall) -> Any:
    error, arguments = None, {}
    try:
        read = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError) as failure:
        error = f"the arguments are no JSON: {failure}"
    else:
        if isinstance(read, dict):
            arguments = sound(read)
        else:
            error = "the arguments are no JSON object"
    return TheirToolCall(
        id=call.id or f"call_{uuid.uuid4().hex[:12]}", function=call.name, arguments=arguments, parse_error=error
    )
