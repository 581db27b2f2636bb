"""Training arithmetic: what a step computes.

The laws of every trainer (logprobs, accumulation, sums, weights, order, saved states) stand in
`tinsmith.testing.contracts.trainer` and are run on each backend in tests/contracts. Here is what the embedded engine
promises beyond them, in formulas:

    LoRA     W' = W + alpha / rank * B A                           (arXiv:2106.09685, section 4.1)
    clip     g <- g * min(1, c / (|g| + 1e-6)), |g| over all trained tensors
    AdamW    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
             w <- w - lr d w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)     (arXiv:1711.05101, algorithm 2)

A loss is evaluated on whole rows, so that the gradient does not depend on how a batch is cut into micro-batches; any
loss, by name or not, is a forward pass, a function of logprobs, and a backward pass with its derivative.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith import _native
from tinsmith.domain import losses
from tinsmith.domain.datums import Batch
from tinsmith.domain.tokens import offsets_of

VOCABULARY = 24
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCABULARY,
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
lengths = st.lists(st.integers(1, 12), min_size=1, max_size=6)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=15)


def trainer(*, rank: int | None = 4, micro: int = 1024, threads: int = 1, alpha: float = 8.0) -> _native.Trainer:
    return _native.Trainer(
        MODEL, lora_rank=rank, lora_alpha=alpha, seed=3, train_attn=True, train_mlp=True, train_unembed=False,
        threads=threads, micro_batch_tokens=micro,
    )  # fmt: skip


def warm(made: _native.Trainer) -> _native.Trainer:
    """Away from B = 0, where half of the gradients vanish."""
    rng = np.random.default_rng(0)
    made.set_parameters(
        {k: (v + 0.1 * rng.normal(size=v.shape)).astype(np.float32) for k, v in made.parameters().items()}
    )
    return made


def batch(lengths: list[int], seed: int) -> Batch:
    rng, n = np.random.default_rng(seed), sum(lengths)
    return Batch(
        tokens=rng.integers(0, VOCABULARY, n),
        targets=rng.integers(0, VOCABULARY, n),
        weights=rng.integers(0, 2, n),
        logprobs=rng.normal(-3, 0.5, n),
        advantages=rng.normal(0, 1, n),
        offsets=offsets_of(lengths),
    )


def add(made: _native.Trainer, given: Batch, loss: str, options: Mapping[str, Any] | None = None) -> float:
    columns = {"weights": given.weights, "logprobs": given.logprobs, "advantages": given.advantages}
    return made.forward_backward(given.tokens, given.offsets, given.targets, loss, columns, dict(options or {}))[1]


def flat(tensors: Mapping[str, Any]) -> np.ndarray:
    return np.concatenate([tensors[k].ravel() for k in sorted(tensors)]).astype(np.float64)


def assert_same_direction(a: np.ndarray, b: np.ndarray) -> None:
    assert np.abs(a - b).max() <= 2e-4 * max(np.abs(a).max(), 1e-6)


@few
@given(lengths, seeds, st.sampled_from(["cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"]))
def test_a_loss_by_name_is_forward_the_loss_and_backward(lengths: list[int], seed: int, loss: str) -> None:
    given_batch, by_name, by_hand = batch(lengths, seed), warm(trainer()), warm(trainer())
    value = add(by_name, given_batch, loss)
    logprobs = by_hand.forward(given_batch.tokens, given_batch.offsets, given_batch.targets)
    result = losses.evaluate(given_batch, logprobs, loss)
    by_hand.backward(given_batch.tokens, given_batch.offsets, given_batch.targets, result.gradient)
    assert value == pytest.approx(result.value, rel=1e-5, abs=1e-5)
    assert_same_direction(flat(by_name.gradients()), flat(by_hand.gradients()))


@few
@given(lengths, seeds, st.sampled_from(["token_sum", "token_mean", "sequence_mean"]), st.sampled_from([None, 4]))
def test_how_a_batch_is_cut_changes_no_gradient(
    lengths: list[int], seed: int, reduction: str, rank: int | None
) -> None:
    given_batch = batch(lengths, seed)
    if given_batch.num_loss_tokens == 0:
        return
    whole, cut = warm(trainer(rank=rank)), warm(trainer(rank=rank, micro=1, threads=2))
    values = [add(t, given_batch, "importance_sampling", {"reduction": reduction}) for t in (whole, cut)]
    assert values[0] == pytest.approx(values[1], rel=1e-5, abs=1e-6)
    assert_same_direction(flat(whole.gradients()), flat(cut.gradients()))


@few
@given(
    lengths,
    seeds,
    st.sampled_from([0.0, 0.9]),
    st.sampled_from([0.0, 0.95]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([None, 4]),
)
def test_steps_are_those_of_the_formulas(
    lengths: list[int], seed: int, b1: float, b2: float, decay: float, clip: float, rank: int | None
) -> None:
    made, lr, eps = warm(trainer(rank=rank)), 1e-3, 1e-4
    w = flat(made.parameters())
    m = v = np.zeros_like(w)
    for t in (1, 2, 3):
        add(made, batch(lengths, seed + t), "cross_entropy")
        g = flat(made.gradients())
        norm = float(np.sqrt((g**2).sum()))
        reported = made.optim_step(lr, b1, b2, eps, decay, clip)["grad_norm"]
        assert reported == pytest.approx(norm, rel=1e-4, abs=1e-7)
        if clip:
            g = g * min(1.0, clip / (norm + 1e-6))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w - lr * decay * w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        np.testing.assert_allclose(flat(made.parameters()), w, rtol=1e-4, atol=2e-6)


@few
@given(lengths, seeds, st.sampled_from([1.0, 8.0]))
def test_low_rank_adapters_are_the_weights_they_stand_for(lengths: list[int], seed: int, alpha: float) -> None:
    """Merging the factors by the formula, into a trainer of all weights, gives the same logprobs."""
    given_batch, adapted, merged = batch(lengths, seed), warm(trainer(alpha=alpha)), trainer(rank=None)
    factors = {name.removeprefix("base_model.model."): v for name, v in adapted.parameters().items()}
    weights = merged.parameters()
    for name, a in factors.items():
        if ".lora_A." in name:
            b = factors[name.replace(".lora_A.", ".lora_B.")]
            target = name.replace(".lora_A.", ".")
            weights[target] = weights[target] + (alpha / 4) * (b @ a)
    merged.set_parameters({k: np.ascontiguousarray(v, np.float32) for k, v in weights.items()})
    ids = (given_batch.tokens, given_batch.offsets, given_batch.targets)
    np.testing.assert_allclose(adapted.forward(*ids), merged.forward(*ids), atol=2e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rank", [None, 4])
def test_the_same_calls_give_the_same_bits(threads: int, rank: int | None) -> None:
    if threads > _cores():
        pytest.skip("this machine has one processor")

    def bits() -> bytes:
        made = trainer(rank=rank, threads=threads, micro=16)
        for step in range(4):
            add(made, batch([7, 3, 12, 9, 1], step), "cross_entropy")
            made.optim_step(1e-2, 0.9, 0.95, 1e-8, 0.01, 1.0)
        return flat(made.parameters()).tobytes()

    assert bits() == bits()


def _cores() -> int:
    from tinsmith.bootstrap import cores

    return cores()
