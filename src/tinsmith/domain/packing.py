"""Packing datums into a token budget, and cutting a batch into minibatches. No datum is lost, split or repeated."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from tinsmith import _native
from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import ConfigError
from tinsmith.domain.tokens import Offsets


def pack(lengths: npt.ArrayLike, budget: int, method: Literal["in_order", "best_fit"] = "best_fit") -> list[Offsets]:
    """Bins of datums whose lengths sum to at most `budget` tokens, each an int64 array of indices in rising order.

    `in_order` keeps the order of the datums (next fit); `best_fit` takes the longest first, each into the fullest bin
    that still holds it. Deterministic. A datum longer than the budget is a ShapeError that names its index.
    """
    items, offsets = _native.pack(np.ascontiguousarray(lengths, np.int64), budget, method)
    return np.split(items, offsets[1:-1]) if len(items) else []


def minibatches(batch: Batch, n: int, by: Literal["tokens", "count"] = "tokens") -> list[Batch]:
    """The batch cut into n runs of consecutive datums (one for each datum, if those are fewer), none empty.

    By `count` their numbers differ by at most one; by `tokens` the largest run has as few tokens as runs of
    consecutive datums allow. Columns are views. n < 1 is a ConfigError.
    """
    if n < 1:
        raise ConfigError(f"a batch cannot be cut into {n} minibatches")
    cuts = _native.minibatches(np.ascontiguousarray(batch.lengths, np.int64), n, by).tolist()
    return [batch.rows(first, end) for first, end in pairwise(cuts)]
