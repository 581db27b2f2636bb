"""Messages of the package `verifiers` and ours."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.messages import Message, Tool, sound


def asked(
    prompt: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None
) -> tuple[tuple[Message, ...], tuple[Tool, ...]]:
    """A prompt and the tools that may be called. Raises DataError for what a message here cannot hold."""
    rows = [_row(message) for message in prompt]
    definitions = [_definition(t if isinstance(t, Mapping) else t.model_dump(exclude_none=True)) for t in tools or ()]
    conversation = conversation_from_row({"messages": rows, "tools": definitions})
    return conversation.messages, conversation.tools


def _row(message: Mapping[str, Any]) -> dict[str, Any]:
    """The package writes a call as {id, name, arguments}, and plain text as a role of its own."""
    row = {k: v for k, v in message.items() if k in ("role", "content", "reasoning_content", "tool_call_id")}
    if row.get("role") == "text":
        row["role"] = "user"
    if message.get("tool_calls"):
        row["tool_calls"] = [
            {"id": c.get("id"), "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in message["tool_calls"]
        ]
    elif row.get("content") is None:
        row["content"] = ""
    held: dict[str, Any] = sound(row)
    return held


def _definition(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": dict(tool)}


def as_response(message: Message, *, truncated: bool) -> tuple[Any, Any]:
    """(the response of a client, the message that the package keeps of it)."""
    from verifiers.types import AssistantMessage, Response, ResponseMessage, ToolCall

    calls = [
        ToolCall(id=c.id or f"call_{uuid.uuid4().hex[:12]}", name=c.name, arguments=c.arguments)
        for c in message.tool_calls
    ]
    said: dict[str, Any] = {
        "content": message.text,
        "reasoning_content": message.thinking,
        "tool_calls": calls or None,
    }
    finish = "length" if truncated else "tool_calls" if calls else "stop"
    response = Response(
        id=uuid.uuid4().hex,
        created=int(time.time()),
        model="policy",
        usage=None,
        message=ResponseMessage(**said, finish_reason=finish, is_truncated=truncated, tokens=None),
    )
    return response, AssistantMessage(**said)
