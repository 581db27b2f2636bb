"""gpt_oss: Harmony, as the chat template of gpt-oss writes it.

A turn is a row of messages on channels: thinking on `analysis`, calls on `commentary`, the answer on `final`. Thinking
is left out of later prompts, except before calls whose turn is not answered yet. The instructions of a system message
go to a developer message; the system message proper is the format's own: who the model is, the date, the effort.

* `gpt_oss_low_reasoning`, `gpt_oss_medium_reasoning`, `gpt_oss_high_reasoning`: with that message.
* `gpt_oss_no_sysprompt`: without.

`date` (YYYY-MM-DD) is an option: what is trained and sampled must not change from one day to the next by itself.
Without it the system message tells no date.

A turn stops after each call, so of several calls in one message each has a header of its own, which is not sampled.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Sequence

import numpy as np

from tinsmith.domain.errors import ConfigError, RenderError
from tinsmith.domain.messages import Message, Tool, ToolCall, UnparsedToolCall
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.answers import answer, check_thinking_first, failure_of, read_arguments, structural
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.records import Failure, Hints, Origin, Parsed, Termination
from tinsmith.rendering.script import Script
from tinsmith.rendering.typescript import namespace

_START, _END, _MESSAGE, _CHANNEL = "<|start|>", "<|end|>", "<|message|>", "<|channel|>"
_CONSTRAIN, _RETURN, _CALL = "<|constrain|>", "<|return|>", "<|call|>"
_IDENTITY = "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
_CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
_TOOLS_GO_TO = "\nCalls to these tools must go to the commentary channel: 'functions'."
_TO = re.compile(r"\bto=(\S+)")


class GptOss(Renderer):
    needs = (_START, _END, _MESSAGE, _CHANNEL, _CONSTRAIN, _RETURN, _CALL)
    ends = (_RETURN, _CALL)
    keeps_unread_calls = False
    roles = ("system", "developer", "user", "assistant", "tool")
    is_prefix_stable = False  # the stop of a final answer is <|return|> when sampled and <|end|> in a later prompt

    def __init__(self, name: str, tokenizer: Tokenizer, effort: str | None, date: str | None = None) -> None:
        super().__init__(name, tokenizer)
        if date is not None:
            _check_date(date)
        self._effort = effort
        self._date = date

    # Writing.

    def _check(self, index: int, message: Message) -> None:
        check_thinking_first(self.name, index, message)
        if message.role in ("system", "developer") and index > 0:
            raise RenderError(f"message {index}: {self.name} has a place for instructions only at the start")
        for call in message.tool_calls:
            if not re.fullmatch(r"\S+", call.name):
                raise RenderError(f"message {index}: the tool name {call.name!r} holds white space")

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0:
            self._write_instructions(out, messages, tools)
        # An answer that is written as it is sampled saw what its prompt showed.
        known = messages[:-1] if out.sampled else messages
        finals = [i for i, m in enumerate(known) if m.role == "assistant" and not m.tool_calls]
        answered = finals[-1] if finals else -1
        calls: list[ToolCall] = []
        for i, message in enumerate(messages):
            out.message = i
            if message.role == "assistant":
                calls = list(message.tool_calls)
                if i >= start:
                    self._write_answer(out, message, answered=answered > i, last=i + 1 == len(messages))
            elif message.role == "tool":
                name = _take(calls, message)
                if i >= start:
                    self._write_result(out, name, message)
            elif message.role == "user" and i >= start:
                out.control(_START)
                out.text("user")
                out.control(_MESSAGE)
                out.text(message.text, Origin.TEXT)
                out.control(_END, Origin.MARK)

    def _write_instructions(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        if self._effort is not None:
            date = f"Current date: {self._date}\n" if self._date else ""
            out.control(_START)
            out.text("system")
            out.control(_MESSAGE)
            out.text(f"{_IDENTITY}{date}\nReasoning: {self._effort}\n\n{_CHANNELS}{_TOOLS_GO_TO if tools else ''}")
            out.control(_END)
        given = messages[0] if messages and messages[0].role in ("system", "developer") else None
        if (given is None or not given.text) and not tools:
            return
        out.message = -1 if given is None else 0
        out.control(_START)
        out.text("developer")
        out.control(_MESSAGE)
        if given is not None and given.text:
            out.text("# Instructions\n\n")
            out.text(given.text, Origin.TEXT)
            out.text("\n\n")
        if tools:
            out.text("# Tools\n\n" + namespace("functions", tools))
        out.control(_END, Origin.MARK)

    def _write_result(self, out: Script, name: str, message: Message) -> None:
        out.control(_START)
        out.text(f"functions.{name} to=assistant")
        out.control(_CHANNEL)
        out.text("commentary")
        out.control(_MESSAGE)
        out.text(json.dumps(message.text, ensure_ascii=False), Origin.TEXT)
        out.control(_END, Origin.MARK)

    def _write_answer(self, out: Script, message: Message, *, answered: bool, last: bool) -> None:
        self._write_header(out)
        out.cut()
        thinking, text = message.thinking or "", message.text
        if message.tool_calls:
            if text and not thinking:  # before a call, the family's template takes a text for thinking
                thinking, text = text, ""
            if thinking and not answered:
                self._write_part(out, "analysis", thinking)
            if text:
                self._write_part(out, "commentary", text)
            for number, call in enumerate(message.tool_calls):
                if number:
                    self._write_header(out)
                    out.cut()
                out.text(f" to=functions.{call.name}", Origin.MARK)
                out.control(_CHANNEL, Origin.MARK)
                out.text("commentary json", Origin.MARK)
                out.control(_MESSAGE, Origin.MARK)
                out.text(call.arguments, Origin.TEXT)
                out.control(_CALL, Origin.MARK)
            return
        if thinking and last:
            self._write_part(out, "analysis", thinking)
        out.control(_CHANNEL, Origin.MARK)
        out.text("final", Origin.MARK)
        out.control(_MESSAGE, Origin.MARK)
        out.text(text, Origin.TEXT)
        out.control(_RETURN if last else _END, Origin.MARK)

    def _write_part(self, out: Script, channel: str, text: str) -> None:
        """A message that the model goes on from: the next one's header is sampled."""
        out.control(_CHANNEL, Origin.MARK)
        out.text(channel, Origin.MARK)
        out.control(_MESSAGE, Origin.MARK)
        out.text(text, Origin.TEXT)
        out.control(_END, Origin.MARK)
        out.control(_START, Origin.MARK)
        out.text("assistant", Origin.MARK)

    def _write_header(self, out: Script) -> None:
        out.control(_START)
        out.text("assistant")

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        return int(completion[-1]) == self._id[_CALL]  # the turn goes on, so its thinking stays

    # Reading.

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        tokens = ids
        # A call that another message follows, as in a row of calls, ends no completion.
        goes_on = np.append(tokens[1:] == self._id[_START], False) & (tokens == self._id[_CALL])
        tokens = np.where(goes_on, self._id[_END], tokens).astype(np.int32)
        allowed = tuple(self._id[t] for t in (_START, _END, _MESSAGE, _CHANNEL, _CONSTRAIN))
        framed = frame(tokens, self.tokenizer, stop_ids=(self._id[_RETURN], self._id[_CALL]), allowed=allowed)
        failures = list(framed.failures)
        thinking, texts = [], []
        calls: list[ToolCall] = []
        unparsed: list[UnparsedToolCall] = []
        pieces = _pieces(framed.body, self._id[_START])
        for number, piece in enumerate(pieces):
            closed = number + 1 < len(pieces) or framed.termination is not Termination.LENGTH
            header, content, closed = self._split(piece, closed, failures)
            channel = header.partition(_CHANNEL)[2].replace(_CONSTRAIN, " ").split(" ")[0].strip()
            to = _TO.search(header.replace(_CHANNEL, " ").replace(_CONSTRAIN, " "))
            if to is not None:
                call = read_arguments(to[1].removeprefix("functions."), content, content)
                if not closed:
                    failures.append(structural("a tool call that never closes"))
                    unparsed.append(UnparsedToolCall(content, "never closes"))
                elif isinstance(call, ToolCall):
                    calls.append(call)
                else:
                    failures.append(failure_of(call))
                    unparsed.append(call)
            elif channel == "analysis":
                thinking.append(content)
                if not closed:
                    failures.append(structural("thinking that never closes"))
            else:
                texts.append(content)
                if channel not in ("final", "commentary") and (closed or content):
                    failures.append(structural(f"a message on no known channel ({channel or 'none is named'})"))
        message = answer("".join(texts), "".join(thinking), calls, unparsed)
        return Parsed(message, framed.termination, tuple(failures))

    def _split(self, piece: Ints, closed: bool, failures: list[Failure]) -> tuple[str, str, bool]:
        """Header and content of one message, and whether it ends."""
        ends = np.flatnonzero(piece == self._id[_END])
        if len(ends):
            if int(ends[0]) + 1 < len(piece):
                failures.append(structural("text between two messages"))
            piece, closed = piece[: int(ends[0])], True
        begins = np.flatnonzero(piece == self._id[_MESSAGE])
        if not len(begins):
            if closed or len(piece):
                failures.append(structural("a header without a message"))
            return self.tokenizer.decode(piece), "", closed
        begin = int(begins[0])
        content = piece[begin + 1 :]
        if np.any(np.isin(content, list(self._id.values()))):
            failures.append(structural("a stray mark inside a message"))
        return self.tokenizer.decode(piece[:begin]), self.tokenizer.decode(content), closed


