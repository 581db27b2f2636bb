"""Rank files, as tiktoken reads them: a line for each token, its bytes in base64 and its rank, which is its id.

A rank file does not say how text is split into words, nor which control tokens there are. `tokenizer_config.json`
beside it does: under `pre_tokenizer` (a regular expression, or a name that GGUF has for one) and
`added_tokens_decoder`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinsmith.adapters.huggingface.gguf import PRE_TOKENIZERS, split_by
from tinsmith.adapters.huggingface.token_bytes import BYTE_TO_CHAR
from tinsmith.domain.errors import ModelError


def is_rank_file(path: Path) -> bool:
    """Whether its first line is one of a rank file."""
    try:
        with path.open("rb") as file:
            _line(file.readline(1 << 16))
    except (OSError, ValueError):
        return False
    return True


def read_ranks(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer.json of a rank file. Raises ModelError."""
    pre = config.get("pre_tokenizer")
    if not isinstance(pre, str):
        raise ModelError(
            f"{path}: a rank file does not say how text is split into words; write a regular expression, or one of "
            f'{", ".join(PRE_TOKENIZERS)}, as "pre_tokenizer" into {path.parent / "tokenizer_config.json"}'
        )
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = _line(line)
        except ValueError:
            raise ModelError(f"{path}, line {number}: not a token in base64 and its rank: {line[:60]!r}") from None
        if token in ranks:
            raise ModelError(f"{path}, line {number}: its token has rank {ranks[token]} already")
        ranks[token] = rank
    if missing := [b for b in range(256) if bytes([b]) not in ranks]:
        raise ModelError(f"{path}: no rank for byte {missing[0]:#04x}; cut short?")
    added = config.get("added_tokens_decoder") or {}
    spelled = {token: "".join(BYTE_TO_CHAR[b] for b in token) for token in ranks}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": int(id), "content": t["content"], **flags, "special": bool(t.get("special", True))}
            for id, t in sorted(added.items(), key=lambda item: int(item[0]))
        ],
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS.get(pre) or split_by(pre),
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {spelled[token]: rank for token, rank in ranks.items()},
            "merges": _merges(ranks, spelled),
            "ignore_merges": True,
        },
    }


def _line(line: bytes) -> tuple[bytes, int]:
    token, rank = line.split()
    return base64.b64decode(token, validate=True), int(rank)


def _merges(ranks: Mapping[bytes, int], spelled: Mapping[bytes, str]) -> list[list[str]]:
    """Every pair that makes a token, by the token's rank. A token's bytes, once they stand alone, are always merged in
    the same order, so of its pairs only one is ever met; the others do no harm."""
    return [
        [spelled[token[:i]], spelled[token[i:]]]
        for token in sorted(ranks, key=ranks.__getitem__)
        for i in range(1, len(token))
        if token[:i] in ranks and token[i:] in ranks
    ]
