"""Learning from a teacher: by its opinion of tokens that the student sampled, or by its own distribution.

On the student's own tokens the teacher's opinion is an advantage, whose policy gradient is that of the reverse KL
divergence KL(student || teacher). On given tokens the teacher's K likeliest next tokens are soft targets, whose
cross-entropy is, up to a constant, the forward KL divergence KL(teacher || student) restricted to them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import ConfigError, NonFiniteError, ShapeError
from tinsmith.domain.returns import Distance, discounted_sums
from tinsmith.domain.tokens import Floats, Ints, floats


@frozen(eq=False)
class ReverseKL:
    """What a teacher makes of tokens that the student sampled."""

    advantages: Floats
    """[T] float32; 0 where the weight is 0."""
    sums: npt.NDArray[np.float64]
    """[B]: log(student / teacher), summed over the tokens of each row that take part, in nats."""
    counts: npt.NDArray[np.int64]
    """[B]: how many those are."""


def reverse_kl(
    batch: Batch,
    teacher_logprobs: npt.ArrayLike,
    *,
    coef: float = 1.0,
    discount: float = 0.0,
    distance: Distance = "positions",
) -> ReverseKL:
    """Advantages that pull the student towards the teacher on its own samples (on-policy distillation).

    With q_t the logprob that a token was sampled with and teacher_t the teacher's, x_t = -coef (q_t - teacher_t), and
    the advantage is x_t, or with a discount the sum over k >= 0 of discount^k x_{t+k}. No baseline is taken off: where
    student and teacher agree it is 0. Tokens of weight 0 have no part and keep 0, whatever a discount carries past
    them. `teacher_logprobs` is [T]; one that is not finite at a token that takes part is a ShapeError.
    """
    if batch.logprobs is None or batch.weights.ndim != 1:
        raise ShapeError("a teacher's advantage needs the column 'logprobs', and one target a position")
    teacher = floats(teacher_logprobs)
    if teacher.shape != batch.logprobs.shape:
        raise ShapeError(f"teacher logprobs are {teacher.shape}, tokens {batch.logprobs.shape}")
    mask = batch.weights != 0
    gap = np.where(mask, batch.logprobs.astype(np.float64) - np.where(mask, teacher, 0.0), 0.0)
    advantages = discounted_sums(-coef * gap, batch.offsets, discount, mask=mask, distance=distance)
    rows = np.repeat(np.arange(len(batch)), batch.lengths)
    sums = np.bincount(rows, gap, len(batch)).astype(np.float64)
    return ReverseKL(
        advantages.astype(np.float32), sums, np.bincount(rows[mask], minlength=len(batch)).astype(np.int64)
    )


def soft_targets(top_ids: Ints, top_logprobs: Floats) -> tuple[Ints, Floats, Floats]:
    """(targets [T, K] int32, weights [T, K] float32, mass [T] float32) of a teacher's K likeliest tokens.

    The weights of a position are the teacher's probabilities of these tokens, scaled to add up to 1; `mass` is what
    they added up to before. Ids and logprobs are [T, K], natural logarithms; the latter not finite is a NonFiniteError.
    """
    if top_ids.ndim != 2 or top_ids.shape != top_logprobs.shape or top_ids.shape[1] < 1:
        raise ShapeError(f"ids {top_ids.shape} and logprobs {top_logprobs.shape}: both [T, K], K at least 1")
    if not np.isfinite(top_logprobs).all():
        raise NonFiniteError("the teacher gave logprobs that are not finite")
    lp = top_logprobs.astype(np.float64)
    most = lp.max(axis=1, keepdims=True)
    shares = np.exp(lp - most)
    total = shares.sum(axis=1, keepdims=True)
    mass = np.exp(most[:, 0]) * total[:, 0]
    return top_ids.astype(np.int32), (shares / total).astype(np.float32), mass.astype(np.float32)


def entropy(weights: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """[T]: entropy in nats of each position's weights [T, K] as a distribution; 0 where they are all 0."""
    w = np.asarray(weights, np.float64)
    out: npt.NDArray[np.float64] = -(w * np.log(np.where(w > 0, w, 1.0))).sum(axis=1)
    return out


def check_coef(coef: float, discount: float) -> None:
    """Refuse what teaches nothing, or the contrary."""
    if not coef > 0:
        raise ConfigError(f"kl_penalty_coef={coef}: above 0, or the teacher teaches nothing")
    if not 0 <= discount <= 1:
        raise ConfigError(f"kl_discount_factor={discount}: from 0 to 1")
