"""Reading answers whose thinking and tool calls stand between control tokens, for the formats that write them so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from attrs import evolve, frozen

from tinsmith.domain.messages import Message, Part, TextPart, ThinkingPart, ToolCall, UnparsedToolCall
from tinsmith.domain.tokens import Ints, ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.answers import call_of
from tinsmith.rendering.framing import frame
from tinsmith.rendering.records import Failure, FailureKind, Hints, Parsed

_CALL_FORM = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(.*)\}\s*', re.DOTALL)


@frozen
class Tags:
    """Names of the control tokens around the parts of an answer, and how it is read."""

    stop: str
    think: tuple[str, str] | None
    """Opening and closing."""
    call: tuple[str, str]
    read_call: Callable[[str, Hints], ToolCall | UnparsedToolCall]
    """Reads what stands between the tags of a call."""
    opened: bool = False
    """The prompt has opened the thinking already."""
    trims: bool = False
    """The format trims all white space around thinking and text, not only line ends."""


def read_answer(ids: Sequence[int] | Ints, tokenizer: Tokenizer, tags: Tags, hints: Hints) -> Parsed:
    if hints.opened is not None:
        tags = evolve(tags, opened=hints.opened)
    special = tokenizer.special_tokens
    names = (*(tags.think or ()), *tags.call)
    known = {name: special[name] for name in names if name in special}
    framed = frame(ints(ids), tokenizer, stop_ids=(special[tags.stop],), allowed=tuple(known.values()))
    return _Answer(tokenizer, tags, hints, known, list(framed.failures)).read(framed.body, framed.termination)


class _Answer:
    def __init__(
        self, tokenizer: Tokenizer, tags: Tags, hints: Hints, known: Mapping[str, int], failures: list[Failure]
    ) -> None:
        self.decode = tokenizer.decode
        self.tags, self.hints = tags, hints
        self.known = known
        self.failures = failures

    def read(self, body: Ints, termination: str) -> Parsed:
        thinking, body = self._thinking(body)
        texts, calls, unparsed = self._calls(body)
        text = texts[0]
        if calls or unparsed:
            text = text.removesuffix("\n")
        if any(t.strip() for t in texts[1:]):
            self._broken("text after a tool call")
            text += "".join(texts[1:])
        if self.tags.trims:
            text = text.strip()
        elif thinking is not None:
            text = text.lstrip("\n")
        parts: list[Part] = [ThinkingPart(thinking)] if thinking else []
        parts += [TextPart(text)] if text else []
        message = Message("assistant", tuple(parts), tool_calls=tuple(calls), unparsed_tool_calls=tuple(unparsed))
        return Parsed(message, termination, tuple(self.failures))  # type: ignore[arg-type]  # a Termination

    def _thinking(self, body: Ints) -> tuple[str | None, Ints]:
        """The thinking, None without a block, and the tokens after it."""
        if self.tags.think is None:
            return None, body
        opens, closes = (np.flatnonzero(body == self.known[tag]) for tag in self.tags.think)
        if not self.tags.opened and not len(opens) and not len(closes):
            return None, body
        start = int(opens[0]) if len(opens) else -1  # a prompt may have opened the block
        if self.tags.opened and len(closes) and start > closes[0]:
            start = -1
        before = self.decode(body[: max(start, 0)])
        close = next((int(c) for c in closes if c > start), -1)
        if before.strip():
            self._broken("text before the thinking")
        if close < 0:
            self._broken("thinking that never closes")
            return before + self._tidy(self.decode(body[start + 1 :])), body[:0]
        return before.strip() + self._tidy(self.decode(body[start + 1 : close])), body[close + 1 :]

    def _tidy(self, thinking: str) -> str:
        return thinking.strip() if self.tags.trims else thinking.strip("\n")

    def _calls(self, body: Ints) -> tuple[list[str], list[ToolCall], list[UnparsedToolCall]]:
        """Texts before, between and after the calls (at least one), and the calls."""
        texts: list[str] = []
        calls: list[ToolCall] = []
        unparsed: list[UnparsedToolCall] = []
        opening, closing = (self.known[tag] for tag in self.tags.call)
        while len(opens := np.flatnonzero(body == opening)):
            start = int(opens[0])
            texts.append(self._plain(body[:start]))
            closes = np.flatnonzero(body[start:] == closing)
            end = start + int(closes[0]) if len(closes) else len(body)
            inside = self.decode(body[start + 1 : end])
            if not len(closes):
                self._broken("a tool call that never closes")
                unparsed.append(UnparsedToolCall(inside, "never closes"))
            else:
                call = self.tags.read_call(inside, self.hints)
                if isinstance(call, ToolCall):
                    calls.append(call)
                else:
                    self.failures.append(Failure(FailureKind.CONTENT, call.error))
                    unparsed.append(call)
            body = body[end + 1 :]
        texts.append(self._plain(body))
        return texts, calls, unparsed

    def _plain(self, ids: Ints) -> str:
        if np.any(np.isin(ids, list(self.known.values()))):
            self._broken("a stray thinking or tool call tag")
        return self.decode(ids)

    def _broken(self, reason: str) -> None:
        self.failures.append(Failure(FailureKind.STRUCTURAL, reason))


def read_json_call(text: str, hints: Hints | None = None) -> ToolCall | UnparsedToolCall:
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
    kept = form is not None and set(value) == {"name", "arguments"}
    arguments = form[2].rstrip() if form is not None and kept else json.dumps(value["arguments"], ensure_ascii=False)
    return call_of(value["name"], arguments, text)
