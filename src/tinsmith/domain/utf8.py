"""Bytes that arrive in pieces, to text: what streams a completion token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinsmith._native import Utf8Decoder, decode_utf8
from tinsmith.domain.tokens import offsets_of

__all__ = ["Utf8Decoder", "decode_rows"]


def decode_rows(rows: Sequence[bytes]) -> list[str]:
    """The text of each row, invalid bytes as U+FFFD, as `bytes.decode(errors="replace")` gives it."""
    return decode_utf8(np.frombuffer(b"".join(rows), np.uint8), offsets_of([len(row) for row in rows]))
