"""Text at which tokenizers go wrong."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from tinsmith.adapters.huggingface.native import CHARACTERS
from tinsmith.testing.strategies import HOSTILE, texts


@cache
def hostile_texts() -> st.SearchStrategy[str]:
    """Text of characters from every corner of Unicode, and of those at which tokenizers go wrong."""
    piece = st.sampled_from((*CHARACTERS, *HOSTILE)) | st.text(max_size=4) | texts(1)
    return st.lists(piece | st.tuples(piece, st.integers(2, 9)).map(lambda p: p[0] * p[1]), max_size=8).map("".join)
