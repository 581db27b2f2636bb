"""The trainer of the embedded engine through its binding: losses by name, files, refusals, cancellation."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

from tinsmith import _native
from tinsmith.domain.errors import ConfigError, ShapeError

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
ADAMW = (1e-2, 0.9, 0.95, 1e-8, 0.0, 0.0)


def make(**changes: Any) -> _native.Trainer:
    settings: dict[str, Any] = {
        "lora_rank": 4,
        "lora_alpha": 8.0,
        "seed": 1,
        "train_attn": True,
        "train_mlp": True,
        "train_unembed": False,
        "threads": 1,
        "micro_batch_tokens": 24,
    }
    return _native.Trainer(_native.Model.random(json.dumps(CONFIG), 7), **(settings | changes))


def batch(seed: int = 0, k: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, 9, 0, 20, 3, 31, 8]).astype(np.int64)
    n = int(offsets[-1])
    shape = n if k is None else (n, k)
    return rng.integers(0, 40, n).astype(np.int32), offsets, rng.integers(0, 40, shape).astype(np.int32)


def columns(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "weights": (rng.uniform(size=n) < 0.7).astype(np.float32),
        "logprobs": rng.normal(-3.7, 0.3, n).astype(np.float32),
        "advantages": rng.normal(size=n).astype(np.float32),
        "reference_logprobs": rng.normal(-3.7, 0.3, n).astype(np.float32),
    }


@pytest.mark.parametrize("reduction", ["token_sum", "token_mean", "sequence_mean"])
@pytest.mark.parametrize("loss", _native.LOSSES)
def test_a_loss_by_name_is_the_kernel_and_a_backward(loss: str, reduction: str) -> None:
    """However the batch is cut in micro-batches: the denominator is the whole batch's."""
    tokens, offsets, targets = batch()
    given = columns(len(tokens))
    options: dict[str, float | str] = {"reduction": reduction, "kl_coef": 0.1, "entropy_coef": 0.01}
    t = make()
    logprobs, value, metrics = t.forward_backward(tokens, offsets, targets, loss, given, options)
    by_name = t.gradients()
    wanted, gradient, wanted_metrics = _native.token_loss(
        loss, options, offsets, logprobs, *(given[c] for c in given), 1, None
    )
    assert value == pytest.approx(wanted, rel=1e-9)
    assert metrics == pytest.approx(wanted_metrics, rel=1e-9)
    t.zero_grad()
    again = t.backward(tokens, offsets, targets, gradient)
    assert again.tobytes() == logprobs.tobytes()
    for name, g in t.gradients().items():
        np.testing.assert_allclose(by_name[name], g, rtol=1e-5, atol=1e-7)


def test_logprobs_have_the_shape_of_the_targets() -> None:
    t = make()
    tokens, offsets, targets = batch(k=3)
    together = t.forward(tokens, offsets, targets)
    assert together.shape == targets.shape
    assert together.dtype == np.float32
    for k in range(3):
        alone = t.forward(tokens, offsets, np.ascontiguousarray(targets[:, k]))
        np.testing.assert_allclose(alone, together[:, k], atol=1e-6)


def test_a_model_from_a_seed_is_the_same_again() -> None:
    tokens, offsets, targets = batch()
    assert make().forward(tokens, offsets, targets).tobytes() == make().forward(tokens, offsets, targets).tobytes()
    assert make(seed=2).parameters().keys() == make().parameters().keys()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert not np.array_equal(make(seed=2).parameters()[name], make().parameters()[name])


def test_lora_starts_as_peft_does() -> None:
    """A uniform within 1 / sqrt(in), B zero."""
    for name, value in make(lora_rank=16, train_unembed=True).parameters().items():
        if "lora_B" in name:
            assert not value.any()
        else:
            bound = 1 / np.sqrt(value.shape[1])
            assert np.abs(value).max() <= bound
            assert value.std() == pytest.approx(bound / np.sqrt(3), rel=0.15)


