"""Learning-rate schedules: the multiplier of the peak rate at each step."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

Schedule: TypeAlias = Literal["constant", "linear", "cosine"]


def multiplier(schedule: Schedule, step: int, total: int, warmup: int = 0) -> float:
    """The factor for optimizer step `step` (from 0) of `total`, in (0, 1].

    The first `warmup` steps climb linearly: (step + 1) / (warmup + 1). Then, with x the share of the remaining steps
    that is done: constant 1, linear 1 - x, cosine (1 + cos(pi x)) / 2 (Loshchilov and Hutter, arXiv:1608.03983, eq. 5
    without restarts). The last step still learns: x counts steps *before* this one.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant" or total <= warmup:
        return 1.0
    x = min((step - warmup) / (total - warmup), 1.0)
    if schedule == "linear":
        return 1.0 - x
    return 0.5 * (1.0 + math.cos(math.pi * x))
