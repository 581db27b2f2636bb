"""Reading a completion while it is sampled."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
from attrs import frozen

from tinsmith.domain.messages import Message, ToolCall
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


_CREDIT = 32
"""Tokens that may be parsed again for each token fed: what makes the cost of a stream linear in its length."""
_FIRST_CREDIT = 1 << 15


class Stream:
    """Fed tokens as they come, in pieces of any size; `finish` gives exactly what `Renderer.parse` gives for all of
    them.

    `feed` gives what is new in the message. Joined by kind, the deltas of a clean completion are its thinking, text and
    calls. What a later token may still change is held back: trailing whitespace, half a character, the start of a
    stop string. In a broken completion (thinking after text, say) a later token can change more; what was given
    stays given then, and `finish` says how the message really reads.

    Only control tokens and stop strings change how a message reads; all other tokens lengthen the part that is open. So
    the whole is parsed again after those alone, and less often than that where they are so many that it would take more
    than linear time.
    """

    def __init__(self, reader: Reader, parse: Callable[[Ints], Parsed]) -> None:
        tokenizer, stop = reader.tokenizer, reader.stop
        self._parse = parse
        self._stops = stop.strings
        self._bytes = tokenizer.token_bytes()
        self._marks = frozenset((*tokenizer.special_tokens.values(), *stop.ids, *tokenizer.eos_ids))
        self._probe = tokenizer.encode("x")
        self._ids: list[int] = []
        self._credit = _FIRST_CREDIT
        self._given: dict[DeltaKind, list[str]] = {DeltaKind.THINKING: [], DeltaKind.TEXT: []}
        self._calls = 0
        self._stale = True
        """The message must be parsed again to know what is open."""
        self._open: DeltaKind | None = None
        """The part that plain tokens lengthen."""
        self._anchored = False
        """All of the open part is known: what was given, then `_pending`."""
        self._pending = ""
        self._run = self._recent = ""
        """Plain tokens since the last mark, until anchored; the last characters of it."""
        self._decoder = _decoder()

    def feed(self, ids: Sequence[int] | Ints | int) -> list[Delta]:
        new = ints([ids] if isinstance(ids, int) else ids).tolist()
        self._ids += new
        self._credit += _CREDIT * len(new)
        if any(id in self._marks or id < 0 for id in new):
            self._stale = True
        elif not self._stale:
            if self._open is None:
                return []
            text = self._lengthen(new)
            if not self._stale and not self._anchored and not _settled(self._run).strip():
                return []
            if not self._stale and self._anchored:
                self._pending += text
                return self._settled()
        return self._read_again() if new else []

    def finish(self) -> tuple[list[Delta], Parsed]:
        """The deltas held back so far, and the completion as a whole."""
        parsed = self._parse(np.array(self._ids, np.int32))
        return self._news(parsed, ended=True), parsed

    def _read_again(self) -> list[Delta]:
        self._stale = True
        if self._credit < 2 * len(self._ids):
            return []
        self._credit -= 2 * len(self._ids)
        ids = np.array(self._ids, np.int32)
        parsed = self._parse(ids)
        news = self._news(parsed, ended=False)
        # What one more letter lengthens is open.
        more = self._parse(np.concatenate([ids, self._probe])).message
        longer = [k for k in self._given if len(_part(more, k)) > len(_part(parsed.message, k))]
        self._open = longer[0] if longer else None
        start = next((n + 1 for n in range(len(self._ids) - 1, -1, -1) if self._ids[n] in self._marks), 0)
        self._start_run(self._ids[start:])
        self._stale = False
        self._anchored = self._open is not None and bool(_settled(self._run).strip())
        if self._open is not None and self._anchored:
            part, run = _settled(_part(parsed.message, self._open)), _settled(self._run)
            known = part + self._run[len(run) :]
            given = "".join(self._given[self._open])
            if not part.endswith(run.lstrip()) or not known.startswith(given):  # a broken completion
                self._open = None
            self._pending = known[len(given) :]
            self._run = ""
        return news

    def _start_run(self, ids: Sequence[int]) -> None:
        self._decoder = _decoder()
        self._run = self._recent = ""
        self._lengthen(ids)

    def _lengthen(self, ids: Sequence[int]) -> str:
        known = len(self._bytes)
        text = self._decoder.decode(b"".join([self._bytes[i] if i < known else b"\xef\xbf\xbd" for i in ids]))
        if self._stops:
            self._recent += text
            self._stale |= any(stop in self._recent for stop in self._stops)
            self._recent = self._recent[-max(map(len, self._stops)) :]
        if not self._anchored:
            self._run += text
        return text

    def _settled(self) -> list[Delta]:
        sure = self._sure(self._pending)
        if not sure or self._open is None:
            return []
        self._pending = self._pending[len(sure) :]
        self._given[self._open].append(sure)
        return [Delta(self._open, sure)]

    def _news(self, parsed: Parsed, *, ended: bool) -> list[Delta]:
        message, news = parsed.message, []
        for kind, chunks in self._given.items():
            text = _part(message, kind)
            sure = text if ended else self._sure(text)
            given = "".join(chunks)
            if len(sure) > len(given) and sure.startswith(given):
                news.append(Delta(kind, sure[len(given) :]))
                chunks[:] = [sure]
        for call in message.tool_calls[self._calls :]:
            news.append(Delta(DeltaKind.CALL, call=call))
        self._calls = max(self._calls, len(message.tool_calls))
        return news

    def _sure(self, text: str) -> str:
        """The part of a text that stays, whatever comes."""
        text = text.rstrip("\ufffd")
        for stop in self._stops:
            text = text[: len(text) - max((n for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)]
        return text.rstrip()


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


def _part(message: Message, kind: DeltaKind) -> str:
    return message.text if kind is DeltaKind.TEXT else message.thinking or ""


def _settled(text: str) -> str:
    """Without what half a character and a format's trimming leave at the end."""
    return text.rstrip("\ufffd").rstrip()
