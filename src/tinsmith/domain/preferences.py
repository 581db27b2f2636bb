"""Losses of preference pairs, as pure functions: logprobs of both answers -> value, gradient by logprob.

L being the sum over an answer's tokens of w (lp - reference), lp the learner's logprob, w the weight, and
h = L of the chosen answer - L of the rejected one, a pair's loss is

| name | loss | source |
|---|---|---|
| `dpo` | -(1 - s) log sigmoid(beta h) - s log sigmoid(-beta h) | arXiv:2305.18290, eq. 7 |
| `ipo` | (h - 1 / (2 beta))^2 | arXiv:2310.12036, eq. 17 |

where s is the share of labels that are taken to be wrong (0 in the paper). The loss of a batch is the mean over its
pairs, and beta L is the reward that the learner implies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import ShapeError
from tinsmith.domain.tokens import Floats, floats

PairLossName: TypeAlias = Literal["dpo", "ipo"]
_Doubles: TypeAlias = npt.NDArray[np.float64]


@frozen(eq=False)
class PairLoss:
    """Of P pairs."""

    losses: _Doubles
    """[P]."""
    chosen: _Doubles
    """[P]: beta L of the chosen answers."""
    rejected: _Doubles
    """[P]: beta L of the rejected ones."""
    gradient: Floats
    """[T]: derivative of the mean loss by each learner's logprob."""
    likelier: _Doubles
    """[P]: sum of w lp of the chosen answer less that of the rejected one."""

    @property
    def value(self) -> float:
        return float(self.losses.mean())


def pair_loss(
    batch: Batch,
    learner_logprobs: npt.ArrayLike,
    name: PairLossName = "dpo",
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> PairLoss:
    """The loss of P pairs, in 2 P rows: row 2 i is the chosen answer of pair i, row 2 i + 1 the rejected one. The batch
    has the column `reference_logprobs`. A token of weight 0 has no part, and nothing else of it is read."""
    lp = floats(learner_logprobs)
    if batch.targets.ndim != 1 or lp.shape != batch.targets.shape:
        raise ShapeError(f"learner logprobs are {lp.shape}, targets {batch.targets.shape}: one a position each")
    if len(batch) == 0 or len(batch) % 2:
        raise ShapeError(f"{len(batch)} rows are no pairs: each has a chosen and a rejected one")
    if batch.reference_logprobs is None:
        raise ShapeError("preference pairs need the column 'reference_logprobs'")
    weights = batch.weights.astype(np.float64)
    part = weights != 0
    logprobs = np.where(part, lp, 0.0).astype(np.float64)
    reference = np.where(part, batch.reference_logprobs, 0.0).astype(np.float64)
    rewards = beta * _row_sums(batch, weights * (logprobs - reference))
    sums = _row_sums(batch, weights * logprobs)
    chosen, rejected = rewards[0::2], rewards[1::2]
    margin = chosen - rejected
    if name == "dpo":
        right, wrong = -np.logaddexp(0.0, -margin), -np.logaddexp(0.0, margin)
        losses = -(1 - label_smoothing) * right - label_smoothing * wrong
        slope = label_smoothing * np.exp(right) - (1 - label_smoothing) * np.exp(wrong)  # by the margin
    else:
        losses = (margin / beta - 0.5 / beta) ** 2
        slope = 2 * (margin / beta - 0.5 / beta) / beta
    by_row = np.repeat(beta * slope / len(margin), 2) * np.tile([1.0, -1.0], len(margin))
    gradient = np.repeat(by_row, batch.lengths) * weights
    return PairLoss(losses, chosen, rejected, gradient.astype(np.float32), sums[0::2] - sums[1::2])


def pair_metrics(parts: Sequence[PairLoss]) -> dict[str, float]:
    """Means over all pairs: `dpo_loss` (also of another loss), `accuracy` (the chosen answer's reward is larger; equal
    ones count half), `margin`, `chosen_reward`, `rejected_reward`, `likelier` (the learner gives the chosen answer the
    larger probability); and `num_pairs`."""
    losses, chosen, rejected, likelier = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("losses", "chosen", "rejected", "likelier")
    )
    return {
        "dpo_loss": float(losses.mean()),
        "accuracy": _share_above(chosen - rejected),
        "margin": float((chosen - rejected).mean()),
        "chosen_reward": float(chosen.mean()),
        "rejected_reward": float(rejected.mean()),
        "likelier": _share_above(likelier),
        "num_pairs": float(len(losses)),
    }


def _share_above(values: _Doubles) -> float:
    return float((values > 0).mean() + 0.5 * (values == 0).mean())


def _row_sums(batch: Batch, values: _Doubles) -> _Doubles:
    return np.array([values[a:b].sum() for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)])
