"""Rows of data files -> conversations.

Layouts that are read, told apart by their keys (a key whose value is null counts as absent):

* `messages`: `{role, content}` (OpenAI style), content a string or parts `{type, text | value}`;
* `conversations`: `{from, value}` (ShareGPT style), with `function_call` and `observation`;
* one exchange: `prompt`/`completion`, `prompt`/`response`, `question`/`answer`, `instruction`[/`input`]/`output`, the
  first two also with lists of messages.

Beside them `tools` (a list or its JSON text) and `system`. Nothing that belongs to a message is dropped in silence:
what cannot be carried is refused with file, line and message index. Keys that say nothing about the text (ids,
timestamps) are ignored.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import (
    AudioPart,
    Conversation,
    ImagePart,
    Message,
    Part,
    Preference,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCall,
)

_EXCHANGES = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("instruction", "output"))
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
}
_WEIGHTS = ("weight", "loss_weight", "trainable")
_THINKING = ("reasoning_content", "reasoning", "thinking")
_KEYS = (
    "role",
    "from",
    "content",
    "value",
    "tool_calls",
    "function_call",
    "tool_call_id",
    "name",
    *_WEIGHTS,
    *_THINKING,
)
_NOT_CARRIED = ("image", "images", "audio", "audios", "video", "videos", "refusal")
_TEXT_TYPES = ("text", "input_text", "output_text")
_THINKING_TYPES = ("thinking", "reasoning")
_MEDIA: Mapping[str, type[ImagePart | AudioPart]] = {
    "image": ImagePart,
    "image_url": ImagePart,
    "input_image": ImagePart,
    "audio": AudioPart,
    "audio_url": AudioPart,
    "input_audio": AudioPart,
}


def conversation_from_row(
    row: Mapping[str, Any], *, source: str | None = None, line: int | None = None
) -> Conversation:
    """The conversation of a row. Raises DataError with `source`, `line` (from 1) and the message's index (from 0)."""
    try:
        row = _present(row)
        if "chosen" in row or "rejected" in row:
            raise DataError("a preference pair (`chosen`, `rejected`), where one conversation is wanted")
        return Conversation(_messages_of_row(row), _tools(row.get("tools")))
    except DataError as error:
        raise _at(error, source, line) from None


def preference_from_row(row: Mapping[str, Any], *, source: str | None = None, line: int | None = None) -> Preference:
    """The preference pair of a row with `chosen` and `rejected`: a message, a list of messages, or text."""
    try:
        row = _present(row)
        for key in ("chosen", "rejected"):
            if key not in row:
                raise DataError(f"a preference row needs {key!r}")
        prompt = {"messages": row["prompt"]} if isinstance(row.get("prompt"), list) else row
        if isinstance(prompt.get("prompt"), str):
            prompt = {**prompt, "messages": [{"role": "user", "content": prompt["prompt"]}]}
        answers = []
        for key in ("chosen", "rejected"):
            value = [row[key]] if isinstance(row[key], Mapping) else row[key]
            answers.append(_side(value, "assistant", key, 0))
        return Preference(Conversation(_messages_of_row(prompt), _tools(row.get("tools"))), *answers)
    except DataError as error:
        raise _at(error, source, line) from None


def _at(error: DataError, source: str | None, line: int | None) -> DataError:
    return error if source is None else DataError(str(error), source=source, line=line)


def _present(mapping: Any) -> dict[str, Any]:
    if not isinstance(mapping, Mapping):
        raise DataError(f"a row must be an object, not {type(mapping).__name__}")
    return {k: v for k, v in mapping.items() if v is not None}


def _messages_of_row(row: Mapping[str, Any]) -> tuple[Message, ...]:
    for key in ("messages", "conversations"):
        if key in row:
            messages = _list_of_messages(row[key], key, 0)
            break
    else:
        messages = _exchange(row)
    system = row.get("system")
    if not system:
        return messages
    if not isinstance(system, str):
        raise DataError(f'"system" must be text, not {type(system).__name__}')
    if messages[0].role == "system":
        raise DataError('both "system" and a system message are given: keep one')
    return (Message("system", system), *messages)


