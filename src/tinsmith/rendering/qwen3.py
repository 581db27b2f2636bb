"""qwen2.5, qwen3 and qwen3_vl: chatml with tool calls as JSON, as the chat templates of these models write them.

* `qwen2_5`: never thinks; has a system message of its own where none is given.
* `qwen3`: the model thinks first. Thinking of turns before the last question is left out of later prompts.
* `qwen3_disable_thinking`: the prompt ends with an empty thinking block, which is supplied and so never trained.
* `qwen3_instruct`: the 2507 instruct models, which never think.
* `qwen3_preserve_thinking`: every answer keeps its thinking block, so that prompts only grow. This is the template of
  TRL for training Qwen3 (`qwen3_training`), not the one that the models ship.
* `qwen3_vl`, `qwen3_vl_instruct`: the same with images in questions and results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import ImagePart, MediaPart, Message, ThinkingPart, Tool
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.records import Hints, Origin, Parsed
from tinsmith.rendering.script import Script
from tinsmith.rendering.tagged import Tags, read_answer, read_json_call

_START, _END = "<|im_start|>", "<|im_end|>"
_THINK, _THOUGHT = "<think>", "</think>"
_CALL, _CALLED = "<tool_call>", "</tool_call>"
_VISION, _SEEN = "<|vision_start|>", "<|vision_end|>"
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
QWEN2_5_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


class Thinking(Enum):
    ON = "thinks; history is stripped"
    OFF = "the prompt closes the thinking block"
    NONE = "has no thinking block"
    KEPT = "thinks; history is kept"


class Qwen3(Renderer):
    thinking_marks = (_THINK, _THOUGHT)
    needs: tuple[str, ...] = (_START, _END, _CALL, _CALLED)
    ends = (_END,)

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        thinking: Thinking = Thinking.ON,
        *,
        default_system: str | None = None,
        images: bool = False,
    ) -> None:
        if thinking is not Thinking.NONE:
            self.needs = (*self.needs, _THINK, _THOUGHT)
        if images:
            self.needs = (*self.needs, _VISION, _SEEN)
            self.placeholders = {ImagePart: "<|image_pad|>"}
        self.thinks = thinking is not Thinking.NONE
        super().__init__(name, tokenizer)
        self._thinking = thinking
        self._default_system = default_system
        self.is_prefix_stable = thinking in (Thinking.NONE, Thinking.KEPT)
        self._tags = Tags(
            stop=_END,
            think=None if thinking is Thinking.NONE else (_THINK, _THOUGHT),
            call=(_CALL, _CALLED),
            read_call=read_json_call,
        )

    # Writing.

    def _check(self, index: int, message: Message) -> None:
        parts = [type(p) for p in message.content if isinstance(p, MediaPart) or p.text]
        if ThinkingPart in parts[1:] and parts[: parts.count(ThinkingPart)] != [ThinkingPart] * parts.count(
            ThinkingPart
        ):
            raise RenderError(f"message {index}: {self.name} has no form for thinking after text")
        if message.media and message.role not in ("user", "tool"):
            raise RenderError(f"message {index}: {self.name} has no form for an image in a {message.role} message")
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
                self._write_content(out, message)
                out.control(_END, Origin.MARK)
                out.text("\n")

    def _write_system(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        system = messages[0] if messages and messages[0].role == "system" else None
        if system is None and not tools and self._default_system is None:
            return
        out.message = -1 if system is None else 0
        out.control(_START)
        out.text("system\n")
        if system is not None:
            out.text(system.text, Origin.TEXT)
        elif self._default_system is not None:
            out.text(self._default_system)
        if tools:
            out.text("\n\n" if system is not None or self._default_system is not None else "")
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
        self._write_tag(out, _RESULT)
        out.text("\n")
        self._write_content(out, message)
        out.text("\n")
        self._write_tag(out, _RESULTED)
        if last:
            out.control(_END, Origin.MARK)
            out.text("\n")

    def _write_tag(self, out: Script, tag: str) -> None:
        """A tag that is a control token in the vocabularies of some models and text in those of others."""
        if tag in self.tokenizer.special_tokens:
            out.control(tag)
        else:
            out.text(tag)

    def _write_media(self, out: Script, part: MediaPart) -> None:
        out.control(_VISION)
        super()._write_media(out, part)
        out.control(_SEEN)

    def _write_answer(self, out: Script, message: Message, *, in_last_turn: bool, last: bool) -> None:
        thinking, text = self._split(message)
        out.control(_START)
        out.text("assistant\n")
        block = self._thinking is Thinking.KEPT or (
            self._thinking is not Thinking.NONE and in_last_turn and (last or bool(thinking))
        )
        supplied = block and self._thinking is Thinking.OFF and not thinking.strip("\n")
        if last and out.sampled:
            if not block and (self._thinking is Thinking.OFF or thinking):
                raise RenderError(
                    f"message {out.message}: no question comes before it, so {self.name} writes no thinking"
                )
            if self._thinking is Thinking.OFF and not supplied:
                raise RenderError(f"message {out.message}: {self.name} cannot train thinking; the format `qwen3` can")
        if supplied:
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

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        return read_answer(ids, self.tokenizer, self._tags, hints)


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


def _variant(thinking: Thinking, **options: Any) -> Callable[[str, Tokenizer], Qwen3]:
    return lambda name, tokenizer: Qwen3(name, tokenizer, thinking, **options)


FORMATS = {
    "qwen2_5": _variant(Thinking.NONE, default_system=QWEN2_5_SYSTEM),
    "qwen3": _variant(Thinking.ON),
    "qwen3_disable_thinking": _variant(Thinking.OFF),
    "qwen3_instruct": _variant(Thinking.NONE),
    "qwen3_preserve_thinking": _variant(Thinking.KEPT),
    "qwen3_vl": _variant(Thinking.ON, images=True),
    "qwen3_vl_instruct": _variant(Thinking.NONE, images=True),
}
MODELS = (
    (r"qwen2\.5-.*", "qwen2_5"),
    (r"qwen3-[0-9.]+b(-a[0-9]+b)?", "qwen3"),
    (r"qwen3-.*-instruct-2507.*", "qwen3_instruct"),
    (r"qwen3-vl-.*-instruct.*", "qwen3_vl_instruct"),
    (r"qwen3-vl-.*", "qwen3_vl"),
)
