"""Chapter 1c: the native encoder is the library, only faster.

For every kind of tokenizer that the families use, each with a small vocabulary trained on the spot, the native encoder
is in use and its ids are those of `tokenizers`, whatever the text. `tests/families` holds the same law for the
families' real vocabularies.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from hostile_texts import hostile_texts
from small_tokenizer import SPECIAL, TEXTS
from tinsmith.adapters.huggingface.native import PROBES
from tinsmith.adapters.huggingface.tokenizer import HuggingFaceTokenizer
from tinsmith.ports.tokenizer import encode_scripts

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END
QWEN3_5 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _END
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"{_CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*" + _END
)
KIMI = r"[\p{Han}]+|" + O200K.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace(r"[\r\n/]*", r"[\r\n]*")
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    + _END,
)
PATTERNS: dict[str, tuple[str, ...]] = {
    "llama3": (LLAMA3,),
    "qwen2": (LLAMA3.replace("{1,3}", ""),),
    "qwen3.5": (QWEN3_5,),
    "o200k": (O200K,),
    "kimi": (KIMI,),
    "tekken": (O200K.replace(_CONTRACTIONS + "?", "").replace("{1,3}", ""),),
    "deepseek": DEEPSEEK,
}
KINDS = (*PATTERNS, "gpt2", "smollm2", "gemma")


@cache
def tokenizer(kind: str) -> HuggingFaceTokenizer:
    if kind == "gemma":
        return gemma()
    fast = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    if kind.startswith("qwen"):
        fast.normalizer = normalizers.NFC()
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind not in PATTERNS)
    splits: list[Any] = [pre_tokenizers.Split(Regex(p), "isolated") for p in PATTERNS.get(kind, ())]
    splits += [pre_tokenizers.Digits(individual_digits=True)] if kind == "smollm2" else []
    fast.pre_tokenizer = pre_tokenizers.Sequence([*splits, level]) if splits else level
    fast.decoder = decoders.ByteLevel()
    fast.train_from_iterator(
        [*TEXTS, *PROBES[::7]],
        trainers.BpeTrainer(
            vocab_size=900,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    spec = json.loads(fast.to_str())
    if kind == "smollm2":  # its vocabulary lacks some bytes
        for byte in ("\u00f3", "\u00f4", "\u0107"):
            del spec["model"]["vocab"][byte]
        spec["model"]["merges"] = [
            m for m in spec["model"]["merges"] if not set("".join(m)) & set("\u00f3\u00f4\u0107")
        ]
    return HuggingFaceTokenizer(spec, {"eos_token": SPECIAL[0]}, name=kind)


def gemma() -> HuggingFaceTokenizer:
    """BPE over characters, bytes where there is none, and no words: a text is merged as a whole."""
    space = "\u2581"
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256)), *"abcdefghinorstTx", space]
    merges = [("t", "h"), ("th", "e"), (space, "the"), (space, space), ("a", "b"), ("ab", "ab"), ("x", space)]
    pieces += [a + b for a, b in merges]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": pieces[i], **flags} for i in range(4)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": space},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [list(m) for m in merges],
            "unk_token": "<unk>",
            "byte_fallback": True,
            "fuse_unk": True,
        },
    }
    return HuggingFaceTokenizer(spec, {"eos_token": "<eos>"}, name="gemma")


every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@given(text=hostile_texts())
@example("//\U0001df76=a...123 ²\U00010348")
@example("  \x0b")
@example("123 \U000110dd")
@example("e\u0301\u0327 \u1100\u1161\u2126")
@example("<|endoftext|><eos>")
def test_ids_are_those_of_the_library(kind: str, text: str) -> None:
    ours = tokenizer(kind)
    native = ours._native
    assert native is not None, "no native encoder"
    assert ours.encode(text).tolist() == ours._encode_slowly(text)[0].tolist()
    ids = native.encode(text)
    if ids is not None:
        assert ids.tolist() == ours._fast.encode(text, add_special_tokens=False).ids


@every_kind
@given(text=hostile_texts())
def test_a_native_offset_is_the_character_that_the_token_starts_in(kind: str, text: str) -> None:
    native = tokenizer(kind)._native
    assert native is not None
    found = native.encode_with_offsets(text)
    if found is None:  # a normalizer changed the text
        return
    table, at = tokenizer(kind).token_bytes(), 0
    ends = np.cumsum([len(c.encode()) for c in text])
    for id, start in zip(*(column.tolist() for column in found), strict=True):
        assert start == np.searchsorted(ends, at, side="right")
        at += len(table[id])
    assert at == len(text.encode())


class Slow:
    """The same tokenizer without its native encoder."""

    def __init__(self, whole: HuggingFaceTokenizer) -> None:
        self.encode_with_offsets = whole._encode_slowly


@every_kind
@given(data=st.data())
def test_tokens_belong_to_the_pieces_that_the_library_says(kind: str, data: st.DataObject) -> None:
    ours = tokenizer(kind)
    what: st.SearchStrategy[Any] = hostile_texts() | hostile_texts() | st.just(1) | st.none()
    piece = st.tuples(what, st.integers(-1, 5), st.integers(0, 2))
    scripts = data.draw(st.lists(st.lists(piece, max_size=6), max_size=4))
    slowly: Any = Slow(ours)
    for fast, slow in zip(ours.encode_scripts(scripts), encode_scripts(slowly, scripts), strict=True):
        assert fast.tolist() == slow.tolist()


def test_a_tokenizer_that_the_native_encoder_would_read_otherwise_has_none() -> None:
    """\\w takes in other characters with the library's regular expressions than with others."""
    spec = json.loads(json.dumps(tokenizer("llama3").spec))
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\w+|[^\w\s]+|\s+"}
    spec["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    other = HuggingFaceTokenizer(spec, {}, name="other")
    assert other._native is None
    assert other.encode(" a²b ").tolist() == other._fast.encode(" a²b ").ids
    assert other.encode_batch(["a²", ""])[0].tolist() == other._fast.encode("a²").ids
