"""Advantages of the episodes of a group: how much better each did than the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tinsmith import _native
from tinsmith.domain.episodes import Group
from tinsmith.domain.tokens import Offsets, offsets_of

ESTIMATORS: tuple[str, ...] = tuple(_native.ADVANTAGE_ESTIMATORS)
"""Names that `group_advantages` takes."""


def group_advantages(
    rewards: npt.ArrayLike, offsets: Offsets, estimator: str = "mean", *, eps: float = 1e-6, k: int = 1
) -> npt.NDArray[np.float64]:
    """Advantages, float64 and shaped as `rewards`, of P groups; group p is `rewards[offsets[p]:offsets[p + 1]]`.

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
    that names group and index; an unknown estimator is a ConfigError.
    """
    return _native.group_advantages(np.ascontiguousarray(rewards, np.float64), offsets, estimator, eps, k)


def advantages_of(
    groups: Sequence[Group], estimator: str = "mean", *, eps: float = 1e-6, k: int = 1
) -> npt.NDArray[np.float64]:
    """`group_advantages` of the total rewards of the episodes, one after the other over all groups."""
    if not groups:
        return np.zeros(0)
    rewards = np.concatenate([group.rewards for group in groups])
    return group_advantages(rewards, offsets_of([len(g.episodes) for g in groups]), estimator, eps=eps, k=k)
