"""The adapter to Tinker servers keeps the contracts of trainers and samplers, against the server of the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_embedded_trainer_contract import CONFIG
from tinker_on_loopback import SDK_LEAVES_SOCKETS, Loopback, SmallEngine

from tinsmith import _native
from tinsmith.adapters.tinker.sampler import kept_sampler
from tinsmith.adapters.tinker.trainer import TinkerTrainer
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import Lora
from tinsmith.testing.contracts import SamplerContract, TrainerContract
from tinsmith.testing.contracts._common import LAW, random_batch, seeds, wait

pytest.importorskip("tinker", reason="needs the extra: tinker")
pytestmark = SDK_LEAVES_SOCKETS


class _OnLoopback:
    loopback: ClassVar[Loopback]

    @classmethod
    def engine(cls) -> SmallEngine:
        raise NotImplementedError

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory):
        cls.loopback = Loopback(cls.engine(), tmp_path_factory.mktemp("server"))
        yield
        cls.loopback.close()


class TestTinkerTrainer(_OnLoopback, TrainerContract):
    @classmethod
    def engine(cls):
        tokens = [bytes([i]) for i in range(CONFIG["vocab_size"])]
        return SmallEngine(_native.Model.random(json.dumps(CONFIG), 1), tokens)

    def make(self):
        engine = self.loopback.engine
        trainer = TinkerTrainer(
            self.loopback.service,
            model=engine.name,
            lora=Lora(rank=4, unembed=True),
            seed=3,
            run_name="contract",
            context=engine.context,
            vocab_size=engine.model.vocab_size,
            token_bytes=engine.token_bytes,
            deterministic=True,
        )
        wait(trainer.forward(random_batch(trainer.info, [1], 0)))  # the server makes the model
        return trainer

    def weights(self, trainer):
        return self.loopback.weights(trainer)


PARITY = Path(__file__).parents[1] / "data" / "parity" / "llama"


class TestTinkerSampler(_OnLoopback, SamplerContract):
    @classmethod
    def engine(cls):
        return SmallEngine(_native.Model.load(str(PARITY)), [bytes([ord("0") + i]) for i in range(48)])

    def make(self):
        engine = self.loopback.engine
        return kept_sampler(
            self.loopback.service,
            engine.name,
            context=engine.context,
            vocab_size=engine.model.vocab_size,
            token_bytes=engine.token_bytes,
        )

    def token_bytes(self):
        return self.loopback.engine.token_bytes

    @LAW
    @given(seed=seeds, start=st.integers(0, 6), size=st.integers(1, 3))
    def test_stop_ids_and_stop_strings_hold_together_though_the_wire_has_one_list(self, seed, start, size):
        """As the engine stops that knows both."""
        prompt = self.prompt(3, seed)
        with self.fresh() as sampler, self.loopback.engine.sampler() as engine:
            free = self.one(engine, prompt, seed=seed, max_tokens=10)
            text = b"".join(self.token_bytes()[t] for t in free.tokens[start : start + size]).decode()
            params = SamplingParams(
                max_tokens=10, seed=seed, stop=(text,), stop_ids=(int(free.tokens[5]), 7), top_logprobs=2
            )
            for ours, theirs in zip(
                wait(sampler.sample(prompt, params, n=3)).completions,
                wait(engine.sample(prompt, params, n=3)).completions,
                strict=True,
            ):
                assert ours.tokens.tolist() == theirs.tokens.tolist()
                assert ours.logprobs.tobytes() == theirs.logprobs.tobytes()
                assert ours.finish == theirs.finish
                assert ours.top_ids.tolist() == theirs.top_ids.tolist()
