"""Tokenizers read from files."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Fast

from small_tokenizer import MARKS, SPECIAL, small_bpe, small_bpe_spec
from tinsmith.adapters.huggingface.gguf import from_metadata
from tinsmith.adapters.huggingface.tokenizer import HuggingFaceTokenizer, load_tokenizer, save_tokenizer
from tinsmith.domain.errors import CapabilityError, ModelError, ModelNotFoundError, ShapeError
from tinsmith.testing import FakeTokenizer


@pytest.mark.parametrize("tokenizer", [FakeTokenizer(), small_bpe()])
def test_ids_beyond_the_vocabulary_show_as_unknown(tokenizer: Any) -> None:
    assert tokenizer.decode([tokenizer.encode("a")[0], tokenizer.vocab_size + 5]) == "a\ufffd"
    with pytest.raises(ShapeError, match="negative"):
        tokenizer.decode([-1])


@pytest.mark.parametrize("mark", [*SPECIAL, *MARKS])
def test_the_library_alone_would_give_control_tokens_for_text(mark: str) -> None:
    whole, tokenizer = Fast.from_str(json.dumps(small_bpe_spec())), small_bpe()
    control = tokenizer.special_tokens[mark]
    assert control in whole.encode(f"a{mark}b").ids
    assert control not in tokenizer.encode(f"a{mark}b")
    assert tokenizer.decode(tokenizer.encode(f"a{mark}b")) == f"a{mark}b"


def sentencepiece(model: dict[str, Any], added: tuple[str, ...]) -> HuggingFaceTokenizer:
    space = "\u2581"
    vocabulary = model["vocab"]
    ids = {p[0]: i for i, p in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec = {
        "version": "1.0",
        "added_tokens": [{"id": ids[t], "content": t, **flags} for t in added],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": space},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": model,
    }
    return HuggingFaceTokenizer(spec, {"eos_token": "</s>"}, name="spm")


def test_a_unigram_model_that_would_match_a_control_token_is_kept_from_it() -> None:
    """Its vocabulary holds the control tokens with the best score of all, so the model itself prefers them."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", *"abcs</>"]
    scores = [0.0, 0.0, 0.0, *[-20.0] * 256, *[-5.0] * 8]
    vocabulary = [list(p) for p in zip(pieces, scores, strict=True)]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": True}
    tokenizer = sentencepiece(model, ("<s>", "</s>"))
    for text in ("<s>", "a<s>b</s>c", "<<s>s>", " é"):
        ids = tokenizer.encode(text)
        assert not {1, 2} & set(ids.tolist())
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode_batch([text])[0].tolist() == ids.tolist()
        assert tokenizer.encode_with_offsets(text)[0].tolist() == ids.tolist()
    assert tokenizer.encode_with_offsets("a<s>")[1].tolist() == [0, 1, 2, 3]


def test_sentencepiece_bytes() -> None:
    pieces = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "a", "\u2581a"]
    model = {
        "type": "BPE",
        "vocab": {p: i for i, p in enumerate(pieces)},
        "merges": [["\u2581", "a"]],
        "unk_token": "<unk>",
        "byte_fallback": True,
        "fuse_unk": True,
    }
    tokenizer = sentencepiece(model, ("</s>",))
    table = tokenizer.token_bytes()
    assert (table[2 + 0x0A], table[-1], table[1]) == (b"\n", b" a", b"</s>")
    assert tokenizer.encode("a a\n").tolist() == [len(pieces) - 2, len(pieces) - 1, 2 + 0x0A]
    assert tokenizer.decode(tokenizer.encode("a aé\n")) == "a aé\n"


