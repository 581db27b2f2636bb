"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tinsmith.domain.tokens import Ints


class Tokenizer(Protocol):
    """Encodes text. `encode` never gives a control token for text: text is text."""

    @property
    def name(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Control tokens by their text, e.g. `<|im_end|>`."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a text."""
        ...

    @property
    def bos_id(self) -> int | None: ...
    @property
    def chat_template(self) -> str | None: ...

    def encode(self, text: str) -> Ints: ...
    def decode(self, ids: Sequence[int] | Ints) -> str:
        """Text of the ids, control tokens included; bytes that are not UTF-8 become U+FFFD."""
        ...

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for, for all of the vocabulary (control tokens: their text)."""
        ...
