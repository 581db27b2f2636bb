"""mistral: `[INST]` and its kin, as the chat template of Mistral Small 3.2 writes them, without the system message that
the template adds of its own.

Tools stand before the last question, so they move when another comes. A call has an id of nine letters and digits; one
of another form in the data is replaced by its number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
from attrs import evolve

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Message, Tool, ToolCall, UnparsedToolCall
from tinsmith.domain.tokens import Ints, ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.answers import answer, failure_of, read_arguments, split_at, structural
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.records import Origin, Parsed, Stop
from tinsmith.rendering.script import Script

_BOS, _EOS, _ASK, _ASKED = "<s>", "</s>", "[INST]", "[/INST]"
_SYSTEM, _SYSTEM_END = "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"
_TOOLS, _TOOLS_END = "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"
_CALL, _ID, _ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_RESULT, _CONTENT, _RESULT_END = "[TOOL_RESULTS]", "[TOOL_CONTENT]", "[/TOOL_RESULTS]"


class Mistral(Renderer):
    needs = (
        *(_BOS, _EOS, _ASK, _ASKED, _SYSTEM, _SYSTEM_END, _TOOLS, _TOOLS_END),
        *(_CALL, _ID, _ARGS, _RESULT, _CONTENT, _RESULT_END),
    )
    thinks = False
    is_prefix_stable = False  # tools move to the last question

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        super().__init__(name, tokenizer)
        self._id = {t: tokenizer.special_tokens[t] for t in self.needs}

    @property
    def stop(self) -> Stop:
        return Stop(ids=tuple(dict.fromkeys((self._id[_EOS], *self.tokenizer.eos_ids))))

    def _check(self, index: int, message: Message) -> None:
        if message.unparsed_tool_calls:
            raise RenderError(f"message {index}: {self.name} has no form for a tool call that cannot be read")

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0:
            out.control(_BOS)
        questions = [i for i, m in enumerate(messages) if m.role == "user"]
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
            if message.role == "user" and tools and i == questions[-1]:
                out.control(_TOOLS)
                out.text(json.dumps([tool.definition for tool in tools], ensure_ascii=False))
                out.control(_TOOLS_END)
            begin, end = {"system": (_SYSTEM, _SYSTEM_END), "user": (_ASK, _ASKED), "tool": (_RESULT, _RESULT_END)}[
                message.role
            ]
            out.control(begin)
            if message.role == "tool":
                out.text(of)
                out.control(_CONTENT)
            out.text(message.text, Origin.TEXT)
            out.control(end, Origin.MARK)

    def _write_answer(self, out: Script, message: Message, calls: Sequence[ToolCall]) -> None:
        out.cut()
        out.text(message.text, Origin.TEXT)
        for call in calls:
            out.control(_CALL, Origin.MARK)
            out.text(call.name, Origin.TEXT)
            out.control(_ID, Origin.MARK)
            out.text(str(call.id), Origin.TEXT)
            out.control(_ARGS, Origin.MARK)
            out.text(call.arguments, Origin.TEXT)
        out.control(_EOS, Origin.MARK)

    def _write_header(self, out: Script) -> None:
        """An answer follows what it answers, with nothing between."""

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        return not (any(m.role == "user" for m in new) and np.any(prompt == self._id[_TOOLS]))

    def parse(self, ids: Sequence[int] | Ints) -> Parsed:
        allowed = (self._id[_CALL], self._id[_ID], self._id[_ARGS])
        framed = frame(ints(ids), self.tokenizer, stop_ids=(self._id[_EOS],), allowed=allowed)
        failures = list(framed.failures)
        pieces = split_at(framed.body, self._id[_CALL])
        if np.any(np.isin(pieces[0][1], allowed)):
            failures.append(structural("a stray mark of a tool call"))
        calls: list[ToolCall] = []
        unparsed: list[UnparsedToolCall] = []
        for _, piece in pieces[1:]:
            raw = self.tokenizer.decode(piece)
            head, _, arguments = raw.partition(_ARGS)
            name, _, id = head.partition(_ID)
            call = read_arguments(name, arguments, raw)
            if isinstance(call, ToolCall):
                calls.append(evolve(call, id=id or None))
            else:
                failures.append(failure_of(call))
                unparsed.append(call)
        message = answer(self.tokenizer.decode(pieces[0][1]), "", calls, unparsed)
        return Parsed(message, framed.termination, tuple(failures))


def _take(waiting: list[ToolCall], result: Message, index: int) -> str:
    """Id of the call that a result answers: the one that it names, else the first that waits for one."""
    if not waiting:
        raise RenderError(f"message {index} is a tool result, but no call waits for one")
    of = next((c for c in waiting if c.id == result.tool_call_id), waiting[0])
    waiting.remove(of)
    return str(of.id)


FORMATS = {"mistral": Mistral}
MODELS = ((r"mistral-small-3\.2-.*-instruct.*", "mistral"),)
