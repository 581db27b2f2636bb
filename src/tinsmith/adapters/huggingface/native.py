"""The native encoder for a tokenizer, where it gives the same ids.

Nothing is taken on trust: before it is used for a tokenizer, it encodes texts that are made to break tokenizers, and
every id must be that of `tokenizers`. Where one differs, or the tokenizer is of another kind, there is no native
encoder, and all else works as before.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as Fast

from tinsmith import _native
from tinsmith.domain.errors import ModelError

CHARACTERS = (
    *("a", "B", "é", "e\u0301", "ß", "ſ", "\u212a", "ǅ", "ʰ", "ª", "Ω", "\u2126", "日本", "かな", "カ", "한"),
    *("\u1100\u1161", "हि", "ภา", "ע", "𝒜", "𐍈", "\U00020000", "\ufb00", "\u0327\u0301", "1", "1234567", "٣", "²"),
    *("¼", "Ⅷ", " ", "   ", "\n", "\r\n", "\n\n", "\t", "\x0b", "\x1c", "\x85", "\xa0", "\u200b", "\u200d"),
    *("\u2028", "\u3000", "\ufeff", "'s", "'LL", "'ſ", "n't", "!", "?!\n", "//", '{"a":', "_", "-", "👩\u200d👧"),
    *("\0", "\x07", "\ue000", "\U0010ffff", "\u2581"),
)
PROBES = (
    *("".join(pair) for pair in itertools.product(CHARACTERS, repeat=2)),
    *("x" + c + "Yz " + c + c + " the" for c in CHARACTERS),
    "".join(CHARACTERS),
    "ab" * 300,
    "The quick brown fox jumps over the lazy dog.\n\n  It's 12,345 o'clock -- isn't it?\n\tdef f(x):\r\n    return x\n",
)


def native_encoder(
    plain: Mapping[str, Any], library: Fast, token_bytes: Sequence[bytes], control: Sequence[int]
) -> _native.TextEncoder | None:
    """plain: the tokenizer without its control tokens; `library`: with them, which no probe spells."""
    if plain["model"].get("type", "BPE") != "BPE" or plain["model"].get("dropout") or plain["added_tokens"]:
        return None
    try:
        encoder = _native.TextEncoder(json.dumps(_dense(plain)), token_bytes, control)
    except ModelError:  # of a kind that it does not know
        return None
    expected = library.encode_batch_fast(PROBES, add_special_tokens=False)
    for text, encoded in zip(PROBES, expected, strict=True):
        ids = encoder.encode(text)
        if ids is not None and ids.tolist() != encoded.ids:
            return None
    return encoder


def _dense(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same with a piece for each id, which the encoder wants, and without pieces that no merge makes, which it
    would find all the same. What stands in for them is nothing that a text gives."""
    model, vocabulary = plain["model"], dict(plain["model"]["vocab"])
    if not model.get("ignore_merges"):
        made = {"".join(m.split(" ", 1) if isinstance(m, str) else m) for m in model["merges"]}
        kept = {model.get("unk_token"), *(f"<0x{byte:02X}>" for byte in range(256))}
        for piece in [p for p in vocabulary if len(p) > 1 and p not in made and p not in kept]:
            del vocabulary[piece]
    last = max(plain["model"]["vocab"].values(), default=-1)
    holes = set(range(last + 1)) - set(vocabulary.values())
    return {**plain, "model": {**model, "vocab": {**vocabulary, **{f"\0\0{id}": id for id in holes}}}}
