"""Advantages of the episodes of a group: how much better each did than the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tinsmith import _native
from tinsmith.domain.errors import ConfigError
from tinsmith.domain.tokens import Offsets, offsets_of

AdvantageName: TypeAlias = Literal[
    "mean", "mean_std", "leave_one_out", "reinforce_pp", "reinforce_pp_baseline", "maxrl", "pass_at_k"
]


def group_advantages(
    rewards: Sequence[npt.ArrayLike], estimator: AdvantageName | str = "mean", *, eps: float = 1e-6, k: float = 1
) -> list[npt.NDArray[np.float64]]:
    """Advantages of P groups: for each array of total rewards [G] one of advantages [G], float64.

    r being the rewards of a group of G episodes, m their mean and s their population standard deviation:

    - `mean`: r - m (arXiv:2503.20783).
    - `mean_std`: (r - m) / (s + eps) (GRPO, arXiv:2402.03300, section 4.1.2).
    - `leave_one_out`: r minus the mean of the other G - 1 rewards, 0 where G = 1 (RLOO, arXiv:2402.14740).
    - `reinforce_pp`: (r - mean of the batch) / (std of the batch + eps) (arXiv:2501.03262). Knows no groups.
    - `reinforce_pp_baseline`: (r - m) / (std of all r - m of the batch + eps) (the same paper).
    - `maxrl`: (r - m) / m for rewards >= 0, and 0 where m = 0 (arXiv:2602.02710).
    - `pass_at_k`: for rewards 0 and 1 and G >= k (arXiv:2508.10751, section 2.4); with n wrong episodes,
      R = 1 - C(n, k) / C(G, k) and S = sqrt(R (1 - R)), a right one gets (1 - R) / S and a wrong one
      (1 - R - C(n - 1, k - 1) / C(G - 1, k - 1)) / S.

    A group (for `reinforce_pp` the batch) whose rewards spread no further than 1e-9 of their size is constant, and
    its advantages are exactly 0. A reward that is not finite, or that the estimator does not allow, is a ShapeError
    that names group and index; an unknown estimator is a ConfigError with the nearest name.
    """
    rows = [np.asarray(r, np.float64) for r in rewards]
    offsets = offsets_of([len(r) for r in rows])
    flat = ragged_advantages(np.concatenate([*rows, np.zeros(0)]), offsets, estimator, eps=eps, k=k)
    return np.split(flat, offsets[1:-1]) if rows else []


def ragged_advantages(
    rewards: npt.NDArray[np.float64],
    offsets: Offsets,
    estimator: AdvantageName | str = "mean",
    *,
    eps: float = 1e-6,
    k: float = 1,
) -> npt.NDArray[np.float64]:
    """`group_advantages` of rewards that lie in one array: group p is `rewards[offsets[p]:offsets[p + 1]]`."""
    if k != int(k):
        raise ConfigError(f"k = {k}: pass@k needs a whole number")
    return _native.group_advantages(rewards, offsets, estimator, eps, int(k))
