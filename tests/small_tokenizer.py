"""A small BPE tokenizer in Hugging Face form, trained on the spot, with what makes real ones hard: merges that run over
line ends, control tokens inside the vocabulary, and chat marks that are added without being called special."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tinsmith.adapters.huggingface.tokenizer import HuggingFaceTokenizer

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
TEXTS = [
    "The quick brown fox.\n\nIt jumps, it runs.\n",
    "user\nassistant\nsystem\n\n\n   spaces   and\ttabs\n",
    '{"name": "add", "arguments": {"x": 1, "y": [2, 3]}}\n',
    "User: hi.\n\nAssistant: Hello!\n\nUser: bye\n\n",
    "<think> </think> <|im_end|> café naïve 数学 \U0001f9ee\n",
] * 8


@lru_cache
def small_bpe_spec() -> dict[str, Any]:
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    fast.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=480,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    fast.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    spec: dict[str, Any] = json.loads(fast.to_str())
    return spec


@lru_cache
def small_bpe() -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(small_bpe_spec(), {"eos_token": "<|endoftext|>"}, name="small-bpe")
