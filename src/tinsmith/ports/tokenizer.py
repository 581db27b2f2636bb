"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from tinsmith.domain.tokens import Ints, Offsets

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
        """Texts that follow one another are encoded as one run; each token carries the numbers of the piece that it
        starts in. The ids are those that `encode` gives for the run."""
        ...
