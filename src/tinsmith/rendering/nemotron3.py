"""nemotron3: chatml with tools and calls as XML, as the chat templates of Nemotron 3 write them.

* `nemotron3` (Nano, Super), `nemotron3_ultra` (Ultra, 3.5): the prompt opens the thinking block. Thinking of turns
  before the last question is left out of later prompts, an empty block stays.
* `..._disable_thinking`: the prompt writes the empty block. `..._preserve_thinking`: thinking stays in later prompts.
* `nemotron3_low_thinking`, `nemotron3_ultra_medium_thinking`: the last question asks for less thinking.

There is always a system message. Ultra ends its thinking with `</think>` alone, the others with line ends around it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from attrs import frozen

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Message, Tool
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.answers import check_thinking_first, write_marked
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.records import Hints, Origin, Parsed
from tinsmith.rendering.script import Script
from tinsmith.rendering.tagged import Tags, read_answer
from tinsmith.rendering.xml_calls import read_xml_call, write_xml_call

_START, _END = "<|im_start|>", "<|im_end|>"
_THINK, _THOUGHT = "<think>", "</think>"
_CALL, _CALLED = "<tool_call>", "</tool_call>"
_RESULT, _RESULTED = "<tool_response>", "</tool_response>"

_TOOLS_BEFORE = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
_TOOLS_AFTER = (
    "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n<tool_call>\n"
    "<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
    "</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow the specified "
    "format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n- You may provide optional reasoning for your function call in natural "
    "language BEFORE the function call, but NOT after\n- If there is no function call available, answer the question "
    "like normal with your current knowledge and do not tell the user about function calls\n</IMPORTANT>"
)


@frozen
class Variant:
    thinks: bool = True
    preserves: bool = False
    ultra: bool = False
    effort: str = ""


class Nemotron3(Renderer):
    thinking_marks = (_THINK, _THOUGHT)
    needs = (_START, _END, _THINK, _THOUGHT, _CALL, _CALLED, _RESULT, _RESULTED)
    ends = (_END,)
    keeps_unread_calls = False
    is_prefix_stable = False  # white space around the text before a call is trimmed once a question follows

    def __init__(self, name: str, tokenizer: Tokenizer, variant: Variant) -> None:
        super().__init__(name, tokenizer)
        self._variant = variant
        self._header = f"assistant\n{_THINK}\n" if variant.thinks else f"assistant\n{_THINK}{_THOUGHT}"
        self._tags = Tags(
            stop=_END,
            think=(_THINK, _THOUGHT),
            call=(_CALL, _CALLED),
            read_call=partial(read_xml_call, python_values=True),
            opened=variant.thinks,
        )

    def _check(self, index: int, message: Message) -> None:
        check_thinking_first(self.name, index, message)
        for call in message.tool_calls:
            try:
                write_xml_call(call, python_values=True)
            except RenderError as error:
                raise RenderError(f"message {index}: {error}") from None

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0:
            self._write_system(out, messages, tools)
        questions = [i for i, m in enumerate(messages) if m.role == "user"]
        query = questions[-1] if questions else -1
        for i in range(start, len(messages)):
            message = messages[i]
            out.message = i
            if message.role == "assistant":
                sampled = out.sampled and i + 1 == len(messages)
                self._write_answer(out, message, kept=self._variant.preserves or i >= query, sampled=sampled)
            elif message.role == "tool":
                first = i == 0 or messages[i - 1].role != "tool"
                last = i + 1 == len(messages) or messages[i + 1].role != "tool"
                self._write_result(out, message, first=first, last=last)
            elif i > 0 or message.role == "user":
                out.control(_START)
                out.text(f"{message.role}\n")
                out.text(message.text, Origin.TEXT)
                out.text(self._variant.effort if i == query else "")
                out.control(_END, Origin.MARK)
                out.text("\n")

    def _write_system(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        given = messages[0] if messages and messages[0].role == "system" else None
        out.message = -1 if given is None else 0
        out.control(_START)
        out.text("system\n")
        if given is not None:
            out.text(given.text, Origin.TEXT)
        if tools:
            out.text("\n\n" if given is not None and given.text else "")
            out.text(_TOOLS_BEFORE + "".join(map(_declaration, tools)))
            write_marked(out, _TOOLS_AFTER, (_CALL, _CALLED))
        out.control(_END, Origin.MARK)
        out.text("\n")

    def _write_result(self, out: Script, message: Message, *, first: bool, last: bool) -> None:
        if first:
            out.control(_START)
            out.text("user\n")
        out.control(_RESULT)
        out.text("\n")
        out.text(message.text, Origin.TEXT)
        out.text("\n")
        out.control(_RESULTED)
        out.text("\n")
        if last:
            out.control(_END, Origin.MARK)
            out.text("\n")

    def _write_answer(self, out: Script, message: Message, *, kept: bool, sampled: bool) -> None:
        thinking, text = _split(message)
        ultra, calls = self._variant.ultra, message.tool_calls
        out.control(_START)
        if sampled:
            if not self._variant.thinks and thinking:
                raise RenderError(f"message {out.message}: {self.name} cannot train thinking")
            write_marked(out, self._header, (_THINK, _THOUGHT))
            out.cut()
        else:
            out.text("assistant\n")
            out.cut()
            out.control(_THINK, Origin.MARK)
            out.text("\n" if thinking and kept else "", Origin.MARK)
        opened = not sampled or self._variant.thinks
        if opened:
            if thinking and kept:
                out.text(thinking, Origin.TEXT)
                out.text("" if ultra else "\n", Origin.MARK)
            out.control(_THOUGHT, Origin.MARK)
        if kept or not calls:
            text = text.rstrip()
            after = not ultra and opened and bool(thinking or sampled)
            out.text("\n" if after and text else "", Origin.MARK)
        elif not ultra:
            text = text.strip()
        out.text(text, Origin.TEXT)
        if calls:
            out.text("\n", Origin.MARK)
        for call in calls:
            out.control(_CALL, Origin.MARK)
            out.text(write_xml_call(call, python_values=True), Origin.TEXT)
            out.control(_CALLED, Origin.MARK)
            out.text("\n", Origin.MARK)
        out.control(_END, Origin.MARK)
        out.text("\n")

    def _write_header(self, out: Script) -> None:
        out.control(_START)
        write_marked(out, self._header, (_THINK, _THOUGHT))

    def _write_after_stop(self, out: Script) -> None:
        out.text("\n")

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        asked = any(m.role == "user" for m in new)
        answer = self.parse(completion).message
        if answer.unparsed_tool_calls or (asked and self._variant.effort):
            return False
        out = Script(self.tokenizer)
        self._write_answer(out, answer, kept=self._variant.preserves or not asked, sampled=False)
        later = self.tokenizer.decode(out.render().ids)
        if later != f"{_START}{self._header}{self.tokenizer.decode(completion)}\n":
            return False
        if not asked or self._variant.preserves:
            return True
        # A question ends the turn: thinking goes, and white space around what was said before calls changes.
        results, starts = np.flatnonzero(prompt == self._id[_RESULTED]), np.flatnonzero(prompt == self._id[_START])
        if len(results) and np.count_nonzero(starts > results[-1]) == 1:
            return False
        opens = np.flatnonzero(prompt[: starts[-1]] == self._id[_THINK])
        return bool(np.all(prompt[opens + 1] == self._id[_THOUGHT]))

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        return read_answer(ids, self.tokenizer, self._tags, hints)


def _split(message: Message) -> tuple[str, str]:
    """Thinking, empty where it is blank, and text. Text that holds a closing tag is split at the last: data often keeps
    both in one string."""
    thinking, text = message.thinking or "", message.text
    if message.thinking is None and _THOUGHT in text:
        before, _, text = text.rpartition(_THOUGHT)
        thinking, text = before.split(_THINK)[-1].strip("\n"), text.lstrip("\n")
    return (thinking if thinking.strip() else ""), text


def _declaration(tool: Tool) -> str:
    function = tool.definition.get("function", tool.definition)
    out = f"\n<function>\n<name>{function['name']}</name>"
    if "description" in function:
        out += f"\n<description>{str(function['description']).strip()}</description>"
    out += "\n<parameters>"
    parameters = function.get("parameters")
    parameters = parameters if isinstance(parameters, Mapping) else {}
    properties = parameters.get("properties")
    for name, fields in (properties if isinstance(properties, Mapping) else {}).items():
        out += f"\n<parameter>\n<name>{name}</name>"
        fields = {} if isinstance(fields, bool) else fields
        if "type" in fields:
            out += f"\n<type>{fields['type']}</type>"
        if "description" in fields:
            out += f"\n<description>{str(fields['description']).strip()}</description>"
        if "enum" in fields:
            out += f"\n<enum>{_json(fields['enum'])}</enum>"
        out += _others(fields, ("name", "type", "description", "enum")) + "\n</parameter>"
    out += _others(parameters, ("type", "properties", "required"))
    if "required" in parameters:
        out += f"\n<required>{_json(parameters['required'])}</required>"
    return out + "\n</parameters>" + _others(function, ("type", "name", "description", "parameters")) + "\n</function>"


def _others(fields: Mapping[str, Any], known: Sequence[str]) -> str:
    return "".join(
        f"\n<{key}>{_json(value) if isinstance(value, Mapping | list | tuple) else value}</{key}>"
        for key, value in fields.items()
        if key not in known
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _with(**options: Any) -> Callable[[str, Tokenizer], Nemotron3]:
    return lambda name, tokenizer: Nemotron3(name, tokenizer, Variant(**options))


FORMATS = {
    "nemotron3": _with(),
    "nemotron3_low_thinking": _with(effort="\n\n{reasoning effort: low}"),
    "nemotron3_disable_thinking": _with(thinks=False),
    "nemotron3_preserve_thinking": _with(preserves=True),
    "nemotron3_ultra": _with(ultra=True),
    "nemotron3_ultra_disable_thinking": _with(ultra=True, thinks=False),
    "nemotron3_ultra_medium_thinking": _with(ultra=True, effort="\n\n{reasoning effort: efficient}"),
    "nemotron3_ultra_preserve_thinking": _with(ultra=True, preserves=True),
}
MODELS = (
    (r"(nvidia-)?nemotron-3-(nano|super).*", "nemotron3"),
    (r"(nvidia-)?nemotron-3-ultra.*", "nemotron3_ultra"),
    (r"(nvidia-)?nemotron-3\.5-lightning.*", "nemotron3_ultra"),
)
