"""What the formats share in checking and reading answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import MediaPart, Message, Part, TextPart, ThinkingPart, Tool, ToolCall, UnparsedToolCall
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.records import Failure, FailureKind
from tinsmith.rendering.script import Script


def check_thinking_first(name: str, index: int, message: Message) -> None:
    """Raise RenderError for thinking that follows text."""
    parts = [type(p) for p in message.content if isinstance(p, MediaPart) or p.text]
    count = parts.count(ThinkingPart)
    if parts[:count] != [ThinkingPart] * count:
        raise RenderError(f"message {index}: {name} has no form for thinking after text")


def call_of(name: str, arguments: str, raw: str, id: str | None = None) -> ToolCall | UnparsedToolCall:
    """The call; `raw` is kept where a part of it is no text: JSON can spell half of a surrogate pair."""
    try:
        for text in (name, arguments, id or ""):
            text.encode()
    except UnicodeEncodeError as error:
        return UnparsedToolCall(raw, f"a tool call that is no text: {error.reason}")
    return ToolCall(name, arguments, id)


def read_arguments(name: str, arguments: str, raw: str) -> ToolCall | UnparsedToolCall:
    """A call whose arguments are JSON text, kept as it was written; `raw` is kept where it is no JSON object."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        return UnparsedToolCall(raw, f"arguments that are not JSON: {error}")
    if not isinstance(value, dict):
        return UnparsedToolCall(raw, "a tool call whose arguments are not an object")
    if not name:
        return UnparsedToolCall(raw, "a tool call without a name")
    return ToolCall(name, arguments)


def answer(
    text: str, thinking: str = "", calls: Sequence[ToolCall] = (), unparsed: Sequence[UnparsedToolCall] = ()
) -> Message:
    parts: list[Part] = [ThinkingPart(thinking)] if thinking else []
    parts += [TextPart(text)] if text else []
    return Message("assistant", tuple(parts), tool_calls=tuple(calls), unparsed_tool_calls=tuple(unparsed))


def split_at(ids: Ints, *controls: int) -> list[tuple[int | None, Ints]]:
    """Stretches between control tokens, each with the control token before it (None for the first)."""
    at = np.flatnonzero(np.isin(ids, controls)).tolist()
    edges = [*at, len(ids)]
    first: list[tuple[int | None, Ints]] = [(None, ids[: edges[0]])]
    return first + [(int(ids[a]), ids[a + 1 : b]) for a, b in zip(at, edges[1:], strict=True)]


def structural(reason: str) -> Failure:
    return Failure(FailureKind.STRUCTURAL, reason)


def failure_of(call: UnparsedToolCall) -> Failure:
    return Failure(FailureKind.CONTENT, call.error)


def read_thinking(
    body: Ints, tags: tuple[int, int], tokenizer: Tokenizer, failures: list[Failure], *, opened: bool
) -> tuple[str, Ints]:
    """Thinking between two control tokens, and the tokens after it. `opened`: the prompt wrote the first of them, so a
    body without the second is thinking that never closes."""
    opens, closes = (np.flatnonzero(body == tag) for tag in tags)
    if not len(opens) and not len(closes) and not opened:
        return "", body
    start = int(opens[0]) if len(opens) and (not len(closes) or opens[0] < closes[0]) else -1
    before = tokenizer.decode(body[: max(start, 0)])
    if before.strip():
        failures.append(structural("text before the thinking"))
    if not len(closes):
        failures.append(structural("thinking that never closes"))
        return before + tokenizer.decode(body[start + 1 :]), body[:0]
    close = int(closes[0])
    return before + tokenizer.decode(body[start + 1 : close]), body[close + 1 :]


def read_section(
    body: Ints,
    marks: tuple[int, int, int],
    tokenizer: Tokenizer,
    read: Callable[[str], ToolCall | UnparsedToolCall],
    failures: list[Failure],
) -> tuple[list[ToolCall], list[UnparsedToolCall]]:
    """The calls of a section that is open already. `marks` begin and end a call, and end the section."""
    begin, end, section_end = marks
    calls: list[ToolCall] = []
    unparsed: list[UnparsedToolCall] = []
    ended = np.flatnonzero(body == section_end)
    if not len(ended):
        failures.append(structural("tool calls that never close"))
    elif int(ended[0]) + 1 < len(body):
        failures.append(structural("text after the tool calls"))
    for opener, inside in split_at(body[: int(ended[0])] if len(ended) else body, begin):
        if opener is None:
            if tokenizer.decode(inside).strip():
                failures.append(structural("text between tool calls"))
            continue
        ends = np.flatnonzero(inside == end)
        raw = tokenizer.decode(inside[: int(ends[0])] if len(ends) else inside)
        if not len(ends):
            failures.append(structural("a tool call that never closes"))
            unparsed.append(UnparsedToolCall(raw, "never closes"))
            continue
        if tokenizer.decode(inside[int(ends[0]) + 1 :]).strip():
            failures.append(structural("text between tool calls"))
        call = read(raw)
        if isinstance(call, ToolCall):
            calls.append(call)
        else:
            failures.append(failure_of(call))
            unparsed.append(call)
    return calls, unparsed


