"""glm4: GLM-4.5 and 4.6, as their chat template writes them.

* `glm4`: the model opens its thinking itself. Thinking of turns before the last question is left out of later prompts,
  an empty block stays.
* `glm4_disable_thinking`: the prompt supplies the empty block, and each question says `/nothink`.

There is no end of a turn: a model stops with the token that opens the next message, `<|user|>` after an answer and
`<|observation|>` after calls. The answer owns it. A finished conversation ends without it, as the template has it; an
answer that is trained ends with it. Text of answers and thinking is trimmed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Message, Tool, ToolCall, UnparsedToolCall
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.answers import (
    answer,
    check_thinking_first,
    failure_of,
    read_thinking,
    read_value,
    split_at,
    structural,
    write_marked,
)
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.records import Failure, Hints, Origin, Parsed
from tinsmith.rendering.script import Script
from tinsmith.rendering.xml_calls import arguments_of

_OPENERS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "tool": "<|observation|>"}
_THINK, _THOUGHT = "<think>", "</think>"
_CALL, _CALLED = "<tool_call>", "</tool_call>"
_KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_RESULT, _RESULTED = "<tool_response>", "</tool_response>"
_NO_THINK = "/nothink"

_TOOLS_BEFORE = (
    "\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
_TOOLS_AFTER = (
    "</tools>\n\nFor each function call, output the function name and arguments within the following XML format:\n"
    "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
    "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"
)


class Glm4(Renderer):
    thinking_marks = (_THINK, _THOUGHT)
    needs = (
        *("[gMASK]", "<sop>", *_OPENERS.values(), _THINK, _THOUGHT, _CALL, _CALLED),
        *(_KEY, _KEY_END, _VALUE, _VALUE_END, _RESULT, _RESULTED),
    )
    ends = ("<|user|>", "<|observation|>")
    keeps_unread_calls = False

    def __init__(self, name: str, tokenizer: Tokenizer, thinks: bool) -> None:
        super().__init__(name, tokenizer)
        self._thinking = thinks
        self.is_prefix_stable = not thinks
        self._stops = (self._id["<|user|>"], self._id["<|observation|>"])

    # Writing.

    def _check(self, index: int, message: Message) -> None:
        check_thinking_first(self.name, index, message)
        for call in message.tool_calls:
            if arguments_of(call) is None:
                raise RenderError(f"message {index}: the arguments of {call.name!r} are no JSON object")
            if call.name != call.name.strip() or "\n" in call.name:
                raise RenderError(f"message {index}: the tool name {call.name!r} breaks the line that holds it")

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0:
            out.control("[gMASK]")
            out.control("<sop>")
            if tools:
                self._write_tools(out, tools)
        questions = [i for i, m in enumerate(messages) if m.role == "user"]
        query = questions[-1] if questions else -1
        for i in range(start, len(messages)):
            message, before = messages[i], messages[i - 1] if i else None
            if not (message.role == "tool" and before is not None and before.role == "tool"):
                self._write_opener(out, i, message, before, start)
            out.message = i
            if message.role == "assistant":
                sampled = out.sampled and i + 1 == len(messages)
                self._write_answer(out, message, kept=i > query, sampled=sampled)
            elif message.role == "tool":
                out.text("\n")
                out.control(_RESULT)
                out.text("\n")
                out.text(message.text, Origin.TEXT)
                out.text("\n")
                out.control(_RESULTED)
            else:
                out.text("\n")
                out.text(message.text, Origin.TEXT)
                if message.role == "user" and not self._thinking and not message.text.endswith(_NO_THINK):
                    self._write_no_think(out)

    def _write_opener(self, out: Script, i: int, message: Message, before: Message | None, start: int) -> None:
        """The token that opens a message. After an answer it is the answer's stop; there it may be sampled already."""
        stops = before is not None and before.role == "assistant" and message.role != "assistant"
        if stops and i == start:
            return
        out.message = i - 1 if stops else i
        out.control(_OPENERS[message.role], Origin.MARK if stops else Origin.FORMAT)

    def _write_no_think(self, out: Script) -> None:
        if _NO_THINK in self.tokenizer.special_tokens:
            out.control(_NO_THINK)
        else:
            out.text(_NO_THINK)

    def _write_tools(self, out: Script, tools: Sequence[Tool]) -> None:
        out.control("<|system|>")
        out.text(_TOOLS_BEFORE + "".join(tool.json() + "\n" for tool in tools))
        write_marked(out, _TOOLS_AFTER, (_CALL, _CALLED, _KEY, _KEY_END, _VALUE, _VALUE_END))

    def _write_answer(self, out: Script, message: Message, *, kept: bool, sampled: bool) -> None:
        thinking, text = _split(message)
        if self._thinking:
            out.cut()
        elif sampled and thinking:
            raise RenderError(f"message {out.message}: {self.name} cannot train thinking; the format `glm4` can")
        mark = Origin.MARK if self._thinking or (thinking and kept) else Origin.FORMAT
        out.text("\n", mark)
        out.control(_THINK, mark)
        out.text(thinking if kept else "", Origin.TEXT)
        out.control(_THOUGHT, mark)
        if not self._thinking:
            out.cut()
        if text:
            out.text("\n", Origin.MARK)
            out.text(text, Origin.TEXT)
        for call in message.tool_calls:
            out.text("\n", Origin.MARK)
            out.control(_CALL, Origin.MARK)
            out.text(call.name, Origin.TEXT)
            out.text("\n", Origin.MARK)
            for key, value in (arguments_of(call) or {}).items():
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                for begin, inside, end in ((_KEY, key, _KEY_END), (_VALUE, shown, _VALUE_END)):
                    out.control(begin, Origin.MARK)
                    out.text(inside, Origin.TEXT)
                    out.control(end, Origin.MARK)
                    out.text("\n", Origin.MARK)
            out.control(_CALLED, Origin.MARK)
        if sampled:
            out.control(_OPENERS["tool" if message.tool_calls else "user"], Origin.MARK)

    def _write_header(self, out: Script) -> None:
        out.control("<|assistant|>")
        if not self._thinking:
            out.text("\n")
            out.control(_THINK)
            out.control(_THOUGHT)

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        if self._id[_OPENERS[new[0].role]] != int(completion[-1]):
            return False  # it stopped for another message than the one that comes
        body, out = completion[:-1], Script(self.tokenizer)
        parsed = self.parse(completion).message
        if parsed.unparsed_tool_calls:
            return False
        out.sampled = True
        self._write_answer(out, parsed, kept=True, sampled=False)
        again = self.tokenizer.decode(out.render().ids)
        said = self.tokenizer.decode(body)
        if not self._thinking:
            return again == f"\n{_THINK}{_THOUGHT}{said}"
        if again != said:
            return False
        whole = np.concatenate([prompt, completion])
        opens = np.flatnonzero(whole == self._id[_THINK])
        asked = any(m.role == "user" for m in new)
        return not asked or bool(np.all(whole[opens + 1] == self._id[_THOUGHT]))

    # Reading.

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        known = (_THINK, _THOUGHT, _CALL, _CALLED, _KEY, _KEY_END, _VALUE, _VALUE_END)
        allowed = tuple(self._id[t] for t in known)
        framed = frame(ids, self.tokenizer, stop_ids=self._stops, allowed=allowed)
        failures = list(framed.failures)
        tags = (self._id[_THINK], self._id[_THOUGHT])
        thinking, body = read_thinking(framed.body, tags, self.tokenizer, failures, opened=bool(hints.opened))
        calls: list[ToolCall] = []
        unparsed: list[UnparsedToolCall] = []
        pieces = split_at(body, self._id[_CALL])
        text = pieces[0][1]
        if np.any(np.isin(text, allowed)):
            failures.append(structural("a stray thinking or tool call tag"))
        for _, piece in pieces[1:]:
            call = self._read_call(piece, hints, failures)
            if isinstance(call, ToolCall):
                calls.append(call)
            else:
                unparsed.append(call)
        message = answer(self.tokenizer.decode(text).strip(), thinking.strip(), calls, unparsed)
        return Parsed(message, framed.termination, tuple(failures))

    def _read_call(self, piece: Ints, hints: Hints, failures: list[Failure]) -> ToolCall | UnparsedToolCall:
        ends = np.flatnonzero(piece == self._id[_CALLED])
        inside = piece[: int(ends[0])] if len(ends) else piece
        raw = self.tokenizer.decode(inside)
        if not len(ends):
            failures.append(structural("a tool call that never closes"))
            return UnparsedToolCall(raw, "never closes")
        if self.tokenizer.decode(piece[int(ends[0]) + 1 :]).strip():
            failures.append(structural("text after a tool call"))
        marks = {self._id[t]: t for t in (_KEY, _KEY_END, _VALUE, _VALUE_END)}
        parts = [(marks.get(-1 if m is None else m, ""), self.tokenizer.decode(p)) for m, p in split_at(inside, *marks)]
        name, rest = parts[0][1].strip(), parts[1:]
        broken = not name or [m for m, _ in rest] != [_KEY, _KEY_END, _VALUE, _VALUE_END] * (len(rest) // 4)
        if broken or any(p.strip() for m, p in rest if m in (_KEY_END, _VALUE_END)):
            call = UnparsedToolCall(raw, "a tool call that is not a name with keys and values")
            failures.append(failure_of(call))
            return call
        types = hints.types.get(name, {})
        pairs = [(rest[i][1], rest[i + 2][1]) for i in range(0, len(rest), 4)]
        arguments = {key: read_value(value, types.get(key, frozenset())) for key, value in pairs}
        return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def _split(message: Message) -> tuple[str, str]:
    """Thinking and text, trimmed. Text that holds a closing tag is split there, as the template does."""
    thinking, text = message.thinking, message.text
    if thinking is None and _THOUGHT in text:
        thinking = text.split(_THOUGHT)[0].rstrip("\n").split(_THINK)[-1].lstrip("\n")
        text = text.split(_THOUGHT)[-1].lstrip("\n")
    return (thinking or "").strip(), text.strip()


def _named(thinks: bool) -> Callable[[str, Tokenizer], Glm4]:
    return lambda name, tokenizer: Glm4(name, tokenizer, thinks)


FORMATS = {"glm4": _named(True), "glm4_disable_thinking": _named(False)}
MODELS = ((r"glm-4\.[56](-air|-flash)?.*", "glm4"),)
