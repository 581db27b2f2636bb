"""Reading a completion while it is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
from attrs import frozen

from tinsmith.domain.messages import ToolCall
from tinsmith.domain.tokens import Ints, ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.records import Parsed, Stop


class Reader(Protocol):
    """What a stream needs of a renderer."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def stop(self) -> Stop: ...


class DeltaKind(StrEnum):
    THINKING = "thinking"
    TEXT = "text"
    CALL = "call"


@frozen
class Delta:
    """What the last tokens added to the message."""

    kind: DeltaKind
    text: str = ""
    call: ToolCall | None = None


class Stream:
    """Fed tokens as they come, in pieces of any size; `finish` gives exactly what `Renderer.parse` gives for all of
    them.

    `feed` gives what is new in the message. Joined by kind, the deltas of a clean completion are its thinking, text and
    calls. What a later token may still change is held back: trailing whitespace, half a character, the start of a
    stop string. In a broken completion (thinking after text, say) a later token can change more; what was given
    stays given then, and `finish` says how the message really reads.
    """

    def __init__(self, reader: Reader, parse: Callable[[Ints], Parsed]) -> None:
        self._reader, self._parse = reader, parse
        self._ids = np.zeros(0, np.int32)
        self._given = {DeltaKind.THINKING: "", DeltaKind.TEXT: ""}
        self._calls = 0

    def feed(self, ids: Sequence[int] | Ints | int) -> list[Delta]:
        self._ids = np.concatenate([self._ids, ints([ids] if isinstance(ids, int) else ids)])
        return self._news(self._parse(self._ids), ended=False)

    def finish(self) -> tuple[list[Delta], Parsed]:
        """The deltas held back so far, and the completion as a whole."""
        parsed = self._parse(self._ids)
        return self._news(parsed, ended=True), parsed

    def _news(self, parsed: Parsed, *, ended: bool) -> list[Delta]:
        message, news = parsed.message, []
        for kind, text in ((DeltaKind.THINKING, message.thinking or ""), (DeltaKind.TEXT, message.text)):
            sure = text if ended else self._sure(text)
            given = self._given[kind]
            if len(sure) > len(given) and sure.startswith(given):
                news.append(Delta(kind, sure[len(given) :]))
                self._given[kind] = sure
        for call in message.tool_calls[self._calls :]:
            news.append(Delta(DeltaKind.CALL, call=call))
        self._calls = max(self._calls, len(message.tool_calls))
        return news

    def _sure(self, text: str) -> str:
        """The part of a text that stays, whatever comes."""
        text = text.rstrip("\ufffd")
        for stop in self._reader.stop.strings:
            text = text[: len(text) - max((n for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)]
        return text.rstrip()
