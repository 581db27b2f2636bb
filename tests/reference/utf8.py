"""Python's own incremental decoder."""

from __future__ import annotations

import codecs


def decode_pieces(pieces: list[bytes]) -> list[str]:
    """The text that each piece makes certain, and at last that of the end."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [*(decoder.decode(piece) for piece in pieces), decoder.decode(b"", final=True)]
