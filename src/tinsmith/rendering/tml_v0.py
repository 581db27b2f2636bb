"""tml_v0: the format of Inkling, as tml-renderers writes it; text, thinking and tools, without images and sounds.

A message is its author's token, perhaps a name, the token of its kind, its words, `<|end_message|>`; each part and each
call of an answer is one of these, and `<|content_model_end_sampling|>` ends the answer. A prompt ends with the last
message: the model writes its author's token itself. Tools and the option `effort` (0 to 1, None tells none) are system
messages, the effort the last before the conversation starts.

JSON is compact; the keys of tools are in order at every depth, of arguments the names. So arguments are written anew,
and are as they were only when read. The family shows an effort to two digits.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from tinsmith.domain.errors import ConfigError, RenderError
from tinsmith.domain.messages import Message, Part, TextPart, ThinkingPart, Tool, ToolCall, UnparsedToolCall
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.answers import call_of, failure_of, structural
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.records import Failure, Hints, Origin, Parsed, Termination
from tinsmith.rendering.script import Script

_MODEL, _TEXT, _THINKING = "<|message_model|>", "<|content_text|>", "<|content_thinking|>"
_AUTHORS = {"system": "<|message_system|>", "user": "<|message_user|>", "tool": "<|message_tool|>"}
_CALL, _LOOSE_CALL, _TOOLS = "<|content_invoke_tool_json|>", "<|content_invoke_tool_text|>", "<|content_xml|>"
_END, _STOP = "<|end_message|>", "<|content_model_end_sampling|>"
_CALL_FORM = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"args"\s*:\s*(.*)\}\s*', re.DOTALL)


class TmlV0(Renderer):
    needs = (_MODEL, *_AUTHORS.values(), _TEXT, _THINKING, _CALL, _LOOSE_CALL, _TOOLS, _END, _STOP)
    ends = (_STOP,)
    keeps_unread_calls = False

    def __init__(self, name: str, tokenizer: Tokenizer, effort: float | None = 0.9) -> None:
        if effort is not None and not (isinstance(effort, int | float) and 0 <= effort <= 1):
            raise ConfigError(f"effort={effort!r}: from 0 to 1, or none")
        super().__init__(name, tokenizer)
        self._effort = None if effort is None else f"Thinking effort level: {_digits(effort)}"

    # Writing.

    def _check(self, index: int, message: Message) -> None:
        for call in message.tool_calls:
            try:
                _arguments(call)
            except (ValueError, RecursionError) as error:
                raise RenderError(
                    f"message {index}: arguments of {call.name!r} that cannot be written: {error}"
                ) from None

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0 and tools:
            self._open(out, "system", _TOOLS, "tool_declare")
            out.text(_declaration(tools))
            out.control(_END)
        first = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
        for i in range(start, len(messages) + 1):
            if i == first and start == 0 and self._effort is not None:
                self._open(out, "system", _TEXT)
                out.text(self._effort)
                out.control(_END)
            if i == len(messages):
                break
            message = messages[i]
            out.message = i
            if message.role == "assistant":
                self._write_answer(out, message)
                continue
            for text in [p.text for p in message.content if isinstance(p, TextPart)] or [""]:
                self._open(out, message.role, _TEXT, (message.name or "") if message.role == "tool" else "")
                out.text(text, Origin.TEXT)
                out.control(_END, Origin.MARK)

    def _open(self, out: Script, role: str, kind: str, name: str = "") -> None:
        out.control(_AUTHORS[role])
        out.text(name)
        out.control(kind)

    def _write_answer(self, out: Script, message: Message) -> None:
        out.cut()
        blocks = [
            (_THINKING if isinstance(p, ThinkingPart) else _TEXT, "", p.text)
            for p in message.content
            if isinstance(p, TextPart | ThinkingPart) and p.text
        ]
        blocks += [(_CALL, call.name, _call(call)) for call in message.tool_calls]
        for kind, name, text in blocks or [(_TEXT, "", "")]:
            out.control(_MODEL, Origin.MARK)
            out.text(name, Origin.TEXT)
            out.control(kind, Origin.MARK)
            out.text(text, Origin.TEXT)
            out.control(_END, Origin.MARK)
        out.control(_STOP, Origin.MARK)

    def _write_header(self, out: Script) -> None:
        """The model writes its own."""

    def _write_prefill(self, out: Script, prefill: str) -> None:
        if prefill:
            out.control(_MODEL)
            out.control(_TEXT)
        super()._write_prefill(out, prefill)

    # Reading.

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        known = (_MODEL, _TEXT, _THINKING, _CALL, _LOOSE_CALL, _END)
        framed = frame(ids, self.tokenizer, stop_ids=(self._id[_STOP],), allowed=tuple(self._id[t] for t in known))
        failures = list(framed.failures)
        parts: list[Part] = []
        calls: list[ToolCall] = []
        unparsed: list[UnparsedToolCall] = []
        ends = np.flatnonzero(framed.body == self._id[_END]).tolist()
        for number, (start, end) in enumerate(zip([0, *(e + 1 for e in ends)], [*ends, len(framed.body)], strict=True)):
            closed = number < len(ends)
            if not closed and start == end:
                continue
            kind, name, text = self._block(framed.body[start:end], number == 0, failures)
            if not kind and not closed and framed.termination is Termination.LENGTH:
                continue  # the start of a header
            if not closed and (kind not in (_TEXT, "") or framed.termination is not Termination.LENGTH):
                what = {_THINKING: "thinking", _CALL: "a tool call", _LOOSE_CALL: "a tool call"}.get(kind, "a message")
                failures.append(structural(f"{what} that never closes"))
            if kind in (_CALL, _LOOSE_CALL):
                call = (
                    _read_call(name, text) if kind == _CALL else UnparsedToolCall(text, "a tool call that is no JSON")
                )
                if not closed:
                    unparsed.append(UnparsedToolCall(text, "never closes"))
                elif isinstance(call, ToolCall):
                    calls.append(call)
                else:
                    failures.append(failure_of(call))
                    unparsed.append(call)
                continue
            if (calls or unparsed) and text:
                failures.append(structural("text after a tool call"))
            if name and kind:
                failures.append(structural(f"a header that names {name!r}"))
            parts += [(ThinkingPart if kind == _THINKING else TextPart)(text)] if text else []
        message = Message("assistant", parts, tool_calls=calls, unparsed_tool_calls=unparsed)
        return Parsed(message, framed.termination, tuple(failures))

    def _block(self, block: Ints, first: bool, failures: list[Failure]) -> tuple[str, str, str]:
        """Kind, name and words of one block; no kind where it has none, then its words are what is there. The first may
        go on from a prompt that opened it."""
        decode = self.tokenizer.decode
        headed = len(block) > 0 and int(block[0]) == self._id[_MODEL]
        kinds = {self._id[t]: t for t in (_TEXT, _THINKING, _CALL, _LOOSE_CALL)}
        at = next((n for n, id in enumerate(block.tolist()) if id in kinds), None)
        if not headed and not (first and (at is None or at == 0)):
            failures.append(structural("a message without its author"))
        if at is None:
            if headed:
                failures.append(structural("a header without a message"))
            return ("" if headed or not first else _TEXT), "", decode(block[int(headed) :])
        if np.any(np.isin(block[at + 1 :], list(self._id.values()))):
            failures.append(structural("a stray mark inside a message"))
        return kinds[int(block[at])], decode(block[int(headed) : at]), decode(block[at + 1 :])


def _digits(effort: float) -> str:
    """In thousandths, as the family keeps it, shown to two digits."""
    text = f"{round(effort * 1000) / 1000:.2f}".rstrip("0").rstrip(".")
    return text or "0"


def _declaration(tools: Sequence[Tool]) -> str:
    functions = [tool.definition.get("function", tool.definition) for tool in tools]
    return _json(
        [
            {
                "type": "function",
                "name": function["name"],
                "description": function.get("description") or "",
                "parameters": function.get("parameters") or {},
            }
            for function in functions
        ],
        tools=True,
    )


def _arguments(call: ToolCall) -> str:
    """Raises ValueError for what is no JSON object of finite numbers and Unicode text."""
    value = json.loads(call.arguments)
    if not isinstance(value, dict):
        raise ValueError("they are not an object")
    text = _json(dict(sorted(value.items())))
    text.encode()
    return text


def _call(call: ToolCall) -> str:
    return f'{{"name":{json.dumps(call.name, ensure_ascii=False)},"args":{_arguments(call)}}}'


def _json(value: Any, *, tools: bool = False) -> str:
    """Compact, numbers as serde_json prints them. In tools the family has keys in order and a sign before large
    exponents."""
    if isinstance(value, Mapping):
        items = sorted(value.items()) if tools else value.items()
        return "{" + ",".join(f"{_json(str(k))}:{_json(v, tools=tools)}" for k, v in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_json(v, tools=tools) for v in value) + "]"
    if not isinstance(value, float):
        return json.dumps(value, ensure_ascii=False)
    if not math.isfinite(value):
        raise RenderError(f"{value} is a number that JSON has no form for")
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa
    if int(exponent) == -5:
        return format(Decimal(repr(value)), "f")
    return f"{mantissa}e{'+' if tools and int(exponent) > 0 else ''}{int(exponent)}"


def _read_call(name: str, text: str) -> ToolCall | UnparsedToolCall:
    """A call of the form `{"name": ..., "args": ...}`; the arguments are kept as they were written."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return UnparsedToolCall(text, f"a tool call that is not JSON: {error}")
    if not isinstance(value, dict) or set(value) != {"name", "args"} or not isinstance(value["name"], str):
        return UnparsedToolCall(text, 'a tool call that is not "name" and "args"')
    if not isinstance(value["args"], dict):
        return UnparsedToolCall(text, "a tool call whose arguments are not an object")
    if not value["name"] or name not in ("", value["name"]):
        return UnparsedToolCall(text, f"a tool call of {value['name']!r} under the header {name!r}")
    form = _CALL_FORM.fullmatch(text)
    arguments = form[2].rstrip() if form else json.dumps(value["args"], ensure_ascii=False)
    return call_of(value["name"], arguments, text)


FORMATS = {"tml_v0": TmlV0}
MODELS = ((r"inkling(-.*)?", "tml_v0"),)