def _exchange(row: Mapping[str, Any]) -> tuple[Message, ...]:
    for ask, answer in _EXCHANGES:
        if ask in row and answer in row:
            prompt = _side(row[ask], "user", ask, 0)
            if ask == "instruction" and row.get("input"):
                if not isinstance(row["input"], str):
                    raise DataError(f'"input" must be text, not {type(row["input"]).__name__}')
                prompt = (Message("user", f"{row['instruction']}\n\n{row['input']}"),)
            history: list[Message] = []
            for i, pair in enumerate(row.get("history") or ()):
                if not (isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(t, str) for t in pair)):
                    raise DataError(f'"history" entry {i} must be [question, answer]')
                history += [Message("user", pair[0]), Message("assistant", pair[1])]
            return (*history, *prompt, *_side(row[answer], "assistant", answer, len(history) + len(prompt)))
    wanted = "messages, conversations, " + ", ".join(f"{a} + {b}" for a, b in _EXCHANGES)
    raise DataError(f"no conversation in keys {sorted(row)!r:.120}; a row needs one of: {wanted}")


def _side(value: Any, role: str, key: str, first: int) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message(role, value),)
    return _list_of_messages(value, key, first)


def _list_of_messages(value: Any, key: str, first: int) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"{key!r} must be a list of messages, not {type(value).__name__}")
    if not value:
        raise DataError(f"{key!r} is empty")
    out = []
    for i, item in enumerate(value, first):
        try:
            out.append(message_from_row(item))
        except DataError as error:
            raise DataError(f"{key}, message {i}: {error}") from None
    return tuple(out)


def message_from_row(item: Any) -> Message:
    """One message of a file, in any of the layouts."""
    if not isinstance(item, Mapping):
        raise DataError(f"must be an object, not {type(item).__name__}")
    _check_keys(item)
    given = item.get("role", item.get("from"))
    if not isinstance(given, str):
        raise DataError('"role" (or "from") is missing' if given is None else f"role must be text, not {given!r:.40}")
    role = _ROLES.get(given, given)
    value = item["content"] if item.get("content") is not None else item.get("value")
    parts: list[Part] = []
    for key in _THINKING:
        if isinstance(item.get(key), str):
            parts.append(ThinkingPart(item[key]))
        elif item.get(key) is not None:
            raise DataError(f"{key!r} must be text, not {type(item[key]).__name__}")
    calls = [_openai_call(c, i) for i, c in enumerate(_list(item.get("tool_calls"), "tool_calls"))]
    if item.get("function_call") is not None:
        calls.append(_call(item["function_call"]))
    if given == "function_call":
        calls += _calls(value)
    elif isinstance(value, str):
        parts += [TextPart(value)] if value else []
    elif isinstance(value, Sequence):
        for i, part in enumerate(value):
            try:
                read = _part(part)
            except DataError as error:
                raise DataError(f"part {i}: {error}") from None
            if isinstance(read, ToolCall):
                calls.append(read)
            else:
                parts.append(read)
    elif value is None and not calls:
        raise DataError("content is null or missing")
    elif value is not None:
        raise DataError(f"content must be text or a list of parts, not {type(value).__name__}")
    return Message(
        role,
        tuple(parts),
        tool_calls=tuple(calls),
        tool_call_id=_optional_text(item, "tool_call_id"),
        name=_optional_text(item, "name"),
        weight=_weight(item),
    )


def _check_keys(item: Mapping[str, Any]) -> None:
    for key, value in item.items():
        if key in _KEYS or not value:
            continue
        if key in _NOT_CARRIED:
            raise DataError(f"{key!r} cannot be carried: only text, thinking and tool calls are")
        near = difflib.get_close_matches(str(key), _KEYS, 1, 0.8)
        if near:
            raise DataError(f"unknown key {key!r}; did you mean {near[0]!r}?")