def _pieces(body: Ints, start: int) -> list[Ints]:
    """The messages of a completion; the first has no <|start|>, the prompt wrote it."""
    return np.split(body, np.flatnonzero(body == start))


def _take(calls: list[ToolCall], result: Message) -> str:
    """Name of the tool whose result this is: that of its call by id, else of the first call without a result. `calls`
    loses the call, but keeps the last: a template takes any number of results for its."""
    of = next((c for c in calls if c.id is not None and c.id == result.tool_call_id), calls[0] if calls else None)
    if of is None:
        if result.name is None:
            raise RenderError("a tool result must name its tool where the call is not known")
        return result.name
    if len(calls) > 1:
        calls.remove(of)
    return of.name


def _check_date(date: str) -> None:
    try:
        datetime.date.fromisoformat(date)
    except (TypeError, ValueError):
        raise ConfigError(f"date={date!r}: must be a day, as in 2026-01-31") from None


def _with(effort: str | None) -> Callable[..., GptOss]:
    if effort is None:
        return lambda name, tokenizer: GptOss(name, tokenizer, None)
    return lambda name, tokenizer, date=None: GptOss(name, tokenizer, effort, date)


FORMATS = {
    "gpt_oss_no_sysprompt": _with(None),
    "gpt_oss_low_reasoning": _with("low"),
    "gpt_oss_medium_reasoning": _with("medium"),
    "gpt_oss_high_reasoning": _with("high"),
}
MODELS = ((r"gpt-oss-[0-9]+b.*", "gpt_oss_medium_reasoning"),)
