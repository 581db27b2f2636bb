"""Sampling: what a completion is, and what is known about it. The laws stand in `tinsmith.testing.contracts.sampler`
and hold for every sampler; here they are run on the embedded engine.

Write p(x | prefix) for the model's distribution over the next token, the softmax of its logits. Sampling draws from the
distribution that is left after, in this order,

    temperature t:  q proportional to p^(1/t), or the likeliest token for t = 0
    top-k:          the k likeliest tokens
    top-p:          the smallest set of likeliest tokens that has at least probability p

and reports for each token log p of the *model*, temperature 1 and nothing filtered: exactly what scoring the finished
sequence gives. A completion ends after a stop id (which belongs to it), once its text holds a stop string, or at
`max_tokens` or the context. Completion j of a call draws from (seed, j) and its position alone.

On the embedded engine that last law holds to the bit: the arithmetic of one sequence does not depend on which others
share its batch, nor on the number of threads.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinsmith import _native
from tinsmith.adapters.embedded.sampler import EmbeddedSampler
from tinsmith.ports.sampler import SamplingParams
from tinsmith.testing.contracts import SamplerContract

VOCABULARY = 40
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 48,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "hidden_act": "silu",
}
FAMILIES = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "tie_word_embeddings": False},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "tie_word_embeddings": True},
}


def sampler(family: str, threads: int = 1) -> EmbeddedSampler:
    model = _native.Model.random(json.dumps({**SHAPE, **FAMILIES[family]}), 7)
    return EmbeddedSampler(
        model.snapshot(),
        policy_version=-1,
        threads=threads,
        token_bytes=[bytes([65 + i]) for i in range(VOCABULARY)],
    )


class TestLlama(SamplerContract):
    def make(self) -> EmbeddedSampler:
        return sampler("llama")

    def token_bytes(self) -> list[bytes]:
        return [bytes([65 + i]) for i in range(VOCABULARY)]


class TestQwen3(TestLlama):
    def make(self) -> EmbeddedSampler:
        return sampler("qwen3")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_completion_is_the_same_bits_alone_in_company_and_on_any_number_of_threads(family: str) -> None:
    prompts = [np.arange(1, 2 + i, dtype=np.int32) for i in range(9)]
    params = [SamplingParams(max_tokens=12, seed=i, temperature=0.8, top_p=0.9) for i in range(9)]

    def alone(i: int, threads: int) -> bytes:
        one = sampler(family, threads)
        completion = one.sample(prompts[i], params[i], n=2).result().completions[1]
        one.close()
        return completion.tokens.tobytes() + completion.logprobs.tobytes()

    together = sampler(family)
    pending = [together.sample(p, q, n=2) for p, q in zip(prompts, params, strict=True)]
    for i, work in enumerate(pending):
        completion = work.result().completions[1]
        bits = completion.tokens.tobytes() + completion.logprobs.tobytes()
        assert bits == alone(i, 1)
    together.close()
