"""A script: what a format writes, piece by piece, before it is tokens.

Control tokens are written by name and become their id; text stays text. Text between two control tokens is encoded as
one run, the way a tokenizer encodes a finished chat, with one exception: a run ends where a model's output begins or
ends, because there sampling begins and ends (`cut`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.records import Origin, Rendered

_Piece = tuple[str, int, int]  # text, message, origin


class Script:
    """Collects pieces; `message` owns what is written until it is set again."""

    def __init__(self, tokenizer: Tokenizer, memo: dict[tuple[str, bool], tuple[Ints, Ints]] | None = None) -> None:
        self.message = -1
        self._tokenizer = tokenizer
        self._controls: Mapping[str, int] = tokenizer.special_tokens
        self._runs: list[list[_Piece] | tuple[int, int, int]] = []
        self._open: list[_Piece] | None = None
        self._memo = {} if memo is None else memo

    def control(self, name: str, origin: Origin = Origin.FORMAT) -> None:
        self.control_id(self._controls[name], origin)

    def control_id(self, id: int, origin: Origin = Origin.FORMAT) -> None:
        self._open = None
        self._runs.append((id, self.message, int(origin)))

    def text(self, text: str, origin: Origin = Origin.FORMAT) -> None:
        if not text:
            return
        if self._open is None:
            self._open = []
            self._runs.append(self._open)
        self._open.append((text, self.message, int(origin)))

    def cut(self) -> None:
        """End the run: nothing before is encoded together with anything after."""
        self._open = None

    def render(self) -> Rendered:
        ids: list[Ints] = []
        message: list[Ints] = []
        origin: list[np.ndarray] = []
        special: list[np.ndarray] = []
        for run in self._runs:
            if isinstance(run, tuple):
                tokens, owners, origins = np.array([run[0]], np.int32), [run[1]], [run[2]]
                which = np.zeros(1, np.int64)
            else:
                tokens, which = self._encode(run)
                owners, origins = [p[1] for p in run], [p[2] for p in run]
            ids.append(tokens)
            message.append(np.array(owners, np.int32)[which])
            origin.append(np.array(origins, np.uint8)[which])
            special.append(np.full(len(tokens), isinstance(run, tuple)))
        if not ids:
            return Rendered(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.bool_))
        return Rendered(np.concatenate(ids), np.concatenate(message), np.concatenate(origin), np.concatenate(special))

    def _encode(self, run: list[_Piece]) -> tuple[Ints, np.ndarray]:
        """Ids of a run, and for each the piece that it starts in."""
        text = "".join(p[0] for p in run)
        several = len(run) > 1
        if (text, several) not in self._memo:
            if several:
                self._memo[text, several] = self._tokenizer.encode_with_offsets(text)
            else:
                ids = self._tokenizer.encode(text)
                self._memo[text, several] = (ids, np.zeros(len(ids), np.int32))
        ids, starts = self._memo[text, several]
        ends = np.cumsum([len(p[0]) for p in run])
        return ids, np.minimum(np.searchsorted(ends, starts, side="right"), len(run) - 1)


class LooseScript(Script):
    """Takes control tokens out of any text: for text that is trusted, when a person asks for it."""

    def text(self, text: str, origin: Origin = Origin.FORMAT) -> None:
        for piece in re.split(self._names, text) if self._names else [text]:
            if piece in self._controls:
                self.control(piece, origin)
            else:
                super().text(piece, origin)

    @property
    def _names(self) -> str:
        longest_first = sorted(self._controls, key=len, reverse=True)
        return f"({'|'.join(map(re.escape, longest_first))})" if longest_first else ""
