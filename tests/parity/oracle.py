"""What transformers, peft and torch say: the numbers that the embedded engine must reproduce.

A case is a small random checkpoint of one family with one kind of RoPE scaling, a ragged batch, and a way of training.
The oracle runs in float64, row by row without padding, so that what remains of a difference is the engine's own
rounding in float32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model

STEPS = 10
ADAMW = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
CLIP = 1.0

SHAPE = {
    "vocab_size": 48,
    "hidden_size": 20,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Case:
    """One model and one way of training it; `rope` is Hugging Face's `rope_scaling`."""

    name: str
    family: str
    tied: bool
    rope: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None
    lengths: tuple[int, ...] = (5, 1, 40, 18)
    extra: dict[str, Any] = field(default_factory=dict)


LORA_ALL = {"rank": 4, "alpha": 8.0, "attn": True, "mlp": True, "unembed": False}
CASES = [
    Case("llama", "llama", tied=False),
    Case("llama-linear", "llama", tied=True, rope={"rope_type": "linear", "factor": 2.0}),
    Case(
        "llama-llama3",
        "llama",
        tied=True,
        rope={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        lora=LORA_ALL,
    ),
    Case("qwen2", "qwen2", tied=True, lora=LORA_ALL | {"mlp": False}),
    Case(
        "qwen2-yarn",
        "qwen2",
        tied=False,
        rope={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ),
    Case("qwen3", "qwen3", tied=True),
    Case("qwen3-lora", "qwen3", tied=False, lora=LORA_ALL | {"rank": 3, "unembed": True}),
]

CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}


def model_of(case: Case, seed: int = 0) -> Any:
    """A float64 model whose weights are float32 values, none of them near a trivial point."""
    torch.manual_seed(seed)
    config_class, model_class = CLASSES[case.family]
    shape = dict(SHAPE)
    if case.family == "qwen2":
        shape.pop("head_dim")
        shape["hidden_size"] = 32
    config = config_class(
        **shape,
        tie_word_embeddings=case.tied,
        rope_parameters={"rope_theta": 1000.0, **(case.rope or {"rope_type": "default"})},
        attn_implementation="eager",
        dtype="float32",
    )
    model = model_class(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.2 if p.ndim == 1 else 0.15))
            if "embed" in name:
                p.mul_(2.0)
    return model


def batch_of(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    offsets = np.concatenate([[0], np.cumsum(case.lengths)]).astype(np.int64)
    n = int(offsets[-1])
    weights = rng.uniform(0.2, 1.5, n).astype(np.float32) / n
    weights[rng.uniform(size=n) < 0.25] = 0
    return {
        "tokens": rng.integers(0, SHAPE["vocab_size"], n).astype(np.int32),
        "offsets": offsets,
        "targets": rng.integers(0, SHAPE["vocab_size"], n).astype(np.int32),
        "weights": weights,
    }


def logprobs_of(model: Any, batch: dict[str, np.ndarray]) -> torch.Tensor:
    rows = []
    for start, end in zip(batch["offsets"], batch["offsets"][1:], strict=False):
        ids = torch.tensor(batch["tokens"][start:end], dtype=torch.long)[None]
        logits = model(input_ids=ids).logits[0]
        targets = torch.tensor(batch["targets"][start:end], dtype=torch.long)
        rows.append(torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0])
    return torch.cat(rows)


def lora_config(lora: dict[str, Any]) -> LoraConfig:
    modules = []
    if lora["attn"]:
        modules += ["q_proj", "k_proj", "v_proj", "o_proj"]
    if lora["mlp"]:
        modules += ["gate_proj", "up_proj", "down_proj"]
    if lora["unembed"]:
        modules += ["lm_head"]
    return LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], lora_dropout=0.0, target_modules=modules)


def save(case: Case, directory: Path) -> None:
    """The checkpoint as Hugging Face writes it, in float32."""
    model_of(case).save_pretrained(directory, safe_serialization=True)


def answers(case: Case) -> dict[str, np.ndarray]:
    """Logprobs before and after ten steps, the first gradient, the gradient norms, the final values; all float64.

    Trained tensors are under `start/` (adapters alone: the checkpoint has the others), `gradient/` and `end/`, by the
    names that the engine gives them.
    """
    model, batch = model_of(case).double(), batch_of(case)
    if case.lora is not None:
        model = get_peft_model(model, lora_config(case.lora))
        model.base_model.model.double()
        torch.manual_seed(2)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_" in name:
                    # B starts at zero, where A has no gradient; float32 values, as the engine holds them.
                    p.copy_((torch.randn_like(p) * 0.1).float().double())
    out: dict[str, np.ndarray] = {}
    trained = {_plain(name): p for name, p in model.named_parameters() if p.requires_grad}
    if case.lora is not None:
        for name, p in trained.items():
            out[f"start/{name}"] = p.detach().numpy().copy()
    optimizer = torch.optim.AdamW(list(trained.values()), **ADAMW)
    weights = torch.tensor(batch["weights"]).double()
    norms, losses = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        logprobs = logprobs_of(model, batch)
        loss = -(weights * logprobs).sum()
        loss.backward()
        if step == 0:
            out["logprobs"] = logprobs.detach().numpy()
            for name, p in trained.items():
                out[f"gradient/{name}"] = p.grad.detach().numpy().copy()
        norms.append(float(torch.nn.utils.clip_grad_norm_(list(trained.values()), CLIP)))
        losses.append(loss.item())
        optimizer.step()
    out["norms"], out["losses"] = np.array(norms), np.array(losses)
    out["logprobs_after"] = logprobs_of(model, batch).detach().numpy()
    for name, p in trained.items():
        out[f"end/{name}"] = p.detach().numpy().copy()
    return out


def _plain(name: str) -> str:
    return name.replace(".default.weight", ".weight")


def meta(case: Case) -> str:
    return json.dumps({"lora": case.lora, "steps": STEPS, "clip": CLIP, "adamw": ADAMW})
