"""deepseek_r1: DeepSeek-R1, its distilled models and the first DeepSeek-V3, as their chat templates write them.

* `deepseek_r1`: the prompt opens a thinking block. Thinking is left out of later prompts.
* `deepseek_v3_0324`: the same marks without thinking.

After a tool's results nothing comes before the answer. The templates show no tools: describe them in the system
message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Message, Tool, ToolCall, UnparsedToolCall
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
from tinsmith.rendering.records import Hints, Origin, Parsed
from tinsmith.rendering.script import Script

_BOS, _EOS, _USER, _ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
_THINK, _THOUGHT = "<think>", "</think>"
_CALLS, _CALLED, _CALL, _CALL_END, _SEP = (
    f"<｜tool▁{name}｜>" for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep")
)
_RESULTS, _RESULTS_END, _RESULT, _RESULT_END = (
    f"<｜tool▁{name}｜>" for name in ("outputs▁begin", "outputs▁end", "output▁begin", "output▁end")
)


class DeepSeekR1(Renderer):
    thinking_marks = (_THINK, _THOUGHT)
    needs: tuple[str, ...] = (
        *(_BOS, _EOS, _USER, _ASSISTANT, _CALLS, _CALLED, _CALL, _CALL_END, _SEP),
        *(_RESULTS, _RESULTS_END, _RESULT, _RESULT_END),
    )
    ends = (_EOS,)
    keeps_unread_calls = False

    def __init__(self, name: str, tokenizer: Tokenizer, thinks: bool) -> None:
        if thinks:
            self.needs = (*self.needs, _THINK, _THOUGHT)
        super().__init__(name, tokenizer)
        self._thinking = thinks
        self.is_prefix_stable = not thinks

    # Writing.

    def _check(self, index: int, message: Message) -> None:
        check_thinking_first(self.name, index, message)

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        count = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
        if start == 0:
            out.control(_BOS)
            for i, message in enumerate(messages[:count]):
                out.message = i
                out.text("\n\n" if i else "")
                out.text(message.text, Origin.TEXT)
        for i in range(max(start, count), len(messages)):
            message, after = messages[i], messages[i - 1].role if i else ""
            out.message = i
            if message.role == "system":
                raise RenderError(f"message {i}: {self.name} has a place for system messages only at the start")
            if message.role == "user":
                out.control(_USER)
                out.text(message.text, Origin.TEXT)
            elif message.role == "tool":
                if after != "tool":
                    out.control(_RESULTS)
                out.control(_RESULT)
                out.text(message.text, Origin.TEXT)
                out.control(_RESULT_END, Origin.MARK)
                if i + 1 == len(messages) or messages[i + 1].role != "tool":
                    out.control(_RESULTS_END)
            else:
                self._write_answer(out, message, after, sampled=out.sampled and i + 1 == len(messages))
        out.last_role = messages[-1].role if messages else ""

    def _write_answer(self, out: Script, message: Message, after: str, *, sampled: bool) -> None:
        thinking, text = self._split(message, after)
        opens = sampled and self._thinking
        if after != "tool":
            out.control(_ASSISTANT)
            if opens:
                out.control(_THINK)
                out.text("\n")
        out.cut()
        if opens and (thinking or after != "tool"):
            if after == "tool":
                out.control(_THINK, Origin.MARK)
                out.text("\n", Origin.MARK)
            out.text(thinking.strip("\n"), Origin.TEXT)
            out.text("\n", Origin.MARK)
            out.control(_THOUGHT, Origin.MARK)
            out.text("\n\n", Origin.MARK)
        elif sampled and thinking:
            raise RenderError(f"message {out.message}: {self.name} cannot train thinking; the format `deepseek_r1` can")
        out.text(text, Origin.TEXT)
        if message.tool_calls:
            out.control(_CALLS, Origin.MARK)
            for number, call in enumerate(message.tool_calls):
                out.text("\n" if number else "", Origin.MARK)
                out.control(_CALL, Origin.MARK)
                out.text("function", Origin.MARK)
                out.control(_SEP, Origin.MARK)
                out.text(f"{call.name}\n```json\n{call.arguments}\n```", Origin.TEXT)
                out.control(_CALL_END, Origin.MARK)
            out.control(_CALLED, Origin.MARK)
        out.control(_EOS, Origin.MARK)

    def _write_header(self, out: Script) -> None:
        if out.last_role != "tool":
            out.control(_ASSISTANT)
            if self._thinking:
                out.control(_THINK)
                out.text("\n")

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        return self.is_prefix_stable or not (
            np.any(prompt == self._id[_THINK]) or np.any(completion == self._id[_THINK])
        )

    def _split(self, message: Message, after: str) -> tuple[str, str]:
        """Thinking and text. An answer whose text holds a closing tag is split there, as the template does."""
        whole = message.thinking is not None or message.tool_calls or after == "tool" or _THOUGHT not in message.text
        if whole:
            return message.thinking or "", message.text
        thinking, _, text = message.text.rpartition(_THOUGHT)
        return thinking.strip("\n").removeprefix(_THINK), text

    # Reading.

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        known = (_THINK, _THOUGHT, _CALLS, _CALLED, _CALL, _CALL_END, _SEP)
        allowed = tuple(self._id[t] for t in known if t in self._id)
        framed = frame(ids, self.tokenizer, stop_ids=(self._id[_EOS],), allowed=allowed)
        failures = list(framed.failures)
        at = np.flatnonzero(framed.body == self._id[_CALLS])
        thinking, rest = "", framed.body[: int(at[0])] if len(at) else framed.body
        if self._thinking:
            tags = (self._id[_THINK], self._id[_THOUGHT])
            before = len(rest)
            opened = hints.opened
            if opened is None:  # an answer that calls tools may follow results, after which nothing opens the thinking
                opened = not len(at)
            thinking, rest = read_thinking(rest, tags, self.tokenizer, failures, opened=opened)
            thinking = thinking.strip("\n")
            text = self.tokenizer.decode(rest)
            text = text.lstrip("\n") if len(rest) < before else text
        else:
            text = self.tokenizer.decode(rest)
        if np.any(np.isin(rest, allowed)):
            failures.append(structural("a stray thinking or tool call tag"))
        calls: list[ToolCall] = []
        unparsed: list[UnparsedToolCall] = []
        if len(at):
            marks = (self._id[_CALL], self._id[_CALL_END], self._id[_CALLED])
            calls, unparsed = read_section(framed.body[int(at[0]) + 1 :], marks, self.tokenizer, _read_call, failures)
        return Parsed(answer(text, thinking, calls, unparsed), framed.termination, tuple(failures))


def _read_call(raw: str) -> ToolCall | UnparsedToolCall:
    name, _, fenced = raw.partition(_SEP)[2].partition("\n")
    arguments = fenced.strip().removeprefix("```json").removesuffix("```").strip("\n")
    return read_arguments(name.strip(), arguments, raw)


def _named(thinks: bool) -> Callable[[str, Tokenizer], DeepSeekR1]:
    return lambda name, tokenizer: DeepSeekR1(name, tokenizer, thinks)


FORMATS = {"deepseek_r1": _named(True), "deepseek_v3_0324": _named(False)}
MODELS = (
    (r"deepseek-r1(-.*)?", "deepseek_r1"),
    (r"deepseek-v3(-0324)?", "deepseek_v3_0324"),
)
