"""The embedded sampler keeps the contract of samplers."""

import functools
from pathlib import Path

from tinsmith import _native
from tinsmith.adapters.embedded.trainer import EmbeddedTrainer
from tinsmith.ports.trainer import AdamW, LossSpec
from tinsmith.testing.contracts import SamplerContract
from tinsmith.testing.contracts._common import random_batch

MODEL = Path(__file__).parents[1] / "data" / "parity" / "llama"
TOKEN_BYTES = [bytes([ord("0") + i]) for i in range(48)]


@functools.cache
def trained():
    """A trainer whose model is neither uniform nor certain."""
    trainer = EmbeddedTrainer(
        _native.Model.load(str(MODEL)),
        name="contract",
        state_dir=None,
        lora=None,
        seed=0,
        threads=1,
        micro_batch_tokens=64,
        token_bytes=TOKEN_BYTES,
    )
    for step in range(5):
        trainer.forward_backward(random_batch(trainer.info, [16] * 4, step), LossSpec("cross_entropy"))
        trainer.optim_step(AdamW(learning_rate=0.03)).result()
    return trainer


class TestEmbeddedSampler(SamplerContract):
    def make(self):
        return trained().sampler().result()

    def token_bytes(self):
        return TOKEN_BYTES
