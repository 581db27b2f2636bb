"""qwen3.5, qwen3.6 and qwen3.8: chatml with tool calls as XML, as the chat templates of these models write them.

* `qwen3_5`, `qwen3_6`: the prompt opens the thinking block. Thinking of turns before the last question is left out of
  later prompts.
* `..._disable_thinking`: the prompt supplies an empty thinking block.
* `qwen3_5_preserve_thinking`, `qwen3_6_preserve_thinking`: every answer keeps its thinking block.
* `qwen3_8_xhigh_reasoning` (also `qwen3_8`), `_medium_`, `_low_`: an effort, said in the system message; every answer
  keeps its thinking block. `qwen3_8_disable_thinking` supplies an empty one.

All of them trim white space around the text of every message. 3.5 writes arguments that are no text, list or object
as Python prints them (`True`), the later ones as JSON.

An answer without thinking, in a prompt or a finished conversation, has its empty block encoded in one piece, as the
templates' text is. Where it is trained, it follows the tokens that its prompt supplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import frozen

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import ImagePart, MediaPart, Message, TextPart, Tool
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.records import Hints, Origin, Parsed
from tinsmith.rendering.script import Script
from tinsmith.rendering.tagged import Tags, read_answer
from tinsmith.rendering.xml_calls import read_xml_call, write_xml_call

_START, _END = "<|im_start|>", "<|im_end|>"
_THINK, _THOUGHT = "<think>", "</think>"
_CALL, _CALLED = "<tool_call>", "</tool_call>"
_RESULT, _RESULTED = "<tool_response>", "</tool_response>"
_VISION, _IMAGE, _SEEN = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"

_TOOLS_BEFORE = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
_TOOLS_AFTER = (
    "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n",
    (
        "\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
        "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
        "</parameter>\n</function>\n"
    ),
    (
        "\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow the specified format: an inner "
        "<function=...></function> block must be nested within "
    ),
    (
        " XML tags\n- Required parameters MUST be specified\n- You may provide optional reasoning for your function "
        "call in natural language BEFORE the function call, but NOT after\n- If there is no function call available, "
        "answer the question like normal with your current knowledge and do not tell the user about function calls\n"
        "</IMPORTANT>"
    ),
)
_EFFORTS = {
    "xhigh": (
        "Reasoning effort is set to xhigh. Please think carefully through the task, validate key assumptions, consider "
        "plausible alternatives, and prioritize correctness, consistency, and clarity in the final answer."
    ),
    "medium": "",
    "low": (
        "Reasoning effort is set to low. Keep your thinking brief and focused, moving directly to the conclusion "
        "without unnecessary elaboration."
    ),
}


@frozen
class Variant:
    """What tells the formats of this file apart."""

    thinks: bool = True
    preserves: bool = False
    """Earlier answers keep their thinking block."""
    instructions: str = ""
    """Put before the system message."""
    python_values: bool = False
    """Arguments that are no text, list or object are written as Python prints them."""
    splits: bool = True
    """Text that holds a closing thinking tag is split at it: data often keeps both in one string."""
    empty_system: bool = True
    """An empty system message is written."""


class Qwen35(Renderer):
    thinking_marks = (_THINK, _THOUGHT)
    needs = (_START, _END, _CALL, _CALLED, _RESULT, _RESULTED, _THINK, _THOUGHT)
    ends = (_END,)
    is_prefix_stable = False

    def __init__(self, name: str, tokenizer: Tokenizer, variant: Variant) -> None:
        if {_VISION, _IMAGE, _SEEN} <= set(tokenizer.special_tokens):
            self.placeholders = {ImagePart: _IMAGE}
        super().__init__(name, tokenizer)
        self._variant = variant
        self._tags = Tags(
            stop=_END,
            think=(_THINK, _THOUGHT),
            call=(_CALL, _CALLED),
            read_call=partial(read_xml_call, python_values=variant.python_values),
            opened=variant.thinks,
            trims=True,
        )

    def _check(self, index: int, message: Message) -> None:
        if message.role == "system" and index > 0:
            raise RenderError(f"message {index}: {self.name} has a system message at the beginning only")
        if message.role == "system" and message.media:
            raise RenderError(f"message {index}: {self.name} has no form for an image in a system message")
        for call in message.tool_calls:
            try:
                write_xml_call(call, python_values=self._variant.python_values)
            except RenderError as error:
                raise RenderError(f"message {index}: {error}") from None

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        query = max((i for i, m in enumerate(messages) if m.role == "user" and not _is_result(m)), default=None)
        if start == 0:
            if query is None:
                raise RenderError(f"{self.name} needs a user message that asks something; there is none")
            self._write_system(out, messages, tools)
        for i in range(start, len(messages)):
            message = messages[i]
            out.message = i
            last = i + 1 == len(messages)
            if message.role == "assistant":
                self._write_answer(out, message, in_last_turn=query is None or i > query, last=last)
            elif message.role == "tool":
                if i == 0 or messages[i - 1].role != "tool":
                    out.control(_START)
                    out.text("user")
                out.text("\n")
                out.control(_RESULT)
                out.text("\n")
                self._write_content(out, message)
                out.text("\n")
                out.control(_RESULTED)
                if last or messages[i + 1].role != "tool":
                    out.control(_END, Origin.MARK)
                    out.text("\n")
            elif message.role == "user":
                out.control(_START)
                out.text("user\n")
                self._write_content(out, message)
                out.control(_END, Origin.MARK)
                out.text("\n")

    def _write_content(self, out: Script, message: Message) -> None:
        """Text and images in order, without white space around the whole."""
        pieces: list[str | MediaPart] = []
        for part in message.content:
            if isinstance(part, TextPart | MediaPart):
                pieces.append(part.text if isinstance(part, TextPart) else part)
        for end, strip in ((0, str.lstrip), (-1, str.rstrip)):
            while pieces and isinstance(text := pieces[end], str):
                if stripped := strip(text):
                    pieces[end] = stripped
                    break
                pieces.pop(end)
        for piece in pieces:
            if isinstance(piece, str):
                out.text(piece, Origin.TEXT)
            else:
                self._write_media(out, piece)

    def _write_media(self, out: Script, part: MediaPart) -> None:
        out.control(_VISION)
        super()._write_media(out, part)
        out.control(_SEEN)

    def _write_system(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        system = messages[0] if messages[0].role == "system" else None
        text, instructions = "" if system is None else system.text.strip(), self._variant.instructions
        empty = not (text or instructions or tools)
        if empty and (system is None or not self._variant.empty_system):
            return
        out.message = -1 if system is None else 0
        out.control(_START)
        out.text("system\n")
        out.text(instructions)
        if instructions and (tools or text):
            out.text("\n\n")
        if tools:
            out.text(_TOOLS_BEFORE + "".join("\n" + tool.json() for tool in tools) + _TOOLS_AFTER[0])
            out.control(_CALL)
            out.text(_TOOLS_AFTER[1])
            out.control(_CALLED)
            out.text(_TOOLS_AFTER[2])
            out.control(_CALL)
            out.control(_CALLED)
            out.text(_TOOLS_AFTER[3])
            out.text("\n\n" if text else "")
        out.text(text, Origin.TEXT)
        out.control(_END, Origin.MARK)
        out.text("\n")

    def _write_answer(self, out: Script, message: Message, *, in_last_turn: bool, last: bool) -> None:
        thinking, content = self._split(message)
        block = in_last_turn or self._variant.preserves
        trained = last and out.sampled
        if trained and not block:
            raise RenderError(f"message {out.message}: no question comes before it, so {self.name} writes no thinking")
        if trained and thinking and not self._variant.thinks:
            raise RenderError(f"message {out.message}: {self.name} cannot train thinking; a thinking format can")
        out.control(_START)
        out.text("assistant\n")
        if block:
            out.control(_THINK)
            if self._variant.thinks:
                out.text("\n")
                if trained or thinking:
                    out.cut()
                out.text(thinking, Origin.TEXT)
                out.text("\n", Origin.MARK)
                out.control(_THOUGHT, Origin.MARK)
                out.text("\n\n", Origin.MARK)
            else:
                out.text("\n")
                out.text(thinking, Origin.TEXT)
                out.text("\n")
                out.control(_THOUGHT)
                out.text("\n\n")
                out.cut()
        else:
            out.cut()
        if content is None:
            self._write_content(out, message)
        else:
            out.text(content, Origin.TEXT)
        written = bool(message.media) or bool(message.text.strip() if content is None else content.strip())
        bodies = [write_xml_call(call, python_values=self._variant.python_values) for call in message.tool_calls] + [
            u.text for u in message.unparsed_tool_calls
        ]
        for number, body in enumerate(bodies):
            if number or written:
                out.text("\n" if number else "\n\n", Origin.MARK)
            out.control(_CALL, Origin.MARK)
            out.text(body, Origin.TEXT)
            out.control(_CALLED, Origin.MARK)
        out.control(_END, Origin.MARK)
        out.text("\n")

    def _split(self, message: Message) -> tuple[str, str | None]:
        """Thinking, and the text where it is not simply the content."""
        if message.thinking is not None:
            return message.thinking.strip(), None
        text = message.text.strip()
        if not self._variant.splits or message.media or _THOUGHT not in text:
            return "", None
        before, after = text.split(_THOUGHT)[0], text.split(_THOUGHT)[-1]
        return before.rstrip("\n").split(_THINK)[-1].lstrip("\n").strip(), after.lstrip("\n")

    def _write_header(self, out: Script) -> None:
        out.control(_START)
        out.text("assistant\n")
        out.control(_THINK)
        if self._variant.thinks:
            out.text("\n")
        else:
            out.text("\n\n")
            out.control(_THOUGHT)
            out.text("\n\n")

    def _write_after_stop(self, out: Script) -> None:
        out.text("\n")

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        """A new question strips the thinking blocks of all turns before it, the empty ones too."""
        return self._variant.preserves or not any(m.role == "user" and not _is_result(m) for m in new)

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        return read_answer(ids, self.tokenizer, self._tags, hints)


def _is_result(message: Message) -> bool:
    """A tool result in disguise."""
    text = message.text.strip()
    return not message.media and text.startswith(_RESULT) and text.endswith(_RESULTED)


def _variant(**options: Any) -> Callable[[str, Tokenizer], Qwen35]:
    return lambda name, tokenizer: Qwen35(name, tokenizer, Variant(**options))


_NEWER: Mapping[str, Any] = {"preserves": True, "splits": False, "empty_system": False}
FORMATS = {
    "qwen3_5": _variant(python_values=True),
    "qwen3_5_disable_thinking": _variant(python_values=True, thinks=False),
    "qwen3_5_preserve_thinking": _variant(python_values=True, preserves=True),
    "qwen3_6": _variant(),
    "qwen3_6_disable_thinking": _variant(thinks=False),
    "qwen3_6_preserve_thinking": _variant(preserves=True),
    "qwen3_8": _variant(instructions=_EFFORTS["xhigh"], **_NEWER),
    **{f"qwen3_8_{name}_reasoning": _variant(instructions=text, **_NEWER) for name, text in _EFFORTS.items()},
    "qwen3_8_disable_thinking": _variant(thinks=False, **_NEWER),
}
MODELS = (
    (r"qwen3\.5-.*", "qwen3_5"),
    (r"qwen3\.6-.*", "qwen3_6"),
    (r"qwen3\.8-.*", "qwen3_8_xhigh_reasoning"),
)