def _part(part: Any) -> Part | ToolCall:
    if isinstance(part, str):
        return TextPart(part)
    if not isinstance(part, Mapping):
        raise DataError(f"must be an object or text, not {type(part).__name__}")
    kind = part.get("type")
    if isinstance(kind, str) and kind in _MEDIA:
        return _media(kind, part)
    keys = [k for k in ("value", "text", *_THINKING, "tool_call") if part.get(k) is not None]
    if len(keys) != 1:
        raise DataError(f"of type {kind!r} must have its text under one key ('text' or 'value'), has {sorted(part)}")
    value = part[keys[0]]
    if kind == "tool_call":
        return _call(value)
    if not isinstance(value, str):
        raise DataError(f"{keys[0]!r} must be text, not {type(value).__name__}")
    if kind in _TEXT_TYPES:
        return TextPart(value)
    if kind in _THINKING_TYPES:
        return ThinkingPart(value)
    raise DataError(f"type {kind!r} is not one of {', '.join((*_TEXT_TYPES, *_THINKING_TYPES, *_MEDIA, 'tool_call'))}")


def _media(kind: str, part: Mapping[str, Any]) -> ImagePart | AudioPart:
    """`{type: image, image | url | path: SOURCE}`, `{type: image_url, image_url: SOURCE | {url: SOURCE}}`, the same for
    audio, and `{type: input_audio, input_audio: {data: BASE64}}`."""
    value = next((part[k] for k in (kind, "image", "audio", "image_url", "url", "path", "value") if part.get(k)), None)
    if isinstance(value, Mapping):
        data = value.get("data")
        value = f"data:audio/{value.get('format', 'wav')};base64,{data}" if data else value.get("url")
    return _MEDIA[kind]("" if value is None else value)  # which refuses what is no source


def _openai_call(call: Any, index: int) -> ToolCall:
    if not isinstance(call, Mapping):
        raise DataError(f"tool call {index} must be an object, not {type(call).__name__}")
    try:
        return _call(call.get("function", call), _optional_text(call, "id"))
    except DataError as error:
        raise DataError(f"tool call {index}: {error}") from None


def _calls(value: Any) -> list[ToolCall]:
    value = _json(value, "a function call") if isinstance(value, str) else value
    return [_call(c) for c in value] if isinstance(value, list) else [_call(value)]


def _call(value: Any, id: str | None = None) -> ToolCall:
    value = _json(value, "a tool call") if isinstance(value, str) else value
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or "arguments" not in value:
        raise DataError('a tool call needs "name" (text) and "arguments"')
    arguments = value["arguments"]
    if isinstance(arguments, str):
        _json(arguments, "the arguments of a tool call")
        return ToolCall(value["name"], arguments, id)
    try:
        return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False, allow_nan=False), id)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the arguments of a tool call are not JSON: {error}") from None


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{what} is not JSON: {error}") from None


def _tools(value: Any) -> tuple[Tool, ...]:
    if isinstance(value, str):
        value = _json(value, '"tools"') if value.strip() else ()
    out = []
    for i, tool in enumerate(_list(value, "tools")):
        tool = _json(tool, f"tool {i}") if isinstance(tool, str) else tool
        if not isinstance(tool, Mapping):
            raise DataError(f"tool {i} must be an object, not {type(tool).__name__}")
        try:
            out.append(Tool(tool))
        except DataError as error:
            raise DataError(f"tool {i}: {error}") from None
    return tuple(out)


def _list(value: Any, key: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"{key!r} must be a list, not {type(value).__name__}")
    return value


def _optional_text(item: Mapping[str, Any], key: str) -> str | None:
    value = item.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{key!r} must be text, not {type(value).__name__}")
    return value


def _weight(item: Mapping[str, Any]) -> float | None:
    found = {key: item[key] for key in _WEIGHTS if item.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, int | float):
            raise DataError(f"{key!r} must be a number or true/false, not {value!r:.40}")
    values = {float(v) for v in found.values()}
    if len(values) > 1:
        raise DataError(f"{' and '.join(map(repr, found))} contradict each other")
    return values.pop() if values else None
