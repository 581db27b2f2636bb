"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from tinsmith.domain.tokens import Ints, Offsets, offsets_of

Piece: TypeAlias = tuple[str | int | None, int, int]
"""One piece of a script: what it is (text, the id of a control token, or None for a border between runs of text), and
two numbers that each of its tokens carries: message and origin."""
ScriptColumns: TypeAlias = tuple[Offsets, Ints, Ints, npt.NDArray[np.uint8], npt.NDArray[np.bool_]]
"""Of N scripts: offsets [N + 1], and per token its id, message, origin, and whether it is a control token."""


class Tokenizer(Protocol):
    """Encodes text. Encoding never gives a control token, whatever the text says: text is text.

    Whoever wants a control token takes its id from `special_tokens`.
    """

    @property
    def name(self) -> str: ...
    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Control tokens by their text, e.g. `<|im_end|>`."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Control tokens that end a text, most usual first."""
        ...

    @property
    def bos_id(self) -> int | None:
        """The id that every text starts with; None where texts start without. `encode` does not add it."""
        ...

    @property
    def chat_template(self) -> str | None: ...

    def encode(self, text: str) -> Ints: ...

    def encode_with_offsets(self, text: str) -> tuple[Ints, Ints]:
        """Ids, and for each the index of the character of `text` that it starts in (never falling)."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Ints]:
        """`encode` of each text, without the interpreter lock where the tokenizer can."""
        ...

    def decode(self, ids: Sequence[int] | Ints) -> str:
        """Text of the ids, control tokens included; bytes that are not UTF-8 become U+FFFD."""
        ...

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for, for all of the vocabulary (control tokens: their text)."""
        ...


@runtime_checkable
class ScriptEncoder(Protocol):
    """A power that a tokenizer may have: many scripts in one call, without the interpreter lock."""

    def encode_scripts(self, scripts: Sequence[Sequence[Piece]]) -> ScriptColumns:
        """What the function `encode_scripts` gives, which is how a tokenizer without this power is asked."""
        ...


def encode_scripts(tokenizer: Tokenizer, scripts: Sequence[Sequence[Piece]]) -> ScriptColumns:
    """Texts that follow one another are encoded as one run; each token carries the numbers of the piece that it starts
    in."""
    rows = [_encode(tokenizer, pieces) for pieces in scripts]
    return (
        offsets_of([len(row) for row in rows]),
        np.array([id for row in rows for id, _, _ in row], np.int32),
        np.array([piece[1] for row in rows for _, piece, _ in row], np.int32),
        np.array([piece[2] for row in rows for _, piece, _ in row], np.uint8),
        np.array([special for row in rows for _, _, special in row], np.bool_),
    )


def _encode(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> list[tuple[int, Piece, bool]]:
    """Ids, each with the piece that it starts in and whether it is a control token."""
    out: list[tuple[int, Piece, bool]] = []
    for is_text, group in groupby(pieces, lambda piece: isinstance(piece[0], str)):
        run = list(group)
        if is_text:
            texts = [str(piece[0]) for piece in run]
            ids, starts = tokenizer.encode_with_offsets("".join(texts))
            owners = np.searchsorted(np.cumsum([len(text) for text in texts]), starts, side="right")
            out += [(id, run[min(i, len(run) - 1)], False) for id, i in zip(ids.tolist(), owners, strict=True)]
        else:
            out += [(int(piece[0]), piece, True) for piece in run if piece[0] is not None]
    return out
