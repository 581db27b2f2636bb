"""Token losses as pure functions: (batch, learner's logprobs, options) -> value, gradient by logprob, metrics.

lp is the learner's logprob of a target, q the batch's `logprobs` (the policy that sampled), A its `advantages`, w its
`weights` and r = exp(lp - q). Each loss below is multiplied by w and reduced:

| name | loss of a token | options and defaults | source |
|---|---|---|---|
| `cross_entropy` | -lp; K targets a position too | | |
| `importance_sampling` | -r A | | |
| `ppo` | -min(r A, clip(r, lo, hi) A) | `clip_low_threshold` 0.8, `clip_high_threshold` 1.2 | arXiv:1707.06347, eq. 7 |
| `cispo` | -clip(r, lo, hi) A lp, no gradient through r | the same, 0 and 4 | arXiv:2506.13585, eq. 4 |
| `dro` | -(A lp - beta/2 (lp - q)^2) | `beta` 0.05 | arXiv:2405.19107 |
| `gspo` | -min(s A, clip(s, lo, hi) A), s the row's exp(mean of lp - q) | the same, 0.9997, 1.0004 | arXiv:2507.18071 |

Of every loss: `reduction`, `token_sum` (default: the sum over tokens and datums), `token_mean` (over the sum of
weights of the batch) or `sequence_mean` (the mean over rows of each row's weighted mean); `kl_coef` times an estimate
of KL(learner || reference) per token (the batch's `reference_logprobs`), `kl_estimator` `k3` (default) or `k2` (as a
loss, `k1` would train nothing: the expectation of its gradient is zero); `entropy_coef` times lp^2 / 2, whose gradient
estimates that of minus the entropy. Of all but cross_entropy: `zero_advantage_rows`, `keep` (default: rows of constant
groups count in the means, and KL and entropy act on them) or `drop` (they take no part).

A token of weight 0 has no part: value and gradient are 0 there and nothing else is read. Ratios are held finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tinsmith import _native
from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import ShapeError
from tinsmith.domain.tokens import Floats, Offsets, floats, offsets_of

LOSSES: tuple[str, ...] = tuple(_native.LOSSES)
"""The names above."""

Options: TypeAlias = Mapping[str, float | str]
NO_OPTIONS: Options = MappingProxyType({})


@frozen(eq=False)
class LossResult:
    value: float
    gradient: Floats
    """Derivative of `value` by each learner's logprob, float32, shaped as the batch's targets."""
    metrics: Mapping[str, float]
    """`name:reduction`: sums over tokens or rows (`loss`, `rows`, `tokens`, `weights`, `nll`, `entropy`, `ratio`,
    `clipped_low`, `clipped_high`, `log_ratio_saturated`, `kl_sample_train_v1` and `_v2`, `kl_reference_k1` to
    `_k3`), and `ratio:max`, `ratio:min`. A rate is one sum over another: the clip fraction is
    (clipped_low + clipped_high) / tokens, the mean ratio is ratio / tokens."""


def check_loss(name: str, options: Options = NO_OPTIONS) -> None:
    """Refuse an unknown loss or option (ConfigError with the nearest name) or a bad value, before any work."""
    _native.check_loss(name, dict(options))


def denominator(batch: Batch, name: str, options: Options = NO_OPTIONS) -> float:
    """What a batch adds to the denominator of the loss's reduction; sums over parts to that of the whole."""
    return _native.loss_denominator(name, dict(options), *_columns(batch))


def evaluate(
    batch: Batch,
    learner_logprobs: npt.ArrayLike,
    name: str,
    options: Options = NO_OPTIONS,
    *,
    total_denominator: float | None = None,
) -> LossResult:
    """The loss of a batch. `learner_logprobs` is shaped as its targets, [T] or [T, K].

    For a part of a batch (a micro-batch of whole rows) give the `denominator` of the whole; gradients are then the
    same however it was cut. NaN or infinity at a token that takes part is a ShapeError that names row and index.
    """
    lp = floats(learner_logprobs)
    if lp.shape != batch.targets.shape:
        raise ShapeError(f"learner logprobs are {lp.shape}, targets {batch.targets.shape}")
    offsets, weights, q, a, reference, k = _columns(batch)
    value, gradient, metrics = _native.token_loss(
        name, dict(options), offsets, lp.reshape(-1), weights, q, a, reference, k, total_denominator
    )
    return LossResult(value, gradient.reshape(lp.shape), metrics)


def mean_nll(logprobs: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """Sum of -w lp over sum of w, in nats per token; both of one shape, weights not negative. Without any weight there
    is no mean: a ShapeError."""
    nll, weight = _weighted_nll(floats(logprobs), floats(weights))
    if weight == 0:
        raise ShapeError("mean NLL without a single weighted token")
    return nll / weight


def bits_per_byte(logprobs: npt.ArrayLike, num_bytes: int) -> float:
    """Sum of -lp, in bits, over the UTF-8 bytes of the text that these tokens spell."""
    if num_bytes <= 0:
        raise ShapeError(f"bits per byte of {num_bytes} bytes")
    lp = floats(logprobs)
    return _weighted_nll(lp, np.ones_like(lp))[0] / math.log(2) / num_bytes


def _weighted_nll(logprobs: Floats, weights: Floats) -> tuple[float, float]:
    if logprobs.shape != weights.shape:
        raise ShapeError(f"logprobs are {logprobs.shape}, weights {weights.shape}")
    nll, weight = _native.row_nll(offsets_of([logprobs.size]), logprobs.reshape(-1), weights.reshape(-1))
    return float(nll[0]), float(weight[0])


_Columns: TypeAlias = tuple[Offsets, Floats, Floats | None, Floats | None, Floats | None, int]


def _columns(batch: Batch) -> _Columns:
    """Offsets, weights, q, A, reference and K, as the kernels take them."""
    k = 1 if batch.targets.ndim == 1 else batch.targets.shape[1]
    weights = batch.weights.reshape(-1)
    return batch.offsets, weights, batch.logprobs, batch.advantages, batch.reference_logprobs, k
