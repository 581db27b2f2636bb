"""Training examples in a reproducible order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import DataError


@frozen(eq=False, slots=False)
class SupervisedData:
    """Examples, each of one or more datums, passed over again and again in an order fixed by (seed, epoch).

    A position in the data is the number of examples seen so far. No example is dropped: the last batch of an epoch is
    shorter when the batch size does not divide the number of examples, and a batch never spans two epochs.
    """

    examples: Sequence[tuple[Datum, ...]]
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        if not self.examples:
            raise DataError("there is no example to train on")

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def fingerprint(self) -> str:
        """Fixed by every token, target and weight, and the order of the examples."""
        state = hashlib.blake2b(digest_size=16)
        for example in self.examples:
            for datum in example:
                for column in (datum.tokens, datum.targets, datum.weights):
                    state.update(f"{column.shape};".encode())
                    state.update(column.tobytes())
            state.update(b"|")
        return state.hexdigest()

    def batch(self, position: int, batch_size: int) -> tuple[Batch, int]:
        """The batch that starts at `position`, and the position after it."""
        epoch, start = divmod(position, len(self.examples))
        order = _order(self.seed, epoch, len(self.examples))
        rows = order[start : start + batch_size]
        return Batch.of([d for i in rows for d in self.examples[int(i)]]), position + len(rows)

    def steps_between(self, position: int, end: int, batch_size: int) -> int:
        """Batches from `position` up to `end`."""
        steps = 0
        while position < end:
            rest = len(self.examples) - position % len(self.examples)
            full = min(rest, end - position)
            steps += -(-full // batch_size)
            position += full
        return steps


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(length)


def normalised(batch: Batch, how: str) -> Batch:
    """The batch with its weights scaled so that a summed loss becomes the reduction asked for.

    token_sum leaves them; token_mean divides by the batch's total weight; sequence_mean divides each row by its total
    weight and by the number of rows that have any.
    """
    if how == "token_sum":
        return batch
    weights = batch.weights.astype(np.float64)
    if how == "token_mean":
        return evolve(batch, weights=(weights / weights.sum()).astype(np.float32))
    per_row = weights if weights.ndim == 1 else weights.sum(axis=1)
    sums = np.array([per_row[a:b].sum() for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)])
    scale = np.repeat(
        np.divide(1.0, sums * np.count_nonzero(sums), where=sums != 0, out=np.zeros_like(sums)), batch.lengths
    )
    return evolve(batch, weights=(weights * (scale if weights.ndim == 1 else scale[:, None])).astype(np.float32))
