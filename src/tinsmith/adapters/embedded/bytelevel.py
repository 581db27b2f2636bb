"""A tokenizer that needs no file: one id per byte, then the control tokens of the chat formats.

Ids 0 to 255 are the bytes; the control tokens follow in a fixed order. The order is part of every model that was
trained with it: append only, in place of a reserved name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from tinsmith.domain.errors import ShapeError
from tinsmith.domain.tokens import Ints, ints

CONTROL_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<pad>",
    "<tool_response>",
    "</tool_response>",
    *(f"<|reserved_{i}|>" for i in range(6)),
)
VOCAB_SIZE = 256 + len(CONTROL_TOKENS)


class ByteLevelTokenizer:
    """Vocabulary of 272; any text round-trips, and so does any byte."""

    name = "bytelevel"
    vocab_size = VOCAB_SIZE
    special_tokens: Mapping[str, int] = MappingProxyType({t: 256 + i for i, t in enumerate(CONTROL_TOKENS)})
    eos_ids = (special_tokens["<|endoftext|>"],)
    bos_id: int | None = None
    chat_template: str | None = None

    def __init__(self) -> None:
        self._bytes = [bytes([b]) for b in range(256)] + [t.encode() for t in CONTROL_TOKENS]

    def encode(self, text: str) -> Ints:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def encode_with_offsets(self, text: str) -> tuple[Ints, Ints]:
        ids = self.encode(text)
        starts_character = (ids & 0xC0) != 0x80  # every byte of UTF-8 but 10xxxxxx starts a character
        return ids, np.cumsum(starts_character, dtype=np.int32) - np.int32(1)

    def encode_batch(self, texts: Sequence[str]) -> list[Ints]:
        return [self.encode(t) for t in texts]

    def decode(self, ids: Sequence[int] | Ints) -> str:
        array = ints(ids)
        if array.size and array.min() < 0:
            raise ShapeError(f"token id {array.min()} is negative")
        if not array.size or array.max() < 256:
            return array.astype(np.uint8).tobytes().decode(errors="replace")
        table = self._bytes  # ids that pad a model's vocabulary stand for nothing
        return b"".join([table[i] if i < VOCAB_SIZE else b"\xef\xbf\xbd" for i in array.tolist()]).decode(
            errors="replace"
        )

    def token_bytes(self) -> list[bytes]:
        return list(self._bytes)
