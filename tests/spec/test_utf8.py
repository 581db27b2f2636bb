"""Chapter: bytes to text.

A token is bytes, and may end in the middle of a character. A stream of tokens becomes a stream of text by holding back
what is not yet certain: at most three bytes. Bytes that can belong to no character become U+FFFD, one for each maximal
part that began as a character (The Unicode Standard, section 3.9), which is what Python's `errors="replace"` does.
"""

from __future__ import annotations

import re
from itertools import accumulate

from hypothesis import example, given
from hypothesis import strategies as st

from reference import utf8 as reference
from tinsmith.domain.utf8 import Utf8Decoder, decode_rows

hostile = st.lists(
    st.one_of(st.integers(0, 255), st.sampled_from([0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xED, 0xA0]))
).map(bytes)
"""Bytes rich in characters begun, broken and continued."""
text = st.text().map(lambda s: s.encode("utf-8", "ignore"))
rows = st.one_of(hostile, text)


HALF_A_PAIR = re.compile(rb"\xed[\xa0-\xbf]\Z", re.DOTALL)


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    whole = draw(rows)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(pieces())
@example([b"\xf0\x9f", b"\x98\x80"])  # a character in two pieces
@example([b"\xe2\x82", b"x"])  # broken off by the next piece
@example([b"\xed", b"\xa0\x80"])  # half a surrogate pair: never a character
@example([b"\xf4\x90", b""])  # beyond the last character
@example([b"\xf0\x9f\x98"])  # broken off by the end
@example([b"\xed\xa0"])
@example([b"\xed\xa0", b"", b"x"])
def test_each_piece_gives_the_text_that_pythons_decoder_gives(parts: list[bytes]) -> None:
    """But for the first two bytes of half a surrogate pair: Python waits for the third, though they are no character
    whatever it is; here two U+FFFD come at once."""
    decoder = Utf8Decoder()
    ours = accumulate([*(decoder.push(p) for p in parts), decoder.finish()])
    seen = [*accumulate(parts), b""]  # at the end nothing is held any more
    for text, theirs, read in zip(ours, accumulate(reference.decode_pieces(parts)), seen, strict=True):
        assert text == theirs + "\ufffd\ufffd" * bool(HALF_A_PAIR.search(read))


@given(pieces())
def test_the_text_does_not_depend_on_the_pieces(parts: list[bytes]) -> None:
    decoder = Utf8Decoder()
    streamed = "".join(decoder.push(p) for p in parts) + decoder.finish()
    assert streamed == b"".join(parts).decode("utf-8", "replace")


@given(pieces(), rows)
def test_a_finished_decoder_is_new_again(parts: list[bytes], after: bytes) -> None:
    decoder = Utf8Decoder()
    for p in parts:
        decoder.push(p)
    decoder.finish()
    assert decoder.push(after) == Utf8Decoder().push(after)


@given(st.lists(rows))
def test_rows_are_decoded_each_on_its_own(several: list[bytes]) -> None:
    assert decode_rows(several) == [row.decode("utf-8", "replace") for row in several]
