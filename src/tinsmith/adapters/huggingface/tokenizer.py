"""Tokenizers in Hugging Face form: `tokenizer.json` with the settings beside it, or what a GGUF file carries.

Control tokens are taken out of the tokenizer before it sees any text, so that it cannot give one for what a text says;
the result of each call is checked all the same. Where the native encoder gives the library's ids (`native.py`), it
encodes; the library is then asked for the rare text that the native one declines. Decoding goes through the bytes of
each id, not through the library's decoder, which tidies up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Fast

from tinsmith.adapters.huggingface import token_bytes as bytes_of
from tinsmith.adapters.huggingface.native import native_encoder
from tinsmith.adapters.huggingface.ranks import is_rank_file, read_ranks
from tinsmith.domain.errors import CapabilityError, ModelError, ModelNotFoundError, RenderError, ShapeError
from tinsmith.domain.tokens import Ints, ints, offsets_of
from tinsmith.ports.tokenizer import Piece, ScriptColumns, Tokenizer, encode_scripts


class HuggingFaceTokenizer:
    """A tokenizer from the contents of `tokenizer.json` (`spec`) and `tokenizer_config.json` (`config`).

    `eos_ids` adds ids that end a text beside the config's `eos_token`. Bytes that the vocabulary has no token for
    (SmolLM2's lacks some) fall out of a text when it is encoded, as they do with the library itself.
    """

    def __init__(
        self, spec: Mapping[str, Any], config: Mapping[str, Any], *, name: str, eos_ids: Sequence[int] = ()
    ) -> None:
        self.name = name
        self.spec = spec
        self.config = config
        added = spec.get("added_tokens") or []
        try:
            model = spec["model"]
            self.special_tokens: Mapping[str, int] = {t["content"]: int(t["id"]) for t in added if _is_control(t)}
            whole = Fast.from_str(json.dumps(spec))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise ModelError(f"{name}: not a tokenizer that can be read: {error}") from None
        vocabulary = {int(id): piece for piece, id in whole.get_vocab(with_added_tokens=False).items()}
        self._bytes = bytes_of.table(spec, vocabulary, {int(t["id"]): t["content"] for t in added}, name)
        unknown = model.get("unk_token")
        self._control = np.zeros(len(self._bytes), np.bool_)
        self._control[[id for text, id in self.special_tokens.items() if text != unknown]] = True
        named = self.special_tokens.get(_token_text(config.get("eos_token")) or "")
        self.eos_ids = tuple(dict.fromkeys(i for i in (named, *eos_ids) if i is not None and 0 <= i < len(self._bytes)))
        self.bos_id = self._first_id(whole)
        self._plain = _without(spec, set(self.special_tokens))
        self._native = native_encoder(self._plain, whole, self._bytes, np.flatnonzero(self._control).tolist())
        self.chat_template = _template(config.get("chat_template"))

    def _first_id(self, whole: Fast) -> int | None:
        """What the tokenizer puts before every text of its own accord."""
        opening = whole.encode("", add_special_tokens=True).ids
        if opening and opening[0] in self.special_tokens.values() and opening[0] not in self.eos_ids:
            return int(opening[0])
        if self.config.get("add_bos_token"):
            return self.special_tokens.get(_token_text(self.config.get("bos_token")) or "")
        return None

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    @cached_property
    def _fast(self) -> Fast:
        """The library's tokenizer as if there were no control tokens."""
        try:
            return Fast.from_str(json.dumps(self._plain))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise ModelError(f"{self.name}: not a tokenizer that can be read: {error}") from None

    def encode(self, text: str) -> Ints:
        ids = self._native.encode(text) if self._native is not None else None
        return ids if ids is not None else self._encode_slowly(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[Ints, Ints]:
        found = self._native.encode_with_offsets(text) if self._native is not None else None
        return found if found is not None else self._encode_slowly(text)

    def encode_batch(self, texts: Sequence[str]) -> list[Ints]:
        if self._native is None:
            encoded = self._fast.encode_batch_fast(texts, add_special_tokens=False)
            arrays = [np.array(e.ids, np.int32) for e in encoded]
            return [
                self._encode_slowly(text)[0] if self._control[ids].any() else ids
                for text, ids in zip(texts, arrays, strict=True)
            ]
        offsets, ids, _, _, _ = self.encode_scripts([[(text, 0, 0)] for text in texts])
        return [ids[a:b] for a, b in pairwise(offsets.tolist())]

    def encode_scripts(self, scripts: Sequence[Sequence[Piece]]) -> ScriptColumns:
        if self._native is None:
            return encode_scripts(self, scripts)
        offsets, ids, message, origin, special, declined = self._native.encode_scripts(list(scripts))
        columns = (offsets, ids, message, origin, special)
        if not declined:
            return columns
        return _spliced(columns, declined, encode_scripts(self, [scripts[i] for i in declined]))

    def _encode_slowly(self, text: str) -> tuple[Ints, Ints]:
        encoded = self._fast.encode(text, add_special_tokens=False)
        ids = np.array(encoded.ids, np.int32)
        if self._control[ids].any():
            return self._apart(text)
        return ids, np.array([start for start, _ in encoded.offsets], np.int32)

    def _apart(self, text: str) -> tuple[Ints, Ints]:
        """Encode a text whose control token names the model itself would match, each name cut after its first
        character."""
        cuts = {0, len(text)}
        for name in self.special_tokens:
            at = text.find(name)
            while at >= 0:
                cuts.add(at + 1)
                at = text.find(name, at + 1)
        ids: list[int] = []
        starts: list[int] = []
        for a, b in pairwise(sorted(cuts)):
            encoded = self._fast.encode(text[a:b], add_special_tokens=False)
            ids += encoded.ids
            starts += [a + start for start, _ in encoded.offsets]
        array: Ints = np.array(ids, np.int32)
        if self._control[array].any():
            bad = self._bytes[int(array[self._control[array]][0])].decode(errors="replace")
            raise RenderError(f"tokenizer {self.name!r} gives the control token {bad!r} for the text {text[:60]!r}")
        return array, np.array(starts, np.int32)

    def decode(self, ids: Sequence[int] | Ints) -> str:
        array = ints(ids)
        if array.size and array.min() < 0:
            raise ShapeError(f"token id {array.min()} is negative")
        table, size = self._bytes, len(self._bytes)  # ids that pad a model's vocabulary stand for nothing
        return b"".join([table[i] if i < size else b"\xef\xbf\xbd" for i in array.tolist()]).decode(errors="replace")

    def token_bytes(self) -> list[bytes]:
        return list(self._bytes)


def _spliced(most: ScriptColumns, rows: Sequence[int], others: ScriptColumns) -> ScriptColumns:
    """`most` with `others` in place of these (empty) rows."""
    lengths = np.diff(most[0])
    lengths[list(rows)] = np.diff(others[0])
    parts: list[tuple[ScriptColumns, int, int]] = []
    at = 0
    for row, (start, end) in zip(rows, pairwise(others[0].tolist()), strict=True):
        parts += [(most, at, int(most[0][row])), (others, start, end)]
        at = int(most[0][row])
    parts.append((most, at, len(most[1])))
    return (
        offsets_of(lengths),
        np.concatenate([c[1][a:b] for c, a, b in parts]),
        np.concatenate([c[2][a:b] for c, a, b in parts]),
        np.concatenate([c[3][a:b] for c, a, b in parts]),
        np.concatenate([c[4][a:b] for c, a, b in parts]),
    )


def load_tokenizer(path: Path) -> tuple[HuggingFaceTokenizer, str | None]:
    """The tokenizer of a Hugging Face directory (tokenizer.json, or a rank file and what `ranks.py` asks for), of a
    .gguf file or of a rank file, and the name of the chat format stored with it, if one is.

    Raises ModelNotFoundError, ModelError.
    """
    if path.suffix == ".gguf":
        from tinsmith.adapters.huggingface.gguf import read_gguf

        spec, config = read_gguf(path)
        return HuggingFaceTokenizer(spec, config, name=path.name), None
    ranks = None
    if path.is_file():
        path, ranks = path.parent, path
    elif not (path / "tokenizer.json").is_file():
        ranks = next((p for p in (*path.glob("*.tiktoken"), *path.glob("*.model")) if is_rank_file(p)), None)
        if ranks is None:
            raise ModelNotFoundError(f"{path} holds no tokenizer.json")
    config = _read(path / "tokenizer_config.json", missing={})
    for key, text in _read(path / "special_tokens_map.json", missing={}).items():
        config.setdefault(key, text)
    if (path / "chat_template.jinja").is_file():
        config["chat_template"] = (path / "chat_template.jinja").read_text(encoding="utf-8")
    spec = _read(path / "tokenizer.json") if ranks is None else read_ranks(ranks, config)
    eos: list[int] = []
    for file in ("generation_config.json", "config.json"):
        given = _read(path / file, missing={}).get("eos_token_id")
        eos += [i for i in (given if isinstance(given, list) else [given]) if isinstance(i, int)]
    stored = config.get("renderer")
    return (
        HuggingFaceTokenizer(spec, config, name=path.name, eos_ids=eos),
        stored if isinstance(stored, str) else None,
    )


def save_tokenizer(tokenizer: Tokenizer, directory: Path, *, renderer: str | None = None) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, from which `load_tokenizer` and transformers load it
    again."""
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        raise CapabilityError(f"tokenizer {tokenizer.name!r} has no Hugging Face form to write")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer.config}
    if tokenizer.eos_ids and not config.get("eos_token"):
        config["eos_token"] = tokenizer.token_bytes()[tokenizer.eos_ids[0]].decode()
    if renderer is not None:
        config["renderer"] = renderer
    for name, value in (("tokenizer.json", tokenizer.spec), ("tokenizer_config.json", config)):
        half = directory / f"{name}.part"
        half.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(half, directory / name)


def _is_control(token: Mapping[str, Any]) -> bool:
    """Special tokens, and those added for chats without being called special (`<think>`, `<tool_call>`). Added words
    and runs of blanks are text."""
    text = token["content"]
    return bool(token.get("special")) or (text[:1] in "<[" and text[-1:] in ">]" and len(text) > 2)


def _without(spec: Mapping[str, Any], control: set[str]) -> dict[str, Any]:
    """The tokenizer as if its control tokens did not exist, and without what adds, cuts and pads."""
    model = dict(spec["model"])
    if isinstance(model.get("vocab"), Mapping):
        keep = {model.get("unk_token")} | _merged(model)
        model["vocab"] = {piece: id for piece, id in model["vocab"].items() if piece not in control or piece in keep}
    added = [t for t in spec.get("added_tokens") or [] if t["content"] not in control]
    return {**spec, "model": model, "added_tokens": added, "post_processor": None, "truncation": None, "padding": None}


def _merged(model: Mapping[str, Any]) -> set[str]:
    """Pieces that merges name: a vocabulary without them does not load."""
    pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in model.get("merges") or ())
    return {piece for a, b in pairs for piece in (a, b, a + b)}


def _token_text(value: Any) -> str | None:
    """A token in a config: its text, or an object with its `content`."""
    return value.get("content") if isinstance(value, Mapping) else value


def _template(value: Any) -> str | None:
    """The chat template; of several named ones, `default`."""
    if isinstance(value, list):
        value = {t.get("name"): t.get("template") for t in value if isinstance(t, Mapping)}.get("default")
    return value if isinstance(value, str) else None


def _read(file: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    if missing is not None and not file.is_file():
        return dict(missing)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file} must hold an object, not {type(value).__name__}")
    return value
