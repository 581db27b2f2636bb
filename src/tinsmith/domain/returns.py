"""Returns along a row: discounted sums, generalised advantage estimation, the KL penalty.

A mask is True where a position takes part. Masked values are never read, and results are exactly 0 there: whatever a
discount carries past a masked position, none of it stays on it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tinsmith import _native
from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import ShapeError
from tinsmith.domain.tokens import Floats, Offsets, floats

Distance: TypeAlias = Literal["positions", "unmasked"]
"""What a discount counts: every position (tokens), or only those that take part (actions)."""


def _doubles(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.ascontiguousarray(values, np.float64)


def _flags(mask: npt.ArrayLike | None) -> npt.NDArray[np.bool_] | None:
    return None if mask is None else np.ascontiguousarray(mask, np.bool_)


def discounted_sums(
    values: npt.ArrayLike,
    offsets: Offsets,
    gamma: float,
    *,
    mask: npt.ArrayLike | None = None,
    distance: Distance = "positions",
) -> npt.NDArray[np.float64]:
    """y_t = sum over k >= 0 of gamma^k x_{t+k} along each row, x being 0 at masked positions; float64.

    gamma is any finite number (0^0 = 1). `distance` says what k counts. NaN, infinities and overflow are a
    ShapeError that names row and index.
    """
    return _native.discounted_sums(_doubles(values), offsets, _flags(mask), gamma, distance)


def gae(
    rewards: npt.ArrayLike,
    values: npt.ArrayLike,
    bootstraps: npt.ArrayLike,
    offsets: Offsets,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    mask: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float64]:
    """Generalised advantages (Schulman et al., arXiv:1506.02438, eq. 16), float64, along each row.

    A_t = delta_t + gamma lam A_{t'} with delta_t = r_t + gamma V_{t'} - V_t, t' being the next position that takes
    part. After a row's last one V is `bootstraps[row]`: 0 where the episode ended, the critic's value of the state
    reached where it was cut. The critic's targets are A + V.
    """
    return _native.gae(_doubles(rewards), _doubles(values), _doubles(bootstraps), offsets, _flags(mask), gamma, lam)


def kl_penalty(
    batch: Batch,
    reference_logprobs: npt.ArrayLike,
    *,
    coef: float,
    discount: float = 0.0,
    distance: Distance = "positions",
) -> tuple[Floats, float]:
    """What to add to the advantages so that they penalise the KL divergence from a reference policy, and that KL.

    With d_t = q_t - reference_t (the k1 estimate), the first is x_t = coef (mean of d - d_t), [T] float32, or with a
    discount the sum over k >= 0 of discount^k x_{t+k}; 0 where the weight is 0. The second is the mean of d, in nats
    per token that takes part (0 without any). The mean is over the whole batch: call this once on all of it, before
    cutting minibatches. `reference_logprobs` is [T].
    """
    if batch.logprobs is None or batch.weights.ndim != 1:
        raise ShapeError("a KL penalty needs the column 'logprobs', and one target a position")
    penalty, kl_sum, count = _native.kl_penalty(
        batch.logprobs,
        floats(reference_logprobs),
        batch.offsets,
        batch.weights != 0,
        coef,
        discount,
        distance,
    )
    return penalty, kl_sum / max(count, 1)
