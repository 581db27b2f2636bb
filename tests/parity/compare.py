"""The embedded engine against an oracle's answers; imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinsmith import _native

Arrays = Mapping[str, Any]


def trainer(directory: Path, lora: Mapping[str, Any] | None, *, threads: int = 1) -> _native.Trainer:
    lora = lora or {}
    return _native.Trainer(
        _native.Model.load(directory),
        lora_rank=lora.get("rank"),
        lora_alpha=lora.get("alpha", 1.0),
        seed=0,
        train_attn=lora.get("attn", True),
        train_mlp=lora.get("mlp", True),
        train_unembed=lora.get("unembed", True),
        threads=threads,
        micro_batch_tokens=64,
    )


def worst(directory: Path, answers: Arrays, meta: Mapping[str, Any]) -> dict[str, float]:
    """The largest difference of each kind: logprobs in nats; gradients and values relative to the largest entry of
    their tensor (values: to how far the largest entry moved)."""
    t = trainer(directory, meta["lora"])
    if meta["lora"]:
        t.set_parameters({name: np.asarray(answers[f"start/{name}"], np.float32) for name in t.parameters()})
    started = t.parameters()
    batch = [np.ascontiguousarray(answers[name]) for name in ("tokens", "offsets", "targets")]
    weights = np.ascontiguousarray(answers["weights"])
    adamw = meta["adamw"]
    found: dict[str, float] = {"norm": 0.0, "gradient": 0.0, "value": 0.0, "loss": 0.0}
    for step in range(meta["steps"]):
        logprobs, loss, _ = t.forward_backward(*batch, "cross_entropy", {"weights": weights}, {})
        if step == 0:
            found["logprob"] = float(np.abs(logprobs - answers["logprobs"]).max())
            for name, gradient in t.gradients().items():
                wanted = answers[f"gradient/{name}"]
                assert gradient.shape == wanted.shape, name
                difference = np.abs(gradient - wanted).max() / np.abs(wanted).max()
                found["gradient"] = max(found["gradient"], float(difference))
        norm = t.optim_step(adamw["lr"], *adamw["betas"], adamw["eps"], adamw["weight_decay"], meta["clip"])
        found["norm"] = max(found["norm"], abs(norm["grad_norm"] / float(answers["norms"][step]) - 1))
        found["loss"] = max(found["loss"], abs(loss - float(answers["losses"][step])))
    found["logprob_after"] = float(np.abs(t.forward(*batch) - answers["logprobs_after"]).max())
    for name, value in t.parameters().items():
        start, end = started[name], answers[f"end/{name}"]
        difference = np.abs(value - end).max() / np.abs(end - start).max()
        found["value"] = max(found["value"], float(difference))
    return found