def test_an_adapter_and_a_merged_model_on_disk_are_what_was_trained(tmp_path: Any) -> None:
    t = make(train_unembed=True)
    tokens, offsets, targets = batch()
    for _ in range(3):
        t.forward_backward(tokens, offsets, targets, "cross_entropy", {}, {})
        t.optim_step(*ADAMW)
    logprobs = t.forward(tokens, offsets, targets)
    t.save_adapter(tmp_path / "adapter", "base")
    meta, tensors = _native.load_adapter(tmp_path / "adapter")
    assert (meta["rank"], meta["alpha"], meta["base_model"]) == (4, 8.0, "base")
    other = make(train_unembed=True, seed=9)
    other.set_parameters({f"base_model.model.{name}": value for name, value in tensors})
    assert other.forward(tokens, offsets, targets).tobytes() == logprobs.tobytes()

    t.save_merged(tmp_path / "merged")
    merged = _native.Model.load(tmp_path / "merged")
    again = _native.Trainer(
        merged,
        lora_rank=None,
        lora_alpha=1.0,
        seed=0,
        train_attn=True,
        train_mlp=True,
        train_unembed=True,
        threads=1,
        micro_batch_tokens=24,
    )
    assert again.forward(tokens, offsets, targets).tobytes() == logprobs.tobytes()
    with pytest.raises(ValueError, match="no adapter"):
        again.save_adapter(tmp_path / "none")


def test_arrays_that_do_not_fit_are_refused() -> None:
    t = make()
    tokens, offsets, targets = batch()
    with pytest.raises(ShapeError, match=r"targets have shape \[70\]; expected \[71\]"):
        t.forward(tokens, offsets, targets[:-1])
    with pytest.raises(ShapeError, match="row 2, position 1: token id 40"):
        t.forward(np.where(np.arange(71) == 10, 40, tokens).astype(np.int32), offsets, targets)
    with pytest.raises(ShapeError, match="weights has length 70"):
        t.forward_backward(tokens, offsets, targets, "cross_entropy", {"weights": np.ones(70, np.float32)}, {})
    with pytest.raises(ShapeError, match='"weight" is not one of'):
        t.forward_backward(tokens, offsets, targets, "cross_entropy", {"weight": np.ones(71, np.float32)}, {})
    with pytest.raises(ShapeError, match="must be a float32 array"):
        t.forward_backward(tokens, offsets, targets, "cross_entropy", {"weights": np.ones(71)}, {})  # type: ignore[dict-item]
    with pytest.raises(ShapeError, match='column "logprobs" is missing'):
        t.forward_backward(tokens, offsets, targets, "ppo", {}, {})
    with pytest.raises(ConfigError, match="cross_entropy"):
        t.forward_backward(tokens, offsets, targets, "crossentropy", {}, {})
    with pytest.raises(ConfigError, match="threads is 0"):
        make(threads=0)
    with pytest.raises(ConfigError, match="learning_rate is -1"):
        t.optim_step(-1.0, *ADAMW[1:])
    with pytest.raises(ShapeError, match='no trained tensor is called "lora"'):
        t.set_parameters({"lora": np.zeros(3, np.float32)})
    assert not any(g.any() for g in t.gradients().values())


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    t = make()
    tokens, offsets, targets = batch()
    bad = np.zeros(71, np.float32)
    bad[30] = np.inf
    with pytest.raises(FloatingPointError, match="row 3, position 1: the loss gradient is -inf"):
        t.backward(tokens, offsets, targets, -bad)
    before = t.parameters()
    t.backward(tokens, offsets, targets, np.full(71, 3e38, np.float32))
    with pytest.raises(FloatingPointError, match="optimizer step 1"):
        t.optim_step(*ADAMW)
    assert t.step_count == 0
    assert all(np.array_equal(value, before[name]) for name, value in t.parameters().items())


def test_work_that_runs_can_be_cancelled() -> None:
    t = make(micro_batch_tokens=1)
    tokens, offsets, targets = (np.tile(a, 400) for a in batch())
    offsets = np.arange(0, len(tokens) + 1, 71, dtype=np.int64)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                t.backward(tokens, offsets, targets, np.ones(len(tokens), np.float32))
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        t.cancel()
        thread.join(0.01)
    assert "cancelled" in str(errors[0])


def test_the_rate_of_products_is_measured() -> None:
    assert 1e8 < _native.matmul_rate(1) < 1e13
    with pytest.raises(ConfigError):
        _native.matmul_rate(0)
