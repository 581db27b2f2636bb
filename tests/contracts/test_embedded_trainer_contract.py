"""The embedded trainer keeps the contract of trainers, with LoRA and with all weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tinsmith import _native
from tinsmith.adapters.embedded.trainer import EmbeddedTrainer
from tinsmith.ports.trainer import Lora
from tinsmith.testing.contracts import TrainerContract

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
MODEL = _native.Model.random(json.dumps(CONFIG), 1)


class _Embedded(TrainerContract):
    lora: ClassVar[Lora | None]
    states: Path

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def directory(cls, tmp_path_factory):
        cls.states = tmp_path_factory.mktemp("states")

    def make(self):
        return EmbeddedTrainer(
            MODEL,
            name="contract",
            state_dir=self.states,
            lora=self.lora,
            seed=3,
            threads=1,
            micro_batch_tokens=16,
            token_bytes=[bytes([i]) for i in range(CONFIG["vocab_size"])],
        )

    def weights(self, trainer):
        return np.concatenate([v.ravel() for v in trainer._native.parameters().values()]).astype(np.float64)


class TestLowRank(_Embedded):
    lora = Lora(rank=4, alpha=8.0, unembed=True)


class TestAllWeights(_Embedded):
    lora = None