_NAMES = {bool: {"boolean"}, int: {"integer", "number"}, float: {"number"}, list: {"array"}, dict: {"object"}}


def read_value(text: str, types: frozenset[str] = frozenset(), others: Mapping[str, Any] | None = None) -> Any:
    """An argument that is written bare: what is JSON, but no JSON text, is taken as such; the rest is text. `types`
    are those declared, none where that is not said: what is of none of them is text, if text is one. `others`: further
    spellings of values."""
    value = (others or {}).get(text, text)
    if value is text:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        # What would be written otherwise (1.0e3, spaces in a list) is text that someone wrote.
        same = not isinstance(value, str) and json.dumps(value, ensure_ascii=False) == text
        if not same or text in ("NaN", "Infinity", "-Infinity"):
            return text
    return text if "string" in types and not types & _NAMES.get(type(value), {"null"}) else value


def is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def check_schema(tool: Tool) -> None:
    """Raise RenderError for a tool whose description or parameters no format can show."""
    function = tool.definition.get("function", tool.definition)
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise RenderError(f"tool {tool.name!r}: its description must be text, not {description!r:.40}")
    if function.get("parameters") is not None:
        _check_schema(function["parameters"], f"tool {tool.name!r}: parameters")


def _check_schema(schema: Any, where: str) -> None:
    if not isinstance(schema, Mapping):
        raise RenderError(f"{where} must be a JSON schema, an object, not {schema!r:.40}")
    kinds: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("properties", "$defs"), (Mapping,)),
        **dict.fromkeys(("required", "enum", "anyOf", "oneOf", "allOf"), (list, tuple)),
        **dict.fromkeys(("description", "$ref"), (str,)),
        "type": (str, list, tuple),
    }
    for key, kind in kinds.items():
        if schema.get(key) is not None and not isinstance(schema[key], kind):
            raise RenderError(f"{where}.{key} cannot be {schema[key]!r:.40}")
    inner = [(f"properties.{name}", one) for name, one in (schema.get("properties") or {}).items()]
    inner += [(f"$defs.{name}", one) for name, one in (schema.get("$defs") or {}).items()]
    inner += [(f"{key}[{n}]", one) for key in ("anyOf", "oneOf") for n, one in enumerate(schema.get(key) or ())]
    inner += [("items", schema["items"])] if schema.get("items") is not None else []
    for name, one in inner:
        if not isinstance(one, bool):
            _check_schema(one, f"{where}.{name}")


def declared_types(tools: Sequence[Tool]) -> dict[str, dict[str, frozenset[str]]]:
    """By tool and parameter: the names of the JSON types that it may have; none where that is not said."""
    out: dict[str, dict[str, frozenset[str]]] = {}
    for tool in tools:
        schema = tool.definition.get("function", tool.definition).get("parameters")
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if isinstance(properties, Mapping):
            out[tool.name] = {str(name): frozenset(_types(one)) for name, one in properties.items()}
    return out


_PYTHON_NAMES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
    "none": "null",
}
"""Types as data sets of tools often have them, `List[str]` and `str, optional` too."""


def _types(schema: Any) -> set[str]:
    if not isinstance(schema, Mapping):
        return set()
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    found = {_PYTHON_NAMES.get(kind, kind) for kind in (re.split(r"[\[,]", str(k))[0].strip().lower() for k in kinds)}
    for key in ("anyOf", "oneOf"):
        for one in schema.get(key) or () if isinstance(schema.get(key), list) else ():
            found |= _types(one)
    if not found and isinstance(schema.get("enum"), list) and all(isinstance(v, str) for v in schema["enum"]):
        found = {"string"}
    return found


def write_marked(out: Script, text: str, names: Sequence[str]) -> None:
    """Write a text of the format's own, in which these names are control tokens."""
    for piece in re.split(f"({'|'.join(map(re.escape, names))})", text):
        if piece in names:
            out.control(piece)
        else:
            out.text(piece)
