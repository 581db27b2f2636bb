"""kimi: Kimi K2, K2.5 and K2.6, as their chat templates write them.

* `kimi_k2`: K2-Thinking. The model opens its thinking itself. Up to the last answer that calls no tool, thinking is
  left out of later prompts, an empty block stays.
* `kimi_k2_instruct`: the K2 models that do not think.
* `kimi_k25`, `kimi_k26`: the prompt opens the thinking; tools as TypeScript; with images. `..._disable_thinking`: the
  prompt closes it too. `kimi_k26_preserve_thinking`: thinking stays in later prompts.

A call is named by its id, `functions.<name>:<number>`; numbers count the calls of a conversation. An id of another form
in the data is replaced, since the name would be lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
from attrs import evolve

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import ImagePart, MediaPart, Message, Tool, ToolCall, UnparsedToolCall
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.answers import (
    answer,
    check_thinking_first,
    read_arguments,
    read_section,
    read_thinking,
    structural,
)
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.kimi_tools import declaration
from tinsmith.rendering.records import Hints, Origin, Parsed
from tinsmith.rendering.script import Script

_SYSTEM, _USER, _ASSISTANT = "<|im_system|>", "<|im_user|>", "<|im_assistant|>"
_MIDDLE, _END = "<|im_middle|>", "<|im_end|>"
_THINK, _THOUGHT = "<think>", "</think>"
_CALLS, _CALLED = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_MEDIA, _MEDIA_TEXT, _MEDIA_END = "<|media_begin|>", "<|media_content|>", "<|media_end|>"
_DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."


class Thinking(Enum):
    NONE = "has no thinking block"
    SAMPLED = "the model opens the block"
    OPENED = "the prompt opens the block"
    CLOSED = "the prompt writes an empty block"
    KEPT = "the prompt opens the block; history is kept"


class Kimi(Renderer):
    thinking_marks = (_THINK, _THOUGHT)
    needs: tuple[str, ...] = (
        *(_SYSTEM, _USER, _ASSISTANT, _MIDDLE, _END),
        *(_CALLS, _CALLED, _CALL, _ARGUMENTS, _CALL_END),
    )
    ends = (_END,)
    keeps_unread_calls = False
    roles = ("system", "developer", "user", "assistant", "tool")

    def __init__(self, name: str, tokenizer: Tokenizer, thinking: Thinking, *, k25: bool = False) -> None:
        if thinking is not Thinking.NONE:
            self.needs = (*self.needs, _THINK, _THOUGHT)
        if k25:
            self.needs = (*self.needs, _MEDIA, _MEDIA_TEXT, _MEDIA_END)
            self.placeholders = {ImagePart: "<|media_pad|>"}
        super().__init__(name, tokenizer)
        self._thinking = thinking
        self._k25 = k25
        self._header = {
            Thinking.OPENED: (_THINK,),
            Thinking.KEPT: (_THINK,),
            Thinking.CLOSED: (_THINK, _THOUGHT),
        }.get(thinking, ())
        self.is_prefix_stable = thinking in (Thinking.NONE, Thinking.CLOSED, Thinking.KEPT)

    # Writing.

    def _check(self, index: int, message: Message) -> None:
        check_thinking_first(self.name, index, message)

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0:
            self._write_system(out, messages, tools)
        known = messages[:-1] if out.sampled else messages
        finals = [i for i, m in enumerate(known) if m.role == "assistant" and not m.tool_calls]
        history = -1 if self._thinking is Thinking.KEPT or not finals else finals[-1]
        waiting: list[ToolCall] = []  # calls without a result
        number = 0
        for i, message in enumerate(messages):
            calls = []
            for call in message.tool_calls:
                calls.append(_named(call, number))
                number += 1
            waiting += calls
            of = _take(waiting, message, number) if message.role == "tool" else ""
            if i < start:
                continue
            out.message = i
            out.control({"user": _USER, "assistant": _ASSISTANT}.get(message.role, _SYSTEM))
            out.text(message.name or message.role)
            out.control(_MIDDLE)
            if message.role == "assistant":
                sampled = out.sampled and i + 1 == len(messages)
                self._write_answer(out, message, calls, kept=i > history, sampled=sampled)
            else:
                if message.role == "tool":
                    out.text(f"## Return of {of}\n")
                self._write_content(out, message)
            out.control(_END, Origin.MARK)

    def _write_system(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        if tools:
            plain = json.dumps([tool.definition for tool in tools], ensure_ascii=False)
            self._write_own(out, "tool_declare", declaration(tools) if self._k25 else plain)
        if not self._k25 and not (messages and messages[0].role == "system"):
            self._write_own(out, "system", _DEFAULT_SYSTEM)
            if self._thinking is Thinking.NONE:
                out.text("\n")

    def _write_own(self, out: Script, role: str, text: str) -> None:
        out.control(_SYSTEM)
        out.text(role)
        out.control(_MIDDLE)
        out.text(text)
        out.control(_END)

    def _write_media(self, out: Script, part: MediaPart) -> None:
        out.control(_MEDIA)
        out.text("image")
        out.control(_MEDIA_TEXT)
        super()._write_media(out, part)
        out.control(_MEDIA_END)

    def _write_answer(
        self, out: Script, message: Message, calls: Sequence[ToolCall], *, kept: bool, sampled: bool
    ) -> None:
        thinking = message.thinking or ""
        if self._thinking in (Thinking.NONE, Thinking.CLOSED):
            if sampled and thinking:
                raise RenderError(f"message {out.message}: {self.name} cannot train thinking")
            thinking = ""
        for mark in self._header:
            out.control(mark)
        out.cut()
        if self._thinking not in (Thinking.NONE, Thinking.CLOSED):
            if not self._header:
                out.control(_THINK, Origin.MARK)
            out.text(thinking if kept else "", Origin.TEXT)
            out.control(_THOUGHT, Origin.MARK)
        self._write_content(out, message)
        if calls:
            out.control(_CALLS, Origin.MARK)
            for call in calls:
                out.control(_CALL, Origin.MARK)
                out.text(str(call.id), Origin.TEXT)
                out.control(_ARGUMENTS, Origin.MARK)
                out.text(call.arguments, Origin.TEXT)
                out.control(_CALL_END, Origin.MARK)
            out.control(_CALLED, Origin.MARK)

    def _write_header(self, out: Script) -> None:
        out.control(_ASSISTANT)
        out.text("assistant")
        out.control(_MIDDLE)
        for mark in self._header:
            out.control(mark)

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        if self.is_prefix_stable:
            return True
        if self._thinking is Thinking.SAMPLED and int(completion[0]) != self._id[_THINK]:
            return False
        if np.any(completion == self._id[_CALLS]):
            return True  # the turn goes on, so its thinking stays
        whole = np.concatenate([prompt, completion])
        opens = np.flatnonzero(whole == self._id[_THINK])
        return bool(np.all(whole[opens + 1] == self._id[_THOUGHT]))

    # Reading.

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        known = (_THINK, _THOUGHT, _CALLS, _CALLED, _CALL, _ARGUMENTS, _CALL_END)
        allowed = tuple(self._id[t] for t in known if t in self._id)
        framed = frame(ids, self.tokenizer, stop_ids=(self._id[_END],), allowed=allowed)
        failures = list(framed.failures)
        thinking, body = "", framed.body
        if self._thinking is not Thinking.NONE:
            opened = hints.opened
            if opened is None:
                opened = self._thinking in (Thinking.OPENED, Thinking.KEPT)
            tags = (self._id[_THINK], self._id[_THOUGHT])
            thinking, body = read_thinking(body, tags, self.tokenizer, failures, opened=opened)
        at = np.flatnonzero(body == self._id[_CALLS])
        text = body[: int(at[0])] if len(at) else body
        if np.any(np.isin(text, allowed)):
            failures.append(structural("a stray thinking or tool call tag"))
        calls: list[ToolCall] = []
        unparsed: list[UnparsedToolCall] = []
        if len(at):
            marks = (self._id[_CALL], self._id[_CALL_END], self._id[_CALLED])
            calls, unparsed = read_section(body[int(at[0]) + 1 :], marks, self.tokenizer, _read_call, failures)
        message = answer(self.tokenizer.decode(text), thinking, calls, unparsed)
        return Parsed(message, framed.termination, tuple(failures))


def _read_call(raw: str) -> ToolCall | UnparsedToolCall:
    id, _, arguments = raw.partition(_ARGUMENTS)
    id = id.strip()
    call = read_arguments(re.sub(r":\d+$", "", id).removeprefix("functions."), arguments, raw)
    return evolve(call, id=id) if isinstance(call, ToolCall) else call


def _named(call: ToolCall, number: int) -> ToolCall:
    """The call with an id that names it."""
    known = call.id is not None and re.fullmatch(rf"functions\.{re.escape(call.name)}:\d+", call.id)
    return call if known else ToolCall(call.name, call.arguments, f"functions.{call.name}:{number}")


def _take(waiting: list[ToolCall], result: Message, number: int) -> str:
    """Id of the call that a result answers: the one that it names, else the first that waits for one."""
    if not waiting:
        return f"functions.{result.name or 'unknown'}:{number}"
    of = next((c for c in waiting if c.id == result.tool_call_id), waiting[0])
    waiting.remove(of)
    return str(of.id)


def _with(thinking: Thinking, *, k25: bool = False) -> Callable[[str, Tokenizer], Kimi]:
    return lambda name, tokenizer: Kimi(name, tokenizer, thinking, k25=k25)


FORMATS = {
    "kimi_k2": _with(Thinking.SAMPLED),
    "kimi_k2_instruct": _with(Thinking.NONE),
    "kimi_k25": _with(Thinking.OPENED, k25=True),
    "kimi_k25_disable_thinking": _with(Thinking.CLOSED, k25=True),
    "kimi_k26": _with(Thinking.OPENED, k25=True),
    "kimi_k26_disable_thinking": _with(Thinking.CLOSED, k25=True),
    "kimi_k26_preserve_thinking": _with(Thinking.KEPT, k25=True),
}
MODELS = (
    (r"kimi-k2-thinking.*", "kimi_k2"),
    (r"kimi-k2(-instruct.*)?", "kimi_k2_instruct"),
    (r"kimi-k2\.5.*", "kimi_k25"),
    (r"kimi-k2\.6.*", "kimi_k26"),
)
