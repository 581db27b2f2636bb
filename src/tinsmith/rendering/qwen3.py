"""qwen3: chatml with thinking and tool calls, as the chat templates of Qwen3 write them.

* `qwen3`: the model thinks first. Thinking of turns before the last question is left out of later prompts.
* `qwen3_disable_thinking`: the prompt ends with an empty thinking block, which is supplied and so never trained.
* `qwen3_instruct`: the 2507 instruct models, which never think.
* `qwen3_preserve_thinking`: every answer keeps its thinking block, so that prompts only grow. This is the template of
  TRL for training Qwen3 (`qwen3_training`), not the one that the models ship.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import MediaPart, Message, Part, TextPart, ThinkingPart, Tool, ToolCall, UnparsedToolCall
from tinsmith.domain.tokens import Ints, ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.records import Failure, FailureKind, Origin, Parsed, Stop
from tinsmith.rendering.script import Script

_START, _END = "<|im_start|>", "<|im_end|>"
_THINK, _THOUGHT = "<think>", "</think>"
_CALL, _CALLED = "<tool_call>", "</tool_call>"
_RESULT, _RESULTED = "<tool_response>", "</tool_response>"

_TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within ",
    " XML tags:\n",
    '\n{"name": <function-name>, "arguments": <args-json-object>}\n',
)
_CALL_FORM = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(.*)\}\s*', re.DOTALL)


class Thinking(Enum):
    ON = "thinks; history is stripped"
    OFF = "the prompt closes the thinking block"
    NONE = "has no thinking block"
    KEPT = "thinks; history is kept"


class Qwen3(Renderer):
    needs: tuple[str, ...] = (_START, _END, _CALL, _CALLED, _RESULT, _RESULTED)

    def __init__(self, name: str, tokenizer: Tokenizer, thinking: Thinking = Thinking.ON) -> None:
        if thinking is not Thinking.NONE:
            self.needs = (*self.needs, _THINK, _THOUGHT)
        super().__init__(name, tokenizer)
        self._thinking = thinking
        self.is_prefix_stable = thinking in (Thinking.NONE, Thinking.KEPT)
        self._id = {t: tokenizer.special_tokens[t] for t in self.needs}

    @property
    def stop(self) -> Stop:
        return Stop(ids=tuple(dict.fromkeys((self._id[_END], *self.tokenizer.eos_ids))))

    # Writing.

    def _check(self, index: int, message: Message) -> None:
        parts = [type(p) for p in message.content if isinstance(p, MediaPart) or p.text]
        if ThinkingPart in parts[1:] and parts[: parts.count(ThinkingPart)] != [ThinkingPart] * parts.count(
            ThinkingPart
        ):
            raise RenderError(f"message {index}: {self.name} has no form for thinking after text")
        if self._thinking is Thinking.NONE and message.thinking:
            raise RenderError(f"message {index}: {self.name} has no form for thinking; the format `qwen3` has")
        for call in message.tool_calls:
            if json.dumps(call.name, ensure_ascii=False) != f'"{call.name}"':
                raise RenderError(f"message {index}: the tool name {call.name!r} breaks the JSON that holds it")

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0:
            self._write_system(out, messages, tools)
        query = _last_query(messages)
        for i in range(start, len(messages)):
            message = messages[i]
            out.message = i
            if message.role == "assistant":
                self._write_answer(out, message, in_last_turn=i > query, last=i + 1 == len(messages))
            elif message.role == "tool":
                first = i == 0 or messages[i - 1].role != "tool"
                last = i + 1 == len(messages) or messages[i + 1].role != "tool"
                self._write_result(out, message, first=first, last=last)
            elif message.role == "user" or i > 0:
                out.control(_START)
                out.text(f"{message.role}\n")
                out.text(message.text, Origin.TEXT)
                out.control(_END, Origin.MARK)
                out.text("\n")

    def _write_system(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        system = messages[0] if messages and messages[0].role == "system" else None
        if system is None and not tools:
            return
        out.message = -1 if system is None else 0
        out.control(_START)
        out.text("system\n")
        if system is not None:
            out.text(system.text, Origin.TEXT)
            out.text("\n\n" if tools else "")
        if tools:
            out.text(_TOOLS_BEFORE + "".join("\n" + tool.json() for tool in tools))
            out.text(_TOOLS_AFTER[0])
            out.control(_CALL)
            out.control(_CALLED)
            out.text(_TOOLS_AFTER[1])
            out.control(_CALL)
            out.text(_TOOLS_AFTER[2])
            out.control(_CALLED)
        out.control(_END, Origin.MARK)
        out.text("\n")

    def _write_result(self, out: Script, message: Message, *, first: bool, last: bool) -> None:
        if first:
            out.control(_START)
            out.text("user")
        out.text("\n")
        out.control(_RESULT)
        out.text("\n")
        out.text(message.text, Origin.TEXT)
        out.text("\n")
        out.control(_RESULTED)
        if last:
            out.control(_END, Origin.MARK)
            out.text("\n")

    def _write_answer(self, out: Script, message: Message, *, in_last_turn: bool, last: bool) -> None:
        thinking, text = self._split(message)
        out.control(_START)
        out.text("assistant\n")
        block = self._thinking is Thinking.KEPT or (
            self._thinking is not Thinking.NONE and in_last_turn and (last or bool(thinking))
        )
        supplied = block and self._thinking is Thinking.OFF
        if last and not block and (self._thinking is Thinking.OFF or thinking):
            raise RenderError(f"message {out.message}: no question comes before it, so {self.name} writes no thinking")
        if supplied and thinking.strip("\n"):
            raise RenderError(f"message {out.message}: {self.name} cannot train thinking; the format `qwen3` can")
        if block and supplied:
            _write_empty_block(out)
        out.cut()
        if block and not supplied:
            out.control(_THINK, Origin.MARK)
            out.text("\n", Origin.MARK)
            out.text(thinking.strip("\n"), Origin.TEXT)
            out.text("\n", Origin.MARK)
            out.control(_THOUGHT, Origin.MARK)
            out.text("\n\n", Origin.MARK)
        out.text(text.lstrip("\n") if block else text, Origin.TEXT)
        bodies = [f'{{"name": "{c.name}", "arguments": {c.arguments}}}' for c in message.tool_calls]
        calls = [f"\n{body}\n" for body in bodies] + [u.text for u in message.unparsed_tool_calls]
        for number, call in enumerate(calls):
            if text or number:
                out.text("\n", Origin.MARK)
            out.control(_CALL, Origin.MARK)
            out.text(call, Origin.TEXT)
            out.control(_CALLED, Origin.MARK)
        out.control(_END, Origin.MARK)
        out.text("\n")

    def _write_header(self, out: Script) -> None:
        out.control(_START)
        out.text("assistant\n")
        if self._thinking is Thinking.OFF:
            _write_empty_block(out)

    def _write_after_stop(self, out: Script) -> None:
        out.text("\n")

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        if self.is_prefix_stable:
            return True
        asked = any(m.role == "user" and not _is_result(m.text) for m in new)
        thinks = self._id[_THINK]
        if asked or self._thinking is Thinking.OFF:  # a new question strips all thinking; any step an empty block
            return not np.any(prompt == thinks) and not np.any(completion == thinks)
        return not np.any(completion == thinks) or bool(self.parse(completion).message.thinking)

    def _split(self, message: Message) -> tuple[str, str]:
        """Thinking and text. Text that holds a closing tag is split at it, as the template does: data often keeps both
        in one string."""
        text, thinking = message.text, message.thinking
        if thinking is not None:
            return thinking, text
        if _THOUGHT not in text or self._thinking is Thinking.NONE:
            return "", text
        return (
            text.split(_THOUGHT)[0].rstrip("\n").split(_THINK)[-1].lstrip("\n"),
            text.split(_THOUGHT)[-1].lstrip("\n"),
        )

    # Reading.

    def parse(self, ids: Sequence[int] | Ints) -> Parsed:
        known = tuple(self._id[t] for t in (_THINK, _THOUGHT, _CALL, _CALLED) if t in self._id)
        framed = frame(ints(ids), self.tokenizer, stop_ids=(self._id[_END],), allowed=known)
        failures = list(framed.failures)
        thinking, body = self._read_thinking(framed.body, failures)
        texts, calls, unparsed = self._read_calls(body, failures)
        text = texts[0]
        if calls or unparsed:
            text = text.removesuffix("\n")
        if any(t.strip() for t in texts[1:]):
            failures.append(Failure(FailureKind.STRUCTURAL, "text after a tool call"))
            text += "".join(texts[1:])
        parts: list[Part] = []
        if thinking is not None:
            text = text.lstrip("\n")
            parts += [ThinkingPart(thinking)] if thinking else []
        parts += [TextPart(text)] if text else []
        message = Message("assistant", tuple(parts), tool_calls=tuple(calls), unparsed_tool_calls=tuple(unparsed))
        return Parsed(message, framed.termination, tuple(failures))

    def _read_thinking(self, body: Ints, failures: list[Failure]) -> tuple[str | None, Ints]:
        """The thinking, None without a block, and the tokens after it."""
        if self._thinking is Thinking.NONE:
            return None, body
        opens, closes = np.flatnonzero(body == self._id[_THINK]), np.flatnonzero(body == self._id[_THOUGHT])
        if not len(opens) and not len(closes):
            return None, body
        start = int(opens[0]) if len(opens) else -1  # a prompt may have opened the block
        before = self.tokenizer.decode(body[: max(start, 0)])
        close = next((int(c) for c in closes if c > start), -1)
        if before.strip():
            failures.append(Failure(FailureKind.STRUCTURAL, "text before the thinking"))
        if close < 0:
            failures.append(Failure(FailureKind.STRUCTURAL, "thinking that never closes"))
            return before + self.tokenizer.decode(body[start + 1 :]).strip("\n"), body[:0]
        thinking = before.strip() + self.tokenizer.decode(body[start + 1 : close]).strip("\n")
        return thinking, body[close + 1 :]

    def _read_calls(
        self, body: Ints, failures: list[Failure]
    ) -> tuple[list[str], list[ToolCall], list[UnparsedToolCall]]:
        """Texts before, between and after the calls (at least one), and the calls."""
        texts: list[str] = []
        calls: list[ToolCall] = []
        unparsed: list[UnparsedToolCall] = []
        while len(opens := np.flatnonzero(body == self._id[_CALL])):
            start = int(opens[0])
            texts.append(self._plain(body[:start], failures))
            closes = np.flatnonzero(body[start:] == self._id[_CALLED])
            end = start + int(closes[0]) if len(closes) else len(body)
            inside = self.tokenizer.decode(body[start + 1 : end])
            if not len(closes):
                failures.append(Failure(FailureKind.STRUCTURAL, "a tool call that never closes"))
                unparsed.append(UnparsedToolCall(inside, "never closes"))
            else:
                call = read_call(inside)
                if isinstance(call, ToolCall):
                    calls.append(call)
                else:
                    failures.append(Failure(FailureKind.CONTENT, call.error))
                    unparsed.append(call)
            body = body[end + 1 :]
        texts.append(self._plain(body, failures))
        return texts, calls, unparsed

    def _plain(self, ids: Ints, failures: list[Failure]) -> str:
        if np.any(np.isin(ids, list(self._id.values()))):
            failures.append(Failure(FailureKind.STRUCTURAL, "a stray thinking or tool call tag"))
        return self.tokenizer.decode(ids)


def read_call(text: str) -> ToolCall | UnparsedToolCall:
    """A call of the form `{"name": ..., "arguments": ...}`; the arguments' JSON is kept as it was written."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return UnparsedToolCall(text, f"a tool call that is not JSON: {error}")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or "arguments" not in value:
        return UnparsedToolCall(text, 'a tool call without "name" and "arguments"')
    if not isinstance(value["arguments"], dict):
        return UnparsedToolCall(text, "a tool call whose arguments are not an object")
    form = _CALL_FORM.fullmatch(text)
    if form is not None and set(value) == {"name", "arguments"}:
        return ToolCall(value["name"], form[2].rstrip())
    return ToolCall(value["name"], json.dumps(value["arguments"], ensure_ascii=False))


def _write_empty_block(out: Script) -> None:
    out.control(_THINK)
    out.text("\n\n")
    out.control(_THOUGHT)
    out.text("\n\n")


def _is_result(text: str) -> bool:
    return text.startswith(_RESULT) and text.endswith(_RESULTED)


def _last_query(messages: Sequence[Message]) -> int:
    """Index of the last question: a user message that is no tool result in disguise."""
    queries = [i for i, m in enumerate(messages) if m.role == "user" and not _is_result(m.text)]
    return queries[-1] if queries else len(messages) - 1


def _named(thinking: Thinking) -> Callable[[str, Tokenizer], Qwen3]:
    return lambda name, tokenizer: Qwen3(name, tokenizer, thinking)


FORMATS = {
    "qwen3": _named(Thinking.ON),
    "qwen3_disable_thinking": _named(Thinking.OFF),
    "qwen3_instruct": _named(Thinking.NONE),
    "qwen3_preserve_thinking": _named(Thinking.KEPT),
}
MODELS = (
    (r"qwen3-[0-9.]+b(-a[0-9]+b)?", "qwen3"),
    (r"qwen3-[0-9.]+b(-a[0-9]+b)?-instruct-2507.*", "qwen3_instruct"),
)
