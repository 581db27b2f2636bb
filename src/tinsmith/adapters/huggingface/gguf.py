"""The tokenizer in a GGUF file, as `tokenizer.json` and `tokenizer_config.json` would hold it.

GGUF names its pre-tokenizer instead of describing it; the descriptions here are those of the families' own
`tokenizer.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinsmith.domain.errors import ModelError

_CONTROL, _USER_DEFINED = 3, 4


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split_by(pattern: str) -> dict[str, Any]:
    """Words are the matches of a regular expression and what lies between them."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(False)]}


def _gpt4(digits: str) -> dict[str, Any]:
    return split_by(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _byte_level(True),
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(True)],
    },
    "qwen2": _gpt4(r"\p{N}"),
    "llama-bpe": _gpt4(r"\p{N}{1,3}"),
}


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tokenizer.json, tokenizer_config.json) of a GGUF file. Raises ModelError."""
    from tinsmith import _native

    if not path.is_file():
        raise ModelError(f"{path}: there is no such file")
    return from_metadata(_native.read_gguf_tokenizer(path), str(path))


def from_metadata(found: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same from what the file says: `model`, `pre`, `tokens`, `types`, `merges`, `bos`, `eos`, `add_bos`, ..."""
    pre = found.get("pre") or "gpt-2"
    if found["model"] != "gpt2" or pre not in PRE_TOKENIZERS:
        raise ModelError(
            f"{name}: its tokenizer is {found['model']!r} with pre-tokenizer {pre!r}; "
            f"byte-level BPE ('gpt2') with {', '.join(PRE_TOKENIZERS)} can be read"
        )
    tokens, types = found["tokens"], found["types"] or [1] * len(found["tokens"])
    added = [
        {
            "id": id,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for id, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": _byte_level(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": {text: id for id, text in enumerate(tokens)},
            "merges": [m.split(" ", 1) for m in found["merges"]],
        },
    }
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": bool(found.get("add_bos"))}
    for key in ("bos", "eos", "pad", "unk"):
        if found.get(key) is not None and found[key] < len(tokens):
            config[f"{key}_token"] = tokens[found[key]]
    if found.get("chat_template"):
        config["chat_template"] = found["chat_template"]
    return spec, config
