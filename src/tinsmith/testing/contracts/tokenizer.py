"""The contract of a Tokenizer. Subclass it and supply `make`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.ports.tokenizer import ScriptEncoder, Tokenizer, encode_scripts
from tinsmith.testing.contracts._common import LAW, seeds


class TokenizerContract:
    """Laws of every Tokenizer whose bytes are the text's (byte-level BPE and the like)."""

    def make(self) -> Tokenizer:
        """The tokenizer; it may be the same object each time."""
        raise NotImplementedError

    def texts(self) -> st.SearchStrategy[str]:
        """Text, mixed with what looks like control tokens."""
        control = sorted(self.make().special_tokens) or ["<none>"]
        piece = st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
            st.sampled_from([*control, " ", "\n\n", "  12345", "naïve", "日本語", "👩‍👧", "don't"]),
        )
        return st.lists(piece, max_size=5).map("".join)

    @LAW
    @given(data=st.data())
    def test_decoding_gives_the_text_back(self, data: st.DataObject) -> None:
        tokenizer, text = self.make(), data.draw(self.texts())
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32
        assert ids.ndim == 1
        assert tokenizer.decode(ids) == text
        assert b"".join(tokenizer.token_bytes()[i] for i in ids) == text.encode()

    @LAW
    @given(data=st.data())
    def test_text_is_text_even_where_it_spells_a_control_token(self, data: st.DataObject) -> None:
        tokenizer, text = self.make(), data.draw(self.texts())
        assert not set(tokenizer.encode(text).tolist()) & set(tokenizer.special_tokens.values())
        for spelled in tokenizer.special_tokens:
            assert not set(tokenizer.encode(spelled).tolist()) & set(tokenizer.special_tokens.values())

    @LAW
    @given(data=st.data())
    def test_a_batch_and_offsets_are_of_the_same_ids(self, data: st.DataObject) -> None:
        """Offset i is the character that id i starts in, so they start at 0 and never fall."""
        tokenizer, texts = self.make(), data.draw(st.lists(self.texts(), max_size=4))
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            assert ids.tolist() == tokenizer.encode(text).tolist()
            again, offsets = tokenizer.encode_with_offsets(text)
            assert again.tolist() == ids.tolist()
            assert offsets.shape == ids.shape
            start = 0
            pieces = tokenizer.token_bytes()
            ends = np.cumsum([len(character.encode()) for character in text])
            for token, offset in zip(ids, offsets, strict=True):
                assert offset == int(np.searchsorted(ends, start, side="right"))
                start += len(pieces[token])

    @LAW
    @given(data=st.data())
    def test_many_scripts_at_once_are_their_runs_one_by_one(self, data: st.DataObject) -> None:
        """Of the power `ScriptEncoder`, where a tokenizer has it."""
        tokenizer = self.make()
        if not isinstance(tokenizer, ScriptEncoder):
            pytest.skip("the tokenizer does not have this power")
        control = st.sampled_from(sorted(tokenizer.special_tokens.values()) or [0])
        what: st.SearchStrategy[str | int | None] = self.texts() | self.texts() | control | st.none()
        piece = st.tuples(what, st.integers(-1, 5), st.integers(0, 2))
        scripts = data.draw(st.lists(st.lists(piece, max_size=6), max_size=5))
        for given_, expected in zip(tokenizer.encode_scripts(scripts), encode_scripts(tokenizer, scripts), strict=True):
            assert np.asarray(given_).dtype == np.asarray(expected).dtype
            assert np.array_equal(np.asarray(given_), np.asarray(expected))

    @LAW
    @given(seed=seeds, length=st.integers(0, 12))
    def test_any_ids_decode_to_what_their_bytes_say(self, seed: int, length: int) -> None:
        tokenizer = self.make()
        ids = np.random.default_rng(seed).integers(0, tokenizer.vocab_size, length).astype(np.int32)
        joined = b"".join(tokenizer.token_bytes()[i] for i in ids)
        assert tokenizer.decode(ids) == joined.decode("utf-8", "replace")
        assert tokenizer.decode(ids.tolist()) == tokenizer.decode(ids)

    def test_ids_and_control_tokens_fit_together(self) -> None:
        tokenizer = self.make()
        pieces = tokenizer.token_bytes()
        assert len(pieces) == tokenizer.vocab_size
        special = tokenizer.special_tokens
        assert len(set(special.values())) == len(special)
        for text, token in special.items():
            assert pieces[token] == text.encode()
            assert tokenizer.decode([token]) == text
        assert set(tokenizer.eos_ids) <= set(special.values())
        assert tokenizer.bos_id is None or 0 <= tokenizer.bos_id < tokenizer.vocab_size
        assert tokenizer.name

    def test_no_text_is_no_token(self) -> None:
        tokenizer = self.make()
        assert tokenizer.encode("").shape == (0,)
        assert tokenizer.decode([]) == ""
