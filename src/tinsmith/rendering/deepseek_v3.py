"""deepseekv3: DeepSeek-V3.1, as its model card and chat template write it.

* `deepseekv3`, `deepseekv3_disable_thinking`: the prompt closes the thinking block; that is supplied, so never trained.
* `deepseekv3_thinking`: the prompt opens it. Thinking is left out of later prompts.

After a tool's result nothing comes before the answer. The template shows no tools: whoever has some describes them in
the system message, or asks for it with the option `declare_tools`, which writes the model card's words.
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
_RESULT, _RESULT_END = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"

_TOOLS_BEFORE = "\n\n## Tools\nYou have access to the following tools:\n\n"
_TOOLS_FORM = "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
_TOOLS_AFTER = (
    "\n\nWhere:\n\n- `tool_call_name` must be an exact match to one of the available tools\n"
    "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
    "- For multiple tool calls, chain them directly without separators or spaces"
)


class DeepSeekV3(Renderer):
    thinking_marks = (_THINK, _THOUGHT)
    needs = (
        *(_BOS, _EOS, _USER, _ASSISTANT, _THINK, _THOUGHT),
        *(_CALLS, _CALLED, _CALL, _CALL_END, _SEP, _RESULT, _RESULT_END),
    )
    ends = (_EOS,)
    keeps_unread_calls = False

    def __init__(self, name: str, tokenizer: Tokenizer, thinks: bool, declare_tools: bool = False) -> None:
        super().__init__(name, tokenizer)
        self._thinking = thinks
        self.is_prefix_stable = not thinks
        self._declare_tools = declare_tools

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
            out.message = -1
            if tools and self._declare_tools:
                _write_tools(out, tools)
        for i in range(max(start, count), len(messages)):
            message = messages[i]
            out.message = i
            if message.role == "system":
                raise RenderError(f"message {i}: {self.name} has a place for system messages only at the start")
            if message.role == "user":
                out.control(_USER)
                out.text(message.text, Origin.TEXT)
            elif message.role == "tool":
                out.control(_RESULT)
                out.text(message.text, Origin.TEXT)
                out.control(_RESULT_END, Origin.MARK)
            else:
                self._write_answer(
                    out, message, messages[i - 1].role if i else "", sampled=out.sampled and i + 1 == len(messages)
                )
        out.last_role = messages[-1].role if messages else ""

    def _write_answer(self, out: Script, message: Message, after: str, *, sampled: bool) -> None:
        thinking, text = _split(message, after)
        opens = sampled and self._thinking
        if after == "user":
            out.control(_ASSISTANT)
            out.control(_THINK if opens else _THOUGHT)
        out.cut()
        if opens and (thinking or after == "user"):
            if after != "user":
                out.control(_THINK, Origin.MARK)
            out.text(thinking, Origin.TEXT)
            out.control(_THOUGHT, Origin.MARK)
        elif sampled and thinking:
            raise RenderError(
                f"message {out.message}: {self.name} cannot train thinking; the format `deepseekv3_thinking` can"
            )
        out.text(text, Origin.TEXT)
        if message.tool_calls:
            out.control(_CALLS, Origin.MARK)
            for call in message.tool_calls:
                out.control(_CALL, Origin.MARK)
                out.text(call.name, Origin.TEXT)
                out.control(_SEP, Origin.MARK)
                out.text(call.arguments, Origin.TEXT)
                out.control(_CALL_END, Origin.MARK)
            out.control(_CALLED, Origin.MARK)
        out.control(_EOS, Origin.MARK)

    def _write_header(self, out: Script) -> None:
        if out.last_role == "user":
            out.control(_ASSISTANT)
            out.control(_THINK if self._thinking else _THOUGHT)

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        return self.is_prefix_stable or not (
            np.any(prompt == self._id[_THINK]) or np.any(completion == self._id[_THINK])
        )

    # Reading.

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        known = (_THINK, _THOUGHT, _CALLS, _CALLED, _CALL, _CALL_END, _SEP)
        allowed = tuple(self._id[t] for t in known)
        framed = frame(ids, self.tokenizer, stop_ids=(self._id[_EOS],), allowed=allowed)
        failures = list(framed.failures)
        at = np.flatnonzero(framed.body == self._id[_CALLS])
        body = framed.body[: int(at[0])] if len(at) else framed.body
        opened = hints.opened
        if opened is None:  # an answer that calls tools may follow results, after which nothing opens the thinking
            opened = self._thinking and not len(at)
        thinking, rest = read_thinking(
            body, (self._id[_THINK], self._id[_THOUGHT]), self.tokenizer, failures, opened=opened
        )
        if np.any(np.isin(rest, allowed)):
            failures.append(structural("a stray thinking or tool call tag"))
        calls: list[ToolCall] = []
        unparsed: list[UnparsedToolCall] = []
        if len(at):
            marks = (self._id[_CALL], self._id[_CALL_END], self._id[_CALLED])
            calls, unparsed = read_section(framed.body[int(at[0]) + 1 :], marks, self.tokenizer, _read_call, failures)
        message = answer(self.tokenizer.decode(rest), thinking, calls, unparsed)
        return Parsed(message, framed.termination, tuple(failures))


def _read_call(raw: str) -> ToolCall | UnparsedToolCall:
    name, _, arguments = raw.partition(_SEP)
    return read_arguments(name.strip(), arguments, raw)


def _split(message: Message, after: str) -> tuple[str, str]:
    """Thinking and text. An answer whose text holds a closing tag is split at the first, as the template does: data
    often keeps both in one string."""
    if message.thinking is not None or message.tool_calls or after == "tool" or _THOUGHT not in message.text:
        return message.thinking or "", message.text
    thinking, _, text = message.text.partition(_THOUGHT)
    return thinking.removeprefix(_THINK), text


def _write_tools(out: Script, tools: Sequence[Tool]) -> None:
    blocks = []
    for tool in tools:
        function = tool.definition.get("function", tool.definition)
        parameters = json.dumps(function.get("parameters", {}), ensure_ascii=False)
        blocks.append(
            f"### {tool.name}\nDescription: {function.get('description', '')}\n\nParameters: {parameters}\n\n"
        )
    out.text(_TOOLS_BEFORE + "".join(blocks) + _TOOLS_FORM)
    for control, text in (
        (_CALLS, ""),
        (_CALL, "tool_call_name"),
        (_SEP, "tool_call_arguments"),
        (_CALL_END, "{additional_tool_calls}"),
        (_CALLED, _TOOLS_AFTER),
    ):
        out.control(control)
        out.text(text)


def _named(thinks: bool) -> Callable[..., DeepSeekV3]:
    return lambda name, tokenizer, declare_tools=False: DeepSeekV3(name, tokenizer, thinks, declare_tools)


FORMATS = {
    "deepseekv3": _named(False),
    "deepseekv3_disable_thinking": _named(False),
    "deepseekv3_thinking": _named(True),
}
MODELS = ((r"deepseek-v3\.1(-terminus)?", "deepseekv3"),)
