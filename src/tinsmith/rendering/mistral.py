"""mistral: `[INST]` and its kin, as mistral-common writes them for vocabularies of its kind "tekken".

* `mistral`: version 11, of Mistral Small 3.2, whose chat template adds a system message of its own; this does not.
* `mistral_v13`: of Magistral and Ministral 3. Thinks; calls and results have no ids; tools stand before the first
  question.
* `mistral_v7`: of Mistral Small 3 and 3.1. Calls are one JSON list.
* `mistral_v3`: of Mistral Nemo and Ministral 8B. System messages are part of the last question, results are JSON.

But for version 13, tools stand before the last question, so they move when another comes. A call has an id of nine
letters and digits; one of another form in the data is replaced by its number. Spaces at the end of an answer are
trimmed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Message, Tool, ToolCall, UnparsedToolCall
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.answers import (
    answer,
    call_of,
    check_thinking_first,
    failure_of,
    read_arguments,
    read_thinking,
    split_at,
    structural,
)
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.records import Hints, Origin, Parsed
from tinsmith.rendering.script import Script

_BOS, _EOS, _ASK, _ASKED = "<s>", "</s>", "[INST]", "[/INST]"
_SYSTEM, _SYSTEM_END = "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"
_TOOLS, _TOOLS_END = "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"
_CALL, _ID, _ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_RESULT, _CONTENT, _RESULT_END = "[TOOL_RESULTS]", "[TOOL_CONTENT]", "[/TOOL_RESULTS]"
_THINK, _THOUGHT = "[THINK]", "[/THINK]"


class Mistral(Renderer):
    thinking_marks = (_THINK, _THOUGHT)
    needs: tuple[str, ...] = (_BOS, _EOS, _ASK, _ASKED, _TOOLS, _TOOLS_END, _CALL, _RESULT, _RESULT_END)
    ends = (_EOS,)
    keeps_unread_calls = False

    def __init__(self, name: str, tokenizer: Tokenizer, version: int) -> None:
        self.needs = (
            *self.needs,
            *((_SYSTEM, _SYSTEM_END) if version >= 7 else ()),
            *((_CONTENT,) if 7 <= version < 13 else ()),
            *((_ARGS,) if version >= 11 else ()),
            *((_ID,) if version == 11 else ()),
            *((_THINK, _THOUGHT) if version >= 13 else ()),
        )
        self.thinks = self.is_prefix_stable = version >= 13
        super().__init__(name, tokenizer)
        self._version = version

    # Writing.

    def _check(self, index: int, message: Message) -> None:
        check_thinking_first(self.name, index, message)
        if self._version == 3 and message.tool_calls and message.text:
            raise RenderError(f"message {index}: {self.name} has no form for text beside tool calls")

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0:
            out.control(_BOS)
        questions = [i for i, m in enumerate(messages) if m.role == "user"]
        declares = -1 if not questions or not tools else questions[0 if self._version >= 13 else -1]
        instructs = questions[-1] if questions and self._version == 3 else -1
        if self._version == 3 and not questions and any(m.role == "system" for m in messages):
            raise RenderError(f"message 0: {self.name} has a place for system messages only in a question")
        waiting: list[ToolCall] = []
        number = 0
        for i, message in enumerate(messages):
            calls = []
            for call in message.tool_calls:
                known = call.id is not None and re.fullmatch(r"[A-Za-z0-9]{9}", call.id)
                calls.append(call if known else evolve(call, id=f"{number:09d}"))
                number += 1
            waiting += calls
            of = _take(waiting, message, i) if message.role == "tool" else ""
            if i < start:
                continue
            out.message = i
            if message.role == "assistant":
                self._write_answer(out, message, calls)
                continue
            if i == declares:
                out.control(_TOOLS)
                out.text(json.dumps([_definition(tool) for tool in tools], ensure_ascii=False))
                out.control(_TOOLS_END)
            if message.role == "system":
                if self._version > 3:
                    self._write_around(out, _SYSTEM, message.text, _SYSTEM_END)
            elif message.role == "user":
                out.control(_ASK)
                if i == instructs:
                    for system in (m.text for m in messages if m.role == "system"):
                        out.text(f"{system}\n\n", Origin.TEXT)
                out.text(message.text, Origin.TEXT)
                out.control(_ASKED, Origin.MARK)
            else:
                self._write_result(out, message.text, of)

    def _write_around(self, out: Script, begin: str, text: str, end: str) -> None:
        out.control(begin)
        out.text(text, Origin.TEXT)
        out.control(end, Origin.MARK)

    def _write_result(self, out: Script, text: str, of: str) -> None:
        if self._version == 3:
            content = json.dumps({"content": _parsed(text), "call_id": of}, ensure_ascii=False)
            self._write_around(out, _RESULT, content, _RESULT_END)
            return
        out.control(_RESULT)
        if self._version < 13:
            out.text(of)
            out.control(_CONTENT)
        out.text(text, Origin.TEXT)
        out.control(_RESULT_END, Origin.MARK)

    def _write_answer(self, out: Script, message: Message, calls: Sequence[ToolCall]) -> None:
        out.cut()
        if message.thinking:
            out.control(_THINK, Origin.MARK)
            out.text(message.thinking, Origin.TEXT)
            out.control(_THOUGHT, Origin.MARK)
        out.text(message.text.rstrip(" "), Origin.TEXT)
        if calls and self._version < 11:
            out.control(_CALL, Origin.MARK)
            listed = (
                f'{{"name": {json.dumps(c.name, ensure_ascii=False)}, "arguments": {c.arguments}, "id": "{c.id}"}}'
                for c in calls
            )
            out.text(f"[{', '.join(listed)}]", Origin.TEXT)
            calls = ()
        for call in calls:
            out.control(_CALL, Origin.MARK)
            out.text(call.name, Origin.TEXT)
            if self._version == 11:
                out.control(_ID, Origin.MARK)
                out.text(str(call.id), Origin.TEXT)
            out.control(_ARGS, Origin.MARK)
            out.text(call.arguments, Origin.TEXT)
        out.control(_EOS, Origin.MARK)

    def _write_header(self, out: Script) -> None:
        """An answer follows what it answers, with nothing between."""

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        if self.is_prefix_stable or not any(m.role == "user" for m in new):
            return True
        # Version 3 leaves no trace of whether a question holds system messages, so whether they would move.
        return self._version > 3 and not np.any(prompt == self._id[_TOOLS])

    # Reading.

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        known = (_CALL, _ID, _ARGS, _THINK, _THOUGHT)
        allowed = tuple(self._id[t] for t in known if t in self._id)
        framed = frame(ids, self.tokenizer, stop_ids=(self._id[_EOS],), allowed=allowed)
        failures = list(framed.failures)
        thinking, body = "", framed.body
        if self.thinks:
            tags = (self._id[_THINK], self._id[_THOUGHT])
            thinking, body = read_thinking(body, tags, self.tokenizer, failures, opened=bool(hints.opened))
        pieces = split_at(body, self._id[_CALL])
        if np.any(np.isin(pieces[0][1], allowed)):
            failures.append(structural("a stray mark of thinking or of a tool call"))
        calls: list[ToolCall] = []
        unparsed: list[UnparsedToolCall] = []
        for _, piece in pieces[1:]:
            raw = self.tokenizer.decode(piece)
            for call in _read_list(raw) if self._version < 11 else [_read_call(raw)]:
                if isinstance(call, ToolCall):
                    calls.append(call)
                else:
                    failures.append(failure_of(call))
                    unparsed.append(call)
        message = answer(self.tokenizer.decode(pieces[0][1]), thinking, calls, unparsed)
        return Parsed(message, framed.termination, tuple(failures))


def _read_call(raw: str) -> ToolCall | UnparsedToolCall:
    head, _, arguments = raw.partition(_ARGS)
    name, _, id = head.partition(_ID)
    call = read_arguments(name, arguments, raw)
    return evolve(call, id=id or None) if isinstance(call, ToolCall) else call


def _read_list(raw: str) -> list[ToolCall | UnparsedToolCall]:
    """Calls of a JSON list; arguments are kept as they were written where each call is written as the format does."""
    try:
        items = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return [UnparsedToolCall(raw, f"tool calls that are not JSON: {error}")]
    if not isinstance(items, list) or not items:
        return [UnparsedToolCall(raw, "tool calls that are not a list")]
    written = _arguments_in(raw)
    out: list[ToolCall | UnparsedToolCall] = []
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str) or "arguments" not in item:
            out.append(UnparsedToolCall(_shown(item), 'a tool call without "name" and "arguments"'))
            continue
        plain = json.dumps(item["arguments"], ensure_ascii=False)
        text = written[number] if len(written) == len(items) else plain
        id = item.get("id")
        call = call_of(item["name"], text, _shown(item), id if isinstance(id, str) else None)
        read = call if isinstance(call, UnparsedToolCall) else read_arguments(call.name, text, _shown(item))
        out.append(call if isinstance(read, ToolCall) else read)
    return out


def _shown(item: Any) -> str:
    text = json.dumps(item, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(item)
    return text


def _arguments_in(raw: str) -> list[str]:
    """The text of each call's arguments; fewer than there are calls where one is not in the format's own form."""
    decoder, found, at = json.JSONDecoder(), list[str](), 0
    while head := re.compile(r'[\[,]\s*\{\s*"name"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*"arguments"\s*:\s*').match(raw, at):
        try:
            _, end = decoder.raw_decode(raw, head.end())
        except (ValueError, RecursionError):
            break
        found.append(raw[head.end() : end])
        tail = re.compile(r'\s*(?:,\s*"id"\s*:\s*"(?:[^"\\]|\\.)*"\s*)?\}\s*').match(raw, end)
        if tail is None:
            break
        at = tail.end()
    return found


def _definition(tool: Tool) -> dict[str, Any]:
    given = tool.definition.get("function", tool.definition)
    function: Mapping[str, Any] = {
        "name": given["name"],
        "description": given.get("description") or "",
        "parameters": given.get("parameters") or {},
    }
    return {"type": "function", "function": function}


def _parsed(text: str) -> Any:
    """What is JSON, as that; the rest is text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _take(waiting: list[ToolCall], result: Message, index: int) -> str:
    """Id of the call that a result answers: the one that it names, else the first that waits for one."""
    if not waiting:
        raise RenderError(f"message {index} is a tool result, but no call waits for one")
    of = next((c for c in waiting if c.id == result.tool_call_id), waiting[0])
    waiting.remove(of)
    return str(of.id)


def _of(version: int) -> Callable[[str, Tokenizer], Mistral]:
    return lambda name, tokenizer: Mistral(name, tokenizer, version)


FORMATS = {"mistral": _of(11), "mistral_v3": _of(3), "mistral_v7": _of(7), "mistral_v13": _of(13)}
MODELS = (
    (r"mistral-small-3\.2-.*-instruct.*", "mistral"),
    (r"mistral-nemo-instruct-.*|ministral-8b-instruct-2410", "mistral_v3"),
    (r"mistral-small-(3\.1-)?24b-instruct-250[13]", "mistral_v7"),
    (r"ministral-3-.*-(instruct|reasoning)-.*|magistral-small-2509", "mistral_v13"),
)
