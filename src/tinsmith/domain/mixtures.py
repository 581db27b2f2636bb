"""Weighted mixtures of sets of examples, in an order that is fixed by a seed.

A mixture is an endless sequence: position p names one example of one source. A run keeps its place as a number, and
the same number leads to the same example in every process.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from tinsmith.domain.errors import ConfigError


def _sizes(values: object) -> tuple[int, ...]:
    return tuple(int(v) for v in values)  # type: ignore[attr-defined]


def _weights(values: object) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in values)  # type: ignore[attr-defined]


@lru_cache(maxsize=8)
def shuffled(length: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of one pass over `length` rows: a permutation fixed by (seed, epoch)."""
    order = np.random.default_rng([seed, epoch]).permutation(length)
    order.flags.writeable = False  # it is kept
    return order


def row_at(index: int, length: int, seed: int | None) -> int:
    """The row at an index of endless passes over `length` rows, each shuffled anew; without a seed, in their order."""
    epoch, place = divmod(index, length)
    return place if seed is None else int(shuffled(length, seed, epoch)[place])


@frozen
class Mixture:
    """Sources of `sizes` examples, mixed by `weights`; without weights in proportion to their sizes.

    A pass has as many examples as all sources together: without weights each example once. With weights source i has
    its share of the pass to the nearest example, spread evenly over it, and passes over its own examples again and
    again, each time in another order: a small source of large weight comes round several times a pass, and of a large
    one of small weight a pass takes a part, the next pass going on where it ended.
    """

    sizes: tuple[int, ...] = field(converter=_sizes)
    weights: tuple[float, ...] | None = field(default=None, converter=_weights)
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ConfigError(f"a mixture of sources with {list(self.sizes)} examples: each needs at least one")
        if self.weights is None:
            return
        if len(self.weights) != len(self.sizes):
            raise ConfigError(f"{len(self.weights)} weights for {len(self.sizes)} sources: give each one, or none")
        if not all(math.isfinite(w) and w > 0 for w in self.weights):
            raise ConfigError(f"weights {list(self.weights)}: each finite, above 0")

    def __len__(self) -> int:
        """Examples in one pass."""
        return sum(self.sizes)

    @property
    def shares(self) -> tuple[int, ...]:
        """Examples that each source has in one pass; they add up to its length."""
        if self.weights is None:
            return self.sizes
        # Rounded sums of shares, and their differences: so they add up.
        edges = np.rint(np.cumsum([0.0, *self.weights]) / math.fsum(self.weights) * len(self)).astype(int)
        edges[-1] = len(self)
        return tuple(np.diff(edges).tolist())

    def at(self, position: int) -> tuple[int, int]:
        """(source, example of that source) at a position, from 0."""
        if position < 0:
            raise IndexError(f"position {position}")
        epoch, place = divmod(position, len(self))
        sources, ranks = _schedule(self.shares, self.seed, epoch)
        source = int(sources[place])
        round_, index = divmod(epoch * self.shares[source] + int(ranks[place]), self.sizes[source])
        return source, int(_order(self.sizes[source], self.seed, source, round_)[index])


@lru_cache(maxsize=4)
def _schedule(shares: tuple[int, ...], seed: int, epoch: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """For each place of a pass its source, and how many examples of that source come before it. Example j of a source
    that has n lies at a random point of the j-th of n equal parts of the pass."""
    rng = np.random.default_rng([seed, epoch])
    points = np.concatenate([(np.arange(n) + rng.random(n)) / max(n, 1) for n in shares])
    order = np.argsort(points, kind="stable")
    sources = np.repeat(np.arange(len(shares), dtype=np.int32), shares)[order]
    ranks = np.concatenate([np.arange(n, dtype=np.int64) for n in shares])[order]
    return sources, ranks


@lru_cache(maxsize=64)
def _order(size: int, seed: int, source: int, round_: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, source, round_]).permutation(size)
