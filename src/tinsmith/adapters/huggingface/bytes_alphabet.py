"""The alphabet of byte-level BPE: a printable character for every byte.

Radford et al. 2019 (GPT-2), section 2.2 and the released encoder: bytes that print keep their character, the others
take the characters from U+0100 on, in order.
"""

from __future__ import annotations

_PRINTABLE = frozenset([*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)])
_OTHERS = [b for b in range(256) if b not in _PRINTABLE]
BYTE_TO_CHAR: dict[int, str] = {b: chr(b) for b in _PRINTABLE} | {b: chr(0x100 + i) for i, b in enumerate(_OTHERS)}
CHAR_TO_BYTE: dict[str, int] = {c: b for b, c in BYTE_TO_CHAR.items()}