def write(folder: Path, **files: Any) -> Path:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_a_directory_says_what_ends_and_what_opens_a_text(tmp_path: Path) -> None:
    opening = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    folder = write(
        tmp_path,
        tokenizer={**small_bpe_spec(), "post_processor": opening},
        tokenizer_config={
            "eos_token": {"content": "<|im_end|>"},
            "chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": "y"}],
            "renderer": "chatml",
        },
        generation_config={"eos_token_id": [2, 0, 10**6]},
    )
    tokenizer, renderer = load_tokenizer(folder)
    assert (tokenizer.eos_ids, tokenizer.bos_id, tokenizer.chat_template, renderer) == ((2, 0), 1, "y", "chatml")
    (folder / "chat_template.jinja").write_text("z")
    assert load_tokenizer(folder)[0].chat_template == "z"


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    save_tokenizer(small_bpe(), tmp_path, renderer="qwen3")
    loaded, renderer = load_tokenizer(tmp_path)
    assert renderer == "qwen3"
    assert loaded.token_bytes() == small_bpe().token_bytes()
    assert (loaded.special_tokens, loaded.eos_ids) == (small_bpe().special_tokens, small_bpe().eos_ids)
    assert loaded.encode("The fox.\n").tolist() == small_bpe().encode("The fox.\n").tolist()
    with pytest.raises(CapabilityError):
        save_tokenizer(FakeTokenizer(), tmp_path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        load_tokenizer(tmp_path)
    for broken in ({}, {"model": {"type": "BPE"}}, {"model": 3}, [], {**small_bpe_spec(), "added_tokens": [{}]}):
        write(tmp_path, tokenizer=broken)
        with pytest.raises(ModelError):
            load_tokenizer(tmp_path)
    word = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    write(tmp_path, tokenizer={"version": "1.0", "added_tokens": [], "model": word})
    with pytest.raises(ModelError, match="byte-level or SentencePiece"):
        load_tokenizer(tmp_path)


def rank_file(folder: Path) -> Path:
    """The small tokenizer's tokens as ranks, with its control tokens beside."""
    spec = small_bpe_spec()
    table = small_bpe().token_bytes()
    merged = [piece for piece in spec["model"]["vocab"] if piece not in SPECIAL]
    lines = [
        base64.b64encode(table[id]) + b" %d" % (id - len(SPECIAL))
        for id in sorted(spec["model"]["vocab"][p] for p in merged)
    ]
    path = folder / "small.tiktoken"
    path.write_bytes(b"\n".join(lines) + b"\n")
    first = len(lines)
    added = {str(first + i): {"content": text, "special": text in SPECIAL} for i, text in enumerate([*SPECIAL, *MARKS])}
    write(folder, tokenizer_config={"pre_tokenizer": "qwen2", "added_tokens_decoder": added, "eos_token": SPECIAL[2]})
    return path


def test_a_rank_file_gives_the_same_tokens(tmp_path: Path) -> None:
    path = rank_file(tmp_path)
    for where in (path, tmp_path):
        tokenizer, _ = load_tokenizer(where)
        for text in ("The quick brown fox.\n\nIt's 123 <think>", '{"x": [1, 2]}\n', " café\t\u6570\u5b66 <|im_end|>"):
            pieces = [tokenizer.token_bytes()[i] for i in tokenizer.encode(text)]
            assert pieces == [small_bpe().token_bytes()[i] for i in small_bpe().encode(text)]
        assert set(tokenizer.special_tokens) == {*SPECIAL, *MARKS}
        assert tokenizer.eos_ids == (tokenizer.special_tokens["<|im_end|>"],)


def test_a_rank_file_that_cannot_be_read_says_where(tmp_path: Path) -> None:
    path = rank_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\n", b"\n!? x\n", 1))
    with pytest.raises(ModelError, match="line 2: not a token"):
        load_tokenizer(path)
    path.write_bytes(whole + whole.splitlines()[0])
    with pytest.raises(ModelError, match="has rank 0 already"):
        load_tokenizer(path)
    path.write_bytes(whole[:300])
    with pytest.raises(ModelError):
        load_tokenizer(path)
    path.write_bytes(whole)
    write(tmp_path, tokenizer_config={})
    with pytest.raises(ModelError, match="does not say how text is split"):
        load_tokenizer(path)


def gguf_metadata() -> dict[str, Any]:
    spec = small_bpe_spec()
    by_id = sorted((id, piece) for piece, id in spec["model"]["vocab"].items())
    tokens = [piece for _, piece in by_id] + MARKS
    return {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": tokens,
        "types": [3 if t in SPECIAL else 4 if t in MARKS else 1 for t in tokens],
        "merges": [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]],
        "eos": tokens.index("<|im_end|>"),
        "bos": tokens.index("<|im_start|>"),
        "add_bos": False,
        "chat_template": "t",
    }


def test_a_gguf_file_carries_the_same_tokenizer() -> None:
    found = gguf_metadata()
    tokenizer = HuggingFaceTokenizer(*from_metadata(found, "x.gguf"), name="x.gguf")
    assert tokenizer.token_bytes() == small_bpe().token_bytes()
    assert tokenizer.special_tokens == small_bpe().special_tokens
    for text in ("The quick brown fox.\n\nIt's 123 <think>", '{"x": [1, 2]}\n', " café\t"):
        assert tokenizer.encode(text).tolist() == small_bpe().encode(text).tolist()
    assert (tokenizer.eos_ids, tokenizer.bos_id, tokenizer.chat_template) == ((found["eos"],), None, "t")
    opened = HuggingFaceTokenizer(*from_metadata({**found, "add_bos": True}, "x.gguf"), name="x.gguf")
    assert opened.bos_id == found["bos"]
    for other in ({"model": "llama"}, {"pre": "unheard-of"}):
        with pytest.raises(ModelError, match=r"x\.gguf: its tokenizer is"):
            from_metadata({**found, **other}, "x.gguf")
