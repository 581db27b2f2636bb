"""The bytes that each token stands for.

Byte-level BPE spells bytes in an alphabet of printable characters (Radford et al. 2019, GPT-2, section 2.2 and its
released encoder): bytes that print keep their character, the others take the characters from U+0100 on, in order.
SentencePiece spells a space as U+2581 and a byte outside its vocabulary as `<0xNN>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tinsmith.domain.errors import ModelError

_PRINTABLE = frozenset([*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)])
_OTHERS = [b for b in range(256) if b not in _PRINTABLE]
BYTE_TO_CHAR: dict[int, str] = {b: chr(b) for b in _PRINTABLE} | {b: chr(0x100 + i) for i, b in enumerate(_OTHERS)}
_CHAR_TO_BYTE = {ord(c): b for b, c in BYTE_TO_CHAR.items()}
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def table(spec: Mapping[str, Any], vocabulary: Mapping[int, str], added: Mapping[int, str], name: str) -> list[bytes]:
    """Bytes by id, from 0 to the largest; ids that stand for no token have none."""
    kinds = set(_types(spec.get("decoder"))) | set(_types(spec.get("pre_tokenizer")))
    byte_level = "ByteLevel" in kinds
    if not byte_level and not kinds & {"Metaspace", "ByteFallback"}:
        found = ", ".join(sorted(kinds)) or "neither"
        raise ModelError(f"{name}: a tokenizer must be byte-level or SentencePiece; this one is {found}")
    out = [b""] * (max([*vocabulary, *added], default=-1) + 1)
    for id, piece in vocabulary.items():
        out[id] = _byte_level(piece) if byte_level else _sentencepiece(piece)
    for id, text in added.items():
        out[id] = text.encode()
    return out


def _byte_level(piece: str) -> bytes:
    try:
        return bytes([_CHAR_TO_BYTE[ord(c)] for c in piece])
    except KeyError:  # a token that is no spelling of bytes stands for its own text
        return piece.encode()


def _sentencepiece(piece: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


def _types(node: Any) -> Iterator[str]:
    """Every "type" in a part of a tokenizer.json."""
    if isinstance(node, Mapping):
        if isinstance(node.get("type"), str):
            yield node["type"]
        for value in node.values():
            yield from _types(value)
    elif isinstance(node, list):
        for value in node:
            yield from _types(value)
