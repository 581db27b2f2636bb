"""The in-memory backend keeps the contracts of trainers and samplers."""

from typing import ClassVar

import numpy as np
from faults import SmallTokenizer

from tinsmith.testing import FakeTrainer, MemoryBlobStore
from tinsmith.testing.contracts import SamplerContract, TrainerContract

TOKENIZER = SmallTokenizer()


class TestFakeTrainer(TrainerContract):
    states: ClassVar = MemoryBlobStore()

    def make(self):
        return FakeTrainer(TOKENIZER, context=64, states=self.states)

    def weights(self, trainer):
        return trainer.weights.ravel()

    def overflow(self, trainer):
        super().overflow(trainer)
        trainer._worker.submit(lambda: trainer._gradient.fill(np.inf))  # float64 does not overflow on float32 input


class TestFakeSampler(SamplerContract):
    def make(self):
        trainer = FakeTrainer(TOKENIZER, context=64)
        try:
            return trainer.sampler().result()
        finally:
            trainer.close()

    def token_bytes(self):
        return TOKENIZER.token_bytes()
